use super::*;
use crate::store::blocks::Home;
use crate::store::cache::IndexCache;
use crate::store::ranges::File;
use crate::store::ranges::Ranges;
use bucket::{Bucket, Memory, Options};
use model::Labels;
use tsdb::BlockMeta;
use tsdb::disk::RealDisk;

const INDEX: &[u8] = include_bytes!("../../../tsdb/testdata/blocks/prometheus-3.14/01M82BTHEDETCZG07V9EZN2C95/index");

struct House {
    dir: tempfile::TempDir,
    bucket: Bucket,
    home: Arc<Home>,
}

fn house(open: usize) -> House {
    house_of(open, 0)
}

fn house_of(open: usize, disk_bytes: u64) -> House {
    let (dir, world) = (tempfile::tempdir().unwrap(), World::real());
    let memory = Arc::new(Memory::new(Arc::clone(&world.clock)));
    let bucket = Bucket::over(memory, "b", Options::new(world.clone()));
    let seconds = Duration::from_secs;
    let limits = Limits { open, open_bytes: 1 << 30, disk_bytes, idle: seconds(0), fetches: 4, deadline: seconds(60) };
    let headers = Headers::new(dir.path().to_owned(), Arc::new(RealDisk), world.clone(), limits);
    let ranges = Ranges::new();
    ranges.use_bucket(bucket.clone());
    let home = Arc::new(Home { world, headers, ranges, cache: IndexCache::new(1 << 20, 1 << 20) });
    House { dir, bucket, home }
}

impl House {
    async fn block(&self, n: u64, index: &[u8]) -> Arc<Block> {
        let meta = BlockMeta::new(BlockId::from_parts(n, 1), 0, 1);
        self.put(&meta, index).await
    }

    async fn put(&self, meta: &BlockMeta, index: &[u8]) -> Arc<Block> {
        self.bucket.put(&File::Index.object(meta.id), index.to_vec()).await.unwrap();
        Arc::new(Block::new(meta, Labels::empty(), Arc::clone(&self.home)))
    }

    fn file(&self, block: &Block) -> PathBuf {
        self.home.headers.shared.path(&block.edition())
    }

