//! Durations and timestamps, parsed, printed and added up as Go's `time` does.
//!
//! Time zones are offsets (`+01:00`) or UTC. Names such as `Europe/Berlin` fail: there is no time zone database in the
//! driver's image, and no device has a time.

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Value};

use Value::{Duration, Int, Timestamp};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;
/// `0001-01-01T00:00:00Z` and `9999-12-31T23:59:59Z`, in seconds since 1970.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// What a timestamp has; each also takes a time zone.
pub(in super::super) const ACCESSORS: [&str; 10] = [
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

/// An instant, with the offset it was written in.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Moment {
    /// Since 1970.
    seconds: i64,
    /// Below a second.
    nanos: i64,
    /// Seconds east of UTC.
    offset: i64,
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.instant() == other.instant()
    }
}
impl Eq for Moment {}
impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.instant().cmp(&other.instant())
    }
}

impl Moment {
    fn instant(self) -> (i64, i64) {
        (self.seconds, self.nanos)
    }

    /// Whether it is the first instant of year 1, Go's zero.
    pub(super) fn is_zero(self) -> bool {
        self.instant() == (FIRST, 0)
    }

    fn checked(self) -> Result<Self, Cause> {
        match (FIRST..=LAST).contains(&self.seconds) {
            true => Ok(self),
            false => Err(Cause::other("timestamp overflow")),
        }
    }

    fn plus(self, duration: i64) -> Result<Self, Cause> {
        let nanos = self.nanos + duration % SECOND;
        let seconds = self.seconds + duration / SECOND + nanos.div_euclid(SECOND);
        Self { seconds, nanos: nanos.rem_euclid(SECOND), ..self }.checked()
    }

    fn minus(self, other: Self) -> Option<i64> {
        let seconds = (self.seconds - other.seconds).checked_mul(SECOND)?;
        seconds.checked_add(self.nanos - other.nanos)
    }

    /// RFC 3339.
    fn parse(text: &str) -> Option<Self> {
        let number = |at: usize, len: usize, range: std::ops::RangeInclusive<i64>| {
            let digits = text.get(at..at + len).filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse::<i64>().ok().filter(|n| range.contains(n))
        };
        let between = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
        if between.iter().any(|(at, mark)| text.get(*at..at + 1) != Some(*mark)) {
            return None;
        }
        let day = date(text.get(..10)?)?;
        let of_day = number(11, 2, 0..=23)? * 3600 + number(14, 2, 0..=59)? * 60 + number(17, 2, 0..=59)?;
        let rest = text.get(19..)?;
        let (nanos, zone) = match rest.strip_prefix('.') {
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
                (format!("{:0<9.9}", &rest[..end]).parse().ok()?, &rest[end..])
            }
            None => (0, rest),
        };
        let offset = match zone.as_bytes() {
            b"Z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let at = text.len() - 5;
                let east = number(at, 2, 0..=23)? * 3600 + number(at + 3, 2, 0..=59)? * 60;
                if *sign == b'-' { -east } else { east }
            }
            _ => return None,
        };
        Some(Self { seconds: day * DAY + of_day - offset, nanos, offset })
    }

    /// What an accessor such as `getHours` gives at an offset.
    fn part(self, accessor: &str, offset: i64) -> i64 {
        let local = self.seconds + offset;
        let (days, of_day) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        match accessor {
            "getFullYear" => year,
            "getMonth" => month - 1,
            "getDayOfYear" => days - days_of(year, 1, 1),
            "getDate" => day,
            "getDayOfMonth" => day - 1,
            // 1970 began on a Thursday.
            "getDayOfWeek" => (days + 4).rem_euclid(7),
            "getHours" => of_day / 3600,
            "getMinutes" => of_day / 60 % 60,
            "getSeconds" => of_day % 60,
            _ => self.nanos / 1_000_000,
        }
    }

    /// RFC 3339, in its own offset.
    pub(super) fn text(self) -> String {
        let part = |accessor| self.part(accessor, self.offset);
        let fraction = match self.nanos {
            0 => String::new(),
            nanos => format!(".{}", format!("{nanos:09}").trim_end_matches('0')),
        };
        let zone = match self.offset {
            0 => "Z".to_owned(),
            offset => {
                let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        };
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{zone}",
            part("getFullYear"),
            part("getMonth") + 1,
            part("getDate"),
            part("getHours"),
            part("getMinutes"),
            part("getSeconds"),
        )
    }
}

/// Days since 1970 of a date such as `2024-02-29`.
pub(super) fn date(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let mut number = |len: usize| {
        let digits = parts.next().filter(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let days = days_of(year, month, day);
    // What the calendar does not have comes back as another date.
    ((1..=12).contains(&month) && parts.next().is_none() && civil(days) == (year, month, day)).then_some(days)
}

/// Days since 1970 of a date of the Gregorian calendar. Years are counted from March, so that leap days end them.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Year, month and day of a day since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// Nanoseconds of text such as `1h30m` or `-1.5s`.
fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: u64 = 0;
    let most = 1u64 << 63;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (name, after) =
            after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        let unit: u64 = match name {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND as u64,
            "m" => 60 * SECOND as u64,
            "h" => 3600 * SECOND as u64,
            _ => return None,
        };
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        let mut part = whole.checked_mul(unit).filter(|p| *p <= most)?;
        // Digits that do not fit are far below a nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let scale = 10f64.powi(fraction.len() as i32);
            part = part.checked_add((fraction.parse::<u64>().ok()? as f64 * (unit as f64 / scale)) as u64)?;
        }
        total = total.checked_add(part).filter(|t| *t <= most)?;
        rest = after;
    }
    match negative {
        true => 0i64.checked_sub_unsigned(total),
        false => i64::try_from(total).ok(),
    }
}

