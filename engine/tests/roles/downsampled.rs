//! Downsampled data: blocks that Thanos's library has downsampled, served by Thanos's store gateway. Our answers are Thanos's
//! where Thanos's mean what the function says, and those of the raw data where windows allow it.

use super::common::get;
use super::querier::{Querier, args};
use model::{BlockId, Labels};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use testkit::oracle::Oracle;
use testkit::thanos::Thanos;
use tsdb::block::{Writer, read_meta, write_meta};
use tsdb::chunk::Recoder;
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, Thanos as Section, source};
use tsdb::segment::NewChunk;

const HOUR: i64 = 3_600_000;
/// Where the samples begin: a whole hour.
const FROM: i64 = 1_700_000_000_000 - 1_700_000_000_000 % HOUR;
const HOURS: i64 = 48;
const STEP: i64 = 30_000;

/// What is scraped at a time; `None` in gaps.
fn scraped(metric: &str, n: i64, t: i64) -> Option<f64> {
    let k = (t - FROM) / STEP;
    match metric {
        "gauge" => Some(((k * 7 + n * 3) % 101) as f64 - 50.0),
        // It falls to nothing now and then.
        "counter_total" => Some(((k + n * 11) % 1733) as f64 * 3.0),
        "gappy" => (k % 37 < 20).then(|| ((k + n) % 13) as f64),
        _ => None,
    }
}

fn series() -> Vec<(Labels, Vec<(i64, f64)>)> {
    let mut all = Vec::new();
    for metric in ["counter_total", "gappy", "gauge"] {
        for n in 0..3 {
            let labels = Labels::from_pairs([("__name__", metric), ("n", &n.to_string())]);
            let times = (0..HOURS * HOUR / STEP).map(|k| FROM + k * STEP);
            all.push((labels, times.filter_map(|t| scraped(metric, n, t).map(|v| (t, v))).collect()));
        }
    }
    all
}

/// A block of raw samples in a bucket.
fn raw_block(bucket: &Path, id: u64, replica: &str) -> PathBuf {
    let mut meta =
        BlockMeta::new(BlockId::from_parts(1_700_000_000_000 + id, u128::from(id)), FROM, FROM + HOURS * HOUR);
    meta.thanos = Some(Section {
        version: 1,
        labels: [("cluster".to_owned(), "ops".to_owned()), ("replica".to_owned(), replica.to_owned())].into(),
        source: source::SIDECAR.to_owned(),
        segment_files: vec!["000001".to_owned()],
        ..Section::default()
    });
    let all = series();
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    let words = |l: &Labels| l.iter().flat_map(|(n, v)| [n.to_owned(), v.to_owned()]).collect::<Vec<_>>();
    let symbols: BTreeSet<String> = all.iter().flat_map(|(l, _)| words(l)).collect();
    for symbol in symbols {
        writer.add_symbol(&symbol).unwrap();
    }
    for (labels, samples) in all {
        let mut chunks = Recoder::default();
        for (t, v) in samples {
            chunks.push_float(t, v).unwrap();
        }
        let chunks = chunks.finish();
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk { encoding: c.encoding, data: &c.data, min_time: c.min_t, max_time: c.max_t })
            .collect();
        writer.add_series(&labels, &new).unwrap();
    }
    writer.finish().unwrap().dir
}

/// Thanos downsamples a block into another bucket.
fn downsampled(oracle: &mut Oracle, block: &Path, bucket: &Path, resolution: i64) -> PathBuf {
    std::fs::create_dir_all(bucket).unwrap();
    let asked = serde_json::json!({"op": "downsample", "dir": block, "dest": bucket, "resolution": resolution});
    let made = oracle.ask(&asked).unwrap();
    let name = Path::new(made.as_str().unwrap()).file_name().unwrap().to_owned();
    let dir = bucket.join(name);
    let mut meta = read_meta(&RealDisk, &dir).unwrap();
    meta.thanos.as_mut().unwrap().files.clear();
    write_meta(&RealDisk, &dir, &meta).unwrap();
    dir
}