    fn count(&self, count: fn(&Counts) -> &AtomicU64) -> u64 {
        count(self.home.headers.counts()).load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wait_for_one_fetch_and_damage_on_disk_costs_another() {
    let house = house(10);
    let block = house.block(1, INDEX).await;
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let block = Arc::clone(&block);
            tokio::spawn(async move { block.header().await.map(|h| h.table().len()) })
        })
        .collect();
    for one in waiting {
        assert!(one.await.unwrap().unwrap() > 10);
    }
    assert_eq!(house.count(|c| &c.fetched), 1);
    let whole = std::fs::read(house.file(&block)).unwrap();
    let mut expected = 1;
    // Everywhere in the file, and cut short as by a crash.
    for at in (0..whole.len()).step_by(whole.len() / 25) {
        let mut bad = whole.clone();
        bad[at] ^= 0x20;
        for content in [&bad[..], &whole[..at]] {
            house.home.headers.close_idle();
            // A new file, since the old one may be mapped.
            std::fs::remove_file(house.file(&block)).unwrap();
            std::fs::write(house.file(&block), content).unwrap();
            let header = block.header().await.unwrap();
            assert!(header.table().find("__name__", "up").is_some() || header.table().len() > 10);
            expected += 1;
            assert_eq!(house.count(|c| &c.fetched), expected, "byte {at} of {}", whole.len());
            assert_eq!(std::fs::read(house.file(&block)).unwrap(), whole);
        }
    }
    assert_eq!(house.count(|c| &c.rebuilt), expected - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_told_left_alone_for_a_while_and_stops_no_other() {
    let house = house(10);
    let mut bad = INDEX.to_vec();
    let end = bad.len() - 10;
    bad[end] ^= 1;
    let (broken, good) = (house.block(1, &bad).await, house.block(2, INDEX).await);
    assert!(matches!(broken.header().await, Err(Trouble::Damaged(_))));
    assert!(broken.trouble().unwrap().contains("index"), "{:?}", broken.trouble());
    assert!(good.header().await.is_ok() && good.trouble().is_none());
    let before = house.bucket.meter().total();
    for _ in 0..10 {
        assert!(matches!(broken.header().await, Err(Trouble::Damaged(_))));
    }
    assert_eq!(house.bucket.meter().total(), before, "asked again although nothing can have changed");
    assert!(!house.file(&broken).exists());
    house.bucket.delete(&File::Index.object(good.id)).await.unwrap();
    house.home.headers.sweep(|_| false).await.unwrap();
    assert!(matches!(good.header().await, Err(Trouble::Gone(_))) && good.trouble().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn few_are_open_idle_ones_are_closed_and_those_of_gone_blocks_are_swept() {
    let house = house(3);
    let mut blocks = Vec::new();
    for n in 0..8 {
        let block = house.block(n, INDEX).await;
        block.header().await.unwrap();
        blocks.push(block);
    }
    assert_eq!((house.home.headers.open().0, house.count(|c| &c.unloads)), (3, 5));
    let held = blocks[7].header().await.unwrap();
    house.home.headers.close_idle();
    assert_eq!(house.home.headers.open(), (0, 0));
    let keep = blocks[2].id;
    house.home.headers.sweep(move |edition| edition.id == keep).await.unwrap();
    let there: Vec<bool> = blocks.iter().map(|b| house.file(b).exists()).collect();
    assert_eq!(there.iter().filter(|t| **t).count(), 1);
    assert!(there[2] && held.table().len() > 10, "who holds one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_bounded_and_who_holds_a_removed_one_goes_on() {
    let size = {
        let house = house(10);
        house.block(1, INDEX).await.header().await.unwrap().size()
    };
    // Room for three.
    let house = house_of(10, size * 7 / 2);
    let mut blocks = Vec::new();
    for n in 0..6 {
        blocks.push(house.block(n, INDEX).await);
    }
    let held = blocks[0].header().await.unwrap();
    for block in &blocks[1..3] {
        block.header().await.unwrap();
    }
    // The first is used again: the second goes, and then the third.
    blocks[0].header().await.unwrap();
    blocks[3].header().await.unwrap();
    blocks[4].header().await.unwrap();
    let there = |house: &House| blocks.iter().map(|b| house.file(b).exists()).collect::<Vec<_>>();
    assert_eq!(there(&house), [true, false, false, true, true, false]);
    assert_eq!((house.home.headers.files(), house.home.headers.open().0), ((3, 3 * size), 3));
    assert_eq!(house.count(|c| &c.evicted), 2);
    blocks[1].header().await.unwrap();
    assert!(there(&house)[1] && !there(&house)[0], "it is fetched again, and the oldest goes");
    assert!(held.table().len() > 10 && held.symbols().lookup(1).is_ok());
    // Nothing is fetched ahead when there is no room left.
    let before = house.count(|c| &c.fetched);
    blocks[1].prefetch().await.unwrap();
    assert_eq!(house.count(|c| &c.fetched), before);

    // After a restart what lies there counts, what is none goes, and a smaller limit is kept.
    let folder = house.file(&blocks[1]).parent().unwrap().to_owned();
    std::fs::write(folder.join("x.tmp"), "half").unwrap();
    std::fs::create_dir(house.dir.path().join(blocks[0].id.to_string())).unwrap();
    let limits = Limits { disk_bytes: 2 * size, ..house.home.headers.shared.limits };
    let again = Headers::new(house.dir.path().to_owned(), Arc::new(RealDisk), World::real(), limits);
    again.scan().await.unwrap();
    assert_eq!(again.files(), (2, 2 * size));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    assert!(!house.dir.path().join(blocks[0].id.to_string()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_was_written_anew_is_another_one() {
    let house = house(10);
    let first = house.block(1, INDEX).await;
    first.header().await.unwrap();
    // The same id, another content; and the same in another bucket.
    let mut meta = BlockMeta::new(first.id, 0, 1);
    meta.stats.num_series = 7;
    let anew = house.put(&meta, INDEX).await;
    anew.header().await.unwrap();
    assert_eq!((house.count(|c| &c.fetched), house.home.headers.files().0), (2, 2));
    let elsewhere = house.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let store = bucket::Directory::new(elsewhere, World::real().entropy);
    let other = Bucket::over(Arc::new(store), "other", Options::new(World::real()));
    house.home.ranges.use_bucket(other);
    house.home.headers.close_idle();
    let gone = first.index(std::slice::from_ref(&(0..9)), &crate::store::ranges::Budget::new(0)).await;
    assert!(matches!(gone, Err(Trouble::Gone(_))), "{gone:?}");
    let elsewhere = Arc::new(Block::new(&meta, Labels::empty(), Arc::clone(&house.home)));
    assert!(matches!(elsewhere.header().await, Err(Trouble::Gone(_))), "it is not there");
    // What is kept of the one is not given for the other.
    assert_eq!(house.home.headers.files().0, 2);
    house.home.headers.sweep(move |edition| *edition == anew.edition()).await.unwrap();
    assert_eq!(house.home.headers.files().0, 1);
}
