//! Times, durations and numbers as Go prints them: what scripts around Thanos's tools read.

/// A point in time as `2026-11-22T10:00:00Z`, whole seconds, towards zero; beyond the year 9999 the seconds.
pub(super) fn time(ms: i64) -> String {
    let seconds = ms / 1000;
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds}s"), |t| t.to_string())
}

/// A duration in milliseconds as Go's `time.Duration` prints it: `2h0m0s`, `1m30.5s`, `500ms`, `0s`.
pub(super) fn duration(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    let ms = ms.unsigned_abs();
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    match ms {
        0 => "0s".to_owned(),
        1..1000 => format!("{sign}{ms}ms"),
        1000..60_000 => format!("{sign}{}", seconds(ms)),
        60_000..3_600_000 => format!("{sign}{minutes}m{}", seconds(ms % 60_000)),
        _ => format!("{sign}{hours}h{minutes}m{}", seconds(ms % 60_000)),
    }
}

fn seconds(ms: u64) -> String {
    let fraction = format!("{:03}", ms % 1000);
    match fraction.trim_end_matches('0') {
        "" => format!("{}s", ms / 1000),
        rest => format!("{}.{rest}s", ms / 1000),
    }
}

/// A number with commas between thousands.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Reads what [`duration`] prints, in milliseconds; as much of Go's grammar as that needs.
pub(super) fn parse_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let (unit, after) = [("ms", 1.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)]
            .iter()
            .find_map(|(name, ms)| Some((ms, after.strip_prefix(name)?)))?;
        total += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints_them() {
        for (ms, text) in [
            (0, "0s"),
            (500, "500ms"),
            (1500, "1.5s"),
            (60_000, "1m0s"),
            (7_200_000, "2h0m0s"),
            (7_199_999, "1h59m59.999s"),
            (-7_200_000, "-2h0m0s"),
            (856_800_000, "238h0m0s"),
        ] {
            assert_eq!(duration(ms), text);
            assert_eq!(parse_duration(text), Some(ms as f64), "{text}");
        }
        assert_eq!(parse_duration("compactor"), None);
        assert_eq!(parse_duration(""), None);
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(time(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(time(i64::MAX), "9223372036854775s");
    }
}
