//! Our compactor beside Thanos's, over one bucket: what one did the other verifies, serves and goes on with, and no answer changes.

use super::common::{matcher, series};
use args::{CompactArgs, Millis, Switch};
use model::world::World;
use model::{BlockId, Labels};
use proto::thanos::store_client::StoreClient;
use proto::thanos::{Aggr, SeriesRequest};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::thanos::Thanos;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tsdb::block::{Writer, Written};
use tsdb::chunk::{Columns, Encoding, XorEncoder, floats};
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, File, Thanos as Section};
use tsdb::segment::NewChunk;

pub(super) const HOUR: i64 = 3_600_000;
/// The begin of the blocks: the begin of a window of two weeks.
pub(super) const T0: i64 = 1_407 * 14 * 24 * HOUR;
const MINUTE: i64 = 60_000;

type Answers = BTreeMap<Labels, BTreeMap<i64, u64>>;

fn config(bucket: &Path) -> String {
    format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display())
}

/// A block as a sidecar sends it; a counter that falls now and then, and a gauge that comes and goes.
fn put(bucket: &Path, n: u64, begin: i64, external: &[(&str, &str)]) {
    let id = BlockId::from_parts((T0 + begin).unsigned_abs() + n, u128::from(n));
    let mut meta = BlockMeta::new(id, T0 + begin, T0 + begin + 2 * HOUR);
    let labels = external.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    meta.thanos = Some(Section { labels, source: "sidecar".into(), ..Section::default() });
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    let instances: Vec<String> = (0..20).map(|i| format!("i{i:02}")).collect();
    let mut symbols: Vec<&str> = ["__name__", "instance", "requests_total", "temperature"].to_vec();
    symbols.extend(instances.iter().map(String::as_str));
    symbols.sort_unstable();
    symbols.iter().for_each(|s| writer.add_symbol(s).unwrap());
    for name in ["requests_total", "temperature"] {
        for (i, instance) in instances.iter().enumerate() {
            if name == "temperature" && (n + i as u64).is_multiple_of(5) {
                continue;
            }
            let mut encoder = XorEncoder::default();
            for k in 0..120 {
                let t = T0 + begin + k * MINUTE;
                let value = if name == "temperature" { (t % 977) as f64 / 8.0 } else { (t / MINUTE % 1000) as f64 };
                encoder.append(t, value + i as f64).unwrap();
            }
            let data = encoder.bytes();
            let (min_time, max_time) = (T0 + begin, T0 + begin + 119 * MINUTE);
            let chunk = NewChunk { encoding: Encoding::Xor, data: &data, min_time, max_time };
            let labels = Labels::from_pairs([("__name__", name), ("instance", instance.as_str())]);
            writer.add_series(&labels, &[chunk]).unwrap();
        }
    }
    as_uploaded(writer.finish().unwrap());
}

/// The block lies there as a sidecar uploads it: without tombstones, its files listed.
pub(super) fn as_uploaded(written: Written) {
    fs::remove_file(written.dir.join("tombstones")).unwrap();
    let mut meta = written.meta;
    let size = |name: &str| File::new(name, fs::metadata(written.dir.join(name)).unwrap().len());
    meta.thanos.as_mut().unwrap().files = vec![size("chunks/000001"), size("index"), File::new("meta.json", 0)];
    fs::write(written.dir.join("meta.json"), meta.write().unwrap()).unwrap();
}

/// Our compactor, one pass.
pub(super) async fn ours(bucket: &Path, data: &Path, change: impl FnOnce(&mut CompactArgs)) {
    let mut args = CompactArgs {
        objstore_config: config(bucket),
        data_dir: data.display().to_string(),
        consistency_delay: Millis(0),
        ..CompactArgs::default()
    };
    args.server.http_address = format!("127.0.0.1:{}", testkit::ports::free().unwrap());
    args.server.grpc_address = format!("127.0.0.1:{}", testkit::ports::free().unwrap());
    change(&mut args);
    engine::compact::run(args, World::real(), CancellationToken::new()).await.unwrap();
}

