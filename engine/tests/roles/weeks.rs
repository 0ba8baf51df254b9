//! Four weeks of a bucket, compacted by turns: a week by us, a week by Thanos. What one made the other goes on with, each checks it as
//! whole, and both kinds of stores serve every sample of it as it was scraped: floats, native histograms, custom buckets.

use super::common::{labels, matcher, series};
use super::compact::{HOUR, T0, as_uploaded, blocks, ours, shapes, thanos_compact, verify};
use super::gateway::{Gateway, client};
use args::Millis;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, IntHistogram, Span};
use model::{BlockId, Labels};
use proto::thanos::{Aggr, AggrChunk, Chunk, SeriesRequest};
use std::collections::BTreeMap;
use std::path::Path;
use testkit::thanos::Thanos;
use tsdb::block::Writer;
use tsdb::block::health::{self, Options};
use tsdb::chunk::histogram::Appended;
use tsdb::chunk::{Encoding, HistogramEncoder, XorEncoder, exact};
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, Thanos as Section};
use tsdb::segment::NewChunk;

const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// Between two samples.
const STEP: i64 = 10 * 60_000;

/// Samples by series and time, in words: what a chunk says of resets included.
type Answers = BTreeMap<Labels, BTreeMap<i64, String>>;

/// The sample of a histogram at a time: it grows, and begins anew every 50 hours.
fn histogram(t: i64, custom: bool) -> IntHistogram {
    let n = (t / STEP % 300).unsigned_abs();
    let buckets = vec![n, 2 * n, n / 3];
    let mut h = IntHistogram { sum: n as f64 * 1.5, positive_buckets: buckets, ..IntHistogram::default() };
    h.positive_spans = vec![Span { offset: 0, length: 3 }];
    if custom {
        (h.schema, h.custom_values) = (CUSTOM_BUCKETS_SCHEMA, vec![0.1, 1.0, 5.0]);
    } else {
        (h.schema, h.zero_threshold, h.zero_count) = (2, 0.001, n / 7);
    }
    h.count = h.positive_buckets.iter().sum::<u64>() + h.zero_count;
    h
}

/// Two hours as a sidecar sends them.
fn put(bucket: &Path, begin: i64) {
    let id = BlockId::from_parts((T0 + begin).unsigned_abs(), (begin / HOUR).unsigned_abs().into());
    let mut meta = BlockMeta::new(id, T0 + begin, T0 + begin + 2 * HOUR);
    let external = [("cluster".to_owned(), "a".to_owned())].into();
    meta.thanos = Some(Section { labels: external, source: "sidecar".into(), ..Section::default() });
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    let names = ["custom_seconds", "native_seconds", "requests_total"];
    ["__name__"].iter().chain(&names).for_each(|s| writer.add_symbol(s).unwrap());
    let times: Vec<i64> = (0..2 * HOUR / STEP).map(|i| T0 + begin + i * STEP).collect();
    for name in names {
        let mut chunks = Vec::new();
        if name == "requests_total" {
            let mut encoder = XorEncoder::default();
            times.iter().for_each(|t| encoder.append(*t, (t / STEP % 1000) as f64).unwrap());
            chunks.push((Encoding::Xor, encoder.range(), encoder.bytes()));
        } else {
            let mut last = None::<HistogramEncoder<u64>>;
            let mut keep = |e: &HistogramEncoder<u64>| chunks.push((e.encoding(), e.range(), e.bytes()));
            for t in &times {
                let h = histogram(*t, name == "custom_seconds");
                match &mut last {
                    None => last = Some(HistogramEncoder::new(false, 0, *t, &h, None).unwrap()),
                    Some(encoder) => match encoder.append(0, *t, &h).unwrap() {
                        Appended::Here => {}
                        Appended::Cut(before) => keep(&before),
                    },
                }
            }
            keep(&last.unwrap());
        }
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|(encoding, (min_time, max_time), data)| NewChunk {
                encoding: *encoding,
                data,
                min_time: *min_time,
                max_time: *max_time,
            })
            .collect();
        writer.add_series(&Labels::from_pairs([("__name__", name)]), &new).unwrap();
    }
    as_uploaded(writer.finish().unwrap());
}

