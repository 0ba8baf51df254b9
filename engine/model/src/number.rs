//! Floats as Go prints them: Prometheus's texts and JSON need them bit for bit.

/// `strconv.FormatFloat(v, 'f', -1, 64)`: shortest digits that round-trip, never an exponent. This is the form of
/// sample values in the HTTP API and in annotations.
pub fn format_f(v: f64) -> String {
    if let Some(s) = special(v) {
        return s.to_owned();
    }
    // Rust's Display for f64 is exactly this form, but for the sign of zero, which it keeps as Go does.
    format!("{v}")
}

/// `strconv.FormatFloat(v, 'g', -1, 64)`, Go's `%v`: an exponent below 1e-4 and from 1e6 on (1000000 is
/// `1e+06`).
pub fn format_g(v: f64) -> String {
    if let Some(s) = special(v) {
        return s.to_owned();
    }
    let e = format!("{v:e}");
    let (mantissa, exponent) = e.split_once('e').unwrap_or((&e, "0"));
    let x: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&x) {
        let sign = if x < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", x.unsigned_abs())
    } else {
        format!("{v}")
    }
}

fn special(v: f64) -> Option<&'static str> {
    if v.is_nan() {
        Some("NaN")
    } else if v == f64::INFINITY {
        Some("+Inf")
    } else if v == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// Compensated addition (Neumaier): adds `inc` to `sum`, whose error so far is `c`.
#[inline]
pub fn kahan(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    let c = if t.is_infinite() {
        0.0
    } else if sum.abs() >= inc.abs() {
        c + ((sum - t) + inc)
    } else {
        c + ((inc - t) + sum)
    };
    (t, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        assert_eq!(format_f(1e21), "1000000000000000000000");
        assert_eq!(format_f(-0.0), "-0");
        assert_eq!(format_f(0.1), "0.1");
        assert_eq!(format_g(1e21), "1e+21");
        assert_eq!(format_g(1e20), "1e+20");
        assert_eq!(format_g(1234567.5), "1.2345675e+06");
        assert_eq!(format_g(100000.0), "100000");
        assert_eq!(format_g(0.00001), "1e-05");
        assert_eq!(format_g(0.0001), "0.0001");
        assert_eq!(format_g(1.5e-7), "1.5e-07");
        assert_eq!(format_g(f64::NEG_INFINITY), "-Inf");
    }
}
