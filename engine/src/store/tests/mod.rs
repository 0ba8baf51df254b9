//! The read path against brute force, and what it says when blocks are damaged or go away. Blocks lie in a directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod bad_input;
mod near;
mod oracle;
mod truth;

use super::blocks::{Block, Home, Missing, Served, Set};
use super::cache::IndexCache;
use super::grpc::StoreGateway;
use super::headers::{Headers, Limits};
use super::ranges::{Pages, Ranges};
use crate::server::Context;
use args::StoreArgs;
use bucket::layers::faults::{Faults, Plan};
use bucket::{Bucket, Directory, Options};
use futures::StreamExt as _;
use model::world::World;
use model::{BlockId, Labels};
use proto::thanos::store_server::Store as _;
use proto::thanos::{Series, SeriesRequest, series_response};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Status};
use tsdb::chunk::Encoding;
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, File, Thanos};
use tsdb::segment::NewChunk;

/// A chunk as data: its time range in ms, Prometheus's number of its encoding, its bytes.
pub(super) type Chunk = (i64, i64, u8, Vec<u8>);
/// Series with their chunks, sorted by labels.
pub(super) type Content = Vec<(Labels, Vec<Chunk>)>;

pub(super) fn id(n: u64) -> BlockId {
    BlockId::from_parts(1_700_000_000_000 + n, u128::from(n))
}

/// A store over a directory.
pub(super) struct House {
    pub(super) dir: tempfile::TempDir,
    pub(super) set: Set,
    pub(super) home: Arc<Home>,
    pub(super) gateway: StoreGateway,
    pub(super) faults: Faults,
    generation: u64,
}

/// The answer to a Series request.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) series: Vec<Series>,
    pub(super) warnings: Vec<String>,
    pub(super) hints: Vec<prost_types::Any>,
    pub(super) messages: usize,
}

impl House {
    pub(super) fn new(args: StoreArgs) -> Self {
        Self::patient(args, Duration::from_secs(60))
    }

    /// With so much patience for a read of the bucket.
    pub(super) fn patient(args: StoreArgs, deadline: Duration) -> Self {
        Self::with(args, deadline, None)
    }

    /// With a disk cache of so many bytes.
    pub(super) fn on_disk(args: StoreArgs, bytes: u64) -> Self {
        Self::with(args, Duration::from_secs(60), Some(bytes))
    }

    fn with(args: StoreArgs, deadline: Duration, cache: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::real();
        let root = dir.path().join("bucket");
        std::fs::create_dir(&root).unwrap();
        let store = Directory::new(root, Arc::clone(&world.entropy));
        let faults = Faults::new(store, Arc::clone(&world.entropy), Plan::default());
        let bucket = Bucket::over(Arc::new(faults.clone()), "test", Options::new(world.clone()));
        let limits = Limits {
            open: 100,
            open_bytes: 1 << 30,
            disk_bytes: 0,
            idle: Duration::from_secs(60),
            fetches: 4,
            deadline,
        };
        // Few reads at a time: what hangs for ever would soon be felt.
        let concurrency = 8;
        let pages = cache.map(|bytes| {
            let pages = Pages::open(&dir.path().join("pages"), bytes).unwrap();
            pages.load();
            Arc::new(pages)
        });
        let ranges = Ranges::with(super::ranges::Limits { concurrency, deadline }, pages);
        ranges.use_bucket(bucket);
        let headers = Headers::new(dir.path().join("data"), Arc::new(RealDisk), world.clone(), limits);
        let home = Arc::new(Home { world: world.clone(), headers, ranges, cache: IndexCache::new(1 << 20, 1 << 20) });
        let set = Set::default();
        let context = Context::new("store", world);
        context.ready.ready();
        let gateway = StoreGateway::new(set.clone(), &args, || (i64::MIN, i64::MAX), &context);
        Self { dir, set, home, gateway, faults, generation: 0 }
    }

    pub(super) fn block_dir(&self, n: u64) -> PathBuf {
        self.dir.path().join("bucket").join(id(n).to_string())
    }