/// All that a store serves: raw samples, or the counts of aggregates.
async fn served(address: &str, aggregates: &[Aggr], resolution: i64) -> Answers {
    let request = SeriesRequest {
        min_time: T0,
        max_time: T0 + 10 * WEEK,
        matchers: vec![matcher(2, "__name__", ".+")],
        max_resolution_window: resolution,
        aggregates: aggregates.iter().map(|a| *a as i32).collect(),
        ..SeriesRequest::default()
    };
    let (all, warnings) = series(&mut client(address).await, request).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let mut out = Answers::new();
    for one in all {
        let samples = out.entry(labels(&one)).or_default();
        let chunk = |c: &AggrChunk| -> Option<Chunk> { if resolution > 0 { c.count.clone() } else { c.raw.clone() } };
        for chunk in one.chunks.iter().filter_map(chunk) {
            for sample in exact(Encoding::from_store_api(chunk.r#type), chunk.data.to_vec().into()).unwrap() {
                let sample = sample.unwrap();
                let before = samples.insert(sample.t, format!("{:?}", sample.v));
                assert!(before.is_none(), "{}: twice at {}", labels(&one), sample.t);
            }
        }
    }
    out
}

/// How many raw samples of each series lie in these windows, and how many the aggregates of a resolution stand for.
async fn counted(address: &str, resolution: i64, to: i64) -> BTreeMap<Labels, f64> {
    let all = served(address, &[Aggr::Count], resolution).await;
    let value = |text: &str| text.trim_start_matches("Float(").trim_end_matches(')').parse::<f64>().unwrap();
    let sum = |s: BTreeMap<i64, String>| s.range(..T0 + to).map(|(_, v)| value(v)).sum::<f64>();
    all.into_iter().map(|(l, s)| (l, sum(s))).collect()
}

fn healthy(bucket: &Path) {
    for (name, ..) in blocks(bucket).into_iter().filter(|(_, marked, _)| !marked) {
        let report = health::check(&RealDisk, &bucket.join(&name), &Options::default());
        assert!(report.is_healthy(), "{name}: {:?}", report.first_of_worst());
    }
}

/// Both kinds of stores serve these samples; gives their addresses' keepers.
async fn both_serve(bucket: &Path, dir: &Path, want: &Answers) -> (Gateway, Thanos) {
    let config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display());
    let args = [format!("--objstore.config={config}"), "--ignore-deletion-marks-delay=0s".to_owned()];
    let theirs = tokio::task::block_in_place(|| Thanos::start("store", &args)).unwrap();
    let ours = Gateway::start(bucket, &dir.join("gateway"), |a| a.ignore_deletion_marks_delay = Millis(0)).await;
    for (whose, address) in [("theirs", theirs.grpc_address()), ("ours", ours.grpc.clone())] {
        let got = served(&address, &[Aggr::Raw], 0).await;
        assert!(got == *want, "{whose}: {} of {} series", got.len(), want.len());
    }
    (ours, theirs)
}

fn filled(bucket: &Path, week: i64) {
    (0..WEEK / (2 * HOUR)).for_each(|n| put(bucket, week * WEEK + n * 2 * HOUR));
}

fn times(all: &Answers) -> Vec<(Labels, Vec<i64>)> {
    all.iter().map(|(labels, samples)| (labels.clone(), samples.keys().copied().collect())).collect()
}

/// What was scraped until a time.
fn scraped(until: i64) -> Vec<(Labels, Vec<i64>)> {
    let times: Vec<i64> = (T0..T0 + until).step_by(STEP as usize).collect();
    let names = ["custom_seconds", "native_seconds", "requests_total"];
    names.map(|name| (Labels::from_pairs([("__name__", name), ("cluster", "a")]), times.clone())).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weeks_by_turns() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bucket, data, theirs) = (dir.path().join("bucket"), dir.path().join("data"), dir.path().join("theirs"));
    // Thanos's compactor ends where it is to downsample custom buckets: coarser copies are ours.
    let alone = ["--downsampling.disable"];
    let mut before = Answers::new();
    for week in 0..4 {
        filled(&bucket, week);
        // Before anybody touches the week: what is served is what was written.
        let now = {
            let config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display());
            let args = [format!("--objstore.config={config}"), "--ignore-deletion-marks-delay=0s".to_owned()];
            let store = tokio::task::block_in_place(|| Thanos::start("store", &args)).unwrap();
            served(&store.grpc_address(), &[Aggr::Raw], 0).await
        };
        for (labels, samples) in &before {
            assert!(samples.iter().all(|(t, v)| now[labels].get(t) == Some(v)), "{labels}");
        }
        assert_eq!(times(&now), scraped((week + 1) * WEEK));
        before = now;
        if week % 2 == 0 {
            ours(&bucket, &data, |_| {}).await;
        } else {
            thanos_compact(&bucket, &theirs, &alone);
        }
        verify(&bucket);
        healthy(&bucket);
        let _both = both_serve(&bucket, dir.path(), &before).await;
    }
    ours(&bucket, &data, |_| {}).await;
    let made = shapes(&bucket);
    for resolution in [0, 300, 3600] {
        assert!(made.contains(&(resolution, 14 * 24)), "{made:?}");
    }
    // Now there is nothing to do, for neither.
    thanos_compact(&bucket, &theirs, &alone);
    ours(&bucket, &data, |_| {}).await;
    assert_eq!(shapes(&bucket), made);
    verify(&bucket);
    healthy(&bucket);
    let (ours, theirs) = both_serve(&bucket, dir.path(), &before).await;
    for resolution in [300_000, 3_600_000] {
        for address in [ours.grpc.clone(), theirs.grpc_address()] {
            let counted = counted(&address, resolution, 2 * WEEK).await;
            assert_eq!(counted.len(), 3);
            for (labels, n) in counted {
                let raw = before[&labels].range(..T0 + 2 * WEEK).count();
                assert_eq!(n, raw as f64, "{labels}, {resolution}");
            }
        }
    }
}
