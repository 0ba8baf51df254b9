//! The rows about a long range: 30 days, of which the bucket has samples as scraped, of 5m and of 1h. What a querier spends
//! together with its store gateway counts.

use super::load::Side;
use super::measure::{Querier, Table};
use super::{Part, say};
use crate::buckets::{self, START, Shape};
use model::BlockId;
use std::path::Path;
use testkit::http;
use testkit::thanos::Thanos;
use tsdb::block::Block;
use tsdb::disk::RealDisk;

const DAY: i64 = 86_400_000;
/// Blocks of ten days each.
const BLOCKS: i64 = 3;
const DAYS: i64 = 10;
/// A minute between samples.
const SHAPE: Shape = Shape { series: 1_000, samples: (DAYS * 1_440) as usize, step: 60_000 };
/// Resolutions that are made, ms.
const COARSE: [i64; 2] = [300_000, 3_600_000];
/// How often each is asked.
const TIMES: usize = 3;

/// What is asked, with the step in seconds and the coarsest data that may be taken.
const ASKED: &[(&str, &str, i64, &str)] = &[
    ("sum by (rate), 5m, every hour", "sum by (job) (rate({__name__=~\"bench_.+\"}[1h]))", 3_600, "5m"),
    ("max_over_time, 5m, every hour", "max by (job) (max_over_time({__name__=~\"bench_.+\"}[1h]))", 3_600, "5m"),
    ("avg_over_time, 5m, every hour", "avg by (job) (avg_over_time({__name__=~\"bench_.+\"}[1h]))", 3_600, "5m"),
    ("sum by (rate), 1h, every six hours", "sum by (job) (rate({__name__=~\"bench_.+\"}[6h]))", 21_600, "1h"),
];

/// Makes the blocks, starts a store and a querier of each, asks.
pub(super) fn run(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let bucket = dir.path().join("bucket");
    std::fs::create_dir_all(&bucket)?;
    say(&format!("making {} days of {} series, raw and downsampled twice", BLOCKS * DAYS, SHAPE.series));
    for n in 0..BLOCKS {
        let begin = START + n * DAYS * DAY;
        let raw = buckets::meta(n.unsigned_abs() as usize, "a", begin, begin + DAYS * DAY)?;
        let folder = bucket.join(raw.id.to_string());
        buckets::write(&bucket, raw, SHAPE)?;
        let raw = Block::open(&RealDisk, &folder)?;
        let coarser = COARSE.iter().zip(1u128..).map(|(resolution, more)| {
            let id = BlockId::from_parts(begin.unsigned_abs(), more << 32);
            tsdb::plan::downsampled(id, raw.meta(), *resolution)
        });
        tsdb::downsample::block(&RealDisk, &raw, &bucket, coarser.collect())?;
    }
    let config = format!("{{\"type\":\"FILESYSTEM\",\"config\":{{\"directory\":{:?}}}}}", bucket.display().to_string());
    let flags = |name: &str| {
        vec![format!("--objstore.config={config}"), format!("--data-dir={}", dir.path().join(name).display())]
    };
    let store = Thanos::start("store", &flags("thanos-store"))?;
    let thanos = Thanos::query(&[store.grpc_address()], &["replica"])?;
    let own_store = Part::start(binary, dir.path(), "store", "store", &flags("panoptes-store"))?;
    let args = [format!("--endpoint={}", own_store.grpc), "--query.replica-label=replica".to_owned()];
    let ours = Part::start(binary, dir.path(), "query", "query", &args)?;
    Querier::new("panoptes query", &ours.http, 0).wait_for_stores(1)?;
    let peer = Side { url: thanos.url(), ids: vec![thanos.process().id(), store.process().id()] };
    let own = Side { url: ours.http.clone(), ids: vec![ours.process.id(), own_store.process.id()] };

    // The first windows have all of their range.
    let (start, end) = (START / 1000 + 86_400, (START + BLOCKS * DAYS * DAY) / 1000 - 60);
    for (title, query, step, resolution) in ASKED {
        let path = format!(
            "/api/v1/query_range?query={}&start={start}&end={end}&step={step}&max_source_resolution={resolution}",
            http::encode(query)
        );
        let (theirs, mine) = (peer.drive(&path, TIMES, 1)?, own.drive(&path, TIMES, 1)?);
        let points = |body: &str| body.matches("\"]").count();
        anyhow::ensure!(
            points(&theirs.body) == points(&mine.body) && points(&mine.body) > 0,
            "{query}: Thanos gives {} points, ours {}",
            points(&theirs.body),
            points(&mine.body)
        );
        let mut table = Table::new(&format!("30 days of {} series: {title}; querier and store", SHAPE.series));
        table.row("CPU", "s", theirs.cpu_s, mine.cpu_s);
        table.row("p50", "s", theirs.p50_s(), mine.p50_s());
        table.row("peak RSS", "MiB", theirs.peak_mib, mine.peak_mib);
        table.print()?;
    }
    Ok(())
}
