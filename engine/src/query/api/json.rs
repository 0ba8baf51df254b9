//! Writes answers as JSON, byte for byte as Prometheus does, without building a tree first.

use model::sample::Value;
use model::{FloatHistogram, Labels};
use promql::exec::{QueryValue, Series, VectorSample};
use std::fmt::Write;

/// Appends a string with its quotes; invalid for nothing, since a `str` is UTF-8.
pub fn string(out: &mut String, s: &str) {
    escaped(out, s, false);
}

/// The same with `<`, `>`, `&` escaped, as Prometheus writes string results, errors and warnings.
pub fn html_string(out: &mut String, s: &str) {
    escaped(out, s, true);
}

fn escaped(out: &mut String, s: &str, html: bool) {
    out.push('"');
    let mut plain = 0;
    for (i, b) in s.bytes().enumerate() {
        let replacement = match b {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            b'<' if html => "\\u003c",
            b'>' if html => "\\u003e",
            b'&' if html => "\\u0026",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(s.get(plain..i).unwrap_or_default());
        if replacement.is_empty() {
            let _ = write!(out, "\\u{b:04x}");
        } else {
            out.push_str(replacement);
        }
        plain = i + 1;
    }
    out.push_str(s.get(plain..).unwrap_or_default());
    out.push('"');
}

/// Appends a sample's value: a string with the shortest digits, an exponent outside 1e-6 … 1e21.
pub fn float(out: &mut String, v: f64) {
    out.push('"');
    number(out, v);
    out.push('"');
}

fn number(out: &mut String, v: f64) {
    let size = v.abs();
    if v.is_nan() {
        out.push_str("NaN");
    } else if v.is_infinite() {
        out.push_str(if v > 0.0 { "+Inf" } else { "-Inf" });
    } else if size < WHOLE && size.fract() == 0.0 {
        // Counters are whole numbers most of the time.
        if v.is_sign_negative() {
            out.push('-');
        }
        digits(out, size as u64);
    } else {
        // The digits of Go; Rust's own printing goes the other way where two are equally near.
        let mut buffer = ryu::Buffer::new();
        let text = buffer.format_finite(v);
        match text.split_once('e') {
            None => out.push_str(text.strip_suffix(".0").unwrap_or(text)),
            Some((mantissa, exponent)) => scientific(out, mantissa, exponent),
        }
    }
}

/// Appends a number that is given by mantissa and exponent of ten: as a plain decimal from 1e-6 up to 1e21.
fn scientific(out: &mut String, mantissa: &str, exponent: &str) {
    let (sign, power) = exponent.strip_prefix('-').map_or(('+', exponent), |power| ('-', power));
    let places = power.parse::<usize>().unwrap_or(0);
    let negative = mantissa.strip_prefix('-');
    let (whole, fraction) = negative.unwrap_or(mantissa).split_once('.').unwrap_or((negative.unwrap_or(mantissa), ""));
    if places >= 21 || sign == '-' && places > 6 {
        let _ = write!(out, "{mantissa}e{sign}{power:0>2}");
        return;
    }
    if negative.is_some() {
        out.push('-');
    }
    if sign == '-' {
        let _ = write!(out, "0.{:0>1$}{fraction}", whole, places);
    } else {
        let _ = write!(out, "{whole}{fraction:0<places$}");
    }
}

/// Whole floats below this are written as integers.
const WHOLE: f64 = 1e15;

/// Appends a whole number.
fn digits(out: &mut String, mut n: u64) {
    let mut buffer = [b'0'; 20];
    let mut used = 0;
    for slot in buffer.iter_mut().rev() {
        *slot = b'0' + (n % 10) as u8;
        (n, used) = (n / 10, used + 1);
        if n == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(buffer.get(buffer.len() - used..).unwrap_or_default()).unwrap_or_default());
}

/// Appends a sample's time, given in milliseconds, as seconds: whole, or with three decimals.
pub fn time(out: &mut String, t: i64) {
    if t < 0 {
        out.push('-');
    }
    let (seconds, millis) = (t.unsigned_abs() / 1000, t.unsigned_abs() % 1000);
    digits(out, seconds);
    if millis != 0 {
        let _ = write!(out, ".{millis:03}");
    }
}

/// Appends a label set as an object.
pub fn labels(out: &mut String, set: &Labels) {
    out.push('{');
    for (i, (n, v)) in set.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(out, n);
        out.push(':');
        string(out, v);
    }
    out.push('}');
}

