//! UTC calendar arithmetic on seconds since the epoch, for years of any sign.

/// A moment, broken down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    /// 1…12
    pub(crate) month: i64,
    /// 1…31
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    /// 0 = Sunday
    pub(crate) weekday: i64,
    /// 1…366
    pub(crate) year_day: i64,
}

impl Civil {
    /// Breaks down seconds since the epoch.
    pub(crate) fn from_seconds(seconds: i64) -> Self {
        // Go counts unsigned seconds from this moment on; what lies before it wraps around. It decides what NaN gives.
        const GO_ZERO: i128 = -9_223_372_028_741_760_000;
        let seconds = i128::from(seconds);
        let seconds = if seconds < GO_ZERO { seconds + (1 << 64) } else { seconds };
        let (days, rest) = (seconds.div_euclid(86_400) as i64, seconds.rem_euclid(86_400) as i64);
        // Years that begin in March make the leap day the last day; eras of 400 years repeat.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let march_day = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * march_day + 2) / 153;
        let day = march_day - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let before: i64 = (1..month).map(|m| days_in_month(year, m)).sum();
        Self {
            year,
            month,
            day,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            weekday: (days + 4).rem_euclid(7),
            year_day: before + day,
        }
    }
}

/// Number of days of a month.
pub(crate) fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        let c = Civil::from_seconds(1_709_210_096); // 2024-02-29T12:34:56Z, a Thursday
        assert_eq!((c.year, c.month, c.day, c.hour, c.minute, c.second), (2024, 2, 29, 12, 34, 56));
        assert_eq!((c.weekday, c.year_day), (4, 60));
        let c = Civil::from_seconds(-1);
        assert_eq!((c.year, c.month, c.day, c.hour, c.weekday, c.year_day), (1969, 12, 31, 23, 3, 365));
        assert_eq!(Civil::from_seconds(0).weekday, 4);
        let c = Civil::from_seconds(i64::MIN);
        assert_eq!((c.year, c.month, c.day, c.hour, c.minute, c.weekday), (292_277_026_596, 12, 4, 15, 30, 0));
        let c = Civil::from_seconds(-9_200_000_000_000_000_000);
        assert_eq!((c.year, c.month, c.day, c.hour, c.weekday), (-291_536_392_293, 5, 3, 12, 2));
        assert_eq!(days_in_month(1900, 2), 28);
        assert_eq!(days_in_month(2000, 2), 29);
    }
}
