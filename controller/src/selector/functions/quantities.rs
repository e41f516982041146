//! Quantities, as the API server's library does sums and asks for whole numbers.
//!
//! Whether a quantity counts as an integer depends on how Go stores it, not on its value: `1000m` and `1.5Gi` do not.

use vgpu_api::{Format, Quantity};

use super::super::eval::{Answer, Meter};
use super::super::value::{Cause, Value};

const NANO: i128 = 1_000_000_000;

/// An amount, with Go's small form where it has one.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Amount {
    nano: i128,
    /// Value and power of ten (`resource.int64Amount`); without, Go holds a big decimal.
    small: Option<(i64, i32)>,
}

impl Amount {
    /// From text such as `15104Mi`.
    pub(in super::super) fn parse(text: &str) -> Result<Self, Cause> {
        let quantity: Quantity =
            text.parse().map_err(|e: vgpu_api::QuantityError| Cause::other(e.to_string()))?;
        Ok(Self { nano: quantity.nano(), small: small(text, quantity.format()) })
    }

    fn whole(n: i64) -> Self {
        Self { nano: i128::from(n) * NANO, small: Some((n, 0)) }
    }

    pub(in super::super) fn nano(self) -> i128 {
        self.nano
    }

    fn integer(self) -> Option<i64> {
        let (value, scale) = self.small?;
        scaled(value, u32::try_from(scale).ok()?)
    }

    fn plus(self, other: Self, sign: i128) -> Self {
        let negated =
            |(value, scale): (i64, i32)| Some((if sign < 0 { value.checked_neg()? } else { value }, scale));
        let small = self.small.zip(other.small.and_then(negated)).and_then(|(a, b)| match (a, b) {
            (a, (0, _)) => Some(a),
            ((0, _), b) => Some(b),
            ((a, to_a), (b, to_b)) => {
                let to = to_a.min(to_b);
                let (a, b) = (scaled(a, to_a.abs_diff(to))?, scaled(b, to_b.abs_diff(to))?);
                Some((a.checked_add(b)?, to))
            }
        });
        Self { nano: self.nano.saturating_add(sign.saturating_mul(other.nano)), small }
    }
}

fn scaled(value: i64, power: u32) -> Option<i64> {
    value.checked_mul(10i64.checked_pow(power)?)
}

/// The small form `resource.ParseQuantity` gives a text, if it takes its fast path.
fn small(text: &str, format: Format) -> Option<(i64, i32)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.trim_start_matches('0');
    let (mantissa, scale, room) = if format == Format::BinarySi {
        let power = 10 * (1 + ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix)? as i32);
        if !fraction.is_empty() {
            return None;
        }
        // Go's estimate of the digits the multiplication takes.
        (1i64.checked_shl(power as u32)?, 0, 15 - whole.len() as i32 - power * 3 / 10 - 1)
    } else {
        let named = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].iter().position(|s| *s == suffix);
        let scale = match named {
            Some(i) => i as i32 * 3 - 9,
            None => suffix.get(1..)?.parse().ok()?,
        };
        (1, scale, 18 - (whole.len() + fraction.len()) as i32)
    };
    let scale = scale - fraction.len() as i32;
    if room < 0 || scale < -9 {
        return None;
    }
    let digits = format!("0{whole}{fraction}");
    let value = digits.parse::<i64>().ok()?.checked_mul(mantissa)?;
    Some((if negative { -value } else { value }, scale))
}

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    use Value::{Bool, Double, Int, Quantity};
    Some(match (function, args) {
        ("quantity", [Value::String(s)]) => {
            meter.bytes(s.len()).and_then(|()| Amount::parse(s)).map(Quantity)
        }
        ("isQuantity", [Value::String(s)]) => meter.bytes(s.len()).map(|()| Bool(Amount::parse(s).is_ok())),
        ("sign", [Quantity(a)]) => Ok(Int(a.nano.signum() as i64)),
        ("isGreaterThan", [Quantity(a), Quantity(b)]) => Ok(Bool(a.nano > b.nano)),
        ("isLessThan", [Quantity(a), Quantity(b)]) => Ok(Bool(a.nano < b.nano)),
        ("compareTo", [Quantity(a), Quantity(b)]) => Ok(Int(a.nano.cmp(&b.nano) as i64)),
        ("asApproximateFloat", [Quantity(a)]) => Ok(Double(a.nano as f64 / NANO as f64)),
        ("isInteger", [Quantity(a)]) => Ok(Bool(a.integer().is_some())),
        ("asInteger", [Quantity(a)]) => {
            a.integer().map(Int).ok_or_else(|| Cause::other("cannot convert value to integer"))
        }
        ("add", [Quantity(a), Quantity(b)]) => Ok(Quantity(a.plus(*b, 1))),
        ("add", [Quantity(a), Int(b)]) => Ok(Quantity(a.plus(Amount::whole(*b), 1))),
        ("sub", [Quantity(a), Quantity(b)]) => Ok(Quantity(a.plus(*b, -1))),
        ("sub", [Quantity(a), Int(b)]) => Ok(Quantity(a.plus(Amount::whole(*b), -1))),
        _ => return None,
    })
}