/// Appends a list of strings.
pub fn strings(out: &mut String, list: &[String]) {
    out.push('[');
    for (i, s) in list.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        html_string(out, s);
    }
    out.push(']');
}

fn histogram(out: &mut String, h: &FloatHistogram) {
    out.push_str("{\"count\":");
    float(out, h.count);
    out.push_str(",\"sum\":");
    float(out, h.sum);
    let mut any = false;
    for b in promql::histogram_buckets(h) {
        if b.count == 0.0 {
            continue;
        }
        out.push_str(if any { "," } else { ",\"buckets\":[" });
        any = true;
        let rule = match (b.lower_inclusive, b.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        };
        let _ = write!(out, "[{rule},");
        float(out, b.lower);
        out.push(',');
        float(out, b.upper);
        out.push(',');
        float(out, b.count);
        out.push(']');
    }
    out.push_str(if any { "]}" } else { "}" });
}

fn point(out: &mut String, t: i64, v: f64) {
    out.push('[');
    time(out, t);
    out.push(',');
    float(out, v);
    out.push(']');
}

fn histogram_point(out: &mut String, t: i64, h: &FloatHistogram) {
    out.push('[');
    time(out, t);
    out.push(',');
    histogram(out, h);
    out.push(']');
}

fn sample(out: &mut String, s: &VectorSample) {
    out.push_str("{\"metric\":");
    labels(out, &s.labels);
    match &s.value {
        Value::Float(v) => {
            out.push_str(",\"value\":");
            point(out, s.t, *v);
        }
        Value::Histogram(h) => {
            out.push_str(",\"histogram\":");
            histogram_point(out, s.t, h);
        }
    }
    out.push('}');
}

fn series(out: &mut String, s: &Series) {
    out.push_str("{\"metric\":");
    labels(out, &s.labels);
    if !s.floats.is_empty() {
        out.push_str(",\"values\":[");
        for (i, (t, v)) in s.floats.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            point(out, *t, *v);
        }
        out.push(']');
    }
    if !s.histograms.is_empty() {
        out.push_str(",\"histograms\":[");
        for (i, (t, h)) in s.histograms.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            histogram_point(out, *t, h);
        }
        out.push(']');
    }
    out.push('}');
}

/// Seconds in the shortest form, as scalars and strings have them.
fn short_time(out: &mut String, t: i64) {
    let _ = write!(out, "{}", t as f64 / 1000.0);
}