/// As `string()` writes a duration.
pub(super) fn seconds(duration: i64) -> String {
    format!("{}s", in_units(duration, SECOND))
}

/// The whole units are exact, as in Go.
fn in_units(duration: i64, unit: i64) -> f64 {
    (duration / unit) as f64 + (duration % unit) as f64 / unit as f64
}

/// Seconds east of UTC.
fn zone(name: &str) -> Result<i64, Cause> {
    if matches!(name, "" | "UTC") {
        return Ok(0);
    }
    let Some((hours, minutes)) = name.split_once(':') else {
        return Err(Cause::other(format!("unknown time zone {name:?}; write its offset, such as +01:00")));
    };
    let number = |text: &str| text.parse::<i16>().map(i64::from).ok();
    let (hours, minutes) = number(hours)
        .zip(number(minutes))
        .ok_or_else(|| Cause::other(format!("time zone {name:?} is no offset from UTC such as +01:00")))?;
    Ok(60 * (hours * 60 + if name.starts_with('-') { -minutes } else { minutes }))
}

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    let overflow = || Cause::other("duration overflow");
    let duration = |made: Option<i64>| made.map(Duration).ok_or_else(overflow);
    let failed = |value: &Value, to: &str| {
        Cause::other(format!("type conversion error from {} to {to}", value.kind()))
    };
    if let ("duration" | "timestamp", [Value::String(s)]) = (function, args)
        && let Err(cause) = meter.bytes(s.len())
    {
        return Some(Err(cause));
    }
    Some(match (function, args) {
        ("duration", [Duration(_)]) | ("timestamp", [Timestamp(_)]) => Ok(args[0].clone()),
        ("duration", [value @ Value::String(s)]) => {
            parse(s).map(Duration).ok_or_else(|| failed(value, "duration"))
        }
        // Kubernetes declares it and has nothing behind it.
        ("duration", [value @ Int(_)]) => Err(failed(value, "duration")),
        ("timestamp", [value @ Value::String(s)]) => Moment::parse(s)
            .ok_or_else(|| failed(value, "timestamp"))
            .and_then(Moment::checked)
            .map(Timestamp),
        ("timestamp", [Int(seconds)]) => {
            Moment { seconds: *seconds, nanos: 0, offset: 0 }.checked().map(Timestamp)
        }
        ("int", [Duration(d)]) => Ok(Int(*d)),
        ("int", [Timestamp(t)]) => Ok(Int(t.seconds)),
        ("string", [Duration(d)]) => Ok(seconds(*d).into()),
        ("string", [Timestamp(t)]) => Ok(t.text().into()),
        ("_+_", [Duration(a), Duration(b)]) => duration(a.checked_add(*b)),
        ("_-_", [Duration(a), Duration(b)]) => duration(a.checked_sub(*b)),
        ("_+_", [Timestamp(t), Duration(d)] | [Duration(d), Timestamp(t)]) => t.plus(*d).map(Timestamp),
        ("_-_", [Timestamp(t), Duration(d)]) => {
            d.checked_neg().ok_or_else(overflow).and_then(|d| t.plus(d)).map(Timestamp)
        }
        ("_-_", [Timestamp(a), Timestamp(b)]) => duration(a.minus(*b)),
        ("getHours", [Duration(d)]) => Ok(Int(in_units(*d, 3600 * SECOND) as i64)),
        ("getMinutes", [Duration(d)]) => Ok(Int(in_units(*d, 60 * SECOND) as i64)),
        ("getSeconds", [Duration(d)]) => Ok(Int(in_units(*d, SECOND) as i64)),
        ("getMilliseconds", [Duration(d)]) => Ok(Int(d / 1_000_000)),
        (accessor, [Timestamp(t)]) if ACCESSORS.contains(&accessor) => Ok(Int(t.part(accessor, 0))),
        (accessor, [Timestamp(t), Value::String(name)]) if ACCESSORS.contains(&accessor) => {
            zone(name).map(|offset| Int(t.part(accessor, offset)))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_the_calendar_is_one_after_the_last() {
        let mut last = civil(FIRST / DAY);
        assert_eq!(last, (1, 1, 1));
        for days in FIRST / DAY + 1..=LAST / DAY {
            let (year, month, day) = civil(days);
            assert_eq!(days_of(year, month, day), days);
            let next = (day == last.2 + 1 && (year, month) == (last.0, last.1))
                || (day == 1 && month == last.1 + 1 && year == last.0)
                || ((month, day) == (1, 1) && year == last.0 + 1);
            assert!(next, "{last:?} before {year}-{month}-{day}");
            last = (year, month, day);
        }
        assert_eq!(last, (9999, 12, 31));
    }
}
