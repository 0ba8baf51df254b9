use super::*;
use bucket::layers::faults::{Faults, Plan};
use bucket::{Memory, Options};
use model::world::World;
use std::sync::Arc;

const SIZE: usize = 3_000_000;

/// Of the bucket that is in use.
fn edition(ranges: &Ranges) -> Edition {
    Edition { id: BlockId::from_parts(1, 1), bucket: ranges.in_use(), content: 7 }
}

fn just(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|i| (i * 31 / 7) as u8).collect()
}

async fn bucket() -> (Bucket, Faults) {
    let memory = Memory::new(World::real().clock);
    let faults = Faults::new(memory, World::real().entropy, Plan::default());
    let bucket = Bucket::over(Arc::new(faults.clone()), "b", Options::new(World::real()));
    bucket.put(&File::Index.object(BlockId::from_parts(1, 1)), content()).await.unwrap();
    (bucket, faults)
}

fn pages(dir: &tempfile::TempDir, bytes: u64) -> Option<Arc<Pages>> {
    let pages = Pages::open(&dir.path().join("pages"), bytes).unwrap();
    pages.load();
    Some(Arc::new(pages))
}

async fn check(ranges: &Ranges, wanted: &[Range<u64>]) -> Budget {
    let budget = Budget::new(0);
    let got = ranges.read(edition(ranges), (File::Index, SIZE as u64), wanted, &budget).await.unwrap();
    let content = content();
    for (range, bytes) in wanted.iter().zip(&got) {
        assert!(bytes[..] == content[range.start as usize..range.end as usize], "{range:?}");
    }
    budget
}