    /// Writes a block into the bucket; it is not served yet.
    pub(super) fn write(&self, n: u64, external: &Labels, resolution: i64, content: &Content) -> Arc<Block> {
        write(&self.dir.path().join("bucket"), n, external, resolution, content, Arc::clone(&self.home))
    }

    /// Serves these blocks from now on.
    pub(super) fn serve(&mut self, blocks: impl IntoIterator<Item = Arc<Block>>, missing: Vec<Missing>) {
        self.generation += 1;
        self.set.replace(Served::new(self.generation, blocks, missing));
    }

    pub(super) async fn series(&self, request: SeriesRequest) -> Result<Got, Status> {
        let mut stream = self.gateway.series(Request::new(request)).await?.into_inner();
        let mut got = Got::default();
        while let Some(message) = stream.next().await {
            got.messages += 1;
            match message?.result.unwrap() {
                series_response::Result::Series(s) => got.series.push(s),
                series_response::Result::Batch(b) => got.series.extend(b.series),
                series_response::Result::Warning(w) => got.warnings.push(w),
                series_response::Result::Hints(h) => got.hints.push(h),
            }
        }
        Ok(got)
    }
}

fn write(root: &Path, n: u64, external: &Labels, resolution: i64, content: &Content, home: Arc<Home>) -> Arc<Block> {
    let chunks = || content.iter().flat_map(|(_, c)| c);
    let min = chunks().map(|c| c.0).min().unwrap_or(0);
    let max = chunks().map(|c| c.1 + 1).max().unwrap_or(1);
    let mut meta = BlockMeta::new(id(n), min, max);
    let mut thanos =
        Thanos { labels: external.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(), ..Thanos::default() };
    thanos.downsample.resolution = resolution;
    meta.thanos = Some(thanos);
    // Small segments, so that there are several.
    let mut writer = tsdb::block::Writer::with_segment_size(&RealDisk, root, meta, 20_000).unwrap();
    let mut symbols: Vec<&str> = content.iter().flat_map(|(l, _)| l.iter().flat_map(|(n, v)| [n, v])).collect();
    symbols.sort_unstable();
    symbols.dedup();
    for symbol in symbols {
        writer.add_symbol(symbol).unwrap();
    }
    for (labels, chunks) in content {
        let new = chunks.iter().map(|(min_time, max_time, encoding, data)| NewChunk {
            encoding: Encoding::from_prometheus(*encoding),
            data,
            min_time: *min_time,
            max_time: *max_time,
        });
        writer.add_series(labels, &new.collect::<Vec<_>>()).unwrap();
    }
    let written = writer.finish().unwrap();
    let mut meta = written.meta.clone();
    // Every other block tells the sizes of its files, as Thanos's do; of the others they are asked for.
    if n.is_multiple_of(2) {
        let thanos = meta.thanos.as_mut().unwrap();
        for name in std::fs::read_dir(written.dir.join("chunks")).unwrap() {
            let name = name.unwrap();
            let path = format!("chunks/{}", name.file_name().to_str().unwrap());
            thanos.files.push(File::new(path, name.metadata().unwrap().len()));
        }
    }
    Arc::new(Block::new(&meta, external.clone(), home))
}

/// Series by their labels; neighbours of the same labels are one.
pub(super) fn by_labels(series: &[Series]) -> Vec<(Labels, Vec<Chunk>)> {
    let mut out: Vec<(Labels, Vec<Chunk>)> = Vec::new();
    for s in series {
        let labels = proto::labels::decode(&s.labels).unwrap();
        let chunks = s.chunks.iter().map(|c| {
            let raw = c.raw.as_ref().unwrap();
            (c.min_time, c.max_time, Encoding::from_store_api(raw.r#type).to_prometheus(), raw.data.to_vec())
        });
        match out.last_mut() {
            Some((l, all)) if *l == labels => all.extend(chunks),
            _ => out.push((labels, chunks.collect())),
        }
    }
    out
}
