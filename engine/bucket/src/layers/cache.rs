//! Whole small objects that never change, kept in memory: `meta.json` and our own entries. The least recently used go first.
//!
//! A kept object is given only while its name is asked with the same bound, and a write or delete through this bucket forgets
//! it. Names that may change (marks, leases) are never kept.

use crate::store::{Condition, Meta, Object, Page, Source, Store, Version};
use crate::{Result, path};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Whether an object of this name never changes as long as it is there.
pub fn is_immutable(name: &str) -> bool {
    let base = path::base(name);
    base == crate::block::META || base.ends_with(".commit") || base.ends_with(".intent")
}

/// A store with a memory.
#[derive(Debug)]
pub struct Cache {
    inner: Arc<dyn Store>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    objects: HashMap<String, (u64, Object)>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
    bytes: usize,
    max: usize,
}

impl Kept {
    fn get(&mut self, path: &str) -> Option<Object> {
        let (used, object) = self.objects.get_mut(path)?;
        self.uses += 1;
        if let Some(name) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, name);
        }
        *used = self.uses;
        Some(object.clone())
    }

    fn remove(&mut self, path: &str) {
        if let Some((used, object)) = self.objects.remove(path) {
            self.by_use.remove(&used);
            self.bytes -= cost(path, &object.bytes);
        }
    }

    fn insert(&mut self, path: &str, object: Object) {
        let cost = cost(path, &object.bytes);
        if cost > self.max / 8 {
            return;
        }
        self.remove(path);
        self.uses += 1;
        self.bytes += cost;
        self.by_use.insert(self.uses, path.to_owned());
        self.objects.insert(path.to_owned(), (self.uses, object));
        while self.bytes > self.max
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }
}

/// The bytes that an object takes, bookkeeping included.
fn cost(path: &str, bytes: &Bytes) -> usize {
    bytes.len() + 3 * path.len() + 200
}

impl Cache {
    /// A cache of at most `max` bytes in front of a store.
    pub fn new(inner: Arc<dyn Store>, max: usize) -> Self {
        let kept = Kept { objects: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, max };
        Self { inner, kept: Mutex::new(kept) }
    }
}

#[async_trait]
impl Store for Cache {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        if range.is_some() || !is_immutable(path) {
            return self.inner.get(path, range, max).await;
        }
        if let Some(object) = self.kept.lock().get(path).filter(|o| o.bytes.len() as u64 <= max) {
            return Ok(object);
        }
        let object = self.inner.get(path, None, max).await?;
        // A copy of its own: a slice would keep the whole receive buffer.
        let kept = Object { meta: object.meta.clone(), bytes: Bytes::copy_from_slice(&object.bytes) };
        self.kept.lock().insert(path, kept);
        Ok(object)
    }

    async fn head(&self, path: &str) -> Result<Meta> {
        self.inner.head(path).await
    }

    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        self.inner.list(prefix, one_level, token).await
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        self.kept.lock().remove(path);
        self.inner.put(path, body, condition).await
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        self.kept.lock().remove(path);
        self.inner.upload(path, source).await
    }

    async fn begin_parts(&self, path: &str) -> Result<String> {
        self.inner.begin_parts(path).await
    }

    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        self.inner.put_part(path, id, index, body).await
    }

    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        self.kept.lock().remove(path);
        self.inner.complete_parts(path, id, parts).await
    }

    async fn abort_parts(&self, path: &str, id: &str) -> Result<()> {
        self.inner.abort_parts(path, id).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.kept.lock().remove(path);
        self.inner.delete(path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;
    use model::world::World;

    #[tokio::test]
    async fn keeps_what_never_changes_within_its_bytes() {
        let memory = Memory::new(World::real().clock);
        let cache = Cache::new(Arc::new(memory.clone()), 40_000);
        let name = |n: u32| format!("{n}/meta.json");
        for n in 0..20 {
            memory.put(&name(n), vec![0; 4000].into(), Condition::None).await.unwrap();
            cache.get(&name(n), None, 5000).await.unwrap();
        }
        assert!(cache.kept.lock().bytes <= 40_000);
        memory.delete(&name(19)).await.unwrap();
        memory.delete(&name(0)).await.unwrap();
        cache.get(&name(19), None, 5000).await.unwrap();
        assert!(cache.get(&name(0), None, 5000).await.unwrap_err().is_not_found());
        assert!(cache.get(&name(19), None, 10).await.is_err(), "the bound holds for kept objects too");
        cache.delete(&name(19)).await.unwrap();
        assert!(cache.get(&name(19), None, 5000).await.unwrap_err().is_not_found());
        memory.put("x/deletion-mark.json", "a".into(), Condition::None).await.unwrap();
        cache.get("x/deletion-mark.json", None, 9).await.unwrap();
        memory.put("x/deletion-mark.json", "b".into(), Condition::None).await.unwrap();
        assert_eq!(cache.get("x/deletion-mark.json", None, 9).await.unwrap().bytes, "b");
    }
}
