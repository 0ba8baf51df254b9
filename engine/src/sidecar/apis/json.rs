//! What several parts of Prometheus's API have in common.

use model::Labels;
use proto::Timestamp;
use proto::thanos::LabelSet;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// A label set as an object; absent and null are empty.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct Set(Option<BTreeMap<String, String>>);

impl Set {
    /// For the wire, under these external labels.
    pub(super) fn under(self, external: &Labels) -> Option<LabelSet> {
        Some(proto::labels::encode_set(&self.labels().overlay(external)))
    }

    /// For the wire, as it is.
    pub(super) fn encode(self) -> Option<LabelSet> {
        Some(proto::labels::encode_set(&self.labels()))
    }

    fn labels(self) -> Labels {
        Labels::from_pairs(self.0.unwrap_or_default())
    }
}

/// A list; null is empty.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(from).map(Option::unwrap_or_default)
}

/// A time of RFC 3339.
pub(super) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)?.filter(|t| !t.is_empty()) else { return Ok(None) };
    let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    // The wire counts forward also before 1970.
    if nanos < 0 {
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    }
    Ok(Some(Timestamp { seconds, nanos }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sets_are_read_in_all_their_forms() {
        #[derive(Deserialize)]
        struct Doc {
            #[serde(deserialize_with = "time")]
            t: Option<Timestamp>,
            #[serde(default)]
            set: Set,
        }
        let read = |text: &str| serde_json::from_str::<Doc>(text).unwrap();
        let at = |text: &str| read(text).t.map(|t| (t.seconds, t.nanos));
        assert_eq!(at(r#"{"t":"1970-01-01T00:00:01.5+00:00"}"#), Some((1, 500_000_000)));
        assert_eq!(at(r#"{"t":"1969-12-31T23:59:59.25Z"}"#), Some((-1, 250_000_000)));
        assert_eq!(at(r#"{"t":"0001-01-01T00:00:00Z"}"#), Some((-62_135_596_800, 0)));
        assert_eq!(at(r#"{"t":null}"#), None);
        assert!(serde_json::from_str::<Doc>(r#"{"t":"soon"}"#).is_err());
        let set = read(r#"{"t":"","set":{"b":"1","a":"2"}}"#).set.under(&Labels::from_pairs([("a", "x")])).unwrap();
        assert_eq!(proto::labels::decode(&set.labels).unwrap().to_string(), r#"{a="x", b="1"}"#);
        assert!(read(r#"{"t":"","set":null}"#).set.encode().unwrap().labels.is_empty());
    }
}
