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
pub(super) async fn heal(site: &Site, disk: tsdb::disk::MemoryDisk, what: &str) {
    let bucket = site.own_bucket();
    for _ in 0..3 {
        let outcome = site.pass(&bucket, Arc::new(disk.clone())).await;
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        site.verify(false).unwrap_or_else(|e| panic!("{what}, healing: {e}"));
        site.pass_time(3 * DAY);
    }
    site.verify(true).unwrap_or_else(|e| panic!("{what}, healed: {e}"));
    assert!(site.blocks().values().all(|(m, _)| m.resolution() > 0), "{what}: not all was done");
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

#[test]
fn goal_g01_every_crash_point() {
    let goal = Goal::start("G01");
    let (total, files) = block_on(async {
        let site = prepared().await;
        let store = Breaking::new(site.memory.clone(), u64::MAX, Ends::Before);
        work(&site, &site.bucket(store.clone())).await;
        (store.changes(), site.disk.changes().len())
    });
    // At ci size not all of them; fast takes every one.
    let step = goal.pick(7, 1, 1);
    let mut runs = 0;
    for at in (0..total).step_by(step) {
        for ends in [Ends::Before, Ends::After] {
            block_on(async {
                let site = prepared().await;
                work(&site, &site.bucket(Breaking::new(site.memory.clone(), at, ends))).await;
                let what = format!("change {at} of the bucket, ended {ends:?}");
                site.verify(false).unwrap_or_else(|e| panic!("{what}: {e}"));
                heal(&site, site.disk.clone(), &what).await;
            });
            runs += 1;
        }
    }
    let disk_step = goal.pick(61, 3, 1);
    for at in (0..files).step_by(disk_step) {
        let seeds = goal.pick(1, 2, 10);
        for seed in 0..=seeds {
            block_on(async {
                let site = prepared().await;
                site.disk.stop_before(at);
                work(&site, &site.own_bucket()).await;
                let what = format!("before change {at} of the disk, way {seed}");
                site.verify(false).unwrap_or_else(|e| panic!("{what}: {e}"));
                let disk = if seed == 0 { site.disk.killed() } else { site.disk.power_lost(seed) };
                heal(&site, disk, &what).await;
            });
            runs += 1;
        }
    }
    goal.figure(&format!(
        "{total} changes of the bucket (one of {step}, each before, and done with the answer lost), {files} of the disk (one of \
         {disk_step}, killed and without power): {runs} crashes, 0 lost, 0 duplicated, 0 altered, garbage 0"
    ));
}
