//! What services hold.

use crate::config::{self, Config, Provider};
use crate::error::{Error, Kind, Operation};
use crate::store::{Condition, Entry, FileSource, Meta, Object, Source, Store, Version};
use crate::{Directory, Memory, Result, path};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use model::world::World;
use std::ops::Range;
use std::sync::Arc;

/// What a bucket needs beside its configuration.
#[derive(Clone)]
pub struct Options {
    /// Time and randomness.
    pub world: World,
}

impl Options {
    /// The defaults.
    pub fn new(world: World) -> Self {
        Self { world }
    }
}

/// What an upload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Bytes sent, equal to the size of the file.
    pub size: u64,
    /// The version that was made.
    pub version: Version,
}

/// A bucket; clones share it.
#[derive(Clone)]
pub struct Bucket {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    options: Options,
    current: ArcSwap<Current>,
}

/// What a reload exchanges.
struct Current {
    store: Arc<dyn Store>,
    provider: config::Kind,
    prefix: String,
    generation: u64,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shared.current.load().store)
    }
}

impl Bucket {
    /// Opens the bucket that a configuration describes. Nothing is asked of the store yet; see [`crate::verify`].
    ///
    /// # Errors
    /// [`Kind::Config`] when no client can be made of it.
    pub fn open(config: &Config, options: Options) -> Result<Self> {
        let store: Arc<dyn Store> = match &config.provider {
            Provider::Filesystem(c) => Arc::new(Directory::new(&c.directory, Arc::clone(&options.world.entropy))),
        };
        Ok(Self::with(
            Current { store, provider: config.kind(), prefix: config.prefix.clone(), generation: 0 },
            config.bucket_name(),
            options,
        ))
    }

    /// A bucket in memory that is gone with its last clone.
    pub fn memory(options: Options) -> Self {
        let store = Arc::new(Memory::new(Arc::clone(&options.world.clock)));
        Self::over(store, "memory", options)
    }

    /// A bucket over any store, for tests and simulations.
    pub fn over(store: Arc<dyn Store>, name: &str, options: Options) -> Self {
        Self::with(
            Current { store, provider: config::Kind::Other, prefix: String::new(), generation: 0 },
            name.to_owned(),
            options,
        )
    }

    fn with(current: Current, name: String, options: Options) -> Self {
        let current = ArcSwap::from_pointee(current);
        Self { shared: Arc::new(Shared { name, options, current }) }
    }

    /// Its name, for people and for the `bucket` label of metrics.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Time and randomness, as the bucket was opened with.
    pub fn world(&self) -> &World {
        &self.shared.options.world
    }

    /// The kind of its provider.
    pub fn provider(&self) -> config::Kind {
        self.current().provider
    }

    /// How often its client was exchanged since it was opened.
    pub fn generation(&self) -> u64 {
        self.current().generation
    }

    fn current(&self) -> arc_swap::Guard<Arc<Current>> {
        self.shared.current.load()
    }

    /// A whole object of at most `max_bytes`.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge`, `Corrupt`.
    pub async fn get(&self, path: &str, max_bytes: u64) -> Result<Object> {
        path::check(path, Operation::Get)?;
        let current = Arc::clone(&self.current());
        let mut object = current.store.get(&current.full(path), None, max_bytes).await.map_err(|e| current.cut(e))?;
        object.meta.path = path.to_owned();
        Ok(object)
    }

