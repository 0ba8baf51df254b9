//! A label set: sorted, immutable, packed into one shared allocation.
//!
//! The packed form is a string of `length name length value …`. A length is written in base 64, least significant
//! digit first, with bit 6 as the continuation flag, so every length byte is ASCII and the whole stays valid UTF-8:
//! labels are sliced out of it without copying and without unsafe code.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";
/// The label that holds the upper bound of a classic histogram's bucket.
pub const BUCKET_LABEL: &str = "le";

/// A sorted set of label pairs. Cloning shares the allocation.
///
/// Order is Prometheus's: pair by pair, name before value, byte-wise; a prefix sorts first.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels(Arc<str>);

impl Labels {
    /// The empty set.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Builds a set from pairs in any order. Of a repeated name the last value wins; an empty value means "absent"
    /// and drops the pair, as everywhere in Prometheus.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        let mut b = LabelsBuilder::default();
        for (n, v) in pairs {
            b.set(n.as_ref(), v.as_ref());
        }
        b.build()
    }

    /// Builds a set from pairs that are already sorted by name, without duplicates or empty values (the caller has
    /// checked it, see [`is_sorted`]); this is the path of a decoder.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut packed = String::new();
        for (n, v) in pairs {
            push(&mut packed, n);
            push(&mut packed, v);
        }
        Self(packed.into())
    }

    /// The pairs, in order of their names.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.0 }
    }

    /// The value of `name`, if the set has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        for (n, v) in self.iter() {
            match n.cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return Some(v),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The value of `name`, or the empty string, which in Prometheus means the same as "absent".
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The metric's name, if the set has one.
    pub fn metric_name(&self) -> Option<&str> {
        self.get(METRIC_NAME)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// True if the set has no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Size of the packed form in bytes: what budgets count.
    pub fn packed_len(&self) -> usize {
        self.0.len()
    }

    /// The packed form: equal bytes mean equal sets. Good as a hash key, meaningless outside this process.
    pub fn as_packed(&self) -> &str {
        &self.0
    }

    /// This set with `name` set to `value` (removed if `value` is empty).
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut b = LabelsBuilder::from(self);
        b.set(name, value);
        b.build()
    }

    /// The pairs whose name passes `keep`.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&str) -> bool) -> Self {
        if self.iter().all(|(n, _)| keep(n)) {
            return self.clone();
        }
        Self::from_sorted(self.iter().filter(|(n, _)| keep(n)))
    }

    /// This set without the named labels.
    #[must_use]
    pub fn without<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.filter(|n| !names.iter().any(|x| x.as_ref() == n))
    }

    /// Only the named labels of this set.
    #[must_use]
    pub fn keep<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.filter(|n| names.iter().any(|x| x.as_ref() == n))
    }

    /// This set overlaid with `over`: a name in both takes the value of `over` (how external labels are added).
    #[must_use]
    pub fn overlay(&self, over: &Labels) -> Self {
        if over.is_empty() {
            return self.clone();
        }
        let mut packed = String::with_capacity(self.0.len() + over.0.len());
        let (mut a, mut b) = (self.iter().peekable(), over.iter().peekable());
        loop {
            let take_over = match (a.peek(), b.peek()) {
                (None, None) => break,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((x, _)), Some((y, _))) => match x.cmp(y) {
                    Ordering::Less => false,
                    Ordering::Equal => {
                        a.next();
                        true
                    }
                    Ordering::Greater => true,
                },
            };
            if let Some((n, v)) = if take_over { b.next() } else { a.next() } {
                push(&mut packed, n);
                push(&mut packed, v);
            }
        }
        Self(packed.into())
    }

    /// Thanos's and Prometheus's shard hash: xxhash64 over `name 0xff value 0xff …` of the pairs that pass `keep`.
    pub fn shard_hash(&self, mut keep: impl FnMut(&str) -> bool) -> u64 {
        let mut h = xxhash_rust::xxh64::Xxh64::new(0);
        for (n, v) in self.iter().filter(|(n, _)| keep(n)) {
            h.update(n.as_bytes());
            h.update(&[0xff]);
            h.update(v.as_bytes());
            h.update(&[0xff]);
        }
        h.digest()
    }
}

impl Labels {
    /// The hash that Prometheus's release builds give a label set: xxhash64 over each name and value after its length,
    /// which is one byte, or 255 and three bytes, the lowest first (its `stringlabels`).
    pub fn prometheus_hash(&self) -> u64 {
        let mut h = xxhash_rust::xxh64::Xxh64::new(0);
        let mut add = |s: &str| {
            match u8::try_from(s.len()) {
                Ok(n) if n < 255 => h.update(&[n]),
                _ => {
                    let [a, b, c, ..] = (s.len() as u64).to_le_bytes();
                    h.update(&[255, a, b, c]);
                }
            }
            h.update(s.as_bytes());
        };
        for (n, v) in self.iter() {
            add(n);
            add(v);
        }
        h.digest()
    }
}