/// `thanos …` to its end: its output.
fn thanos(bucket: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(testkit::peers::path("thanos").unwrap());
    let done = command.args(arguments).arg(format!("--objstore.config={}", config(bucket))).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "thanos {arguments:?}: {text}");
    text
}

pub(super) fn verify(bucket: &Path) {
    let said = thanos(
        bucket,
        &[
            "tools",
            "bucket",
            "verify",
            "-i",
            "index_known_issues",
            "-i",
            "overlapped_blocks",
            "-i",
            "duplicated_compaction",
        ],
    );
    let bad = said.lines().find(|l| l.contains("level=error") || (l.contains("level=warn") && !l.contains("GLOBAL")));
    assert!(bad.is_none(), "{}", bad.unwrap_or_default());
}

pub(super) fn thanos_compact(bucket: &Path, data: &Path, more: &[&str]) {
    let port = testkit::ports::free().unwrap();
    let (address, dir) = (format!("--http-address=127.0.0.1:{port}"), format!("--data-dir={}", data.display()));
    let arguments = [&["compact", "--consistency-delay=0s", &address, &dir], more].concat();
    thanos(bucket, &arguments);
}

/// All samples that a store of Thanos serves: raw ones, or the counts of the coarser ones.
async fn answers(bucket: &Path, resolution: i64) -> Answers {
    let args = [format!("--objstore.config={}", config(bucket)), "--ignore-deletion-marks-delay=0s".to_owned()];
    let store = tokio::task::block_in_place(|| Thanos::start("store", &args)).unwrap();
    let channel = Channel::from_shared(format!("http://{}", store.grpc_address())).unwrap().connect().await.unwrap();
    let mut client = StoreClient::new(channel).max_decoding_message_size(64 << 20);
    let request = SeriesRequest {
        min_time: T0,
        max_time: T0 + 1000 * HOUR,
        matchers: vec![matcher(2, "__name__", ".+")],
        max_resolution_window: resolution,
        aggregates: if resolution > 0 { vec![Aggr::Count as i32] } else { vec![Aggr::Raw as i32] },
        ..SeriesRequest::default()
    };
    let (all, warnings) = series(&mut client, request).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let mut out = Answers::new();
    for one in all {
        let samples = out.entry(super::common::labels(&one)).or_default();
        for chunk in one.chunks.iter().filter_map(|c| if resolution > 0 { c.count.as_ref() } else { c.raw.as_ref() }) {
            let mut columns = Columns::default();
            floats(Encoding::from_store_api(chunk.r#type), &chunk.data, &mut columns).unwrap();
            for (t, v) in columns.times.iter().zip(&columns.values) {
                let before = samples.insert(*t, v.to_bits());
                assert!(before.is_none_or(|b| b == v.to_bits()), "two values at {t}");
            }
        }
    }
    out
}

pub(super) fn blocks(bucket: &Path) -> Vec<(String, bool, BlockMeta)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(bucket).unwrap() {
        let (name, path) = {
            let e = entry.unwrap();
            (e.file_name().to_string_lossy().into_owned(), e.path())
        };
        if let Ok(bytes) = fs::read(path.join("meta.json"))
            && !bucket::block::is_closed(&bytes)
        {
            let meta = BlockMeta::read("meta.json", &bytes).unwrap();
            all.push((name, path.join("deletion-mark.json").exists(), meta));
        }
    }
    all
}

/// Widths in hours by resolution in seconds, of what is not marked.
pub(super) fn shapes(bucket: &Path) -> Vec<(i64, i64)> {
    let live = blocks(bucket).into_iter().filter(|(_, marked, _)| !marked);
    let mut all: Vec<_> = live.map(|(.., m)| (m.resolution() / 1000, (m.max_time - m.min_time) / HOUR)).collect();
    all.sort_unstable();
    all
}

fn fill(bucket: &Path, clusters: &[&str]) {
    fs::create_dir_all(bucket).unwrap();
    for n in 0..27 {
        for (i, cluster) in clusters.iter().enumerate() {
            put(bucket, n + 1000 * i as u64, n as i64 * 2 * HOUR, &[("cluster", cluster)]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thanos_verifies_serves_and_goes_on_with_what_we_compacted() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bucket, data) = (dir.path().join("bucket"), dir.path().join("data"));
    fill(&bucket, &["a", "b"]);
    let before = answers(&bucket, 0).await;
    assert_eq!(before.len(), 80);
    ours(&bucket, &data, |_| {}).await;
    verify(&bucket);
    let ours_made = shapes(&bucket);
    assert_eq!(ours_made, [(0, 2), (0, 2), (0, 2), (0, 2), (0, 2), (0, 2), (0, 48), (0, 48), (300, 48), (300, 48)]);
    assert_eq!(answers(&bucket, 0).await, before);
    let counted: BTreeMap<Labels, f64> = answers(&bucket, 300_000)
        .await
        .into_iter()
        .map(|(l, s)| (l, s.into_values().map(f64::from_bits).sum()))
        .collect();
    assert!(!counted.is_empty());
    for (labels, n) in &counted {
        // The two days that are downsampled, and the raw rest, which has no counts.
        let raw = before[labels].range(..T0 + 48 * HOUR).count();
        assert_eq!(*n, raw as f64, "{labels}");
    }
    // An upload that broke off and was cleared away is one damaged meta.json to Thanos, and stands in nobody's way.
    let closed = BlockId::from_parts((T0 + 100 * HOUR).unsigned_abs(), 99);
    fs::create_dir(bucket.join(closed.to_string())).unwrap();
    fs::write(bucket.join(closed.to_string()).join("meta.json"), bucket::block::closed(closed)).unwrap();
    verify(&bucket);
    assert_eq!(answers(&bucket, 0).await, before);
    // Deleted at once, and then Thanos goes on: it finds nothing to do.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ours(&bucket, &data, |args| args.delete_delay = Millis(0)).await;
    assert!(blocks(&bucket).iter().all(|(_, marked, _)| !marked));
    let names: Vec<String> = blocks(&bucket).into_iter().map(|(name, ..)| name).collect();
    thanos_compact(&bucket, &dir.path().join("theirs"), &["--delete-delay=0s"]);
    assert_eq!(blocks(&bucket).into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), names);
    verify(&bucket);
    assert_eq!(answers(&bucket, 0).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_go_on_with_what_thanos_compacted_and_the_other_way_round() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bucket, data, theirs) = (dir.path().join("bucket"), dir.path().join("data"), dir.path().join("theirs"));
    fill(&bucket, &["a"]);
    let before = answers(&bucket, 0).await;
    // They make 8h of 2h; we make 2d and 5m of that; they find nothing to do.
    thanos_compact(&bucket, &theirs, &["--debug.max-compaction-level=2", "--downsampling.disable"]);
    assert!(shapes(&bucket).contains(&(0, 8)));
    ours(&bucket, &data, |_| {}).await;
    verify(&bucket);
    assert_eq!(answers(&bucket, 0).await, before);
    let made = shapes(&bucket);
    assert_eq!(made, [(0, 2), (0, 2), (0, 2), (0, 48), (300, 48)]);
    thanos_compact(&bucket, &theirs, &[]);
    assert_eq!(shapes(&bucket), made);
    assert_eq!(answers(&bucket, 0).await, before);

    // The other way round: we make 8h, they the rest; then we find nothing to do.
    let other = dir.path().join("other");
    fill(&other, &["a"]);
    ours(&other, &data, |args| (args.max_level, args.downsampling_disable) = (2, Switch(true))).await;
    thanos_compact(&other, &theirs, &[]);
    assert_eq!(shapes(&other), made);
    ours(&other, &data, |_| {}).await;
    assert_eq!(shapes(&other), made);
    verify(&other);
    assert_eq!(answers(&other, 0).await, before);
}
