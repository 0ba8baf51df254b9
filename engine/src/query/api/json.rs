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

/// A short text that is put together on the stack, so that the answer grows once per point.
struct Line {
    bytes: [u8; 128],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; 128], len: 0 }
    }

    /// What was written.
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    #[inline(always)]
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    /// Appends few bytes.
    #[inline(always)]
    fn extend(&mut self, text: &[u8]) {
        for b in text {
            self.push(*b);
        }
    }

    /// Appends a whole number.
    #[inline(always)]
    fn digits(&mut self, mut n: u64) {
        let length = n.checked_ilog10().unwrap_or(0) as usize + 1;
        let Some(mut rest) = self.bytes.get_mut(self.len..self.len + length) else { return };
        self.len += length;
        while n >= 100 {
            let pair = PAIRS.get((n % 100) as usize).copied().unwrap_or_default();
            n /= 100;
            let Some((more, last)) = rest.split_last_chunk_mut::<2>() else { return };
            *last = pair;
            rest = more;
        }
        let [tens, ones] = PAIRS.get(n as usize).copied().unwrap_or_default();
        match rest {
            [a, b] => (*a, *b) = (tens, ones),
            [a] => *a = ones,
            _ => {}
        }
    }

    fn number(&mut self, v: f64) {
        let size = v.abs();
        if size < WHOLE && size.fract() == 0.0 {
            // Counters are whole numbers most of the time.
            if v.is_sign_negative() {
                self.push(b'-');
            }
            self.digits(size as u64);
        } else if v.is_nan() {
            self.extend(b"NaN");
        } else if v.is_infinite() {
            self.extend(if v > 0.0 { b"+Inf" } else { b"-Inf" });
        } else {
            // The digits of Go; Rust's own printing goes the other way where two are equally near.
            let mut buffer = ryu::Buffer::new();
            let text = buffer.format_finite(v).as_bytes();
            // An exponent has at most four characters.
            let tail = text.get(text.len().saturating_sub(5)..).unwrap_or_default();
            match tail.iter().position(|b| *b == b'e') {
                None => self.extend(text.strip_suffix(b".0").unwrap_or(text)),
                Some(at) => {
                    let at = text.len() - tail.len() + at;
                    let (mantissa, exponent) = (text.get(..at), text.get(at + 1..));
                    self.scientific(mantissa.unwrap_or_default(), exponent.unwrap_or_default());
                }
            }
        }
    }

    /// Appends a number that is given by mantissa and exponent of ten: as a plain decimal from 1e-6 up to 1e21.
    fn scientific(&mut self, mantissa: &[u8], exponent: &[u8]) {
        let (sign, power) = exponent.strip_prefix(b"-").map_or((b'+', exponent), |power| (b'-', power));
        let places = power.iter().fold(0usize, |n, b| n * 10 + usize::from(b.wrapping_sub(b'0')));
        if places >= 21 || sign == b'-' && places > 6 {
            self.extend(mantissa);
            self.extend(&[b'e', sign]);
            if places < 10 {
                self.push(b'0');
            }
            self.digits(places as u64);
            return;
        }
        let size = mantissa.strip_prefix(b"-").unwrap_or(mantissa);
        let point = size.iter().position(|b| *b == b'.').unwrap_or(size.len());
        let (whole, fraction) = (size.get(..point), size.get(point + 1..));
        let (whole, fraction) = (whole.unwrap_or_default(), fraction.unwrap_or_default());
        if size.len() < mantissa.len() {
            self.push(b'-');
        }
        if sign == b'-' {
            self.extend(b"0.");
            (whole.len()..places).for_each(|_| self.push(b'0'));
            self.extend(whole);
            self.extend(fraction);
        } else {
            self.extend(whole);
            self.extend(fraction);
            (fraction.len()..places).for_each(|_| self.push(b'0'));
        }
    }

    /// Appends a time in milliseconds as seconds: whole, or with three decimals.
    fn time(&mut self, t: i64) {
        if t < 0 {
            self.push(b'-');
        }
        let (seconds, millis) = (t.unsigned_abs() / 1000, t.unsigned_abs() % 1000);
        self.digits(seconds);
        if millis != 0 {
            self.push(b'.');
            self.push(b'0' + (millis / 100) as u8);
            let pair = PAIRS.get((millis % 100) as usize).copied().unwrap_or_default();
            self.extend(&pair);
        }
    }
}

/// 00 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

/// Whole floats below this are written as integers.
const WHOLE: f64 = 1e15;

/// Appends what `write` writes.
fn short(out: &mut String, write: impl FnOnce(&mut Line)) {
    let mut line = Line::new();
    write(&mut line);
    out.push_str(std::str::from_utf8(line.text()).unwrap_or_default());
}

/// Appends a sample's value: a string with the shortest digits, an exponent outside 1e-6 … 1e21.
pub fn float(out: &mut String, v: f64) {
    short(out, |line| {
        line.push(b'"');
        line.number(v);
        line.push(b'"');
    });
}

/// Appends a sample's time, given in milliseconds, as seconds: whole, or with three decimals.
pub fn time(out: &mut String, t: i64) {
    short(out, |line| line.time(t));
}

/// Room for the text of a time with what surrounds it.
const STAMP: usize = 24;

