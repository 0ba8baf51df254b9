//! Rare moments, one by one: each was a fault once, found by reading.

use super::super::pass::Tenure;
use super::super::share::Share;
use super::super::tenure::End;
use super::super::{Compactor, Fault};
use super::rivals::Virtual;
use super::site::TTL;
use super::*;
use async_trait::async_trait;
use bucket::layers::around::Around;
use bucket::lease::{Attempt, Contender};
use bucket::store::{Condition, Store};
use bucket::{Bucket, Object, block, mark};
use futures::FutureExt as _;
use model::BlockId;
use model::world::World;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tsdb::disk::{Disk as _, MemoryDisk};
use tsdb::marks::{DeletionMark, NoCompactMark};
use tsdb::meta::{BlockMeta, Thanos};

/// A store that does something right before what is asked for by name.
struct Before<F>(bucket::Memory, F);

impl<F> std::fmt::Debug for Before<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something before each get")
    }
}

#[async_trait]
impl<F: Fn(&str) + Send + Sync + 'static> Around for Before<F> {
    fn inner(&self) -> &dyn Store {
        &self.0
    }
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> bucket::Result<Object> {
        (self.1)(path);
        self.0.get(path, range, max).await
    }
}

/// Five blocks of two hours: four of them become one.
async fn five(site: &mut Site, cluster: &str) -> Vec<BlockId> {
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", cluster)]).await);
    }
    ids
}

fn wide(site: &Site) -> usize {
    site.blocks().values().filter(|(m, marked)| !marked && m.max_time - m.min_time == 8 * HOUR).count()
}

fn put(site: &Site, path: &str, bytes: impl Into<bytes::Bytes>) {
    site.memory.put(path, bytes.into(), Condition::None).now_or_never().unwrap().unwrap();
}

fn of_cluster(site: &Site, cluster: &str) -> Compactor {
    let yaml = format!("- {{action: keep, source_labels: [cluster], regex: {cluster}}}");
    let share = Share::new(&yaml, "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", &[]).unwrap();
    Compactor { share, ..site.compactor(cluster, Arc::new(MemoryDisk::new())) }
}

async fn pass(site: &Site, compactor: &Compactor, bucket: &Bucket) -> Result<(), Fault> {
    let mut contender =
        Contender::new(site.own_bucket(), &compactor.share.scope, &compactor.share.words, &compactor.options.name, TTL);
    let Attempt::Held(lease) = contender.attempt().await.unwrap() else { panic!("somebody has the lease") };
    let outcome = Tenure::new(compactor, bucket, &lease).pass(compactor).await;
    lease.release().await;
    outcome
}

/// A block of Thanos's compactor that came while the lease was lost for a moment counts when it is held again.
#[tokio::test(start_paused = true)]
async fn a_foreign_compactor_is_not_forgotten_with_the_lease() {
    let mut site = Site::new(raw());
    let bucket = site.own_bucket();
    let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
    pass(&site, &compactor, &bucket).await.unwrap();
    five(&mut site, "a").await;
    site.pass_time(1000);
    let id = BlockId::from_parts(site.world.clock.now_ms().unsigned_abs(), 99);
    let mut meta = BlockMeta::new(id, T0, T0 + 2 * HOUR);
    let labels = [("cluster".to_owned(), "z".to_owned())].into();
    meta.thanos = Some(Thanos { labels, source: "compactor".into(), ..Thanos::default() });
    put(&site, &block::object(id, block::META), meta.write().unwrap());
    site.pass_time(1000);
    pass(&site, &compactor, &bucket).await.unwrap();
    let why = compactor.progress.state().deletions_stopped.unwrap();
    assert!(why.contains(&id.to_string()), "{why}");
    assert_eq!(wide(&site), 0, "nothing is compacted beside it");
}