    /// The bytes `range` of an object, all of them.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the range ends behind the object; `Corrupt` when fewer bytes come.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        path::check(path, Operation::GetRange)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let current = Arc::clone(&self.current());
        let max = range.end - range.start;
        let object = current.store.get(&current.full(path), Some(range), max).await.map_err(|e| current.cut(e))?;
        Ok(object.bytes)
    }

    /// Several ranges of one object, in the order given. Ranges that lie close together are read as one.
    ///
    /// # Errors
    /// As [`get_range`](Self::get_range).
    pub async fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            out.push(self.get_range(path, range.clone()).await?);
        }
        Ok(out)
    }

    /// Size, time and version of an object.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn head(&self, path: &str) -> Result<Meta> {
        path::check(path, Operation::Attributes)?;
        let current = Arc::clone(&self.current());
        let mut meta = current.store.head(&current.full(path)).await.map_err(|e| current.cut(e))?;
        meta.path = path.to_owned();
        Ok(meta)
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// When the store doesn't say.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        match self.head(path).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(Error { operation: Operation::Exists, ..e }),
        }
    }

    /// All objects under a directory (`""`: the whole bucket), page after page, in no particular order.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<Meta>> {
        self.entries(prefix, false)
            .filter_map(|entry| async move {
                match entry {
                    Ok(Entry::Object(meta)) => Some(Ok(meta)),
                    Ok(Entry::Directory(_)) => None,
                    Err(e) => Some(Err(e)),
                }
            })
            .boxed()
    }

    /// The objects and directories directly under a directory.
    pub fn list_dir(&self, prefix: &str) -> BoxStream<'static, Result<Entry>> {
        self.entries(prefix, true)
    }

    fn entries(&self, prefix: &str, one_level: bool) -> BoxStream<'static, Result<Entry>> {
        let prefix = match path::directory(prefix, Operation::Iter) {
            Ok(prefix) => prefix,
            Err(e) => return stream::once(async { Err(e) }).boxed(),
        };
        let current = Arc::clone(&self.current());
        let pages = stream::try_unfold(Some(None), move |token: Option<Option<String>>| {
            let (current, prefix) = (Arc::clone(&current), prefix.clone());
            async move {
                let Some(token) = token else { return Ok(None) };
                let full = current.full(&prefix);
                let page = current.store.list(&full, one_level, token).await.map_err(|e| current.cut(e))?;
                let entries: Vec<Result<Entry>> =
                    page.entries.into_iter().filter_map(|e| current.inside(e, &prefix)).map(Ok).collect();
                Ok::<_, Error>(Some((stream::iter(entries), page.next.map(Some))))
            }
        });
        pages
            .flat_map(|page| match page {
                Ok(entries) => entries.boxed(),
                Err(e) => stream::once(async { Err(e) }).boxed(),
            })
            .boxed()
    }

    /// Writes an object, whatever was there.
    ///
    /// # Errors
    /// As the store says.
    pub async fn put(&self, path: &str, body: impl Into<Bytes> + Send) -> Result<Version> {
        self.write(path, body.into(), Condition::None).await
    }

    /// Writes an object only if there is none.
    ///
    /// # Errors
    /// `Exists`.
    pub async fn create(&self, path: &str, body: impl Into<Bytes> + Send) -> Result<Version> {
        self.write(path, body.into(), Condition::Absent).await
    }

    /// Writes an object only if it still has this version.
    ///
    /// # Errors
    /// `Changed`.
    pub async fn update(&self, path: &str, body: impl Into<Bytes> + Send, unchanged: &Version) -> Result<Version> {
        self.write(path, body.into(), Condition::Unchanged(unchanged.clone())).await
    }

    async fn write(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        path::check(path, Operation::Upload)?;
        let current = Arc::clone(&self.current());
        current.store.put(&current.full(path), body, condition).await.map_err(|e| current.cut(e))
    }

    /// Uploads a file without holding it in memory.
    ///
    /// # Errors
    /// `Local` when the file can't be read.
    pub async fn upload_file(&self, path: &str, file: &std::path::Path) -> Result<Uploaded> {
        let source = FileSource::open(file)
            .map_err(|e| Error::new(Kind::Local, Operation::Upload, path, format!("{}: {e}", file.display())))?;
        self.upload(path, Arc::new(source)).await
    }

    /// Uploads from any source without holding it in memory.
    ///
    /// # Errors
    /// `Local` when the source can't be read.
    pub async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Uploaded> {
        path::check(path, Operation::Upload)?;
        let current = Arc::clone(&self.current());
        let size = source.size();
        let version = current.store.upload(&current.full(path), source).await.map_err(|e| current.cut(e))?;
        Ok(Uploaded { size, version })
    }

    /// Deletes an object; one that is not there is a success.
    ///
    /// # Errors
    /// As the store says.
    pub async fn delete(&self, path: &str) -> Result<()> {
        path::check(path, Operation::Delete)?;
        let current = Arc::clone(&self.current());
        current.store.delete(&current.full(path)).await.map_err(|e| current.cut(e))
    }
}

impl Current {
    fn full(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// Errors name what the caller asked for.
    fn cut(&self, mut e: Error) -> Error {
        if let Some(path) = e.path.strip_prefix(&self.prefix) {
            e.path = path.trim_start_matches('/').to_owned();
        }
        e
    }

    /// A listed name without the configured prefix. Names outside of what was asked for, and directory markers, are dropped.
    fn inside(&self, entry: Entry, asked: &str) -> Option<Entry> {
        let cut = |path: &str| -> Option<String> {
            let path = match self.prefix.as_str() {
                "" => path,
                prefix => path.strip_prefix(prefix)?.strip_prefix('/')?,
            };
            (path.starts_with(asked) && path.len() > asked.len()).then(|| path.to_owned())
        };
        match entry {
            Entry::Directory(path) => cut(&path).map(Entry::Directory),
            Entry::Object(meta) if meta.path.ends_with('/') => None,
            Entry::Object(meta) => cut(&meta.path).map(|path| Entry::Object(Meta { path, ..meta })),
        }
    }
}
