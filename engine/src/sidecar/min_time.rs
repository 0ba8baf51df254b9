//! `--min-time`: a point in time, or a distance from now.

use std::str::FromStr;

/// The oldest data to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MinTime {
    /// Milliseconds since the epoch.
    At(i64),
    /// Milliseconds from now; negative is before.
    Relative(i64),
}

impl MinTime {
    /// Milliseconds since the epoch, seen from `now`.
    pub(super) fn at(self, now: i64) -> i64 {
        match self {
            Self::At(t) => t,
            Self::Relative(d) => now.saturating_add(d),
        }
    }
}

impl FromStr for MinTime {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Ok(t) = s.parse::<jiff::Timestamp>() {
            // Thanos's default, the year 0, means "everything".
            let everything = s.starts_with("0000-01-01");
            return Ok(Self::At(if everything { i64::MIN } else { t.as_millisecond() }));
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
        assert_eq!("0000-01-01T00:00:00Z".parse(), Ok(MinTime::At(i64::MIN)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(MinTime::At(1000)));
        assert_eq!("-1h".parse::<MinTime>().unwrap().at(4_000_000), 400_000);
        assert!("yesterday".parse::<MinTime>().unwrap_err().contains("yesterday"));
    }
}
