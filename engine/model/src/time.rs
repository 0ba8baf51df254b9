//! Prometheus durations (`1h30m`) and their text.

use std::fmt;

/// Why a duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Prometheus's text for an empty string.
    #[error("empty duration string")]
    Empty,
    /// Prometheus's text for a malformed one.
    #[error("not a valid duration string: {}", crate::labels::Quoted(.0).to_string())]
    Invalid(String),
    /// Prometheus's text for a unit that there isn't.
    #[error("unknown unit {} in duration {}", crate::labels::Quoted(.unit), crate::labels::Quoted(.duration))]
    UnknownUnit {
        /// What stands in the place of the unit.
        unit: String,
        /// The whole text.
        duration: String,
    },
    /// More than 2^63 nanoseconds.
    #[error("duration out of range")]
    OutOfRange,
}

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Go's `time.Duration` ends at 2^63 nanoseconds; so does Prometheus's.
const MAX_MS: i64 = i64::MAX / 1_000_000;

/// Parses a Prometheus duration into milliseconds: whole numbers with the units y, w, d, h, m, s, ms, each at most
/// once and in this order; `0` needs no unit.
pub fn parse_duration(s: &str) -> Result<i64, DurationError> {
    if s.is_empty() {
        return Err(DurationError::Empty);
    }
    if s == "0" {
        return Ok(0);
    }
    let invalid = || DurationError::Invalid(s.to_owned());
    let (mut rest, mut total, mut next_unit) = (s, 0i64, 0usize);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let n: u64 = number.parse().map_err(|_e| invalid())?;
        if unit.is_empty() {
            return Err(invalid());
        }
        let index = UNITS
            .iter()
            .position(|(u, _)| *u == unit)
            .ok_or_else(|| DurationError::UnknownUnit { unit: unit.to_owned(), duration: s.to_owned() })?;
        if index < next_unit {
            return Err(invalid());
        }
        next_unit = index + 1;
        let n = i64::try_from(n).map_err(|_e| DurationError::OutOfRange)?;
        total = UNITS
            .get(index)
            .and_then(|(_, ms)| n.checked_mul(*ms))
            .and_then(|ms| total.checked_add(ms))
            .filter(|ms| *ms <= MAX_MS)
            .ok_or(DurationError::OutOfRange)?;
        rest = tail;
    }
    Ok(total)
}

/// A duration in milliseconds that prints as Prometheus's `model.Duration` does: `1h30m`, `0s`, `1d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromDuration(pub i64);

impl fmt::Display for PromDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ms = self.0;
        if ms == 0 {
            return f.write_str("0s");
        }
        if ms < 0 {
            f.write_str("-")?;
            ms = ms.saturating_neg();
        }
        for (unit, size) in UNITS {
            // As in Prometheus, years and weeks are used only when nothing is left over.
            if matches!(unit, "y" | "w") && ms % size != 0 {
                continue;
            }
            if ms >= size {
                write!(f, "{}{unit}", ms / size)?;
                ms %= size;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, ms) in
            [("5m", 300_000), ("1h30m", 5_400_000), ("1d", 86_400_000), ("2w", 1_209_600_000), ("10ms", 10), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
            assert_eq!(PromDuration(ms).to_string(), text);
        }
        assert_eq!(PromDuration(8 * 86_400_000).to_string(), "8d");
        assert_eq!(parse_duration("1m1h").unwrap_err().to_string(), r#"not a valid duration string: "1m1h""#);
        assert_eq!(parse_duration(""), Err(DurationError::Empty));
        assert_eq!(parse_duration("1000y"), Err(DurationError::OutOfRange));
        assert!(parse_duration("5").is_err());
        let unit = |s| parse_duration(s).unwrap_err().to_string();
        assert_eq!(unit("1.5h"), r#"unknown unit "." in duration "1.5h""#);
        assert_eq!(unit("5y1hs"), r#"unknown unit "hs" in duration "5y1hs""#);
    }
}