/// The beginnings of points, `[1700000000,"`: series have the same times, so each is written once.
#[derive(Default)]
struct Stamps {
    known: Vec<(i64, [u8; STAMP], usize)>,
    next: usize,
}

impl Stamps {
    /// Appends a point; those of a series come in the order of their times.
    #[inline(always)]
    fn point(&mut self, line: &mut Line, t: i64, v: f64) {
        match self.known.get(self.next) {
            Some((known, text, length)) if *known == t => {
                if let Some(to) = line.bytes.first_chunk_mut::<STAMP>() {
                    *to = *text;
                }
                line.len = *length;
                self.next += 1;
            }
            _ => self.begin(line, t),
        }
        line.number(v);
        line.push(b'"');
        line.push(b']');
    }

    #[inline(never)]
    fn begin(&mut self, line: &mut Line, t: i64) {
        line.len = 0;
        line.push(b'[');
        line.time(t);
        line.push(b',');
        line.push(b'"');
        match self.known.binary_search_by_key(&t, |k| k.0) {
            Ok(at) => self.next = at + 1,
            Err(at) if at == self.known.len() && at < MAX_STAMPS && line.len <= STAMP => {
                if let Some(text) = line.bytes.first_chunk::<STAMP>() {
                    self.known.push((t, *text, line.len));
                }
                self.next = at + 1;
            }
            Err(at) => self.next = at,
        }
    }
}

/// Most times that are kept: those of a range query.
const MAX_STAMPS: usize = 11_001;

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

fn series(out: &mut Vec<u8>, s: &Series, stamps: &mut Stamps) {
    let mut text = String::from("{\"metric\":");
    labels(&mut text, &s.labels);
    if !s.floats.is_empty() {
        text.push_str(",\"values\":[");
        out.extend_from_slice(text.as_bytes());
        text.clear();
        let mut line = Line::new();
        stamps.next = 0;
        for (i, (t, v)) in s.floats.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            stamps.point(&mut line, *t, *v);
            out.extend_from_slice(line.text());
        }
        text.push(']');
    }
    if !s.histograms.is_empty() {
        text.push_str(",\"histograms\":[");
        for (i, (t, h)) in s.histograms.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            histogram_point(&mut text, *t, h);
        }
        text.push(']');
    }
    text.push('}');
    out.extend_from_slice(text.as_bytes());
}

/// Seconds in the shortest form, as scalars and strings have them.
fn short_time(out: &mut String, t: i64) {
    let _ = write!(out, "{}", t as f64 / 1000.0);
}

/// Writes `{"resultType":…,"result":…` without the closing brace, in pieces: `flush` is called whenever a piece is
/// full, and says whether to go on.
pub fn value(out: &mut Vec<u8>, v: &QueryValue, mut flush: impl FnMut(&mut Vec<u8>) -> bool) -> bool {
    let mut text = String::new();
    match v {
        QueryValue::Scalar(t, v) => {
            text.push_str("{\"resultType\":\"scalar\",\"result\":[");
            short_time(&mut text, *t);
            text.push(',');
            float(&mut text, *v);
        }
        QueryValue::String(t, s) => {
            text.push_str("{\"resultType\":\"string\",\"result\":[");
            short_time(&mut text, *t);
            text.push(',');
            html_string(&mut text, s);
        }
        QueryValue::Vector(all) => {
            text.push_str("{\"resultType\":\"vector\",\"result\":[");
            for (i, s) in all.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                sample(&mut text, s);
                out.extend_from_slice(text.as_bytes());
                text.clear();
                if !flush(out) {
                    return false;
                }
            }
        }
        QueryValue::Matrix(all) => {
            out.extend_from_slice(b"{\"resultType\":\"matrix\",\"result\":[");
            let mut stamps = Stamps::default();
            for (i, s) in all.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                series(out, &s, &mut stamps);
                if !flush(out) {
                    return false;
                }
            }
        }
    }
    text.push(']');
    out.extend_from_slice(text.as_bytes());
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
            let mut s = Vec::new();
            value(&mut s, &v, |_| true);
            String::from_utf8(s).unwrap()
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
        // The second series has other times than the first, and gaps.
        let of_times =
            |times: &[i64]| Series { floats: times.iter().map(|t| (*t, -0.5)).collect(), ..Series::default() };
        let all = vec![of_times(&[1000, 3000]), of_times(&[-1500, 1000, 2000, 3000, 4000])];
        assert_eq!(
            of(QueryValue::Matrix(all.into())),
            r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1,"-0.5"],[3,"-0.5"]]},{"metric":{},"values":[[-1.500,"-0.5"],[1,"-0.5"],[2,"-0.5"],[3,"-0.5"],[4,"-0.5"]]}]"#
        );
        let h = FloatHistogram { count: 3.0, sum: 1.5, zero_count: 3.0, zero_threshold: 0.5, ..Default::default() };
        let m = Series { labels, floats: vec![(1000, 1.0), (1500, 2.0)], histograms: vec![(2000, h.into())] };
        assert_eq!(
            of(QueryValue::Matrix(vec![m].into())),
            r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","a":"b"},"values":[[1,"1"],[1.500,"2"]],"histograms":[[2,{"count":"3","sum":"1.5","buckets":[[3,"-0.5","0.5","3"]]}]]}]"#
        );
    }
}
