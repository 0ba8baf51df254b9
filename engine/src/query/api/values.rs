//! Pieces of JSON that several answers have in common, as Go writes them.

use proto::Timestamp;
use proto::thanos::LabelSet;
use serde_json::{Map, Number, Value};

/// A label set as an object.
pub(super) fn labels(set: Option<&LabelSet>) -> Value {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let pairs = set.into_iter().flat_map(|s| &s.labels).map(|l| (text(&l.name), Value::from(text(&l.value))));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// A time; an absent one is Go's zero.
pub(super) fn time(t: Option<&Timestamp>) -> Value {
    let t = t.and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok());
    Value::from(t.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string()))
}

/// A number: whole ones without a point; what is no number is null.
pub(super) fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 9e15 {
        return Value::from(v as i64);
    }
    Number::from_f64(v).map_or(Value::Null, Value::Number)
}

/// How a part answers when others are missing.
pub(super) fn strategy(wire: i32) -> Value {
    Value::from(if wire == 0 { "WARN" } else { "ABORT" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_go_writes_them() {
        let t = |seconds, nanos| time(Some(&Timestamp { seconds, nanos }));
        assert_eq!(t(1_700_000_000, 250_000_000), "2023-11-14T22:13:20.25Z");
        assert_eq!(t(-62_135_596_800, 0), time(None));
        assert_eq!(number(60.0).to_string(), "60");
        assert_eq!(number(0.25).to_string(), "0.25");
        assert!(number(f64::NAN).is_null());
    }
}
