//! Any history of producers that crash, foreign writers, deletions, folds that stop half-way, newer formats and damage: a full
//! listing tells the truth, and between two of them the catalogue never hides a committed block.

use crate::suite;
use bucket::catalogue::{Commit, File, Folded, Producer, Reader, Snapshot, Stage, State, folded_path, snapshot_path};
use bucket::fetch::{Fetcher, Reason, View};
use bucket::layers::faults::{Faults, Plan};
use bucket::{Bucket, Memory, block, document, mark};
use futures::TryStreamExt as _;
use model::BlockId;
use model::world::World;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::marks::NoCompactMark;
use tsdb::meta::Thanos;

#[derive(Debug, Clone)]
enum Step {
    /// A producer uploads a block, and dies after so many of: intent, files, meta.json, commit.
    Upload {
        producer: usize,
        steps: usize,
    },
    /// A producer starts again and finishes what it announced.
    Restart {
        producer: usize,
    },
    /// A writer that knows no catalogue, dying after so many of: files, meta.json.
    Foreign {
        steps: usize,
    },
    /// Somebody damages a meta.json.
    Damage {
        which: usize,
    },
    /// Somebody deletes a block.
    Delete {
        which: usize,
    },
    /// The holder of the lease folds, and dies after deleting so many entries.
    Fold {
        entries: usize,
    },
    /// A newer program writes an entry.
    Newer,
    /// It is gone again.
    Older,
    Sync,
    Refresh,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2usize, 0..5usize).prop_map(|(producer, steps)| Step::Upload { producer, steps }),
        2 => (0..2usize, 4..5usize).prop_map(|(producer, steps)| Step::Upload { producer, steps }),
        1 => (0..2usize).prop_map(|producer| Step::Restart { producer }),
        1 => (1..3usize).prop_map(|steps| Step::Foreign { steps }),
        1 => any::<usize>().prop_map(|which| Step::Damage { which }),
        1 => any::<usize>().prop_map(|which| Step::Delete { which }),
        2 => (0..8usize).prop_map(|entries| Step::Fold { entries }),
        1 => Just(Step::Newer),
        1 => Just(Step::Older),
        2 => Just(Step::Sync),
        4 => Just(Step::Refresh),
    ]
}

struct Run {
    bucket: Bucket,
    memory: Memory,
    producers: Vec<Producer>,
    fetcher: Fetcher,
    made: u64,
    /// Blocks that our producers committed.
    committed: BTreeSet<BlockId>,
    /// Blocks that were there at the last full listing, or came into the catalogue since, and were deleted or damaged since.
    went: BTreeSet<BlockId>,
}

impl Run {
    fn new() -> Self {
        let memory = Memory::new(World::real().clock);
        let bucket = Bucket::over(Arc::new(memory.clone()), "b", suite::options());
        let producers = ["a", "b"].map(|name| Producer::new(bucket.clone(), name).unwrap()).to_vec();
        let fetcher = Fetcher::new(bucket.clone());
        Self { bucket, memory, producers, fetcher, made: 0, committed: BTreeSet::new(), went: BTreeSet::new() }
    }

    fn meta(&mut self) -> BlockMeta {
        self.made += 1;
        BlockMeta::new(BlockId::from_parts(1_000 + self.made, 1), 0, 1)
    }

    /// Whole blocks by what lies there.
    fn truth(&self) -> BTreeSet<BlockId> {
        let all = self.memory.snapshot();
        let metas = all.iter().filter_map(|(name, bytes)| Some((block::parse(name)?, bytes)));
        metas
            .filter(|((_, rest), bytes)| *rest == block::META && BlockMeta::read("m", bytes).is_ok())
            .map(|((id, _), _)| id)
            .collect()
    }

    async fn upload(&mut self, producer: usize, steps: usize) {
        let meta = self.meta();
        let producer = self.producers[producer].clone();
        let body = "0123";
        if steps >= 1 {
            producer.intent(meta.id, vec![File { path: "index".into(), size: 4 }]).await.unwrap();
        }
        if steps >= 2 {
            self.bucket.put(&block::object(meta.id, "index"), body).await.unwrap();
        }
        if steps >= 3 {
            self.bucket.create(&block::object(meta.id, block::META), meta.write().unwrap()).await.unwrap();
        }
        if steps >= 4 {
            producer.commit(&meta).await.unwrap();
            self.committed.insert(meta.id);
        }
    }

