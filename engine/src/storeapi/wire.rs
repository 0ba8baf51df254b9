//! Label sets as they are on the wire: compared, hashed and changed without becoming `model::Labels`, so that a part that
//! passes series on copies nothing.

use bytes::Bytes;
use model::Labels;
use proto::thanos::{Chunk, Label, ShardInfo};
use std::cmp::Ordering;
use tonic::Status;
use xxhash_rust::xxh64::{Xxh64, xxh64};

/// Order of label sets, pair by pair, name before value, byte-wise: Prometheus's and `model::Labels`'.
pub fn compare(a: &[Label], b: &[Label]) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        let order = x.name.cmp(&y.name).then_with(|| x.value.cmp(&y.value));
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// xxhash64 of a chunk's data: equal hashes mean the same chunk.
pub fn chunk_hash(data: &[u8]) -> u64 {
    xxh64(data, 0)
}

/// A chunk as the StoreAPI has it, hashed.
pub fn chunk(store_api_type: i32, data: Bytes) -> Chunk {
    let hash = chunk_hash(&data);
    Chunk { r#type: store_api_type, data, hash }
}

/// A caller's share of the series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    total: u64,
    by: bool,
    labels: Vec<String>,
}

impl Shard {
    /// Reads a share; `total_shards` must be positive.
    pub fn read(s: &ShardInfo) -> Result<Self, Status> {
        match (u64::try_from(s.shard_index), u64::try_from(s.total_shards)) {
            (Ok(index), Ok(total)) if index < total => Ok(Self { index, total, by: s.by, labels: s.labels.clone() }),
            _ => {
                let text = format!("there is no shard {} of {}", s.shard_index, s.total_shards);
                Err(Status::invalid_argument(text))
            }
        }
    }

    /// For the wire.
    pub fn encode(&self) -> ShardInfo {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        ShardInfo {
            shard_index: number(self.index),
            total_shards: number(self.total),
            by: self.by,
            labels: self.labels.clone(),
        }
    }

    fn counts(&self, name: &[u8]) -> bool {
        self.labels.iter().any(|l| l.as_bytes() == name) == self.by
    }

    /// True if a series with these final labels belongs to the share.
    pub fn has(&self, labels: &[Label]) -> bool {
        let mut h = Xxh64::new(0);
        for l in labels.iter().filter(|l| self.counts(&l.name)) {
            h.update(&l.name);
            h.update(&[0xff]);
            h.update(&l.value);
            h.update(&[0xff]);
        }
        h.digest() % self.total == self.index
    }

    /// The same for a model's labels.
    pub fn has_labels(&self, labels: &Labels) -> bool {
        labels.shard_hash(|name| self.counts(name.as_bytes())) % self.total == self.index
    }
}

/// Changes label sets on their way: leaves names out, sets external labels over what is there.
#[derive(Clone, Debug)]
pub struct Relabel {
    without: Vec<String>,
    external: Vec<Label>,
}

impl Relabel {
    /// External labels to set (those named in `without` are not), and names to leave out.
    pub fn new(external: &Labels, without: &[String]) -> Self {
        let external = external.without(without);
        Self { without: without.to_vec(), external: proto::labels::encode(&external) }
    }

    fn drops(&self, name: &[u8]) -> bool {
        self.without.iter().any(|w| w.as_bytes() == name)
    }

    /// Applies the change to a sorted label set; the result is sorted.
    pub fn apply(&self, labels: Vec<Label>) -> Vec<Label> {
        let mut out = Vec::with_capacity(labels.len() + self.external.len());
        let mut external = self.external.iter().peekable();
        for label in labels {
            if self.drops(&label.name) {
                continue;
            }
            while let Some(e) = external.next_if(|e| e.name < label.name) {
                out.push(e.clone());
            }
            match external.next_if(|e| e.name == label.name) {
                Some(e) => out.push(e.clone()),
                None => out.push(label),
            }
        }
        out.extend(external.cloned());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::labels::{decode, encode};

    fn set(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    #[test]
    fn order_is_that_of_the_model() {
        let sets = [
            set(&[]),
            set(&[("a", "1")]),
            set(&[("a", "1"), ("b", "1")]),
            set(&[("a", "2")]),
            set(&[("ab", "1")]),
            set(&[("b", "1")]),
        ];
        for a in &sets {
            for b in &sets {
                assert_eq!(compare(&encode(a), &encode(b)), a.cmp(b), "{a} {b}");
            }
        }
    }

    #[test]
    fn external_labels_win_and_replica_labels_go() {
        let external = set(&[("cluster", "ops"), ("replica", "0"), ("zone", "z")]);
        let series = encode(&set(&[("__name__", "up"), ("cluster", "liar"), ("job", "x"), ("pod", "p")]));
        let all = Relabel::new(&external, &[]);
        assert_eq!(
            decode(&all.apply(series.clone())).unwrap(),
            set(&[("__name__", "up"), ("cluster", "ops"), ("job", "x"), ("pod", "p"), ("replica", "0"), ("zone", "z")])
        );
        let without = Relabel::new(&external, &["replica".into(), "pod".into()]);
        assert_eq!(
            decode(&without.apply(series)).unwrap(),
            set(&[("__name__", "up"), ("cluster", "ops"), ("job", "x"), ("zone", "z")])
        );
    }

    #[test]
    fn shards_divide_the_series() {
        let info = |i| ShardInfo { shard_index: i, total_shards: 3, by: true, labels: vec!["job".into()] };
        let shards: Vec<Shard> = (0..3).map(|i| Shard::read(&info(i)).unwrap()).collect();
        for n in 0..50 {
            let a = set(&[("job", &format!("j{n}")), ("pod", "1")]);
            let b = set(&[("job", &format!("j{n}")), ("pod", "2")]);
            let of = |l: &Labels| shards.iter().position(|s| s.has(&encode(l)) && s.has_labels(l)).unwrap();
            assert_eq!(of(&a), of(&b));
            assert_eq!(shards.iter().filter(|s| s.has(&encode(&a))).count(), 1);
        }
    }
}
