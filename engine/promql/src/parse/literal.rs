//! Numbers and durations: from text to value, with Go's error texts.

use super::text::quote;

/// The value of a number as the lexer cuts it: Go's `ParseInt` with base 0, and if that fails, `ParseFloat`.
pub(super) fn number(text: &str) -> Result<f64, String> {
    if let Some(n) = integer(text) {
        return Ok(n as f64);
    }
    let fail = |why: &str| Err(format!("error parsing number: strconv.ParseFloat: parsing {}: {why}", quote(text)));
    match text.to_ascii_lowercase().as_str() {
        "inf" => return Ok(f64::INFINITY),
        "nan" => return Ok(f64::NAN),
        _ => {}
    }
    if !underscores_ok(text) || text.bytes().any(|b| b.is_ascii_alphabetic() && !b.eq_ignore_ascii_case(&b'e')) {
        return fail("invalid syntax");
    }
    match text.replace('_', "").parse::<f64>() {
        Ok(v) if v.is_infinite() => fail("value out of range"),
        Ok(v) => Ok(v),
        Err(_) => fail("invalid syntax"),
    }
}

/// Decimal, octal (leading 0) or hexadecimal (0x) within 64 bits.
fn integer(text: &str) -> Option<i64> {
    if !underscores_ok(text) {
        return None;
    }
    let digits = text.replace('_', "");
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16).ok();
    }
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => i64::from_str_radix(octal, 8).ok(),
        _ => digits.parse().ok(),
    }
}

/// Underscores may only separate digits, or a base prefix from them.
fn underscores_ok(text: &str) -> bool {
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let digit = |b: u8| if hex { b.is_ascii_hexdigit() || b == b'x' || b == b'X' } else { b.is_ascii_digit() };
    let bytes = text.as_bytes();
    (0..bytes.len()).filter(|i| bytes[*i] == b'_').all(|i| {
        let before = i.checked_sub(1).and_then(|i| bytes.get(i));
        before.is_some_and(|b| digit(*b)) && bytes.get(i + 1).is_some_and(|b| digit(*b))
    })
}

/// A duration such as `1h30m` in seconds.
pub(super) fn duration_seconds(text: &str) -> Result<f64, String> {
    let ms = model::time::parse_duration(text).map_err(|e| e.to_string())?;
    // As Go's Duration.Seconds: whole seconds and the rest are divided apart.
    Ok((ms / 1000) as f64 + ((ms % 1000) * 1_000_000) as f64 / 1e9)
}

/// Seconds as milliseconds, through whole nanoseconds as in Prometheus.
pub(super) fn seconds_to_ms(seconds: f64) -> i64 {
    (seconds * 1e9).round() as i64 / 1_000_000
}

/// True if so many seconds don't fit into 64 bits of nanoseconds.
pub(super) fn out_of_range(seconds: f64) -> bool {
    const LIMIT: f64 = (1u64 << 63) as f64 / 1e9;
    // Not a number is no duration either.
    !(-LIMIT..=LIMIT).contains(&seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_go_reads_them() {
        for (text, want) in [
            ("0x1F", 31.0),
            ("0X1f", 31.0),
            ("017", 15.0),
            ("08", 8.0),
            ("0x_1F", 31.0),
            ("1e3", 1000.0),
            ("1E+3", 1000.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e-400", 0.0),
            ("1_000", 1000.0),
            ("1e1_0", 1e10),
            ("99999999999999999999", 1e20),
            ("Inf", f64::INFINITY),
        ] {
            assert_eq!(number(text), Ok(want), "{text}");
        }
        assert!(number("nAn").unwrap().is_nan());
        let error = |text| number(text).unwrap_err();
        assert_eq!(error("1e400"), r#"error parsing number: strconv.ParseFloat: parsing "1e400": value out of range"#);
        assert_eq!(error("0x"), r#"error parsing number: strconv.ParseFloat: parsing "0x": invalid syntax"#);
        assert_eq!(error("0x__1"), r#"error parsing number: strconv.ParseFloat: parsing "0x__1": invalid syntax"#);
        assert_eq!(error(".5.5"), r#"error parsing number: strconv.ParseFloat: parsing ".5.5": invalid syntax"#);
    }

    #[test]
    fn durations_in_seconds() {
        assert_eq!(duration_seconds("5m30s"), Ok(330.0));
        assert_eq!(duration_seconds("5ms"), Ok(0.005));
        assert_eq!(seconds_to_ms(4.018), 4018);
        assert!(out_of_range(9.5e10) && out_of_range(f64::NAN) && !out_of_range(-9e9));
    }
}
