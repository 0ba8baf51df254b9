use super::filters::Policy;
use super::sync::{Options, Status, Syncer};
use super::{Home, Served, Set};
use crate::server::Context;
use crate::storage::Storage;
use crate::storage::selector::Selector;
use crate::store::Trouble;
use crate::store::cache::IndexCache;
use crate::store::headers::{Headers, Limits};
use crate::store::metrics::Metrics;
use crate::store::ranges::Ranges;
use crate::store::series::missing::Lacks;
use args::HeaderStrategy;
use bucket::verify::Right;
use bucket::{Bucket, block, mark};
use model::BlockId;
use model::world::World;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::gcs::Gcs;
use tokio_util::sync::CancellationToken;
use tsdb::BlockMeta;
use tsdb::disk::RealDisk;
use tsdb::marks::DeletionMark;

/// A store gateway's set, followed until dropped.
struct Followed {
    set: Set,
    status: Status,
    home: Arc<Home>,
    stop: CancellationToken,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn yaml(gcs: &Gcs) -> String {
    format!("type: GCS\nconfig:\n  bucket: b\n  endpoint: {}\n", gcs.url())
}

/// Looks at the bucket all the time.
fn follow(gcs: &Gcs, dir: &Path) -> Followed {
    follow_with(gcs, dir, |_| {})
}

fn follow_with(gcs: &Gcs, dir: &Path, change: impl FnOnce(&mut Options)) -> Followed {
    follow_of((&yaml(gcs), ""), dir, change)
}

/// By the content of a configuration, or its file, which is read again when it changes.
fn follow_of(config: (&str, &str), dir: &Path, change: impl FnOnce(&mut Options)) -> Followed {
    let context = Context::new("store", World::real());
    let storage = Storage::new(config, "test", Right::READER, Duration::from_secs(60), &context).unwrap();
    let world = context.world.clone();
    let seconds = Duration::from_secs;
    let limits =
        Limits { open: 10, open_bytes: 1 << 30, disk_bytes: 0, idle: seconds(60), fetches: 4, deadline: seconds(60) };
    let home = Arc::new(Home {
        world: world.clone(),
        headers: Headers::new(dir.to_owned(), Arc::new(RealDisk), world, limits),
        ranges: Ranges::new(),
        cache: IndexCache::new(1 << 20, 1 << 20),
    });
    let all = (i64::MIN, i64::MAX);
    let (set, status, stop) = (Set::default(), Status::default(), CancellationToken::new());
    let mut syncer = Syncer {
        set: set.clone(),
        home: Arc::clone(&home),
        storage: storage.clone().unwrap(),
        options: Options {
            window: ("0000-01-01".parse().unwrap(), "9999-12-31".parse().unwrap()),
            policy: Policy { window: all, selector: Selector::default(), consistency_delay: 0, deletion_delay: 1000 },
            catalogue: Duration::from_millis(200),
            listing: Duration::from_millis(500),
            headers: HeaderStrategy::Lazy,
            header_concurrency: 4,
            meta_concurrency: 4,
            memory: Some(dir.join("blocks")),
        },
        status: status.clone(),
        metrics: Metrics::new(&context.metrics),
    };
    if let Some(storage) = storage.filter(|_| !config.1.is_empty()) {
        let stop = stop.clone();
        tokio::spawn(async move { storage.run(stop).await });
    }
    change(&mut syncer.options);
    tokio::spawn(syncer.run(|| {}, stop.clone()));
    Followed { set, status, home, stop }
}

impl Followed {
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:?}", self.status.state(&self.set));
    }

    fn has(&self, ids: &[BlockId]) -> bool {
        let served = self.set.snapshot();
        served.len() == ids.len() && served.blocks().all(|b| ids.contains(&b.id))
    }
}

fn id(n: u64) -> BlockId {
    BlockId::from_parts(n, 1)
}

async fn put(bucket: &Bucket, n: u64) {
    put_of(bucket, n, &[n], b"x").await;
}

