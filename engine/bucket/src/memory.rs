//! A bucket in memory, for tests and simulations: strict, atomic, deterministic.

use crate::error::{Error, Kind, Operation};
use crate::store::{Condition, Entry, Meta, Object, Page, Source, Store, Version};
use crate::{Result, path};
use async_trait::async_trait;
use bytes::Bytes;
use model::world::Clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Names per page of a listing, as S3 and GCS have it.
const PAGE: usize = 1000;

/// A bucket in memory. Clones share it.
#[derive(Clone)]
pub struct Memory {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    parts: BTreeMap<String, BTreeMap<usize, Bytes>>,
    generation: u64,
}

struct Stored {
    bytes: Bytes,
    generation: u64,
    modified_ms: i64,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memory ({} objects)", self.state.lock().objects.len())
    }
}

impl Memory {
    /// An empty bucket.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// The bytes of an object, for a test's look.
    pub fn peek(&self, path: &str) -> Option<Bytes> {
        self.state.lock().objects.get(path).map(|stored| stored.bytes.clone())
    }

    /// All names and bytes, for a test's comparison.
    pub fn snapshot(&self) -> BTreeMap<String, Bytes> {
        self.state.lock().objects.iter().map(|(k, v)| (k.clone(), v.bytes.clone())).collect()
    }
}

impl State {
    fn write(&mut self, path: &str, bytes: Bytes, modified_ms: i64) -> Version {
        self.generation += 1;
        let generation = self.generation;
        self.objects.insert(path.to_owned(), Stored { bytes, generation, modified_ms });
        version(generation)
    }
}

fn version(generation: u64) -> Version {
    Version { etag: Some(format!("\"{generation}\"")), generation: Some(generation.to_string()) }
}

fn meta(path: &str, stored: &Stored) -> Meta {
    Meta {
        path: path.to_owned(),
        size: stored.bytes.len() as u64,
        modified_ms: stored.modified_ms,
        version: version(stored.generation),
    }
}

fn missing(operation: Operation, path: &str) -> Error {
    Error::new(Kind::NotFound, operation, path, "there is no such object")
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        let operation = if range.is_some() { Operation::GetRange } else { Operation::Get };
        let state = self.state.lock();
        let stored = state.objects.get(path).ok_or_else(|| missing(operation, path))?;
        let size = stored.bytes.len() as u64;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            let what = format!("bytes {}..{} of an object of {size}", range.start, range.end);
            return Err(Error::new(Kind::Invalid, operation, path, what));
        }
        if range.end - range.start > max {
            let what = format!("{} bytes, at most {max} are taken", range.end - range.start);
            return Err(Error::new(Kind::TooLarge, operation, path, what));
        }
        // Both lie within a length that is a usize.
        #[allow(clippy::cast_possible_truncation, reason = "checked against the length above")]
        let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
        Ok(Object { meta: meta(path, stored), bytes })
    }

    async fn head(&self, path: &str) -> Result<Meta> {
        let state = self.state.lock();
        let stored = state.objects.get(path).ok_or_else(|| missing(Operation::Attributes, path))?;
        Ok(meta(path, stored))
    }

    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        let state = self.state.lock();
        let mut page = Page::default();
        let from = token.unwrap_or_else(|| prefix.to_owned());
        let mut last: Option<&str> = None;
        for (name, stored) in state.objects.range(from..).take_while(|(name, _)| name.starts_with(prefix)) {
            let rest = name.get(prefix.len()..).unwrap_or_default();
            let directory = rest.find('/').filter(|_| one_level).and_then(|at| name.get(..=prefix.len() + at));
            if last.is_some() && directory == last {
                continue;
            }
            if page.entries.len() == PAGE {
                page.next = Some(name.clone());
                break;
            }
            last = directory;
            page.entries.push(match directory {
                Some(directory) => Entry::Directory(directory.to_owned()),
                None => Entry::Object(meta(name, stored)),
            });
        }
        Ok(page)
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        path::check(path, Operation::Upload)?;
        let mut state = self.state.lock();
        let now = state.objects.get(path).map(|s| version(s.generation));
        match (condition, now) {
            (Condition::Absent, Some(_)) => {
                return Err(Error::new(Kind::Exists, Operation::Upload, path, "the object is there already"));
            }
            (Condition::Unchanged(wanted), now) if now.as_ref() != Some(&wanted) => {
                return Err(Error::new(Kind::Changed, Operation::Upload, path, "somebody else wrote the object"));
            }
            _ => {}
        }
        Ok(state.write(path, body, self.clock.now_ms()))
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        let bytes = usize::try_from(source.size())
            .map_err(std::io::Error::other)
            .and_then(|size| source.read(0, size))
            .map_err(|e| Error::new(Kind::Local, Operation::Upload, path, e.to_string()))?;
        self.put(path, bytes, Condition::None).await
    }

    async fn begin_parts(&self, _path: &str) -> Result<String> {
        let mut state = self.state.lock();
        state.generation += 1;
        let id = state.generation.to_string();
        state.parts.insert(id.clone(), BTreeMap::new());
        Ok(id)
    }

    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        let mut state = self.state.lock();
        let parts = state.parts.get_mut(id).ok_or_else(|| missing(Operation::Upload, path))?;
        parts.insert(index, body);
        Ok(index.to_string())
    }

    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        let mut state = self.state.lock();
        let have = state.parts.remove(id).ok_or_else(|| missing(Operation::Upload, path))?;
        if have.keys().map(ToString::to_string).ne(parts) {
            return Err(Error::new(Kind::Invalid, Operation::Upload, path, "parts are missing"));
        }
        let bytes: Vec<u8> = have.into_values().flatten().collect();
        Ok(state.write(path, bytes.into(), self.clock.now_ms()))
    }

    async fn abort_parts(&self, _path: &str, id: &str) -> Result<()> {
        self.state.lock().parts.remove(id);
        Ok(())
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.state.lock().objects.remove(path);
        Ok(())
    }
}
