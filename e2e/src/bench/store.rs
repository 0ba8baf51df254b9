//! The rows about the store gateway: the start over thousands of blocks, and Series over a wide and a deep block, beside Thanos's
//! store on the same emulated bucket.

use super::measure::{Table, median, timed};
use super::say;
use crate::buckets::{self, START, Shape, TWO_HOURS};
use crate::gateway::{Client, Gateway, Kind, Spent, request};
use anyhow::Context as _;
use proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use std::path::Path;
use std::time::Duration;
use testkit::gcs::Gcs;

/// Blocks of the start beside Thanos.
const BLOCKS: usize = 10_000;
/// Blocks of the start of ours alone: what one costs must stay the same.
const SCALE: [usize; 2] = [1_000, 100_000];
/// A start is over within this.
const PATIENCE: Duration = Duration::from_secs(300);
/// Times that a request is asked again after the first; the median of their times counts.
const AGAIN: usize = 9;
const WIDE: Shape = Shape { series: 100_000, samples: 20, step: 60_000 };
const DEEP: Shape = Shape { series: 200, samples: 40_320, step: 15_000 };

/// The start over 10,000 blocks, with and without a catalogue, and ours over the number of blocks.
pub(super) fn start(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let gcs = Gcs::start()?;
    for (bucket, blocks, catalogue) in
        [("plain", BLOCKS, false), ("known", BLOCKS, true), ("small", SCALE[0], true), ("large", SCALE[1], true)]
    {
        gcs.make_bucket(bucket);
        buckets::crowd(&gcs, bucket, blocks, catalogue)?;
    }
    let one = |kind: Kind<'_>, name: &str, bucket: &str, blocks: usize| -> anyhow::Result<(Spent, f64)> {
        say(&format!("{name}: a start over {blocks} blocks"));
        let before: u64 = gcs.requests().values().sum();
        let mut spent = Spent::default();
        let took = timed(|| {
            let mut gateway = Gateway::spawn(kind, &dir.path().join(name), &gcs, bucket, &[])?;
            gateway.wait_for_blocks(blocks, PATIENCE)?;
            spent = gateway.spent(&gcs)?;
            Ok(())
        })?;
        spent.requests -= before;
        Ok((spent, took))
    };
    let peer = one(Kind::Thanos, "thanos", "plain", BLOCKS)?;
    let ours = Kind::Ours(binary);
    for (title, name, bucket) in [("without a catalogue", "plain", "plain"), ("with a catalogue", "known", "known")] {
        let own = one(ours, name, bucket, BLOCKS)?;
        let mut table = Table::new(&format!("Start of the store over {BLOCKS} blocks, {title}"));
        table.row("CPU", "s", peer.0.cpu_s, own.0.cpu_s);
        table.row("peak RSS", "MiB", peer.0.peak_mib, own.0.peak_mib);
        table.row("requests", "", peer.0.requests as f64, own.0.requests as f64);
        table.row("until ready", "s", peer.1, own.1);
        table.print()?;
    }
    for (bucket, blocks) in [("small", SCALE[0]), ("large", SCALE[1])] {
        let (spent, took) = one(ours, bucket, bucket, blocks)?;
        say(&format!(
            "ours, {blocks} blocks with a catalogue: {:.1} µs of CPU and {:.2} KiB per block, {} requests, ready in {took:.1} s, {:.0} MiB",
            spent.cpu_s * 1e6 / blocks as f64,
            spent.peak_mib * 1024.0 / blocks as f64,
            spent.requests,
            spent.peak_mib,
        ));
    }
    Ok(())
}

/// What is asked.
enum Ask {
    Series(Box<SeriesRequest>),
    Values(LabelValuesRequest),
}

