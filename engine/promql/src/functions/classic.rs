//! Classic histograms: buckets are series that differ in `le`.

/// The bound that a value of `le` names.
pub(crate) fn parse_bound(le: &str) -> Option<f64> {
    let v: f64 = le.parse().ok()?;
    // A number beyond the range of floats is refused; infinity must be spelled out.
    let spelled = le.bytes().any(|b| b.is_ascii_digit());
    (v.is_finite() || !spelled).then_some(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(parse_bound("+Inf"), Some(f64::INFINITY));
        assert_eq!(parse_bound("0.5"), Some(0.5));
        assert_eq!(parse_bound("1e400"), None);
        assert_eq!(parse_bound(""), None);
        assert_eq!(parse_bound("abc"), None);
    }
}
