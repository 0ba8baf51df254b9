//! What a compactor does when nothing goes wrong.

use super::*;
use bucket::lease::{Attempt, Contender};
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

/// An upload of a sidecar that goes on though nothing was written for days, and a block that was committed: with a catalogue that
/// can't be used nobody knows of either, and both stay.
#[tokio::test(start_paused = true)]
async fn an_unusable_catalogue_costs_no_block_and_no_upload() {
    let mut site = Site::new(raw());
    for n in 0..5 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    let bucket = site.own_bucket();
    let id = model::BlockId::from_parts(site.world.clock.now_ms().unsigned_abs(), 77);
    let sidecar = bucket::catalogue::Producer::new(bucket.clone(), "sidecar-y").unwrap();
    sidecar.intent(id, Vec::new()).await.unwrap();
    let segment = bucket::block::object(id, "chunks/000001");
    bucket.put(&segment, "half of it").await.unwrap();
    let newest = bucket::catalogue::snapshot_path(9);
    bucket.put(&newest, "no snapshot").await.unwrap();
    for _ in 0..3 {
        site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
        site.verify(false).unwrap();
        assert!(bucket.exists(&segment).await.unwrap(), "the upload was cleared away under its sidecar");
        site.pass_time(3 * DAY);
    }
    assert_eq!(widths(&site), [(0, 2), (0, 8)], "work goes on");
    // It is known again, and still the sidecar's.
    bucket.delete(&newest).await.unwrap();
    site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    assert!(bucket.exists(&segment).await.unwrap());
    // What nobody announced is cleared away.
    let orphan = model::BlockId::from_parts(site.world.clock.now_ms().unsigned_abs(), 78);
    bucket.put(&bucket::block::object(orphan, "index"), "half of it").await.unwrap();
    site.pass_time(3 * DAY);
    site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    assert!(site.names(&bucket::block::directory(orphan)).is_empty());
}

/// A request of a frozen predecessor that comes after its upload was cleared away makes no block.
#[tokio::test(start_paused = true)]
async fn a_late_meta_json_finds_its_id_closed() {
    let mut site = Site::new(raw());
    for n in 0..5 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    let bucket = site.own_bucket();
    let id = model::BlockId::from_parts(site.world.clock.now_ms().unsigned_abs(), 77);
    let predecessor = super::super::producer(&bucket, super::super::share::ALL).unwrap();
    predecessor.intent(id, Vec::new()).await.unwrap();
    bucket.put(&bucket::block::object(id, "index"), "half of it").await.unwrap();
    site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    let meta = bucket::block::object(id, bucket::block::META);
    assert_eq!(site.names(&bucket::block::directory(id)), std::slice::from_ref(&meta));
    let late = tsdb::BlockMeta::new(id, 0, 1).write().unwrap();
    assert_eq!(bucket.create(&meta, late).await.unwrap_err().kind, bucket::Kind::Exists);
    // Nobody takes it for a block, nothing is done to it again, and days later it is gone, and its entry, too.
    let before = site.memory.snapshot();
    site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    let after = site.memory.snapshot();
    assert!(after.iter().all(|(path, bytes)| path.contains("/lease/") || before.get(path) == Some(bytes)));
    site.verify(true).unwrap();
    site.pass_time(5 * DAY);
    for _ in 0..2 {
        site.pass(&bucket, Arc::new(site.disk.clone())).await.unwrap();
    }
    assert!(site.names(&bucket::block::directory(id)).is_empty());
}

/// Shards side by side: each has its lease and its streams, and together they do all.
#[tokio::test(start_paused = true)]
async fn two_shards_work_side_by_side_and_leave_each_other_alone() {
    let mut site = Site::new(raw());
    for cluster in ["a", "b"] {
        for n in 0..5 {
            site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", cluster)]).await;
        }
    }
    let bucket = site.own_bucket();
    let shard = |cluster: &str| {
        let yaml = format!("- {{action: keep, source_labels: [cluster], regex: {cluster}}}");
        let share =
            super::super::share::Share::new(&yaml, "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", &[]).unwrap();
        super::super::Compactor { share, ..site.compactor(cluster, Arc::new(tsdb::disk::MemoryDisk::new())) }
    };
    let (a, b) = (shard("a"), shard("b"));
    let lease = async |c: &super::super::Compactor| {
        let name = c.options.name.as_str();
        let mut contender = Contender::new(bucket.clone(), &c.share.scope, &c.share.words, name, site::TTL);
        let Attempt::Held(lease) = contender.attempt().await.unwrap() else { panic!("its lease is its own") };
        lease
    };
    let (first, second) = (lease(&a).await, lease(&b).await);
    super::super::pass::Tenure::new(&a, &bucket, &first).pass(&a).await.unwrap();
    let wide = || -> Vec<String> {
        let blocks = site.blocks().into_values();
        let wide = blocks.filter(|(m, _)| m.max_time - m.min_time == 8 * HOUR);
        wide.map(|(m, _)| m.labels().value("cluster").to_owned()).collect()
    };
    assert_eq!(wide(), ["a"]);
    super::super::pass::Tenure::new(&b, &bucket, &second).pass(&b).await.unwrap();
    let mut both = wide();
    both.sort();
    assert_eq!(both, ["a", "b"]);
    // One that wants all meets claims of others, and says whose.
    let all = site.compactor("all", Arc::new(tsdb::disk::MemoryDisk::new()));
    for n in 5..9 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    let third = lease(&all).await;
    super::super::pass::Tenure::new(&all, &bucket, &third).pass(&all).await.unwrap();
    let held = all.progress.all_held();
    assert!(held.iter().any(|h| h.why.contains("for the scope") && h.waits), "{held:?}");
    site.verify(false).unwrap();
}