    async fn restart(&mut self, producer: usize) {
        let producer = self.producers[producer].clone();
        let truth = self.truth();
        for (id, stage) in producer.own().await.unwrap() {
            if stage == Stage::Intent && truth.contains(&id) {
                let bytes = self.bucket.get(&block::object(id, block::META), 1 << 20).await.unwrap().bytes;
                producer.commit(&BlockMeta::read("m", &bytes).unwrap()).await.unwrap();
                self.committed.insert(id);
            }
        }
    }

    async fn fold(&mut self, entries: usize) {
        let State::Blocks(blocks) = Reader::new(self.bucket.clone()).read().await.unwrap() else { return };
        let truth = self.truth();
        let names: Vec<String> =
            self.bucket.list("panoptes/v1/catalogue").map_ok(|m| m.path).try_collect().await.unwrap();
        let is_commit = |name: &&String| name.ends_with(".commit");
        let number = names.iter().filter(|n| n.contains("snapshot-")).count() as u64 + 1;
        let id = |name: &String| name.rsplit('/').next().unwrap()[..26].parse::<BlockId>().unwrap();
        let snapshot = Snapshot {
            number,
            time_ms: 0,
            holder: "me".into(),
            epoch: 1,
            blocks: blocks.iter().filter(|(id, _)| truth.contains(id)).map(|(_, m)| Arc::clone(m)).collect(),
            folded: names.iter().filter(is_commit).map(id).collect(),
        };
        self.bucket.create(&snapshot_path(number), document::write("snapshot", &snapshot).unwrap()).await.unwrap();
        for name in names.iter().filter(is_commit).take(entries) {
            self.bucket.delete(name).await.unwrap();
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Upload { producer, steps } => self.upload(producer, steps).await,
            Step::Restart { producer } => self.restart(producer).await,
            Step::Foreign { steps } => {
                let meta = self.meta();
                self.bucket.put(&block::object(meta.id, "index"), "0123").await.unwrap();
                if steps >= 2 {
                    self.bucket.put(&block::object(meta.id, block::META), meta.write().unwrap()).await.unwrap();
                }
            }
            Step::Damage { which } | Step::Delete { which } => {
                let truth: Vec<BlockId> = self.truth().into_iter().collect();
                let Some(id) = truth.get(which % truth.len().max(1)) else { return };
                self.went.insert(*id);
                if matches!(step, Step::Delete { .. }) {
                    block::delete(&self.bucket, *id).await.unwrap();
                } else {
                    self.bucket.put(&block::object(*id, block::META), "{").await.unwrap();
                }
            }
            Step::Fold { entries } => self.fold(entries).await,
            Step::Newer => {
                let text = "{\"panoptes\":\"commit\",\"format\":2}\n{}\n";
                let path = format!("panoptes/v1/catalogue/newer/{}.commit", BlockId::from_parts(1, 1));
                self.bucket.put(&path, text).await.unwrap();
            }
            Step::Older => {
                let path = format!("panoptes/v1/catalogue/newer/{}.commit", BlockId::from_parts(1, 1));
                self.bucket.delete(&path).await.unwrap();
            }
            Step::Sync => {
                let view = self.fetcher.sync().await.unwrap();
                self.whole(&view);
                self.went.clear();
            }
            Step::Refresh => {
                let view = self.fetcher.refresh().await.unwrap();
                let (truth, shown) = (self.truth(), view.blocks.keys().copied().collect::<BTreeSet<_>>());
                let hidden: Vec<_> = self.committed.intersection(&truth).filter(|id| !shown.contains(id)).collect();
                assert!(hidden.is_empty(), "committed, there, and not shown: {hidden:?}");
                let ghosts: Vec<_> = shown.difference(&truth).filter(|id| !self.went.contains(id)).collect();
                assert!(ghosts.is_empty(), "shown and never there: {ghosts:?}");
            }
        }
    }