fn store(bucket: &Path) -> Thanos {
    let config = format!("{{type: FILESYSTEM, config: {{directory: {}}}}}", bucket.display());
    Thanos::start("store", &[format!("--objstore.config={config}")]).unwrap()
}

fn ask(base: &str, path: &str) -> Value {
    let (status, body) = get(format!("{base}{path}")).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Sorted series of an answer: labels and points.
fn result(answer: &Value) -> Vec<(String, Vec<(f64, f64)>)> {
    let point = |p: &Value| (p[0].as_f64().unwrap(), p[1].as_str().unwrap().parse().unwrap());
    let all = answer["data"]["result"].as_array().unwrap();
    let mut out: Vec<_> = all
        .iter()
        .map(|s| {
            let points = s["values"].as_array().into_iter().flatten().map(point).collect();
            (s["metric"].to_string(), points)
        })
        .collect();
    out.sort_by(|a: &(String, _), b| a.0.cmp(&b.0));
    out
}

fn same(a: &[(String, Vec<(f64, f64)>)], b: &[(String, Vec<(f64, f64)>)], within: f64) -> bool {
    let near = |x: f64, y: f64| (x - y).abs() <= within * x.abs().max(y.abs()).max(1.0);
    a.len() == b.len()
        && a.iter().zip(b).all(|((l, p), (m, q))| {
            l == m && p.len() == q.len() && p.iter().zip(q).all(|(x, y)| x.0 == y.0 && near(x.1, y.1))
        })
}

fn range(query: &str, start: i64, end: i64, step: i64, more: &str) -> String {
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let query = testkit::http::encode(query);
    format!(
        "/api/v1/query_range?query={query}&start={}&end={}&step={}{more}",
        seconds(start),
        seconds(end),
        seconds(step)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn downsampled_data_answers_as_thanos_and_as_the_raw_data() {
    if testkit::peers::skip(&["thanos", "thanos-blocks"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [raw, five, hour] = ["raw", "five", "hour"].map(|n| dir.path().join(n));
    let (stores, both) = tokio::task::block_in_place(|| {
        std::fs::create_dir_all(&raw).unwrap();
        let mut oracle = Oracle::start("thanos-blocks").unwrap();
        let block = raw_block(&raw, 1, "a");
        let fine = downsampled(&mut oracle, &block, &five, 300_000);
        downsampled(&mut oracle, &fine, &hour, HOUR);
        let stores = [&raw, &five, &hour].map(|b| store(b));
        // Replica b is there at five minutes only.
        let other = dir.path().join("other");
        std::fs::create_dir_all(&other).unwrap();
        let block = raw_block(&other, 2, "b");
        let two = dir.path().join("two");
        downsampled(&mut oracle, &block, &two, 300_000);
        (stores, store(&two))
    });
    let queriers = |endpoints: Vec<String>| async move {
        let ours = Querier::start(args(&endpoints)).await;
        let theirs = tokio::task::block_in_place(|| Thanos::query(&endpoints, &["replica"]).unwrap());
        (ours, theirs)
    };
    let [raw, five, hour] = &stores;
    let (ours_raw, _) = queriers(vec![raw.grpc_address()]).await;
    let (start, end) = (FROM + 6 * HOUR, FROM + 40 * HOUR);
    // Samples stand at the ends of their windows, a millisecond before the next begins.
    let ends = (start - 1, end - 1);
    for (name, store, resolution) in [("5m", five, 300_000), ("1h", hour, HOUR)] {
        let (ours, theirs) = queriers(vec![store.grpc_address()]).await;
        let more = format!("&max_source_resolution={name}");
        for query in [
            "gauge",
            "sum(gauge)",
            "max(gauge)",
            "min by (n) (gauge)",
            "avg(gappy)",
            "sum_over_time(gauge[4h])",
            "max_over_time(gauge[4h])",
            "min_over_time(gappy[4h])",
            "last_over_time(gauge[3h])",
            "rate(counter_total[4h])",
            "sum(increase(counter_total[3h]))",
            "irate(counter_total[4h])",
            "delta(gauge[4h])",
            "quantile_over_time(0.5, gauge[4h])",
            "stddev_over_time(gauge[4h])",
        ] {
            let path = range(query, start, end, resolution, &more);
            let (a, b) = (result(&ask(&ours.http, &path)), result(&ask(&theirs.url(), &path)));
            assert!(!a.is_empty() && same(&a, &b, 1e-9), "{name} {query}:\nours {a:?}\nThanos {b:?}");
        }
        // What the function says, by the raw data.
        for (query, within) in [
            ("sum_over_time(gauge[4h])", 1e-9),
            ("max_over_time(gauge[4h])", 1e-9),
            ("min_over_time(gappy[4h])", 1e-9),
            ("count_over_time(gauge[4h])", 1e-9),
            ("count_over_time(gappy[4h])", 0.03),
            ("avg_over_time(gauge[4h])", 1e-9),
            ("avg_over_time(gappy[4h])", 0.03),
            ("present_over_time(gappy[4h])", 0.0),
            ("count(gauge)", 0.0),
            ("increase(counter_total[8h])", if resolution == HOUR { 0.15 } else { 0.02 }),
        ] {
            let coarse = result(&ask(&ours.http, &range(query, ends.0, ends.1, HOUR, &more)));
            let fine = result(&ask(&ours_raw.http, &range(query, ends.0, ends.1, HOUR, "")));
            assert!(
                !fine.is_empty() && same(&coarse, &fine, within),
                "{name} {query}:\ncoarse {coarse:?}\nraw {fine:?}"
            );
        }
        // By the step alone: coarse data is used where the request leaves that to us.
        let path = range("sum_over_time(gauge[4h])", ends.0, ends.1, 5 * resolution, "&max_source_resolution=auto");
        assert!(!result(&ask(&ours.http, &path)).is_empty());
        let path = range("sum_over_time(gauge[4h])", ends.0, ends.1, HOUR, "");
        assert!(result(&ask(&ours.http, &path)).is_empty(), "coarse data was not asked for");
        // Windows too short for what there is: nothing can be said, and that is said.
        let answer = ask(&ours.http, &range("rate(counter_total[2m])", start, end, HOUR, &more));
        let told = Querier::warnings(&answer);
        assert!(told.iter().any(|w| w.contains("longer windows")), "{name}: {answer}");
        let answer = ask(&ours.http, &range("rate(nothing[2m])", start, end, HOUR, &more));
        assert!(Querier::warnings(&answer).is_empty(), "{answer}");
    }

    // Replicas of different resolutions, and one alone: counters grow as the raw one does.
    let (ours, _) = queriers(vec![five.grpc_address(), both.grpc_address(), hour.grpc_address()]).await;
    for query in ["increase(counter_total[8h])", "sum_over_time(gauge[4h])", "max_over_time(gauge[4h])"] {
        let coarse = result(&ask(&ours.http, &range(query, ends.0, ends.1, HOUR, "&max_source_resolution=5m")));
        let fine = result(&ask(&ours_raw.http, &range(query, ends.0, ends.1, HOUR, "")));
        assert!(same(&coarse, &fine, 0.02), "{query}:\ncoarse {coarse:?}\nraw {fine:?}");
    }
    // A querier above sees the same through us.
    let above = Querier::start(args(std::slice::from_ref(&ours.grpc))).await;
    let path = range("sum_over_time(gauge[4h])", ends.0, ends.1, HOUR, "&max_source_resolution=5m");
    assert_eq!(result(&ask(&ours.http, &path)), result(&ask(&above.http, &path)));
}