/// Writes `{"resultType":…,"result":…` without the closing brace, in pieces: `flush` is called whenever a piece is
/// full, and says whether to go on.
pub fn value(out: &mut String, v: &QueryValue, mut flush: impl FnMut(&mut String) -> bool) -> bool {
    match v {
        QueryValue::Scalar(t, v) => {
            out.push_str("{\"resultType\":\"scalar\",\"result\":[");
            short_time(out, *t);
            out.push(',');
            float(out, *v);
            out.push(']');
        }
        QueryValue::String(t, s) => {
            out.push_str("{\"resultType\":\"string\",\"result\":[");
            short_time(out, *t);
            out.push(',');
            html_string(out, s);
            out.push(']');
        }
        QueryValue::Vector(all) => {
            out.push_str("{\"resultType\":\"vector\",\"result\":[");
            for (i, s) in all.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                sample(out, s);
                if !flush(out) {
                    return false;
                }
            }
            out.push(']');
        }
        QueryValue::Matrix(all) => {
            out.push_str("{\"resultType\":\"matrix\",\"result\":[");
            for (i, s) in all.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                series(out, &s);
                if !flush(out) {
                    return false;
                }
            }
            out.push(']');
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(v: f64) -> String {
        let mut s = String::new();
        float(&mut s, v);
        s
    }

    #[test]
    fn numbers_and_times_are_written_as_prometheus_writes_them() {
        for (v, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-07"),
            (-1.25e-9, "-1.25e-09"),
            (1e300, "1e+300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (-12_345.0, "-12345"),
            (999_999_999_999_999.0, "999999999999999"),
            (1e15, "1000000000000000"),
            (123_456_789_012_345_680.0, "123456789012345680"),
            (0.1 + 0.2, "0.30000000000000004"),
            (-0.000_012_5, "-0.0000125"),
            (1234.5, "1234.5"),
            // Two are equally near; so Prometheus prints it.
            (171_532_008_832.0 + 0.390_625, "171532008832.39062"),
            (1.25e20, "125000000000000000000"),
            (9.5e-6, "0.0000095"),
            (123e-7, "0.0000123"),
            (5e-324, "5e-324"),
            (-1.5e21, "-1.5e+21"),
        ] {
            assert_eq!(f(v), format!("\"{text}\""));
        }
        let t = |ms| {
            let mut s = String::new();
            time(&mut s, ms);
            s
        };
        assert_eq!(t(1_700_001_000_500), "1700001000.500");
        assert_eq!(t(1_700_001_000_000), "1700001000");
        assert_eq!(t(-1), "-0.001");
    }

    #[test]
    fn numbers_read_back_and_have_no_digit_too_many() {
        let mut n = 0x9e37_79b9_7f4a_7c15u64;
        for i in 0..200_000u64 {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i | 1);
            let wide = f64::from_bits(n);
            for v in [wide, (n >> 12) as f64 / 4096.0, n as f64, (n % 100_000) as f64 / 100.0] {
                if !v.is_finite() {
                    continue;
                }
                let text = f(v);
                let text = text.trim_matches('"');
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), v.to_bits(), "{text}");
                let plain = (1e-6..1e21).contains(&v.abs());
                let shown = if plain { v.to_string() } else { format!("{v:e}") };
                let digits = |s: &str| s.split('e').next().unwrap().bytes().filter(u8::is_ascii_digit).count();
                assert_eq!(digits(text), digits(&shown), "{text} {shown}");
                assert_eq!(text.contains('e'), !plain, "{text}");
            }
        }
    }

    #[test]
    fn strings_are_escaped() {
        let mut s = String::new();
        string(&mut s, "a\"b\\c\nd\u{1}é<&>");
        assert_eq!(s, "\"a\\\"b\\\\c\\nd\\u0001é<&>\"");
        let mut s = String::new();
        html_string(&mut s, "<&>");
        assert_eq!(s, "\"\\u003c\\u0026\\u003e\"");
    }

    #[test]
    fn values_have_their_shapes() {
        let of = |v: QueryValue| {
            let mut s = String::new();
            value(&mut s, &v, |_| true);
            s
        };
        assert_eq!(
            of(QueryValue::Scalar(1_699_998_200_500, 2.0)),
            r#"{"resultType":"scalar","result":[1699998200.5,"2"]"#
        );
        assert_eq!(of(QueryValue::Vector(vec![])), r#"{"resultType":"vector","result":[]"#);
        let labels = Labels::from_pairs([("__name__", "up"), ("a", "b")]);
        let v = VectorSample { labels: labels.clone(), t: 1000, value: Value::Float(1.0) };
        assert_eq!(
            of(QueryValue::Vector(vec![v])),
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","a":"b"},"value":[1,"1"]}]"#
        );
        let h = FloatHistogram { count: 3.0, sum: 1.5, zero_count: 3.0, zero_threshold: 0.5, ..Default::default() };
        let m = Series { labels, floats: vec![(1000, 1.0), (1500, 2.0)], histograms: vec![(2000, h.into())] };
        assert_eq!(
            of(QueryValue::Matrix(vec![m].into())),
            r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","a":"b"},"values":[[1,"1"],[1.500,"2"]],"histograms":[[2,{"count":"3","sum":"1.5","buckets":[[3,"-0.5","0.5","3"]]}]]}]"#
        );
    }
}
