//! Kubernetes quantities: exact, in billionths, parsed and printed as `k8s.io/apimachinery/pkg/api/resource` does.
//!
//! Differences from Go's type: none in value or text for what an API object can hold. Values beyond 2^63-1 in
//! magnitude are capped, and digits beyond 10^-9 are rounded away from zero, as there.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// How a quantity was written, and so how it prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `1500Mi`
    BinarySi,
    /// `1500M`, `100m`, and plain numbers
    DecimalSi,
    /// `15e2`
    DecimalExponent,
}

/// An amount with the notation it came in. Equality and order look at the amount alone.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity: write digits with an optional suffix such as 500m, 7500Mi or 16Gi")]
pub struct QuantityError {
    text: String,
}

impl Quantity {
    /// A whole number that prints in powers of 1024 where it can (`7864320000` as `7500Mi`).
    pub const fn bytes(value: u64) -> Self {
        Self { nano: value as i128 * NANO, format: Format::BinarySi }
    }

    /// A whole number that prints in powers of 1000.
    pub const fn count(value: u64) -> Self {
        Self { nano: value as i128 * NANO, format: Format::DecimalSi }
    }

    /// The amount in billionths, exact.
    pub const fn nano(self) -> i128 {
        self.nano
    }

    /// From billionths; capped at 2^63-1 units in magnitude.
    pub fn from_nano(nano: i128, format: Format) -> Self {
        Self { nano: nano.clamp(-MAX, MAX), format }
    }

    /// The amount in whole units, rounded up as Kubernetes' `Value()` does.
    pub fn value(self) -> i64 {
        let up = self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) != 0);
        up.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The amount in thousandths, rounded up as Kubernetes' `MilliValue()` does.
    pub fn milli_value(self) -> i64 {
        let up = self.nano.div_euclid(1_000_000) + i128::from(self.nano.rem_euclid(1_000_000) != 0);
        up.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The notation.
    pub const fn format(self) -> Format {
        self.format
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// Multiplier of a suffix as a fraction, with the notation it belongs to.
fn suffix(text: &str) -> Option<(i128, i128, Format)> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if let Some(i) = BINARY.iter().position(|s| *s == text) {
        return Some((1 << (10 * (i + 1)), 1, Format::BinarySi));
    }
    if let Some(i) = DECIMAL.iter().position(|s| *s == text) {
        return Some((1000i128.pow(i as u32 + 1), 1, Format::DecimalSi));
    }
    match text {
        "" => return Some((1, 1, Format::DecimalSi)),
        "m" => return Some((1, 1_000, Format::DecimalSi)),
        "u" => return Some((1, 1_000_000, Format::DecimalSi)),
        "n" => return Some((1, NANO, Format::DecimalSi)),
        _ => {}
    }
    let exponent: i32 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10i128.pow(exponent.unsigned_abs().min(28));
    Some(if exponent >= 0 {
        (power, 1, Format::DecimalExponent)
    } else {
        (1, power, Format::DecimalExponent)
    })
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || QuantityError { text: text.to_owned() };
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(error());
        }
        let (times, over, format) = suffix(unit).ok_or_else(error)?;
        // Digits are folded into billionths of the unit; a mantissa past the cap cannot come back under it
        // except by a negative exponent, and those go to at most 10^-28.
        let mut mantissa: i128 = 0;
        let mut scale: i128 = 1;
        let mut lost = false;
        for (digit, fractional) in
            whole.bytes().map(|d| (d, false)).chain(fraction.bytes().map(|d| (d, true)))
        {
            let next = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0')));
            match next {
                Some(next) if !fractional || scale < 10i128.pow(27) => {
                    mantissa = next;
                    if fractional {
                        scale *= 10;
                    }
                }
                _ if fractional => lost |= digit != b'0',
                _ => mantissa = i128::MAX,
            }
        }
        let nano = scaled(mantissa, times, NANO, scale, over, lost).min(MAX);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

/// `mantissa * times * nano / (scale * over)`, rounded up, saturating above the cap.
fn scaled(mantissa: i128, times: i128, nano: i128, scale: i128, over: i128, lost: bool) -> i128 {
    let (mut top, mut bottom) = (mantissa, scale);
    for (factor, divide) in [(times, false), (nano, false), (over, true)] {
        if divide {
            match bottom.checked_mul(factor) {
                Some(b) => bottom = b,
                None => return i128::from(top != 0 || lost),
            }
        } else {
            // Cancel what can be cancelled first, so that 10^27-scaled fractions stay exact.
            let common = gcd(factor, bottom);
            bottom /= common;
            match top.checked_mul(factor / common) {
                Some(t) => top = t,
                None => return MAX,
            }
        }
    }
    top / bottom + i128::from(top % bottom != 0 || lost)
}

fn gcd(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nano.abs() < 1024 * NANO;
        let format = match self.format {
            Format::BinarySi if small || self.nano % NANO != 0 => Format::DecimalSi,
            format => format,
        };
        if self.nano == 0 {
            return f.write_str("0");
        }
        if format == Format::BinarySi {
            let (mut number, mut power) = (self.nano / NANO, 0);
            while number % 1024 == 0 && power < 6 {
                number /= 1024;
                power += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut number, mut power) = (self.nano, -9i32);
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        if format == Format::DecimalSi {
            let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
            return write!(f, "{number}{}", names[((power + 9) / 3) as usize]);
        }
        if power == 0 { write!(f, "{number}") } else { write!(f, "{number}e{power}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_print_as_kubernetes_does() {
        let table = [
            ("7500Mi", "7500Mi"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0", "0"),
            ("0Mi", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1e3", "1e3"),
            ("1500e3", "1500e3"),
            ("12E", "9223372036854775807"),
            ("-1Gi", "-1Gi"),
            ("+5", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1u", "1u"),
            ("100k", "100k"),
            (".5", "500m"),
            ("5.", "5"),
        ];
        for (text, want) in table {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Ok(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_by_name() {
        for text in ["", "Mi", "1mi", "1 Gi", "1.2.3", "--1", "1GiB", "e", "1e", "0x10"] {
            let error = text.parse::<Quantity>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a quantity")), "{error}");
        }
    }

    #[test]
    fn values_are_rounded_up() {
        let value = |text: &str| text.parse::<Quantity>().unwrap().value();
        assert_eq!((value("1.1"), value("1m"), value("-1.5"), value("2Ki")), (2, 1, -1, 2048));
        assert_eq!("1.5".parse::<Quantity>().unwrap().milli_value(), 1500);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nano in any::<i64>(), binary in any::<bool>()) {
            let format = if binary { Format::BinarySi } else { Format::DecimalSi };
            let quantity = Quantity::from_nano(i128::from(nano), format);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn whole_bytes_are_read_back(bytes in any::<u32>(), shift in 0..20u32) {
            let quantity = Quantity::bytes(u64::from(bytes) << shift);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eEmunkMGTPi]{0,24}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn order_is_that_of_the_amounts(a in any::<i64>(), b in any::<i64>()) {
            let quantity = |n: i64| Quantity::from_nano(n.into(), Format::DecimalSi);
            prop_assert_eq!(quantity(a).cmp(&quantity(b)), a.cmp(&b));
        }
    }
}