/// A block made of these blocks, with this index.
async fn put_of(bucket: &Bucket, n: u64, sources: &[u64], index: &[u8]) {
    bucket.put(&block::object(id(n), block::INDEX), index.to_vec()).await.unwrap();
    let mut meta = BlockMeta::new(id(n), 0, 1);
    meta.compaction.sources = sources.iter().map(|n| id(*n)).collect();
    bucket.put(&block::object(id(n), block::META), meta.write().unwrap()).await.unwrap();
}

async fn gcs() -> (Gcs, Bucket) {
    let gcs = Gcs::start().unwrap();
    gcs.make_bucket("b");
    let config = bucket::Config::parse(&yaml(&gcs)).unwrap();
    let bucket = Bucket::open(&config, bucket::Options::new(World::real())).unwrap();
    (gcs, bucket)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_follows_the_bucket_and_survives_its_absence() {
    let (gcs, bucket) = gcs().await;
    put(&bucket, 1).await;
    put(&bucket, 2).await;
    let dir = tempfile::tempdir().unwrap();
    let followed = follow(&gcs, dir.path());
    followed.until("two blocks", |f| f.has(&[id(1), id(2)])).await;
    // A foreign block, a mark, a block that is none.
    put(&bucket, 3).await;
    let json = format!(r#"{{"id":"{}","version":1,"deletion_time":1}}"#, id(1));
    mark::create(&bucket, &<DeletionMark as tsdb::marks::Mark>::read("m", json.as_bytes()).unwrap()).await.unwrap();
    bucket.put(&block::object(id(4), block::META), "{").await.unwrap();
    followed.until("one came, one is marked", |f| f.has(&[id(2), id(3)])).await;
    followed.until("a broken one is told", |f| f.status.state(&f.set).missing == 1).await;
    // It has no samples of a time after it was made, and fails nobody.
    assert!(followed.set.snapshot().missing.iter().all(|m| !m.strict && m.max_t < i64::MAX));
    let state = followed.status.state(&followed.set);
    assert_eq!((state.loaded, state.expected, state.missing_blocks[0].block.clone()), (2, 3, id(4).to_string()));
    // It goes under a request, long before the next look would tell.
    let served = followed.set.snapshot();
    let gone = Arc::clone(served.blocks().find(|b| b.id == id(3)).unwrap());
    let there = Arc::clone(served.blocks().find(|b| b.id == id(2)).unwrap());
    block::delete(&bucket, id(3)).await.unwrap();
    put(&bucket, 5).await;
    let newer = followed.set.gone(&gone, &served).await.unwrap();
    let ids: Vec<_> = newer.blocks().map(|b| b.id).collect();
    assert_eq!(ids, [id(2), id(5)]);
    // One of which an object is missing is damaged, and stays told.
    followed.set.gone(&there, &served).await.unwrap();
    assert!(there.trouble().is_some());

    // What is known is left on disk with each listing.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    gcs.deny(&[testkit::gcs::Right::List]);
    followed.until("the failure is told", |f| f.status.state(&f.set).failing_since_ms.is_some()).await;
    assert!(followed.has(&[id(2), id(5)]) && followed.status.state(&followed.set).error.is_some());
    // A start while the bucket can't be read: what the last run knew, and said so.
    let again = follow(&gcs, dir.path());
    // Marks are not remembered.
    again.until("what was remembered", |f| f.has(&[id(1), id(2), id(5)])).await;
    let state = again.status.state(&again.set);
    assert!(state.source == "disk" && state.last_sync_ms.is_none() && state.error.is_some(), "{state:?}");
    // Nothing remembered: nothing is served, and that is no empty bucket.
    let other = tempfile::tempdir().unwrap();
    let empty = follow(&gcs, other.path());
    empty.until("the failure is told", |f| f.status.state(&f.set).error.is_some()).await;
    assert_eq!(empty.set.snapshot().generation, 0);
    gcs.deny(&[]);
    again.until("it is read again", |f| f.has(&[id(2), id(5)]) && f.status.state(&f.set).error.is_none()).await;
    empty.until("the first pass", |f| f.has(&[id(2), id(5)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_json_that_cannot_be_read_now_takes_no_block_away_without_a_word() {
    let (gcs, bucket) = gcs().await;
    put(&bucket, 1).await;
    put(&bucket, 2).await;
    let dir = tempfile::tempdir().unwrap();
    let followed = follow(&gcs, dir.path());
    followed.until("two blocks", |f| f.has(&[id(1), id(2)])).await;
    gcs.deny(&[testkit::gcs::Right::Get]);
    // One that nobody has read yet: it is named.
    put(&bucket, 3).await;
    let names = |f: &Followed| f.set.snapshot().missing.iter().any(|m| m.id == id(3) && m.reason.contains("read now"));
    followed.until("the new one is named", names).await;
    // One that is suspected: whoever asks waits, it is not taken for deleted.
    let served = followed.set.snapshot();
    let one = Arc::clone(served.blocks().find(|b| b.id == id(1)).unwrap());
    let asked = tokio::spawn({
        let (set, one, served) = (followed.set.clone(), Arc::clone(&one), Arc::clone(&served));
        async move { set.gone(&one, &served).await.map(|now| now.len()) }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!asked.is_finished() && one.trouble().is_none() && followed.has(&[id(1), id(2)]));
    gcs.deny(&[]);
    followed.until("all are there", |f| f.has(&[id(1), id(2), id(3)]) && f.set.snapshot().missing.is_empty()).await;
    assert_eq!(asked.await.unwrap().unwrap(), 3);
}

/// What the compactor wrote turns out damaged when it is read: as long as what it was made of is there, nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_found_damaged_gives_way_to_its_sources() {
    let (gcs, bucket) = gcs().await;
    for n in [1, 2] {
        put(&bucket, n).await;
    }
    put_of(&bucket, 9, &[1, 2], b"this is no index").await;
    let dir = tempfile::tempdir().unwrap();
    let followed = follow(&gcs, dir.path());
    followed.until("the compacted block", |f| f.has(&[id(9)])).await;
    let block = followed.set.snapshot().blocks().next().cloned().unwrap();
    assert!(matches!(block.header().await, Err(Trouble::Damaged(_))));
    assert_eq!(followed.status.state(&followed.set).missing, 1);
    followed.until("its sources", |f| f.has(&[id(1), id(2)])).await;
    assert_eq!(followed.status.state(&followed.set).missing, 0);
    // For good: it does not come back with the next look.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(followed.has(&[id(1), id(2)]));
    // One of its sources goes: then it is better than nothing.
    block::delete(&bucket, id(1)).await.unwrap();
    followed.until("all that there is", |f| f.has(&[id(2), id(9)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pass_that_can_not_read_a_meta_json_names_it_and_looks_again_soon() {
    let (gcs, bucket) = gcs().await;
    put(&bucket, 1).await;
    gcs.deny(&[testkit::gcs::Right::Get]);
    let dir = tempfile::tempdir().unwrap();
    let seldom = |options: &mut Options| {
        (options.catalogue, options.listing) = (Duration::from_secs(3600), Duration::from_secs(3600));
    };
    let followed = follow_with(&gcs, dir.path(), seldom);
    followed.until("the first pass", |f| f.set.snapshot().generation > 0).await;
    let served = followed.set.snapshot();
    assert!(served.is_empty() && served.missing.iter().any(|m| m.id == id(1) && m.strict), "{served:?}");
    gcs.deny(&[]);
    // Long before the next pass is due.
    followed.until("it is there", |f| f.has(&[id(1)]) && f.set.snapshot().missing.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eager_index_headers_are_there_before_the_first_query() {
    const INDEX: &[u8] =
        include_bytes!("../../../tsdb/testdata/blocks/prometheus-3.14/01M82BTHEDETCZG07V9EZN2C95/index");
    let (gcs, bucket) = gcs().await;
    for n in [1, 2, 3] {
        put_of(&bucket, n, &[n], if n == 2 { b"this is no index" } else { INDEX }).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let lazy = follow(&gcs, dir.path());
    lazy.until("three blocks", |f| f.has(&[id(1), id(2), id(3)])).await;
    let other = tempfile::tempdir().unwrap();
    let eager = follow_with(&gcs, other.path(), |options| options.headers = HeaderStrategy::Eager);
    eager.until("two index-headers", |f| f.home.headers.files().0 == 2).await;
    // The damaged one is known without a query, and stops no other.
    eager.until("the damaged one is told", |f| f.status.state(&f.set).missing == 1).await;
    assert_eq!(lazy.home.headers.files().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_credentials_are_taken_into_use_and_what_is_known_stays() {
    let (gcs, bucket) = gcs().await;
    for n in [1, 2] {
        put(&bucket, n).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objstore.yml");
    let give = |id: &str| {
        let key = testkit::gcs::key(id, "store@panoptes-test.iam.gserviceaccount.com", &gcs.url()).unwrap();
        std::fs::write(&file, format!("{}  service_account: '{key}'\n", yaml(&gcs))).unwrap();
    };
    give("old");
    gcs.accept_keys(&["old"]);
    let followed = follow_of(("", file.to_str().unwrap()), dir.path(), |_| {});
    followed.until("two blocks", |f| f.has(&[id(1), id(2)])).await;
    let block = followed.set.snapshot().blocks().next().cloned().unwrap();
    gcs.accept_keys(&["new"]);
    followed.until("the refusal is told", |f| f.status.state(&f.set).error.is_some()).await;
    assert!(followed.has(&[id(1), id(2)]), "what was served is served on");
    give("new");
    followed.until("it is read again", |f| f.status.state(&f.set).error.is_none()).await;
    // The same blocks, read with the new ones.
    assert!(followed.set.snapshot().blocks().any(|b| Arc::ptr_eq(b, &block)));
    let read = block.index(std::slice::from_ref(&(0..1)), &crate::store::ranges::Budget::new(0)).await;
    assert_eq!(read.unwrap(), ["x"]);
}

/// Blocks that nobody can read.
fn blocks(count: u64) -> Vec<Arc<super::Block>> {
    let limits =
        Limits { open: 1, open_bytes: 1, disk_bytes: 0, idle: Duration::ZERO, fetches: 1, deadline: Duration::ZERO };
    let home = Arc::new(Home {
        world: World::real(),
        headers: Headers::new("x".into(), Arc::new(RealDisk), World::real(), limits),
        ranges: Ranges::new(),
        cache: IndexCache::new(1, 1),
    });
    let block = |n| super::Block::new(&BlockMeta::new(id(n), 0, 1), model::Labels::default(), Arc::clone(&home));
    (1..=count).map(|n| Arc::new(block(n))).collect()
}

#[tokio::test]
async fn many_blocks_that_went_together_are_one_look() {
    let (set, all) = (Set::default(), blocks(20));
    set.replace(Served::new(1, all.clone(), Vec::new()));
    let seen = set.snapshot();
    // Takes away what is suspected, and nothing else.
    let (other, looks) = (set.clone(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&looks);
    let looking = tokio::spawn(async move {
        loop {
            other.suspicion().await;
            let (now, gone) = (other.snapshot(), other.suspects());
            let left = now.blocks().filter(|b| !gone.iter().any(|g| Arc::ptr_eq(b, g))).cloned();
            other.replace(Served::new(now.generation + 1, left, Vec::new()));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Two requests that began with the same set: the second one's are known to be gone.
    for _ in 0..2 {
        let troubles = all.iter().map(|b| (Arc::clone(b), Trouble::Gone("no such object".into()))).collect();
        let (mut lacks, mut excluded) = (Lacks::default(), BTreeSet::new());
        let now = lacks.around(&set, Arc::clone(&seen), troubles, &mut excluded).await.unwrap();
        assert!(now.is_empty() && excluded.is_empty() && lacks.take().is_empty());
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }
    looking.abort();
}