    /// A full listing is the truth, with a reason for what is no block.
    fn whole(&self, view: &View) {
        assert_eq!(view.errors, []);
        assert_eq!(view.blocks.keys().copied().collect::<BTreeSet<_>>(), self.truth());
        let all = self.memory.snapshot();
        let mut partial: BTreeMap<BlockId, bool> = BTreeMap::new();
        for (id, rest) in all.keys().filter_map(|name| block::parse(name)) {
            *partial.entry(id).or_default() |= rest == block::META;
        }
        partial.retain(|id, _| !view.blocks.contains_key(id));
        let shown = view.partial.iter().map(|(id, p)| (*id, matches!(p.reason, Reason::BrokenMeta(_)))).collect();
        assert_eq!(partial, shown);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_hides_a_block(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new();
            for step in steps {
                run.step(step).await;
            }
            run.step(Step::Sync).await;
        });
    }
}

#[tokio::test]
async fn without_a_catalogue_and_with_damage_the_bucket_is_listed() {
    let mut run = Run::new();
    let view = run.fetcher.sync().await.unwrap();
    assert_eq!((view.blocks.len(), view.catalogue_complete, view.catalogue_problem), (0, false, None));
    run.upload(0, 4).await;
    run.upload(1, 4).await;
    assert_eq!(run.fetcher.refresh().await.unwrap().blocks.len(), 2);
    let calls = |run: &Run| run.bucket.meter().total();
    // From here on the catalogue is complete: a refresh is one listing and one read per new block.
    let before = calls(&run);
    run.fetcher.refresh().await.unwrap();
    assert_eq!(calls(&run) - before, 1);
    run.upload(0, 4).await;
    let before = calls(&run);
    assert_eq!(run.fetcher.refresh().await.unwrap().blocks.len(), 3);
    assert_eq!(calls(&run) - before, 2);
    // A block that was deleted, and a fold that left all entries behind: they count no more.
    let gone = *run.truth().iter().next().unwrap();
    block::delete(&run.bucket, gone).await.unwrap();
    run.fold(0).await;
    let view = run.fetcher.refresh().await.unwrap();
    assert_eq!((view.blocks.len(), view.catalogue_complete), (2, true));
    let view = Fetcher::new(run.bucket.clone()).sync().await.unwrap();
    assert_eq!((view.blocks.len(), view.catalogue_complete), (2, true));
    run.upload(0, 4).await;
    // A damaged entry: the bucket is listed, and nothing is lost.
    let newest = run.truth().into_iter().next_back().unwrap().to_string();
    let is_newest = |n: &String| n.ends_with(".commit") && n.contains(&newest);
    let names: Vec<String> = run.memory.snapshot().into_keys().filter(is_newest).collect();
    let mut bytes = run.bucket.get(&names[0], 1 << 20).await.unwrap().bytes.to_vec();
    let at = bytes.len() - 9;
    bytes[at] ^= 1;
    run.bucket.put(&names[0], bytes).await.unwrap();
    let mut fresh = Fetcher::new(run.bucket.clone());
    let view = fresh.sync().await.unwrap();
    assert_eq!((view.blocks.len(), view.catalogue_complete), (3, false));
    assert!(view.catalogue_problem.unwrap().contains("checksum of a commit"));
    assert_eq!(fresh.refresh().await.unwrap().blocks.len(), 3);
}

