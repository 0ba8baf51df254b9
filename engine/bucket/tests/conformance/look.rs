//! How closely a reader looks at a bucket, what that costs, and what it believes.

use crate::suite;
use bucket::catalogue::{Snapshot, snapshot_path};
use bucket::fetch::{Depth, Fetcher, Reason};
use bucket::layers::faults::{Faults, Plan};
use bucket::{Bucket, Memory, block, document};
use model::BlockId;
use model::world::World;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::meta::{File, Thanos};

const BLOCKS: u64 = 2_500;

fn meta(n: u64) -> Arc<BlockMeta> {
    let mut meta = BlockMeta::new(BlockId::from_parts(1_000 + n, 1), 0, 1);
    meta.thanos = Some(Thanos { files: vec![File::new("index", 4)], ..Thanos::default() });
    Arc::new(meta)
}

async fn put(bucket: &Bucket, meta: &BlockMeta) {
    bucket.put(&block::object(meta.id, "index"), "0123").await.unwrap();
    bucket.put(&block::object(meta.id, block::META), meta.write().unwrap()).await.unwrap();
}

async fn bucket() -> (Bucket, Faults) {
    let faults = Faults::new(Memory::new(World::real().clock), World::real().entropy, Plan::default());
    let options = bucket::Options {
        retry: bucket::layers::retry::Policy { attempts: 1, ..suite::options().retry },
        ..suite::options()
    };
    let bucket = Bucket::over(Arc::new(faults.clone()), "b", options);
    for n in 0..BLOCKS {
        put(&bucket, &meta(n)).await;
    }
    (bucket, faults)
}

async fn fold(bucket: &Bucket, number: u64, blocks: impl Iterator<Item = u64>) {
    let snapshot = Snapshot { number, blocks: blocks.map(meta).collect(), ..Snapshot::default() };
    bucket.put(&snapshot_path(number), document::write("snapshot", &snapshot).unwrap()).await.unwrap();
}

/// Requests of one look, and the blocks that it shows.
async fn look(bucket: &Bucket, fetcher: &mut Fetcher, depth: Depth) -> (u64, usize) {
    let before = bucket.meter().total();
    let blocks = fetcher.look(depth).await.unwrap().blocks.len();
    (bucket.meter().total() - before, blocks)
}

#[tokio::test]
async fn a_start_from_the_catalogue_reads_no_meta_and_misses_no_foreign_block() {
    let (bucket, _) = bucket().await;
    fold(&bucket, 1, 0..BLOCKS - 1).await;
    let mut fetcher = Fetcher::new(bucket.clone()).trusting(16);
    // The catalogue's listing and its snapshot, three pages of folders, and the block that nobody told of.
    let (requests, blocks) = look(&bucket, &mut fetcher, Depth::Catalogue).await;
    assert!(requests <= 2 + BLOCKS.div_ceil(1000) + 1, "{requests} requests");
    assert_eq!(blocks as u64, BLOCKS);
    assert_eq!(look(&bucket, &mut fetcher, Depth::Catalogue).await, (1, BLOCKS as usize), "idle");
    // All objects: pages, and no meta.json that was committed or is known; a second time nothing but pages.
    let pages = (2 * BLOCKS + 1).div_ceil(1000);
    let (requests, _) = look(&bucket, &mut fetcher, Depth::Objects).await;
    assert!(requests <= pages + 3, "{requests} requests for {pages} pages");
    let view = fetcher.look(Depth::Objects).await.unwrap();
    assert!(view.listed && view.blocks.values().all(|b| b.problems.is_empty() && b.bytes > 4));
    // A restart that remembers, without a catalogue: pages alone.
    bucket.delete(&snapshot_path(1)).await.unwrap();
    let mut again = Fetcher::new(bucket.clone()).trusting(16);
    for (meta, (version, size, modified)) in fetcher.remembered() {
        again.remember(Arc::clone(meta), (version.clone(), size, modified));
    }
    assert_eq!(again.recall().unwrap().blocks.len() as u64, BLOCKS);
    let (requests, blocks) = look(&bucket, &mut again, Depth::Objects).await;
    assert!(requests <= pages + 2 && blocks as u64 == BLOCKS, "{requests} requests");
    // No catalogue, nothing remembered: one more read per block.
    let (requests, _) = look(&bucket, &mut Fetcher::new(bucket.clone()).trusting(16), Depth::Catalogue).await;
    assert!(requests >= BLOCKS && requests <= BLOCKS + pages + 3, "{requests} requests");
}

#[tokio::test]
async fn what_is_gone_stays_gone_whatever_the_catalogue_tells_and_what_is_there_stays() {
    let (bucket, faults) = bucket().await;
    fold(&bucket, 1, 0..BLOCKS).await;
    let mut fetcher = Fetcher::new(bucket.clone()).trusting(16);
    fetcher.look(Depth::Objects).await.unwrap();
    let (gone, half, there) = (meta(3).id, meta(4).id, meta(5).id);
    block::delete(&bucket, gone).await.unwrap();
    bucket.delete(&block::object(half, block::META)).await.unwrap();
    let successor = meta(BLOCKS + 7);
    put(&bucket, &successor).await;
    fetcher.doubt([gone, half, there]);
    let view = fetcher.look(Depth::Names).await.unwrap();
    let shown = |id: BlockId| view.blocks.contains_key(&id);
    assert_eq!([gone, half, there, successor.id].map(shown), [false, false, true, true]);
    assert_eq!(view.partial[&half].reason, Reason::NoMeta);
    // The catalogue tells of both still.
    let view = fetcher.look(Depth::Catalogue).await.unwrap();
    assert!(!view.blocks.contains_key(&half));
    let view = fetcher.look(Depth::Objects).await.unwrap();
    assert!(!view.blocks.contains_key(&gone) && view.blocks.contains_key(&successor.id));
    // A look that fails takes nothing away.
    faults.set(Plan { denied: vec![bucket::Operation::Iter], ..Plan::default() });
    assert!(fetcher.look(Depth::Names).await.is_err() && fetcher.look(Depth::Objects).await.is_err());
    faults.set(Plan::default());
    assert_eq!(look(&bucket, &mut fetcher, Depth::Names).await.1 as u64, BLOCKS - 1);
}
