//! Things of blocks in the order of their last use, each with its bytes.

use crate::store::blocks::Edition;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Things by the edition of their block.
pub(super) struct Recent<V> {
    all: HashMap<Edition, Item<V>>,
    by_use: BTreeMap<u64, Edition>,
    uses: u64,
    bytes: u64,
}

struct Item<V> {
    value: V,
    bytes: u64,
    order: u64,
    at: Duration,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { all: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0 }
    }
}

impl<V> Recent<V> {
    /// Uses one at `now`, by the monotonic clock.
    pub(super) fn get(&mut self, edition: &Edition, now: Duration) -> Option<&V> {
        let item = self.all.get_mut(edition)?;
        self.uses += 1;
        self.by_use.remove(&item.order);
        self.by_use.insert(self.uses, *edition);
        (item.order, item.at) = (self.uses, now);
        Some(&item.value)
    }

    /// Puts one there, as used at `now`.
    pub(super) fn insert(&mut self, edition: Edition, value: V, bytes: u64, now: Duration) {
        self.remove(&edition);
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, edition);
        self.all.insert(edition, Item { value, bytes, order: self.uses, at: now });
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, edition: &Edition) -> Option<V> {
        let item = self.all.remove(edition)?;
        self.by_use.remove(&item.order);
        self.bytes = self.bytes.saturating_sub(item.bytes);
        Some(item.value)
    }

    /// The one that was not used for longest, and when it was.
    pub(super) fn oldest(&self) -> Option<(Edition, Duration)> {
        let (_, edition) = self.by_use.first_key_value()?;
        self.all.get(edition).map(|item| (*edition, item.at))
    }

    /// All of them.
    pub(super) fn editions(&self) -> impl Iterator<Item = &Edition> {
        self.all.keys()
    }

    /// True if it is there.
    pub(super) fn has(&self, edition: &Edition) -> bool {
        self.all.contains_key(edition)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
