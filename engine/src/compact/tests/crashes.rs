//! G01: a process that ends at any change of the bucket or of its disk is followed by one that goes on.

use super::site::{Breaking, Ends};
use super::*;
use std::sync::Arc;
use testkit::goal::Goal;
use tsdb::plan::Retention;

/// Two days in blocks of eight hours and a bit more: a compaction, a downsampling, retention, deletions, a folding.
pub(super) async fn prepared() -> Site {
    let retention = Retention { raw: 3 * DAY, ..Retention::default() };
    let mut site = Site::new(Settings { retention, ..raw() });
    site.inline = true;
    for n in 0..6 {
        site.block(n * 8 * HOUR, 8 * HOUR, &[("cluster", "a")]).await;
    }
    site.block(2 * DAY, 2 * HOUR, &[("cluster", "a")]).await;
    site
}

/// The work that ends somewhere: two passes, the second one when marks are old.
pub(super) async fn work(site: &Site, bucket: &bucket::Bucket) {
    for _ in 0..2 {
        if site.pass(bucket, Arc::new(site.disk.clone())).await.is_err() {
            return;
        }
        site.pass_time(3 * DAY);
    }
}

/// What follows: at most two more cleanings after the marks are old.
pub(super) async fn heal(site: &Site, disk: tsdb::disk::MemoryDisk, what: &str) -> Result<(), String> {
    let bucket = site.own_bucket();
    for _ in 0..3 {
        let outcome = site.pass(&bucket, Arc::new(disk.clone())).await;
        outcome.map_err(|e| format!("{what}: {e}"))?;
        site.verify(false).map_err(|e| format!("{what}, healing: {e}"))?;
        site.pass_time(3 * DAY);
    }
    site.verify(true).map_err(|e| format!("{what}, healed: {e}"))?;
    let is_done = site.blocks().values().all(|(m, _)| m.resolution() > 0);
    is_done.then_some(()).ok_or_else(|| format!("{what}: not all was done"))
}

/// Where a process ends.
enum Crash {
    /// At a change of the bucket.
    Bucket(u64, Ends),
    /// Before a change of the disk: killed, or without power, in one of the ways in which that leaves a disk.
    Disk(usize, u64),
}

impl Crash {
    async fn run(&self, prepared: &Site) -> Result<(), String> {
        let site = prepared.copy();
        let (what, disk) = match self {
            Self::Bucket(at, ends) => {
                work(&site, &site.bucket(Breaking::new(site.memory.clone(), *at, *ends))).await;
                (format!("change {at} of the bucket, ended {ends:?}"), site.disk.clone())
            }
            Self::Disk(at, seed) => {
                site.disk.stop_before(*at);
                work(&site, &site.own_bucket()).await;
                let disk = if *seed == 0 { site.disk.killed() } else { site.disk.power_lost(*seed) };
                (format!("before change {at} of the disk, way {seed}"), disk)
            }
        };
        site.verify(false).map_err(|e| format!("{what}: {e}"))?;
        heal(&site, disk, &what).await
    }
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

#[test]
fn goal_g01_every_crash_point() {
    let goal = Goal::start("G01");
    let prepared = block_on(prepared());
    let (total, files) = block_on(async {
        let site = prepared.copy();
        let store = Breaking::new(site.memory.clone(), u64::MAX, Ends::Before);
        work(&site, &site.bucket(store.clone())).await;
        (store.changes(), site.disk.changes().len())
    });
    // At ci size not all of them; fast takes every change of the bucket.
    let (step, disk_step) = (goal.pick(7, 1, 1), goal.pick(61, 3, 1));
    let ways = [Ends::Before, Ends::After];
    let of_bucket = (0..total).step_by(step).flat_map(|at| ways.map(|ends| Crash::Bucket(at, ends)));
    let seeds = goal.pick(1, 2, 10);
    let of_disk = (0..files).step_by(disk_step).flat_map(|at| (0..=seeds).map(move |seed| Crash::Disk(at, seed)));
    let all: Vec<Crash> = of_bucket.chain(of_disk).collect();
    let outcome = site::on_two_cores(&all, |crash| block_on(crash.run(&prepared)));
    let runs = outcome.unwrap_or_else(|e| panic!("{e}")).len();
    goal.figure(&format!(
        "{total} changes of the bucket (one of {step}, each before, and done with the answer lost), {files} of the disk (one of \
         {disk_step}, killed and without power): {runs} crashes, 0 lost, 0 duplicated, 0 altered, garbage 0"
    ));
}
