//! What services hold.

use crate::config::{self, Config, Provider};
use crate::contract::{Contract, Uploads};
use crate::error::{Error, Kind, Operation};
use crate::layers::meter::{BucketMeter, Counted, Meter};
use crate::layers::retry::{Policy, Retry};
use crate::remote::{self, Surroundings, Timeouts};
use crate::store::{Condition, Entry, FileSource, Meta, Object, Sink, Source, Store, Version};
use crate::{Directory, Memory, Result, path};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use model::world::World;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use tsdb::disk::Disk;

/// What a bucket needs beside its configuration. Keep one for a process and clone it: then a bucket that is opened again, with
/// new credentials, goes on with the same metrics.
#[derive(Clone)]
pub struct Options {
    /// Time and randomness.
    pub world: World,
    /// What is counted. Register it once.
    pub meter: Meter,
    /// How calls are tried again.
    pub retry: Policy,
    /// How long a client is patient.
    pub timeouts: Timeouts,
}

impl Options {
    /// The defaults.
    pub fn new(world: World) -> Self {
        Self { world, meter: Meter::default(), retry: Policy::default(), timeouts: Timeouts::default() }
    }
}

/// Ranges of one object that are read at the same time.
const RANGES: usize = 8;
/// Ranges with no more than this between them are read as one, in bytes; as in Thanos.
const GAP: u64 = 512 << 10;
/// A read that was made of several ranges is not longer than this, in bytes.
const MERGED_MAX: u64 = 16 << 20;

/// The reads that cover all ranges, sorted, not overlapping.
fn merge(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|r| (r.start, r.end));
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match out.last_mut() {
            // What overlaps is always one read, else a range could lie in two.
            Some(last)
                if range.start < last.end
                    || (range.start - last.end <= GAP && range.end - last.start <= MERGED_MAX) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => out.push(range),
        }
    }
    out
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
    description: String,
    provider: config::Kind,
    prefix: String,
    options: Options,
    meter: BucketMeter,
    store: Arc<dyn Store>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shared.description)
    }
}

impl Bucket {
    /// Opens the bucket that a configuration describes. Nothing is asked of the store yet; see [`crate::verify`].
    ///
    /// # Errors
    /// [`Kind::Config`] when no client can be made of it.
    pub fn open(config: &Config, mut options: Options) -> Result<Self> {
        options.retry = config.retry(options.retry);
        let ignored = config.without_effect();
        if !ignored.is_empty() {
            tracing::warn!("{}: {}", config.describe(), ignored.join("; "));
        }
        let name = config.bucket_name();
        let around =
            Surroundings { timeouts: options.timeouts, meter: options.meter.of(&name), world: options.world.clone() };
        let store: Arc<dyn Store> = match &config.provider {
            Provider::Gcs(c) => Arc::new(remote::open(&**c, &around)?),
            Provider::S3(c) => Arc::new(remote::open(&**c, &around)?),
            Provider::Azure(c) => Arc::new(remote::open(&**c, &around)?),
            Provider::Filesystem(c) => {
                let directory = Directory::new(&c.directory, Arc::clone(&options.world.entropy));
                Arc::new(Counted::new(Arc::new(directory), around.meter))
            }
        };
        Ok(Self::with(
            store,
            name,
            config.describe(),
            (config.kind(), config.uploads()),
            config.prefix.clone(),
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
        let description = format!("{store:?}");
        let store = Arc::new(Counted::new(store, options.meter.of(name)));
        let provider = (config::Kind::Other, Uploads::default());
        Self::with(store, name.to_owned(), description, provider, String::new(), options)
    }

    fn with(
        store: Arc<dyn Store>,
        name: String,
        description: String,
        (provider, uploads): (config::Kind, Uploads),
        prefix: String,
        options: Options,
    ) -> Self {
        let retry = Retry::new(options.retry, options.world.clone());
        let store: Arc<dyn Store> = Arc::new(Contract::new(store, retry, uploads));
        let meter = options.meter.of(&name);
        Self { shared: Arc::new(Shared { name, description, provider, prefix, options, meter, store }) }
    }

    /// Its name, as in the `bucket` label of metrics.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Which bucket it is, for people; never a secret.
    pub fn describe(&self) -> &str {
        &self.shared.description
    }

    /// Time and randomness, as the bucket was opened with.
    pub fn world(&self) -> &World {
        &self.shared.options.world
    }

    /// The kind of its provider.
    pub fn provider(&self) -> config::Kind {
        self.shared.provider
    }

    /// What it counts, with all other buckets that were opened with the same options.
    pub fn meter(&self) -> &Meter {
        &self.shared.options.meter
    }

    /// A whole object of at most `max_bytes`.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge`, `Corrupt`.
    pub async fn get(&self, path: &str, max_bytes: u64) -> Result<Object> {
        path::check(path, Operation::Get)?;
        let size = |o: &Object| o.bytes.len() as u64;
        let mut object = self.call(Operation::Get, size, self.store().get(&self.full(path), None, max_bytes)).await?;
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
        let max = range.end - range.start;
        let size = |o: &Object| o.bytes.len() as u64;
        let full = self.full(path);
        let object = self.call(Operation::GetRange, size, self.store().get(&full, Some(range), max)).await?;
        Ok(object.bytes)
    }

    /// The bytes `range` of an object, handed to `sink` as they come, so that nobody holds all of them.
    ///
    /// # Errors
    /// As [`get_range`](Self::get_range); the sink may have had some bytes by then, or those of several attempts.
    pub async fn get_range_into(&self, path: &str, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        path::check(path, Operation::GetRange)?;
        if range.is_empty() {
            return Ok(());
        }
        let full = self.full(path);
        self.call(Operation::GetRange, |n| *n, self.store().get_into(&full, range, sink)).await.map(drop)
    }

    /// Several ranges of one object, in the order given. Ranges that lie close together are read as one.
    ///
    /// # Errors
    /// As [`get_range`](Self::get_range).
    pub async fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let merged = merge(ranges);
        let reads: Vec<_> = merged.iter().map(|m| self.get_range(path, m.clone())).collect();
        let parts: Vec<Bytes> = stream::iter(reads).buffered(RANGES).try_collect().await?;
        ranges
            .iter()
            .map(|range| {
                if range.is_empty() {
                    return Ok(Bytes::new());
                }
                let at = merged.partition_point(|m| m.end < range.end);
                let part = merged.get(at).zip(parts.get(at)).filter(|(m, _)| m.start <= range.start);
                let cut = part.and_then(|(m, bytes)| {
                    let from = usize::try_from(range.start - m.start).ok()?;
                    let to = usize::try_from(range.end - m.start).ok()?;
                    (to <= bytes.len()).then(|| bytes.slice(from..to))
                });
                cut.ok_or_else(|| Error::new(Kind::Corrupt, Operation::GetRange, path, "a range is missing"))
            })
            .collect()
    }

    /// Size, time and version of an object.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn head(&self, path: &str) -> Result<Meta> {
        self.attributes(path, Operation::Attributes).await
    }