/// Marks that nobody can understand hold up their own blocks: not those of an upload that broke off, nor those of another share.
#[tokio::test(start_paused = true)]
async fn a_mark_of_a_later_version_costs_its_own_block_alone() {
    let unknown = |id: BlockId| format!(r#"{{"id":"{id}","version":7,"reason":"manual"}}"#);
    let mut site = Site::new(raw());
    five(&mut site, "a").await;
    let of_b = five(&mut site, "b").await;
    let partial = BlockId::from_parts((T0 + HOUR).unsigned_abs(), 5);
    put(&site, &block::object(partial, block::INDEX), "half of it");
    for id in [partial, of_b[1]] {
        put(&site, &block::object(id, block::NO_COMPACT_MARK), unknown(id));
    }
    let a = of_cluster(&site, "a");
    pass(&site, &a, &site.own_bucket()).await.unwrap();
    assert_eq!(wide(&site), 1);
    let held = a.progress.all_held();
    assert!(held.iter().any(|h| h.what == partial.to_string() && h.why.contains("version 7")), "{held:?}");
    assert!(!held.iter().any(|h| h.what == of_b[1].to_string()), "it is none of its: {held:?}");
    site.pass_time(30 * DAY);
    pass(&site, &a, &site.own_bucket()).await.unwrap();
    assert!(!site.names(&block::directory(partial)).is_empty(), "what nobody understands stays");
}

/// What somebody marks while it is compacted does not come back in the new block.
#[tokio::test(start_paused = true)]
async fn what_is_marked_while_it_is_compacted_stays_marked() {
    for file in [block::DELETION_MARK, block::NO_COMPACT_MARK] {
        let mut site = Site::new(raw());
        let ids = five(&mut site, "a").await;
        let (memory, marked, now) = (site.memory.clone(), ids[1], site.world.clock.now_ms() / 1000);
        let mark = match file {
            block::DELETION_MARK => serde_json::to_vec(&DeletionMark::new(marked, now, "by hand")),
            _ => serde_json::to_vec(&NoCompactMark::new(marked, now, "manual", "by hand")),
        };
        let mark = mark.unwrap();
        let meanwhile = Before(site.memory.clone(), move |path: &str| {
            // The last of its sources is being fetched.
            if path == block::object(ids[3], block::INDEX) {
                let mark = bytes::Bytes::from(mark.clone());
                memory.put(&block::object(marked, file), mark, Condition::None).now_or_never().unwrap().unwrap();
            }
        });
        let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
        pass(&site, &compactor, &site.bucket(Arc::new(meanwhile) as Arc<dyn Store>)).await.unwrap();
        let blocks = site.blocks();
        let again = blocks.values().find(|(m, _)| m.id != marked && m.compaction.sources.contains(&marked));
        assert!(again.is_none(), "{file}: it came back in {again:?}");
        let held = compactor.progress.all_held();
        assert!(held.iter().any(|h| h.why.contains("meanwhile") && h.waits), "{held:?}");
        site.verify(false).unwrap();
    }
}

/// Two processes with one folder: what the other one takes away is noticed before anything is sent.
#[tokio::test(start_paused = true)]
async fn a_new_block_that_lacks_a_file_is_not_sent() {
    let mut site = Site::new(raw());
    let ids = five(&mut site, "a").await;
    let disk = MemoryDisk::new();
    let (theirs, out) = (disk.clone(), Path::new("/data/compact/out"));
    let meanwhile = Before(site.memory.clone(), move |path: &str| {
        // Asked once more between making and sending.
        if path == block::object(ids[0], block::DELETION_MARK) {
            for made in theirs.list(out).unwrap_or_default() {
                theirs.remove_file(&out.join(made.name).join("chunks/000001")).unwrap();
            }
        }
    });
    let compactor = site.compactor("one", Arc::new(disk));
    let fault = pass(&site, &compactor, &site.bucket(Arc::new(meanwhile) as Arc<dyn Store>)).await.unwrap_err();
    assert!(fault.to_string().contains("another process uses it"), "{fault}");
    assert_eq!(wide(&site), 0);
    site.verify(false).unwrap();
}

/// Without `--wait`: streams of a scope whose compactor died are waited for and done, those of one that lives are told.
#[tokio::test(start_paused = true)]
async fn one_pass_takes_over_the_streams_of_a_dead_scope() {
    for lives in [false, true] {
        let mut site = Site::new(raw());
        let clock = Arc::new(Virtual(Instant::now(), T0 + 60 * HOUR));
        site.world = World { clock, entropy: Arc::clone(&site.world.entropy) };
        five(&mut site, "a").await;
        let bucket = site.own_bucket();
        // It claims its stream, and never gives its lease back.
        let dead = of_cluster(&site, "a");
        let mut contender = Contender::new(bucket.clone(), &dead.share.scope, &dead.share.words, "dead", TTL);
        let Attempt::Held(lease) = contender.attempt().await.unwrap() else { panic!("nobody has it") };
        Tenure::new(&dead, &bucket, &lease).pass(&dead).await.unwrap();
        assert_eq!(wide(&site), 1);
        for n in 5..9 {
            site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
        }
        let one = site.compactor("one", Arc::new(MemoryDisk::new()));
        let stop = CancellationToken::new();
        let (end, ()) = tokio::join!(one.work(&bucket, None, &stop), async {
            if lives {
                let _ = tokio::time::timeout(Duration::from_secs(600), lease.keep()).await;
            }
        });
        match end {
            End::Over if !lives => assert_eq!(wide(&site), 2),
            End::Failed(fault) if lives => {
                let says = fault.to_string();
                assert!(says.contains("dead has for the scope") && says.contains("cluster=\"a\""), "{says}");
                assert_eq!(wide(&site), 1);
            }
            end => panic!("lives: {lives}: {end:?}"),
        }
    }
}

/// The marks of a block that no listing shows yet count.
#[tokio::test(start_paused = true)]
async fn marks_of_blocks_that_are_not_listed_yet_count() {
    let mut site = Site::new(raw());
    let ids = five(&mut site, "a").await;
    let hidden = Hiding(site.memory.clone(), ids[1].to_string());
    let bucket = site.bucket(Arc::new(hidden) as Arc<dyn Store>);
    mark::create(&site.own_bucket(), &NoCompactMark::new(ids[1], T0 / 1000, "manual", "by hand")).await.unwrap();
    let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
    pass(&site, &compactor, &bucket).await.unwrap();
    assert!(site.blocks().values().all(|(m, _)| !m.compaction.sources.contains(&ids[1]) || m.id == ids[1]));
    site.verify(false).unwrap();
}

/// A bucket whose listings lack a block.
#[derive(Debug)]
struct Hiding(bucket::Memory, String);

#[async_trait]
impl Around for Hiding {
    fn inner(&self) -> &dyn Store {
        &self.0
    }
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> bucket::Result<bucket::store::Page> {
        let mut page = self.0.list(prefix, one_level, token).await?;
        page.entries.retain(|entry| match entry {
            bucket::store::Entry::Object(meta) => !meta.path.starts_with(&self.1),
            bucket::store::Entry::Directory(path) => !path.starts_with(&self.1),
        });
        Ok(page)
    }
}

/// An id that was closed and that no entry of the catalogue tells of any more goes when nothing can come late.
#[tokio::test(start_paused = true)]
async fn a_closed_id_that_nobody_announced_goes_in_the_end() {
    let mut site = Site::new(raw());
    five(&mut site, "a").await;
    let id = BlockId::from_parts(site.world.clock.now_ms().unsigned_abs(), 77);
    put(&site, &block::object(id, block::META), block::closed(id));
    let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
    for (days, stays) in [(3, true), (2, false)] {
        site.pass_time(days * DAY);
        pass(&site, &compactor, &site.own_bucket()).await.unwrap();
        assert_eq!(!site.names(&block::directory(id)).is_empty(), stays);
        let held = compactor.progress.all_held();
        assert!(!held.iter().any(|h| h.why.contains("is a block by now")), "{held:?}");
    }
}

/// Two compactors that fold the catalogue at once: the one that sees too little leaves it to the next time.
#[tokio::test(start_paused = true)]
async fn a_folding_that_meets_another_one_waits() {
    let mut site = Site::new(raw());
    five(&mut site, "a").await;
    let lease = site.lease(&site.own_bucket(), "one").await;
    let fold = async |bucket: Bucket| {
        let mut reader = bucket::catalogue::Reader::new(bucket.clone());
        let dead = std::collections::BTreeSet::new();
        bucket::catalogue::fold(&bucket, &mut reader, &lease, &|_| true, &dead, 1).await
    };
    assert_eq!(fold(site.own_bucket()).await.unwrap().gone, 0);
    let is_list = |path: &String| path.contains("/sidecar-x/");
    let list = site.names(bucket::catalogue::ROOT).into_iter().find(is_list).unwrap();
    site.block(10 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    let behind = site.bucket(Arc::new(Hiding(site.memory.clone(), list)) as Arc<dyn Store>);
    let before = site.blocks().len();
    assert_eq!(fold(behind).await.unwrap(), bucket::catalogue::Folding::default());
    let mut reader = bucket::catalogue::Reader::new(site.own_bucket());
    let bucket::catalogue::State::Blocks(told) = reader.read().await.unwrap() else { panic!("it can be read") };
    assert_eq!(told.len(), before);
}

/// A tool that works alone: beside a compactor that lives it refuses, and after it the lease is free.
#[tokio::test(start_paused = true)]
async fn a_tool_works_alone_or_not_at_all() {
    let mut site = Site::new(raw());
    let clock = Arc::new(Virtual(Instant::now(), T0 + 60 * HOUR));
    site.world = World { clock, entropy: Arc::clone(&site.world.entropy) };
    let bucket = site.own_bucket();
    let streams = [model::Labels::from_pairs([("cluster", "a")])].into();
    let stop = CancellationToken::new();
    let alone = async || super::super::alone(&bucket, &streams, &stop, async |lease| Ok(lease.check().is_ok())).await;
    assert!(alone().await.unwrap());
    for scope in [super::super::share::ALL, "shard"] {
        let mut contender = Contender::new(bucket.clone(), scope, "", "other", TTL);
        let Attempt::Held(lease) = contender.attempt().await.unwrap() else { panic!("it was given back") };
        if scope == "shard" {
            let path = bucket::lease::claim_path(streams.first().unwrap());
            bucket.delete(&path).await.unwrap();
            bucket::lease::Claims::new(bucket.clone(), lease.clone()).claim(&streams).await.unwrap();
        }
        let (says, _) = tokio::join!(alone(), tokio::time::timeout(Duration::from_secs(600), lease.keep()));
        let says = says.unwrap_err().to_string();
        assert!(says.contains("other") && says.contains("end it first"), "{says}");
        lease.release().await;
        assert!(alone().await.unwrap());
    }
    stop.cancel();
    let mut contender = Contender::new(bucket.clone(), super::super::share::ALL, "", "other", TTL);
    let Attempt::Held(_) = contender.attempt().await.unwrap() else { panic!("it was given back") };
    assert_eq!(alone().await.unwrap_err().to_string(), "interrupted");
}

/// As Thanos counts them: iterations, not blocks.
#[tokio::test(start_paused = true)]
async fn cleanups_are_counted_and_not_what_they_delete() {
    let mut site = Site::new(Settings { delete_delay: HOUR, ..raw() });
    five(&mut site, "a").await;
    let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
    pass(&site, &compactor, &site.own_bucket()).await.unwrap();
    site.pass_time(2 * HOUR);
    let before = compactor.progress.metrics.cleanup_loops.get();
    pass(&site, &compactor, &site.own_bucket()).await.unwrap();
    assert_eq!(site.blocks().len(), 2, "four are deleted");
    assert_eq!(compactor.progress.metrics.cleanup_loops.get() - before, 1);
}
