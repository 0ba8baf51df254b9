//! What a compactor does when nothing goes wrong.

use super::*;
use futures::FutureExt as _;
use std::sync::Arc;
use tsdb::plan::Retention;

/// The widths in hours of the blocks that are not marked, by resolution.
fn widths(site: &Site) -> Vec<(i64, i64)> {
    let blocks = site.blocks();
    let live = blocks.values().filter(|(_, marked)| !marked);
    let mut all: Vec<_> = live.map(|(m, _)| (m.resolution() / 1000, (m.max_time - m.min_time) / HOUR)).collect();
    all.sort_unstable();
    all
}

#[tokio::test(start_paused = true)]
async fn blocks_grow_are_downsampled_and_the_old_ones_go() {
    let mut site = Site::new(raw());
    for n in 0..26 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    for n in 0..3 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "b")]).await;
    }
    let (bucket, disk) = (site.own_bucket(), Arc::new(site.disk.clone()));
    site.pass(&bucket, disk.clone()).await.unwrap();
    site.verify(true).unwrap();
    // Of cluster a two days, their 5m copy, and two blocks of a window that is not past; so are the three of b.
    assert_eq!(widths(&site), [(0, 2), (0, 2), (0, 2), (0, 2), (0, 2), (0, 48), (300, 48)]);
    let before = site.memory.snapshot();
    site.pass(&bucket, disk.clone()).await.unwrap();
    let after = site.memory.snapshot();
    let changed: Vec<_> = after.keys().filter(|k| before.get(*k) != after.get(*k)).collect();
    assert_eq!(changed, ["panoptes/v1/lease/all"], "nothing was left to do");
    site.pass_time(3 * DAY);
    site.pass(&bucket, disk.clone()).await.unwrap();
    site.verify(true).unwrap();
    assert!(site.blocks().values().all(|(_, marked)| !marked));
    assert!(site.disk.files().is_empty(), "{:?}", site.disk.files().keys());
    // What is gone the catalogue has forgotten, so that readers need not list.
    let mut fetcher = bucket::fetch::Fetcher::new(bucket);
    let view = fetcher.sync().now_or_never().unwrap().unwrap();
    assert!(view.catalogue_complete, "{:?}", view.catalogue_problem);
    assert_eq!(view.blocks.len(), site.blocks().len());
}

#[tokio::test(start_paused = true)]
async fn retention_waits_for_the_coarser_copy_and_replicas_become_one() {
    let retention = Retention { raw: 3 * DAY, ..Retention::default() };
    let mut site = Site::new(Settings { retention, ..raw() });
    for n in 0..7 {
        site.block(n * 8 * HOUR, 8 * HOUR, &[("cluster", "a")]).await;
    }
    let (bucket, disk) = (site.own_bucket(), Arc::new(site.disk.clone()));
    for _ in 0..3 {
        site.pass(&bucket, disk.clone()).await.unwrap();
        site.verify(true).unwrap();
        site.pass_time(3 * DAY);
    }
    assert!(site.blocks().values().all(|(m, _)| m.resolution() > 0), "raw data is gone: {:?}", widths(&site));

    let replicas = vec!["replica".to_owned()];
    let mut site = Site::new(Settings { merge: true, replica_labels: replicas, ..raw() });
    for replica in ["0", "1"] {
        for n in 0..5 {
            site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a"), ("replica", replica)]).await;
        }
    }
    site.samples = site.samples.into_iter().map(|(l, s)| (l.without(&["replica".to_owned()]), s)).collect();
    let bucket = site.own_bucket();
    for _ in 0..2 {
        site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
        site.pass_time(3 * DAY);
    }
    site.verify(true).unwrap();
    assert!(site.blocks().values().all(|(m, _)| m.labels().to_string() == "{cluster=\"a\"}"));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_compactor_stops_deletions_and_a_mark_taken_back_counts() {
    let mut site = Site::new(raw());
    for n in 0..6 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    let bucket = site.own_bucket();
    site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    let marked: Vec<_> = site.blocks().into_iter().filter(|(_, (_, m))| *m).map(|(id, _)| id).collect();
    assert_eq!(marked.len(), 4);
    // Somebody takes a mark back: it is set anew since the block is superseded, and its delay begins again.
    bucket.delete(&bucket::block::object(marked[0], "deletion-mark.json")).await.unwrap();
    site.pass_time(3 * DAY);
    site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    let left: Vec<_> = site.blocks().into_iter().filter(|(_, (_, m))| *m).map(|(id, _)| id).collect();
    assert_eq!(left, [marked[0]]);

    // While a lease is held, Thanos's compactor writes a block.
    let compactor = site.compactor("one", Arc::new(site.disk.clone()));
    let lease = site.lease(&bucket, "one").await;
    let mut tenure = super::super::pass::Tenure::new(&compactor, &bucket, &lease);
    site.pass_time(1000);
    let now = site.world.clock.now_ms();
    let theirs = model::BlockId::from_parts(now.unsigned_abs(), 99);
    let mut meta = tsdb::BlockMeta::new(theirs, T0 - 2 * HOUR, T0);
    meta.thanos = Some(tsdb::meta::Thanos {
        labels: [("cluster".to_owned(), "z".to_owned())].into(),
        source: "compactor".into(),
        ..Default::default()
    });
    bucket.put(&bucket::block::object(theirs, "meta.json"), meta.write().unwrap()).await.unwrap();
    site.pass_time(3 * DAY);
    // Its own lease would be over by now.
    lease.release().await;
    let again = site.lease(&bucket, "one").await;
    assert!(tenure.pass(&compactor).await.is_err());
    drop(again);
    let compactor = site.compactor("two", Arc::new(site.disk.clone()));
    let lease = site.lease(&bucket, "two").await;
    let mut tenure = super::super::pass::Tenure::new(&compactor, &bucket, &lease);
    let newer = model::BlockId::from_parts((site.world.clock.now_ms() + 5).unsigned_abs(), 98);
    meta.id = newer;
    bucket.put(&bucket::block::object(newer, "meta.json"), meta.write().unwrap()).await.unwrap();
    tenure.pass(&compactor).await.unwrap();
    let why = compactor.progress.state().deletions_stopped.unwrap();
    assert!(why.contains(&newer.to_string()) && why.contains("nothing is compacted or deleted"), "{why}");
    assert!(site.blocks().contains_key(&marked[0]), "it is due, and stays");
}