#[tokio::test]
async fn what_can_not_be_read_is_an_item_and_never_an_empty_bucket() {
    let mut run = Run::new();
    run.upload(0, 4).await;
    run.upload(0, 4).await;
    let faults = Faults::new(run.memory.clone(), World::real().entropy, Plan::default());
    let options = bucket::Options {
        retry: bucket::layers::retry::Policy { attempts: 1, ..suite::options().retry },
        ..suite::options()
    };
    let bucket = Bucket::over(Arc::new(faults.clone()), "b", options);
    faults.set(Plan { denied: vec![bucket::Operation::Get], ..Plan::default() });
    let failed = Fetcher::new(bucket.clone()).sync().await;
    // The catalogue can't be read either: that is an error, not an empty view.
    assert_eq!(failed.unwrap_err().kind, bucket::Kind::Denied);
    faults.set(Plan { denied: vec![bucket::Operation::Iter], ..Plan::default() });
    assert_eq!(Fetcher::new(bucket.clone()).sync().await.unwrap_err().kind, bucket::Kind::Denied);
    // A listing that doesn't show a new block yet: shown by the catalogue, and the view says that both differ.
    let hidden = run.truth().into_iter().next().unwrap().to_string();
    faults.set(Plan { unlisted: vec![format!("{hidden}/meta.json")], ..Plan::default() });
    let view = Fetcher::new(bucket).sync().await.unwrap();
    assert_eq!(view.blocks.len(), 1);
    assert!(view.catalogue_problem.unwrap().contains(&hidden));
}

/// The catalogue entry of a block, by its id.
fn entry(run: &Run, id: BlockId) -> String {
    let name = format!("/{id}.commit");
    run.memory.snapshot().into_keys().find(|n| n.ends_with(&name)).unwrap()
}

#[tokio::test]
async fn an_entry_that_merely_went_hides_no_block_and_loses_no_mark() {
    let mut run = Run::new();
    run.upload(0, 4).await;
    run.upload(0, 4).await;
    let id = run.truth().into_iter().next().unwrap();
    mark::create(&run.bucket, &NoCompactMark::new(id, 7, "manual", "")).await.unwrap();
    assert!(run.fetcher.sync().await.unwrap().catalogue_complete);
    let name = entry(&run, id);
    let bytes = run.bucket.get(&name, 1 << 20).await.unwrap().bytes;
    run.bucket.delete(&name).await.unwrap();
    let view = run.fetcher.refresh().await.unwrap();
    assert!(view.blocks.len() == 2 && view.blocks[&id].marks.no_compact.is_some());
    run.bucket.put(&name, bytes).await.unwrap();
    for _ in 0..3 {
        let view = run.fetcher.refresh().await.unwrap();
        assert!(view.blocks.len() == 2 && view.blocks[&id].marks.no_compact.is_some());
    }
    // It comes back to cheap refreshes.
    assert!(run.fetcher.refresh().await.unwrap().catalogue_complete);
}

#[tokio::test]
async fn a_catalogue_object_that_is_too_large_or_impossible_hides_no_block() {
    let mut run = Run::new();
    run.upload(0, 4).await;
    let path = format!("panoptes/v1/catalogue/x/{}.commit", BlockId::from_parts(1, 1));
    run.bucket.put(&path, vec![b'x'; 17 << 20]).await.unwrap();
    let view = run.fetcher.sync().await.unwrap();
    assert!(view.blocks.len() == 1 && view.catalogue_problem.unwrap().contains(&path));
    assert_eq!(run.fetcher.refresh().await.unwrap().blocks.len(), 1);
    let meta = BlockMeta { min_time: 9, ..BlockMeta::new(BlockId::from_parts(1, 1), 0, 1) };
    let commit = Commit { time_ms: 0, writer: "w".into(), meta };
    run.bucket.put(&path, document::write("commit", &commit).unwrap()).await.unwrap();
    let view = run.fetcher.refresh().await.unwrap();
    assert!(view.blocks.len() == 1 && view.catalogue_problem.unwrap().contains("minTime 9 is after maxTime 1"));
}

#[tokio::test]
async fn a_meta_that_could_not_be_read_is_asked_again() {
    let mut run = Run::new();
    run.upload(0, 4).await;
    let faults = Faults::new(run.memory.clone(), World::real().entropy, Plan::default());
    let options = bucket::Options {
        retry: bucket::layers::retry::Policy { attempts: 1, ..suite::options().retry },
        ..suite::options()
    };
    let bucket = Bucket::over(Arc::new(faults.clone()), "b", options);
    let mut fetcher = Fetcher::new(bucket);
    fetcher.sync().await.unwrap();
    // A foreign block comes whose meta.json is not to be had now; what is known needs no reading.
    run.step(Step::Foreign { steps: 2 }).await;
    faults.set(Plan { denied: vec![bucket::Operation::Get], ..Plan::default() });
    let view = fetcher.sync().await.unwrap();
    assert_eq!((view.blocks.len(), view.errors.len(), view.catalogue_complete), (1, 1, false));
    faults.set(Plan::default());
    let view = fetcher.refresh().await.unwrap();
    assert_eq!((view.blocks.len(), view.errors.len()), (2, 0));
}