/// Requests over a wide and a deep block.
pub(super) fn series(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let gcs = Gcs::start()?;
    say("making a block of 100,000 short series and one of 200 long ones");
    let mut sizes = Vec::new();
    for (n, (bucket, shape, end)) in
        [("wide", WIDE, START + TWO_HOURS), ("deep", DEEP, START + 84 * TWO_HOURS)].into_iter().enumerate()
    {
        gcs.make_bucket(bucket);
        sizes.push(buckets::add(&gcs, bucket, buckets::meta(n, "a", START, end)?, shape)?);
    }
    let series =
        |matchers: &[(i32, &str, &str)]| Ask::Series(Box::new(request(matchers, START, START + 84 * TWO_HOURS)));
    let values = Ask::Values(LabelValuesRequest {
        label: "pod".to_owned(),
        start: START,
        end: START + TWO_HOURS,
        ..Default::default()
    });
    let table = [
        ("wide: all 100,000 series", "wide", WIDE.series, series(&[(2, "__name__", "bench_.+")])),
        ("wide: one series", "wide", 1, series(&[(0, "pod", "pod-054321")])),
        ("wide: a selective regular expression, 100 series", "wide", 100, series(&[(2, "pod", "pod-0123.+")])),
        ("wide: the 100,000 values of a label", "wide", WIDE.series, values),
        ("deep: all 200 series", "deep", DEEP.series, series(&[(2, "__name__", "bench_.+")])),
    ];
    for (title, bucket, expected, ask) in table {
        let peer = asked(Kind::Thanos, &dir.path().join(format!("thanos-{title}")), &gcs, bucket, expected, &ask)?;
        let own = asked(Kind::Ours(binary), &dir.path().join(format!("ours-{title}")), &gcs, bucket, expected, &ask)?;
        let mut table = Table::new(&format!("Store, {title}"));
        table.row("requests, cold", "", peer.cold.requests as f64, own.cold.requests as f64);
        table.row("bytes, cold", "MB", peer.cold.bytes / 1e6, own.cold.bytes / 1e6);
        table.row("time, cold", "ms", peer.first * 1e3, own.first * 1e3);
        table.row(
            &format!("requests, {} times in all", AGAIN + 1),
            "",
            peer.all.requests as f64,
            own.all.requests as f64,
        );
        table.row("p50, warm", "ms", peer.median * 1e3, own.median * 1e3);
        table.row(&format!("CPU, {} times in all", AGAIN + 1), "s", peer.all.cpu_s, own.all.cpu_s);
        table.row("peak RSS", "MiB", peer.all.peak_mib, own.all.peak_mib);
        table.print()?;
        if expected == 1 {
            let share = own.cold.bytes * 100.0 / sizes.first().copied().unwrap_or(1) as f64;
            say(&format!(
                "one series of 100,000 costs {share:.1} % of the block's bytes, the index-header aside (aim: 5 %)"
            ));
        }
    }
    Ok(())
}

/// What one request cost one store.
struct Cost {
    /// The first time.
    cold: Spent,
    first: f64,
    /// All times together.
    all: Spent,
    median: f64,
}

fn asked(kind: Kind<'_>, dir: &Path, gcs: &Gcs, bucket: &str, expected: usize, ask: &Ask) -> anyhow::Result<Cost> {
    let mut gateway = Gateway::spawn(kind, dir, gcs, bucket, &[])?;
    gateway.wait_for_blocks(1, PATIENCE)?;
    let start = gateway.spent(gcs)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut client = runtime.block_on(Client::connect(gateway.grpc()))?;
    // Thanos's store fetches index-headers at its start, ours at their first use: they are compared with the header there.
    let names = LabelNamesRequest { start: START, end: START + 84 * TWO_HOURS, ..Default::default() };
    runtime.block_on(client.label_names(names))?;
    let begin = gateway.spent(gcs)?;
    if matches!(kind, Kind::Ours(_)) {
        say(&format!(
            "ours, the index-header: {:.2} s of CPU, {} requests, {:.2} MB",
            begin.cpu_s - start.cpu_s,
            begin.requests - start.requests,
            (begin.bytes - start.bytes) / 1e6
        ));
    }
    let mut once = || {
        timed(|| {
            let found = match ask {
                Ask::Series(request) => runtime.block_on(client.series(request.as_ref().clone()))?.len(),
                Ask::Values(request) => runtime.block_on(client.label_values(request.clone()))?.len(),
            };
            anyhow::ensure!(found == expected, "{found} instead of {expected}");
            Ok(())
        })
        .with_context(|| format!("{kind:?}: {}", gateway.log()))
    };
    let first = once()?;
    let after = gateway.spent(gcs)?;
    let again = (0..AGAIN).map(|_| once()).collect::<anyhow::Result<Vec<f64>>>()?;
    let end = gateway.spent(gcs)?;
    let since = |now: Spent| Spent {
        cpu_s: now.cpu_s - begin.cpu_s,
        peak_mib: now.peak_mib,
        requests: now.requests - begin.requests,
        bytes: now.bytes - begin.bytes,
    };
    Ok(Cost { cold: since(after), first, all: since(end), median: median(&again) })
}