/// Until what was read has been written.
async fn settled(ranges: &Ranges, pages: usize) {
    for _ in 0..500 {
        if ranges.pages().unwrap().len() >= pages {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} pages are kept, not {pages}", ranges.pages().unwrap().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_not_read_again_not_even_after_a_restart() {
    let (bucket, _) = bucket().await;
    let dir = tempfile::tempdir().unwrap();
    let ranges = Ranges::with(Limits::default(), pages(&dir, 8 << 20));
    ranges.use_bucket(bucket.clone());
    let wanted = [5..70_000, 100_000..100_001, 2_999_990..3_000_000, 7..7, 40_000..40_010];
    let first = check(&ranges, &wanted).await;
    assert_eq!(first.requests(), 2, "two places far from each other");
    settled(&ranges, 5).await;
    assert_eq!(check(&ranges, &wanted).await.requests(), 0);
    // A part of it is there.
    assert_eq!(check(&ranges, &just(60_000..200_000)).await.requests(), 1);
    settled(&ranges, 8).await;
    drop(ranges);
    let again = Ranges::with(Limits::default(), pages(&dir, 8 << 20));
    again.use_bucket(bucket.clone());
    assert_eq!(check(&again, &wanted).await.requests(), 0);
    // Before it has looked at the file it knows nothing.
    let late = Pages::open(&dir.path().join("pages"), 8 << 20).unwrap();
    let late = Ranges::with(Limits::default(), Some(Arc::new(late)));
    late.use_bucket(bucket.clone());
    assert_eq!(check(&late, &wanted).await.requests(), 2);
    // Of a block that was written anew nothing is known, and not of one in another bucket.
    let read = |edition: Edition| {
        let (ranges, wanted) = (again.clone(), wanted.clone());
        async move {
            let budget = Budget::new(0);
            ranges.read(edition, (File::Index, SIZE as u64), &wanted, &budget).await.map(|_| budget.requests())
        }
    };
    let known = edition(&again);
    assert_eq!(read(known).await.unwrap(), 0);
    assert_eq!(read(Edition { content: 8, ..known }).await.unwrap(), 2);
    assert!(matches!(read(Edition { bucket: 1, ..known }).await, Err(Trouble::Gone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_read_again_and_a_small_cache_stays_small() {
    let (bucket, _) = bucket().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages");
    let ranges = Ranges::with(Limits::default(), pages(&dir, 4 << 20));
    ranges.use_bucket(bucket.clone());
    let wanted = just(0..200_000);
    check(&ranges, &wanted).await;
    settled(&ranges, 7).await;
    let mut bytes = std::fs::read(&path).unwrap();
    for at in (20..bytes.len()).step_by(40_000) {
        bytes[at] ^= 0x10;
    }
    // In place, under the open file, and then the end cut off.
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    assert!(check(&ranges, &wanted).await.requests() > 0);
    assert!(ranges.pages().unwrap().damaged.load(Ordering::Relaxed) >= 4);
    drop(ranges);
    let ranges = Ranges::with(Limits::default(), pages(&dir, 10 * (page::NAME as u64 + page::PAGE)));
    ranges.use_bucket(bucket.clone());
    check(&ranges, &just(0..1_000_000)).await;
    check(&ranges, &just(1_000_000..2_500_000)).await;
    check(&ranges, &just(0..3_000_000)).await;
    assert!(ranges.pages().unwrap().len() <= 10 && std::fs::metadata(&path).unwrap().len() <= 10 * page::PAGE);
    // Deleted under it: it goes on.
    std::fs::remove_file(&path).unwrap();
    check(&ranges, &just(0..1_000_000)).await;
}

/// A sector that is damaged costs its page, not the call; neither do pages that are gone in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_sector_costs_one_page() {
    let (bucket, _) = bucket().await;
    let dir = tempfile::tempdir().unwrap();
    let ranges = Ranges::with(Limits::default(), pages(&dir, 8 << 20));
    ranges.use_bucket(bucket.clone());
    let all = just(0..SIZE as u64);
    check(&ranges, &all).await;
    let total = SIZE.div_ceil(page::PAGE as usize);
    settled(&ranges, total).await;
    // Slots are in the order of pages: this is the 41st, and its last sector.
    let path = dir.path().join("pages");
    let contents = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let damage = |at: u64| std::os::unix::fs::FileExt::write_all_at(&contents, b"damaged", at).unwrap();
    damage(41 * page::PAGE - 100);
    let counts = || {
        let pages = ranges.pages().unwrap();
        [&pages.damaged, &pages.hits, &pages.requests].map(|n| n.load(Ordering::Relaxed) as usize)
    };
    let before = counts();
    let budget = check(&ranges, &all).await;
    assert_eq!((budget.requests(), budget.fetched()), (1, page::PAGE));
    let after = counts();
    assert_eq!([0, 1, 2].map(|n| after[n] - before[n]), [1, total - 1, total]);
    settled(&ranges, total).await;
    assert_eq!(check(&ranges, &all).await.requests(), 0, "it is kept again");
    // A sector that nobody wants, beside one that is wanted.
    damage(20 * page::PAGE + 20_000);
    let first = 20 * page::PAGE;
    assert_eq!(check(&ranges, &just(first..first + 5000)).await.requests(), 0);
    // Two in a page, and a range that begins before it and ends behind it.
    damage(20 * page::PAGE);
    let budget = check(&ranges, &[first - 10..first + 10, first + 19_000..first + 90_000]).await;
    assert_eq!((budget.requests(), budget.fetched()), (1, page::PAGE));
    // Cut off: what is left is given.
    settled(&ranges, total).await;
    contents.set_len(50 * page::PAGE).unwrap();
    let budget = check(&ranges, &[0..100_000, 49 * page::PAGE..SIZE as u64]).await;
    assert!(budget.fetched() >= SIZE as u64 - 50 * page::PAGE, "{budget:?}");
    assert_eq!(check(&ranges, &just(0..100_000)).await.requests(), 0);
}

/// Quadratic, this would take minutes.
#[test]
fn a_hundred_thousand_parts_beside_as_many_runs() {
    let part = |n: u64| (n * 10, Bytes::new());
    let mut parts: Vec<_> = (0..200_000).map(part).collect();
    let runs: Vec<_> = (0..200_000u64).map(|n| n * 20 + 5..n * 20 + 15).collect();
    outside(&mut parts, &runs);
    assert!(parts.len() == 100_000 && parts.iter().all(|(at, _)| at % 20 == 0));
    outside(&mut parts, &[]);
    assert_eq!(parts.len(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_those_of_their_contents_give_nothing() {
    let (bucket, _) = bucket().await;
    let dir = tempfile::tempdir().unwrap();
    let wanted = just(0..200_000);
    let ranges = Ranges::with(Limits::default(), pages(&dir, 4 << 20));
    ranges.use_bucket(bucket.clone());
    check(&ranges, &wanted).await;
    settled(&ranges, 7).await;
    drop(ranges);
    // Two change places, one is damaged.
    let path = dir.path().join("pages.names");
    let mut names = std::fs::read(&path).unwrap();
    assert_eq!(names.len(), 7 * page::NAME);
    let (first, rest) = names.split_at_mut(page::NAME);
    first.swap_with_slice(&mut rest[..page::NAME]);
    names[3 * page::NAME + 50] ^= 1;
    std::fs::write(&path, &names).unwrap();
    let ranges = Ranges::with(Limits::default(), pages(&dir, 4 << 20));
    ranges.use_bucket(bucket.clone());
    assert_eq!(ranges.pages().unwrap().len(), 6);
    assert!(check(&ranges, &wanted).await.requests() > 0);
    assert!(ranges.pages().unwrap().damaged.load(Ordering::Relaxed) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_the_same_read_once_and_one_who_leaves_does_no_harm() {
    let (bucket, faults) = bucket().await;
    faults.set(Plan { delay: Duration::from_millis(200), ..Plan::default() });
    let ranges = Ranges::new();
    ranges.use_bucket(bucket.clone());
    let before = bucket.meter().total();
    let one = |ranges: Ranges| async move { check(&ranges, &[10..20, 2_000_000..2_000_001]).await };
    let leaving = tokio::spawn(one(ranges.clone()));
    let others: Vec<_> = (0..20).map(|_| tokio::spawn(one(ranges.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    leaving.abort();
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(bucket.meter().total() - before, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_and_ends_are_kept() {
    let (bucket, _) = bucket().await;
    let ranges = Ranges::new();
    let read = |wanted: Range<u64>, size: u64, limit: u64| {
        let ranges = ranges.clone();
        async move { ranges.read(edition(&ranges), (File::Index, size), &[wanted], &Budget::new(limit)).await }
    };
    assert!(matches!(read(0..9, 0, 0).await, Err(Trouble::Unavailable(_))), "no bucket yet");
    ranges.use_bucket(bucket);
    assert!(matches!(read(0..1001, 0, 1000).await, Err(Trouble::OverBudget { limit: 1000 })));
    assert!(matches!(read(0..SIZE as u64 + 1, 0, 0).await, Err(Trouble::Damaged(_))));
    let other = Edition { id: BlockId::from_parts(9, 9), ..edition(&ranges) };
    let gone = ranges.read(other, (File::Segment(1), 0), &just(0..1), &Budget::new(0)).await;
    assert!(matches!(gone, Err(Trouble::Gone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_hangs_is_sent_again_and_few_of_them_are() {
    let (bucket, faults) = bucket().await;
    let limits = Limits { concurrency: 4, deadline: Duration::from_secs(10) };
    let ranges = Ranges::with(limits, None);
    ranges.use_bucket(bucket.clone());
    let hanging = || Plan { hangs: vec!["index".into()], ..Plan::default() };
    let slow = |at: u64| {
        let ranges = ranges.clone();
        tokio::spawn(async move { check(&ranges, &just(at..at + 10)).await })
    };
    // The first try never ends; the second finds the store well again.
    faults.set(hanging());
    let reading = slow(0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    faults.set(Plan::default());
    let begin = World::real().clock.elapsed();
    reading.await.unwrap();
    assert!(World::real().clock.elapsed().saturating_sub(begin) < Duration::from_secs(9));
    assert_eq!(ranges.hedged(), 1);
    // One read in ten at most: this one ends by its deadline, which is told, and gives its turn back.
    faults.set(hanging());
    let late = ranges.read(edition(&ranges), (File::Index, SIZE as u64), &just(0..10), &Budget::new(0)).await;
    assert!(matches!(&late, Err(Trouble::Unavailable(what)) if what.contains("did not come within 10s")), "{late:?}");
    assert_eq!((ranges.hedged(), ranges.shared.turns.available_permits()), (1, 4));
    faults.set(Plan::default());
    for n in 0..20 {
        check(&ranges, &just(n * 100..n * 100 + 10)).await;
    }
    faults.set(hanging());
    let reading = slow(5000);
    tokio::time::sleep(Duration::from_millis(100)).await;
    faults.set(Plan::default());
    reading.await.unwrap();
    assert_eq!(ranges.hedged(), 2);
}

#[test]
fn a_small_slice_does_not_keep_a_large_buffer() {
    let parts = [(0, Bytes::from(vec![1u8; 32 << 10])), (1 << 20, Bytes::from(vec![2u8; 100]))];
    let got = cut(&[5..100, 0..20_000, (1 << 20) + 1..(1 << 20) + 99], &parts).unwrap();
    let is_slice = |of: &Bytes, part: &Bytes| part.as_ptr_range().contains(&of.as_ptr());
    assert_eq!(got.iter().map(Bytes::len).collect::<Vec<_>>(), [95, 20_000, 98]);
    assert!(!is_slice(&got[0], &parts[0].1) && is_slice(&got[1], &parts[0].1) && is_slice(&got[2], &parts[1].1));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
    /// Whatever was asked before, and however little of it was kept, what comes is what lies in the bucket.
    #[test]
    fn any_ranges_after_any_others(
        asked in proptest::collection::vec(proptest::collection::vec((0u64..SIZE as u64, 0u64..90_000), 1..6), 1..6), slots in 1u64..60,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (bucket, _) = bucket().await;
            let dir = tempfile::tempdir().unwrap();
            let ranges = Ranges::with(Limits::default(), pages(&dir, slots * (page::NAME as u64 + page::PAGE)));
            ranges.use_bucket(bucket.clone());
            for wanted in asked {
                let wanted: Vec<Range<u64>> = wanted.iter().map(|(a, n)| *a..(a + n).min(SIZE as u64)).collect();
                check(&ranges, &wanted).await;
                let busy = &ranges.pages().unwrap().writes;
                while busy.available_permits() < page::WRITES {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
}