#[tokio::test]
async fn a_snapshot_of_many_real_metas_is_read() {
    let bucket = Bucket::memory(suite::options());
    // As small as a sidecar writes one.
    let text = r#"{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":1700000000000,"maxTime":1700007200000,
        "stats":{"numSamples":1,"numSeries":1,"numChunks":1},"compaction":{"level":1,"sources":["01ARZ3NDEKTSV4RRFFQ69G5FAV"]},
        "version":1,"thanos":{"labels":{"a":"b","replica":"0"},"downsample":{"resolution":0},"source":"sidecar",
        "segment_files":["000001"],"files":[{"rel_path":"chunks/000001","size_bytes":4711},
        {"rel_path":"index","size_bytes":815},{"rel_path":"meta.json"}],"index_stats":{}}}"#;
    let meta = BlockMeta::read("m", text.as_bytes()).unwrap();
    let blocks = (0..5_000).map(|n| Arc::new(BlockMeta { id: BlockId::from_parts(n, 1), ..meta.clone() })).collect();
    let snapshot = Snapshot { number: 1, blocks, ..Snapshot::default() };
    bucket.put(&snapshot_path(1), document::write("snapshot", &snapshot).unwrap()).await.unwrap();
    match Reader::new(bucket).read().await.unwrap() {
        State::Blocks(blocks) => assert_eq!(blocks.len(), 5_000),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_producer_knows_what_was_folded() {
    let mut run = Run::new();
    run.upload(0, 1).await;
    let producer = run.producers[0].clone();
    let announced = *producer.own().await.unwrap().keys().next().unwrap();
    let folded = BlockId::from_parts(5, 5);
    for (number, blocks) in [(1, vec![]), (2, vec![folded])] {
        let list = document::write("folded", &Folded { blocks }).unwrap();
        run.bucket.create(&folded_path("a", number), list).await.unwrap();
    }
    let own = producer.own().await.unwrap();
    assert_eq!(own, BTreeMap::from([(announced, Stage::Intent), (folded, Stage::Commit)]));
    // It is no block of anybody's, and no damage.
    assert_eq!(Reader::new(run.bucket.clone()).read().await.unwrap(), State::Blocks(BTreeMap::new()));
    // One that can't be read hides nothing else.
    run.bucket.put(&folded_path("a", 3), "{").await.unwrap();
    assert_eq!(producer.own().await.unwrap(), BTreeMap::from([(announced, Stage::Intent)]));
}

#[tokio::test]
async fn what_tools_write_into_a_meta_is_no_problem_and_anything_else_is() {
    let mut run = Run::new();
    let mut meta = run.meta();
    meta.thanos = Some(Thanos { extensions: Some(serde_json::json!({"a": 1})), ..Thanos::default() });
    let path = block::object(meta.id, block::META);
    run.producers[0].commit(&meta).await.unwrap();
    for (extensions, max_time, problems) in [
        (serde_json::json!({"a": 1, "parquet_migrated": true}), 1, 0),
        (serde_json::json!({"a": 2, "parquet_migrated": true}), 1, 1),
        (serde_json::json!({"parquet_migrated": true}), 1, 1),
        (serde_json::json!({"a": 1}), 2, 1),
    ] {
        let written = BlockMeta {
            max_time,
            thanos: Some(Thanos { extensions: Some(extensions.clone()), ..Thanos::default() }),
            ..meta.clone()
        };
        run.bucket.put(&path, written.write().unwrap()).await.unwrap();
        let view = run.fetcher.sync().await.unwrap();
        assert_eq!(view.blocks[&meta.id].problems.len(), problems, "{extensions} {max_time}");
    }
}
