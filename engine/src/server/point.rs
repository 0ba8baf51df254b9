//! A point in time as a flag: absolute, or a distance from now.

use std::str::FromStr;

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Milliseconds since the epoch.
    At(i64),
    /// Milliseconds from now; negative is before.
    Relative(i64),
}

impl Point {
    /// Milliseconds since the epoch, seen from `now`.
    pub(crate) fn at(self, now: i64) -> i64 {
        match self {
            Self::At(t) => t,
            Self::Relative(d) => now.saturating_add(d),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        // Thanos's defaults, the years 0 and 9999, mean "everything".
        if s.starts_with("0000-01-01") {
            return Ok(Self::At(i64::MIN));
        }
        if s.starts_with("9999-12-31") {
            return Ok(Self::At(i64::MAX));
        }
        if let Ok(t) = s.parse::<jiff::Timestamp>() {
            return Ok(Self::At(t.as_millisecond()));
        }
        let (sign, duration) = match s.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, s.strip_prefix('+').unwrap_or(s)),
        };
        let ms = model::time::parse_duration(duration)
            .map_err(|e| format!("{s:?} is neither a time as 2026-01-02T15:04:05Z nor a duration as -2w: {e}"))?;
        Ok(Self::Relative(sign * ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_and_distances() {
        assert_eq!("0000-01-01T00:00:00Z".parse(), Ok(Point::At(i64::MIN)));
        assert_eq!("9999-12-31T23:59:59Z".parse(), Ok(Point::At(i64::MAX)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Point::At(1000)));
        assert_eq!("-1h".parse::<Point>().unwrap().at(4_000_000), 400_000);
        assert!("yesterday".parse::<Point>().unwrap_err().contains("yesterday"));
    }
}