/// True if `pairs` are strictly ascending by name and no value is empty.
pub fn is_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
    let mut last: Option<&str> = None;
    for (n, v) in pairs {
        if v.is_empty() || last.is_some_and(|l| l >= n) {
            return false;
        }
        last = Some(n);
    }
    true
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        self.iter().cmp(other.iter())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// `{a="b", c="d"}`: Prometheus's form of a label set, the name among the pairs.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_pairs(f, self.iter())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_pairs<'a>(f: &mut fmt::Formatter<'_>, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> fmt::Result {
    f.write_str("{")?;
    for (i, (n, v)) in pairs.enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        if is_legacy_name(n) {
            write!(f, "{n}={}", Quoted(v))?;
        } else {
            write!(f, "{}={}", Quoted(n), Quoted(v))?;
        }
    }
    f.write_str("}")
}

/// A string in Go's double-quoted form (`strconv.Quote`).
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                '\u{7}' => f.write_str("\\a")?,
                '\u{8}' => f.write_str("\\b")?,
                '\u{c}' => f.write_str("\\f")?,
                '\u{b}' => f.write_str("\\v")?,
                c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// True for a label name in the classic character set `[a-zA-Z_][a-zA-Z0-9_]*`; any other name needs quotes.
pub fn is_legacy_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// True for a metric name in the classic character set, which also has the colon.
pub fn is_legacy_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// Iterator over the pairs of a [`Labels`].
#[derive(Clone)]
pub struct Iter<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let name = pop(&mut self.rest)?;
        let value = pop(&mut self.rest)?;
        Some((name, value))
    }
}

fn push(packed: &mut String, s: &str) {
    let mut n = s.len();
    while n >= 0x40 {
        packed.push(char::from((n & 0x3f) as u8 | 0x40));
        n >>= 6;
    }
    packed.push(char::from(n as u8));
    packed.push_str(s);
}

fn pop<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (mut n, mut shift, mut used) = (0usize, 0u32, 0usize);
    for b in rest.bytes() {
        used += 1;
        n |= usize::from(b & 0x3f) << shift;
        if b & 0x40 == 0 {
            break;
        }
        shift += 6;
    }
    let s = rest.get(used..used + n)?;
    *rest = rest.get(used + n..)?;
    Some(s)
}

/// Collects label pairs in any order; see [`Labels::from_pairs`].
#[derive(Clone, Default, Debug)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Sets `name` to `value`; an empty value removes the name.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        match self.pairs.iter_mut().find(|(n, _)| n == name) {
            Some(p) => value.clone_into(&mut p.1),
            None => self.pairs.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.pairs.retain(|(n, _)| n != name);
        self
    }

    /// The sorted set.
    pub fn build(mut self) -> Labels {
        self.pairs.retain(|(_, v)| !v.is_empty());
        self.pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Labels::from_sorted(self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}

impl From<&Labels> for LabelsBuilder {
    fn from(l: &Labels) -> Self {
        Self { pairs: l.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_sorts_and_finds() {
        let long = "x".repeat(5000);
        let l = Labels::from_pairs([("z", "1"), ("a", long.as_str()), ("m", ""), ("é", "ü")]);
        assert_eq!(l.len(), 3);
        assert_eq!(l.get("a"), Some(long.as_str()));
        assert_eq!(l.get("é"), Some("ü"));
        assert_eq!(l.get("m"), None);
        assert_eq!(l.value("m"), "");
        assert!(is_sorted(&l));
        assert_eq!(l.with("a", "").to_string(), r#"{z="1", "é"="ü"}"#);
    }

    #[test]
    fn orders_as_prometheus_does() {
        let l = |p: &[(&str, &str)]| Labels::from_pairs(p.iter().copied());
        assert!(l(&[("a", "1")]) < l(&[("a", "1"), ("b", "1")]));
        assert!(l(&[("a", "2")]) > l(&[("a", "1"), ("b", "1")]));
        assert!(l(&[("a", "9")]) < l(&[("b", "1")]));
        // A long value must not be ordered by its length prefix.
        assert!(l(&[("a", "b")]) > l(&[("a", &"a".repeat(100))]));
    }

    #[test]
    fn overlay_prefers_the_upper_set() {
        let a = Labels::from_pairs([("a", "1"), ("c", "1")]);
        let b = Labels::from_pairs([("b", "2"), ("c", "2")]);
        assert_eq!(a.overlay(&b), Labels::from_pairs([("a", "1"), ("b", "2"), ("c", "2")]));
        assert_eq!(a.without(&["c"]).keep(&["a"]), Labels::from_pairs([("a", "1")]));
    }
}
