//! Quantities, as the API server's library does sums and asks for whole numbers.
//!
//! Whether a quantity counts as an integer depends on how Go stores it, not on its value: `1000m` and `1.5Gi` do not.

use vgpu_api::{Format, Quantity};

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Value};

const NANO: i128 = 1_000_000_000;

/// An amount, with Go's small form where it has one.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Amount {
    nano: i128,
    /// Value and power of ten (`resource.int64Amount`); without, Go holds a big decimal.
    small: Option<(i64, i32)>,
    /// Whether it is a sum: Kubernetes' `==` knows none on its right side.
    sum: bool,
}

impl Amount {
    /// From text such as `15104Mi`.
    pub(in super::super) fn parse(text: &str) -> Result<Self, Cause> {
        // Digits may be missing: `.`, `-` and `Gi` are zero to Go.
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        let bare = !text.is_empty() && !digits.starts_with(|c: char| c.is_ascii_digit());
        let text = format!("{sign}{}{digits}", if bare { "0" } else { "" });
        let quantity: Quantity =
            text.parse().map_err(|e: vgpu_api::QuantityError| Cause::other(e.to_string()))?;
        let written = Written::of(&text);
        let nano = match written.exponent() {
            // What is binary is capped at 2^63-1.
            _ if quantity.format() == Format::BinarySi => quantity.nano(),
            None => quantity.nano(),
            Some(exponent) => written.nano(exponent),
        };
        Ok(Self { nano, small: written.small(quantity.format()), sum: false })
    }

    fn whole(n: i64) -> Self {
        Self { nano: i128::from(n) * NANO, small: Some((n, 0)), sum: false }
    }

    /// `==`, where it can be told.
    pub(in super::super) fn equals(self, other: Self) -> Option<bool> {
        (!other.sum).then_some(self.nano == other.nano)
    }

    fn integer(self) -> Option<i64> {
        let (value, scale) = self.small?;
        scaled(value, u32::try_from(scale).ok()?)
    }

    fn plus(self, other: Self, sign: i128) -> Self {
        // Go lets the negative of -2^63 wrap.
        let signed =
            |(value, scale): (i64, i32)| (if sign < 0 { value.wrapping_neg() } else { value }, scale);
        let small = self.small.zip(other.small.map(signed)).and_then(|(a, b)| match (a, b) {
            (a, (0, _)) => Some(a),
            ((0, _), b) => Some(b),
            ((a, to_a), (b, to_b)) => {
                let to = to_a.min(to_b);
                let (a, b) = (scaled(a, to_a.abs_diff(to))?, scaled(b, to_b.abs_diff(to))?);
                Some((a.checked_add(b)?, to))
            }
        });
        let sum = || self.nano.saturating_add(sign.saturating_mul(other.nano));
        let nano = small.and_then(|(value, scale)| {
            let power = 10i128.checked_pow(u32::try_from(scale + 9).ok()?)?;
            i128::from(value).checked_mul(power)
        });
        Self { nano: nano.unwrap_or_else(sum), small, sum: true }
    }
}

fn scaled(value: i64, power: u32) -> Option<i64> {
    value.checked_mul(10i64.checked_pow(power)?)
}

/// The parts of a text that is a quantity.
struct Written<'a> {
    negative: bool,
    /// Digits without leading zeros.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Written<'a> {
    fn of(text: &'a str) -> Self {
        let negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        Self { negative, whole: whole.trim_start_matches('0'), fraction, suffix }
    }

    /// The power of ten that a suffix which is not binary stands for.
    fn exponent(&self) -> Option<i32> {
        let named = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].iter().position(|s| *s == self.suffix);
        match named {
            Some(i) => Some(i as i32 * 3 - 9),
            None => self.suffix.get(1..)?.parse().ok(),
        }
    }

    fn signed<T: std::ops::Neg<Output = T>>(&self, amount: T) -> T {
        if self.negative { -amount } else { amount }
    }

    /// Billionths, rounded away from zero. What is beyond 10^29 is no longer told apart.
    fn nano(&self, exponent: i32) -> i128 {
        let mut power = i64::from(exponent) + 9;
        let (mut mantissa, mut lost) = (0i128, false);
        for (digit, fractional) in
            self.whole.bytes().map(|d| (d, false)).chain(self.fraction.bytes().map(|d| (d, true)))
        {
            let next = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0')));
            match next {
                Some(next) => {
                    mantissa = next;
                    power -= i64::from(fractional);
                }
                None => {
                    lost |= digit != b'0';
                    power += i64::from(!fractional);
                }
            }
        }
        let tens = u32::try_from(power.unsigned_abs()).ok().and_then(|p| 10i128.checked_pow(p));
        self.signed(match (tens, power >= 0) {
            _ if mantissa == 0 => 0,
            (Some(tens), true) => mantissa.saturating_mul(tens),
            (None, true) => i128::MAX,
            (Some(tens), false) => mantissa / tens + i128::from(mantissa % tens != 0 || lost),
            (None, false) => 1,
        })
    }

    /// The small form `resource.ParseQuantity` gives a text, if it takes its fast path.
    fn small(&self, format: Format) -> Option<(i64, i32)> {
        let (mantissa, scale, room) = if format == Format::BinarySi {
            let names = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let power = 10 * (1 + names.iter().position(|s| *s == self.suffix)? as i32);
            if !self.fraction.is_empty() {
                return None;
            }
            // Go's estimate of the digits the multiplication takes.
            (1i64.checked_shl(power as u32)?, 0, 15 - self.whole.len() as i32 - power * 3 / 10 - 1)
        } else {
            (1, self.exponent()?, 18 - (self.whole.len() + self.fraction.len()) as i32)
        };
        let scale = scale.checked_sub(self.fraction.len() as i32)?;
        if room < 0 || scale < -9 {
            return None;
        }
        let digits = format!("0{}{}", self.whole, self.fraction);
        let value = digits.parse::<i64>().ok()?.checked_mul(mantissa)?;
        Some((self.signed(value), scale))
    }
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
