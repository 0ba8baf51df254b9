//! Label sets between the wire and `model`.

use crate::thanos::{Label, LabelSet};
use bytes::Bytes;
use model::Labels;

/// Most bytes of names and values that one label set may have. Prometheus itself has no limit by default, but its own
/// storage can't hold more per string; a foreign peer must not make us hold megabytes per series.
pub const MAX_LABEL_SET_BYTES: usize = 1 << 20;

/// Why a foreign label set was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// A name or a value is not UTF-8.
    #[error("label {index} is not valid UTF-8 (it reads about {text:?})")]
    NotUtf8 {
        /// Position of the label in its set.
        index: usize,
        /// The bytes with replacement characters, cut at 64 bytes.
        text: String,
    },
    /// Names are not strictly ascending.
    #[error("label {name:?} is out of order or repeated: label names must ascend")]
    Unsorted {
        /// The first name that is not above its predecessor.
        name: String,
    },
    /// A label has no name.
    #[error("label {index} has no name")]
    EmptyName {
        /// Position of the label in its set.
        index: usize,
    },
    /// The set is larger than [`MAX_LABEL_SET_BYTES`].
    #[error("the label set has more than {MAX_LABEL_SET_BYTES} bytes")]
    TooLarge,
}

impl LabelsError {
    fn not_utf8(index: usize, bytes: &[u8]) -> Self {
        let head = bytes.get(..64).unwrap_or(bytes);
        Self::NotUtf8 { index, text: String::from_utf8_lossy(head).into_owned() }
    }
}

/// Reads a label set: UTF-8, strictly ascending names, bounded size. A label with an empty value means "absent" and is
/// dropped.
pub fn decode(labels: &[Label]) -> Result<Labels, LabelsError> {
    let pairs = check(labels)?;
    let mut last: Option<&str> = None;
    for (n, _) in &pairs {
        if last.is_some_and(|l| l >= *n) {
            return Err(LabelsError::Unsorted { name: (*n).to_owned() });
        }
        last = Some(n);
    }
    Ok(Labels::from_sorted(pairs))
}

/// Like [`decode`], for peers that don't keep the order of names (older Thanos label sets in Info): sorts; of a repeated
/// name the last value wins.
pub fn decode_any_order(labels: &[Label]) -> Result<Labels, LabelsError> {
    Ok(Labels::from_pairs(check(labels)?))
}

/// Writes a label set. The pairs are slices of the set's own allocation: nothing is copied.
pub fn encode(labels: &Labels) -> Vec<Label> {
    let packed = Bytes::from_owner(Packed(labels.clone()));
    labels
        .iter()
        .map(|(n, v)| Label { name: packed.slice_ref(n.as_bytes()), value: packed.slice_ref(v.as_bytes()) })
        .collect()
}

/// Writes a label set as a message.
pub fn encode_set(labels: &Labels) -> LabelSet {
    LabelSet { labels: encode(labels) }
}

fn check(labels: &[Label]) -> Result<Vec<(&str, &str)>, LabelsError> {
    let mut pairs = Vec::with_capacity(labels.len());
    let mut size = 0usize;
    for (index, l) in labels.iter().enumerate() {
        size = size.saturating_add(l.name.len()).saturating_add(l.value.len());
        if size > MAX_LABEL_SET_BYTES {
            return Err(LabelsError::TooLarge);
        }
        let text = |b| std::str::from_utf8(b).map_err(|_e| LabelsError::not_utf8(index, b));
        let (name, value) = (text(&l.name)?, text(&l.value)?);
        if name.is_empty() {
            return Err(LabelsError::EmptyName { index });
        }
        if !value.is_empty() {
            pairs.push((name, value));
        }
    }
    Ok(pairs)
}

/// Lends the packed form of a label set to [`Bytes`].
struct Packed(Labels);

impl AsRef<[u8]> for Packed {
    fn as_ref(&self) -> &[u8] {
        self.0.as_packed().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(n: &'static [u8], v: &'static [u8]) -> Label {
        Label { name: Bytes::from_static(n), value: Bytes::from_static(v) }
    }

    #[test]
    fn round_trips_without_copying() {
        let set = Labels::from_pairs([("__name__", "up"), ("cluster", "ops"), ("é", "ü")]);
        let wire = encode(&set);
        assert_eq!(decode(&wire), Ok(set.clone()));
        let range = set.as_packed().as_bytes().as_ptr_range();
        assert!(wire.iter().all(|l| range.contains(&l.value.as_ptr())));
        assert_eq!(decode(&[]), Ok(Labels::empty()));
    }

    #[test]
    fn refuses_foreign_bytes_by_name() {
        let error = |labels: &[Label]| decode(labels).unwrap_err().to_string();
        assert!(error(&[label(b"b", b"1"), label(b"a", b"1")]).contains("\"a\" is out of order"));
        assert!(error(&[label(b"a", b"1"), label(b"a", b"2")]).contains("\"a\" is out of order"));
        assert!(error(&[label(b"a", b"\xff\xfe")]).contains("not valid UTF-8"));
        assert!(error(&[label(b"", b"x")]).contains("no name"));
        let huge = Label { name: Bytes::from_static(b"a"), value: vec![b'x'; MAX_LABEL_SET_BYTES].into() };
        assert_eq!(decode(&[huge]), Err(LabelsError::TooLarge));
    }

    #[test]
    fn sorts_when_asked_and_drops_empty_values() {
        let wire = [label(b"b", b"1"), label(b"a", b"2"), label(b"c", b"")];
        assert_eq!(decode_any_order(&wire), Ok(Labels::from_pairs([("a", "2"), ("b", "1")])));
        assert_eq!(decode(&[label(b"a", b""), label(b"b", b"1")]), Ok(Labels::from_pairs([("b", "1")])));
    }
}
