//! Samples and chunks as the oracle speaks of them.

use model::histogram::{Histogram, ResetHint, Span};
use serde_json::{Value as Json, json};
use tsdb::chunk::{Chunk, Encoding, Exact, Value};

pub(crate) fn hex(data: &[u8]) -> String {
    data.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn histogram<V: Copy>(h: &Histogram<V>, count: impl Fn(V) -> u64) -> Json {
    let spans = |s: &[Span]| s.iter().map(|s| json!([s.offset, s.length])).collect::<Vec<_>>();
    let counts = |b: &[V]| b.iter().map(|v| count(*v)).collect::<Vec<_>>();
    json!({
        "hint": match h.reset_hint { ResetHint::Unknown => 0, ResetHint::Reset => 1, ResetHint::NotReset => 2, ResetHint::Gauge => 3 },
        "schema": h.schema,
        "zero_threshold": h.zero_threshold.to_bits(),
        "zero_count": count(h.zero_count),
        "count": count(h.count),
        "sum": h.sum.to_bits(),
        "positive_spans": spans(&h.positive_spans),
        "negative_spans": spans(&h.negative_spans),
        "positive": counts(&h.positive_buckets),
        "negative": counts(&h.negative_buckets),
        "custom": h.custom_values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
    })
}

pub(crate) fn samples(samples: &[Exact]) -> Json {
    let one = |s: &Exact| {
        let (name, v) = match &s.v {
            Value::Float(v) => ("v", json!(v.to_bits())),
            Value::Histogram(h) => ("h", histogram(h, |v| v)),
            Value::FloatHistogram(h) => ("fh", histogram(h, f64::to_bits)),
        };
        json!({"t": s.t, "st": s.st, name: v})
    };
    samples.iter().map(one).collect()
}

fn read_histogram<V>(j: &Json, count: impl Fn(u64) -> V) -> Histogram<V> {
    let list = |name: &str| j[name].as_array().cloned().unwrap_or_default();
    let spans = |name: &str| {
        let span = |s: &Json| Span { offset: s[0].as_i64().unwrap() as i32, length: s[1].as_u64().unwrap() as u32 };
        list(name).iter().map(span).collect()
    };
    let number = |name: &str| j[name].as_u64().unwrap();
    Histogram {
        reset_hint: match number("hint") {
            0 => ResetHint::Unknown,
            1 => ResetHint::Reset,
            2 => ResetHint::NotReset,
            _ => ResetHint::Gauge,
        },
        schema: j["schema"].as_i64().unwrap() as i32,
        zero_threshold: f64::from_bits(number("zero_threshold")),
        zero_count: count(number("zero_count")),
        count: count(number("count")),
        sum: f64::from_bits(number("sum")),
        positive_spans: spans("positive_spans"),
        negative_spans: spans("negative_spans"),
        positive_buckets: list("positive").iter().map(|v| count(v.as_u64().unwrap())).collect(),
        negative_buckets: list("negative").iter().map(|v| count(v.as_u64().unwrap())).collect(),
        custom_values: list("custom").iter().map(|v| f64::from_bits(v.as_u64().unwrap())).collect(),
    }
}

/// A sample of the oracle, its floats as bits so that NaNs can be compared.
pub(crate) fn read_samples(j: &Json) -> Vec<Exact> {
    let one = |s: &Json| Exact {
        st: s["st"].as_i64().unwrap_or(0),
        t: s["t"].as_i64().unwrap(),
        v: match (s["v"].as_u64(), s.get("h"), s.get("fh")) {
            (Some(v), ..) => Value::Float(f64::from_bits(v)),
            (_, Some(h), _) => Value::Histogram(read_histogram(h, |v| v)),
            (_, _, h) => Value::FloatHistogram(read_histogram(h.unwrap(), f64::from_bits)),
        },
    };
    j.as_array().unwrap().iter().map(one).collect()
}

pub(crate) fn read_chunks(j: &Json) -> Vec<Chunk> {
    let one = |c: &Json| Chunk {
        encoding: Encoding::from_prometheus(c["encoding"].as_u64().unwrap() as u8),
        min_t: c["min_t"].as_i64().unwrap(),
        max_t: c["max_t"].as_i64().unwrap(),
        samples: c["samples"].as_u64().unwrap() as u16,
        data: unhex(c["data"].as_str().unwrap()).into(),
    };
    j.as_array().map(|all| all.iter().map(one).collect()).unwrap_or_default()
}