    async fn attributes(&self, path: &str, operation: Operation) -> Result<Meta> {
        path::check(path, operation)?;
        let mut meta = self.call(operation, |_| 0, self.store().head(&self.full(path))).await?;
        meta.path = path.to_owned();
        Ok(meta)
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// When the store doesn't say.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        match self.attributes(path, Operation::Exists).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
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
        let bucket = self.clone();
        // One call for a whole listing, however many pages it has: counted with its first page, or with the page that fails.
        let pages = stream::try_unfold((Some(None), true), move |(token, is_first): (Option<Option<String>>, bool)| {
            let (bucket, prefix) = (bucket.clone(), prefix.clone());
            async move {
                let Some(token) = token else { return Ok(None) };
                let start = bucket.world().clock.elapsed();
                let listed = bucket.store().list(&bucket.full(&prefix), one_level, token).await;
                let listed = listed.map_err(|e| bucket.told(Operation::Iter, e));
                if is_first || listed.is_err() {
                    let took = bucket.world().clock.elapsed().saturating_sub(start);
                    let error = listed.as_ref().err();
                    bucket.shared.meter.finished(bucket.world(), Operation::Iter, took, 0, error);
                }
                let page = listed?;
                let entries: Vec<Result<Entry>> =
                    page.entries.into_iter().filter_map(|e| bucket.inside(e, &prefix)).map(Ok).collect();
                Ok::<_, Error>(Some((stream::iter(entries), (page.next.map(Some), false))))
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
        let size = body.len() as u64;
        self.call(Operation::Upload, |_| size, self.store().put(&self.full(path), body, condition)).await
    }

    /// Uploads a file without holding it in memory.
    ///
    /// # Errors
    /// `Local` when the file can't be read.
    pub async fn upload_file(&self, path: &str, disk: &dyn Disk, file: &std::path::Path) -> Result<Uploaded> {
        let source = FileSource::open(disk, file)
            .map_err(|e| Error::new(Kind::Local, Operation::Upload, path, e.to_string()))?;
        self.upload(path, Arc::new(source)).await
    }

    /// Uploads from any source without holding it in memory.
    ///
    /// # Errors
    /// `Local` when the source can't be read.
    pub async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Uploaded> {
        path::check(path, Operation::Upload)?;
        let size = source.size();
        let version = self.call(Operation::Upload, |_| size, self.store().upload(&self.full(path), source)).await?;
        Ok(Uploaded { size, version })
    }

    /// Deletes an object; one that is not there is a success.
    ///
    /// # Errors
    /// As the store says.
    pub async fn delete(&self, path: &str) -> Result<()> {
        path::check(path, Operation::Delete)?;
        self.call(Operation::Delete, |()| 0, self.store().delete(&self.full(path))).await
    }

    fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    async fn call<T>(
        &self,
        operation: Operation,
        size: impl FnOnce(&T) -> u64,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let call = async { call.await.map_err(|e| self.told(operation, e)) };
        self.shared.meter.call(self.world(), operation, size, call).await
    }

    fn full(&self, path: &str) -> String {
        let prefix = &self.shared.prefix;
        if prefix.is_empty() { path.to_owned() } else { format!("{prefix}/{path}") }
    }

    /// Errors name what the caller asked for.
    fn told(&self, operation: Operation, mut e: Error) -> Error {
        e.operation = operation;
        if let Some(path) = e.path.strip_prefix(&self.shared.prefix) {
            e.path = path.trim_start_matches('/').to_owned();
        }
        e
    }

    /// A listed name without the configured prefix. Names outside of what was asked for, directory markers, and names that no
    /// call of ours takes are dropped: whoever lists to delete could never delete those.
    fn inside(&self, entry: Entry, asked: &str) -> Option<Entry> {
        let cut = |path: &str| -> Option<String> {
            let path = match self.shared.prefix.as_str() {
                "" => path,
                prefix => path.strip_prefix(prefix)?.strip_prefix('/')?,
            };
            let is_asked = path.starts_with(asked) && path.len() > asked.len();
            let is_name = path::check(path.strip_suffix('/').unwrap_or(path), Operation::Iter).is_ok();
            (is_asked && is_name).then(|| path.to_owned())
        };
        match entry {
            Entry::Directory(path) => cut(&path).map(Entry::Directory),
            Entry::Object(meta) if meta.path.ends_with('/') => None,
            Entry::Object(meta) => cut(&meta.path).map(|path| Entry::Object(Meta { path, ..meta })),
        }
    }
}
