//! What is read by way of the disk: the same answers, few reads of the bucket, and none of it in memory twice.

use super::bad_input::at_rest;
use super::{Content, House, by_labels, id};
use args::StoreArgs;
use bucket::layers::faults::Plan;
use model::Labels;
use proto::thanos::{LabelMatcher, SeriesRequest};
use std::time::Duration;

/// Chunks of 15 kB, of two blocks with the same labels.
const SERIES: usize = 400;

fn content(half: usize) -> Content {
    let labels = |i: usize| Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{i:06}"))]);
    let chunk = |i: usize| (half as i64 * 20, half as i64 * 20 + 10, 1, vec![(i * 2 + half) as u8; 15_000]);
    (0..SERIES).map(|i| (labels(i), vec![chunk(i)])).collect()
}

fn request() -> SeriesRequest {
    let m = LabelMatcher { r#type: 0, name: "__name__".into(), value: "m".into() };
    SeriesRequest { min_time: 0, max_time: 100, matchers: vec![m], response_batch_size: 64, ..Default::default() }
}

/// Two blocks of 6 MB, one of which tells the sizes of its files.
fn house(cache: u64) -> House {
    let mut house = House::on_disk(StoreArgs::default(), cache);
    fill(&mut house);
    house
}

fn fill(house: &mut House) {
    let external = Labels::from_pairs([("cluster", "ops")]);
    let blocks = [house.write(1, &external, 0, &content(0)), house.write(2, &external, 0, &content(1))];
    house.serve(blocks, Vec::new());
}

async fn is_whole(house: &House) {
    let got = house.series(request()).await.unwrap();
    assert_eq!(got.warnings, Vec::<String>::new());
    let found = by_labels(&got.series);
    let external = Labels::from_pairs([("cluster", "ops")]);
    let want: Content = (content(0).into_iter().zip(content(1)))
        .map(|((labels, first), (_, second))| (labels.overlay(&external), [first, second].concat()))
        .collect();
    assert!(found == want, "{} series, {} wanted: samples were lost or came twice", found.len(), want.len());
    at_rest(house).await;
}

fn ranges(house: &House) -> u64 {
    house.faults.calls().get("get_range").copied().unwrap_or(0)
}

/// Segments hold 20 kB here, one chunk each: so many files, and each is read once.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_comes_by_way_of_the_disk_and_each_byte_once() {
    let house = house(512 << 20);
    is_whole(&house).await;
    let cold = ranges(&house);
    assert!(cold <= 2 * SERIES as u64 + 40, "{cold} reads of 800 files");
    assert!(house.home.ranges.pages().unwrap().len() >= 2 * SERIES, "{:?}", house.home.ranges.pages().unwrap().len());
    // On a busy machine a page may not have been kept.
    let mut read = Vec::new();
    for _ in 0..5 {
        let before = ranges(&house);
        is_whole(&house).await;
        read.push(ranges(&house) - before);
        if read.ends_with(&[0]) {
            break;
        }
    }
    assert!(read.ends_with(&[0]), "it is read again and again: {read:?}");
}

/// What was brought is gone again before it is read: it is read from the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_too_small_only_costs_reads() {
    // The least with which anything is brought near.
    let house = house(17 << 20);
    assert_eq!(house.home.ranges.near() >> 20, 1);
    let (one, two) = tokio::join!(is_whole_beside(&house), is_whole_beside(&house));
    assert_eq!((one, two), (SERIES, SERIES));
    at_rest(&house).await;
    assert_eq!(self::house(1 << 20).home.ranges.near(), 0);
}

async fn is_whole_beside(house: &House) -> usize {
    let got = house.series(request()).await.unwrap();
    assert_eq!(got.warnings, Vec::<String>::new());
    let found = by_labels(&got.series);
    assert!(found.iter().all(|(_, chunks)| chunks.len() == 2));
    found.len()
}

/// A read that never ends is given up, and those who want what it was to bring ask themselves.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_near_is_asked_for_again() {
    // Far longer than a test may take: who waits for the end of a read that hangs waits in vain.
    let mut house = House::with(StoreArgs::default(), Duration::from_secs(3600), Some(512 << 20));
    fill(&mut house);
    // As on a connection that died; of this block nobody asks for sizes, and it is read behind the other one.
    house.faults.set(Plan { hangs: vec![format!("{}/chunks/000007", id(2))], ..Plan::default() });
    let mended = async {
        while ranges(&house) < SERIES as u64 + 60 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        house.faults.set(Plan::default());
    };
    let both = async { tokio::join!(is_whole(&house), mended) };
    tokio::time::timeout(Duration::from_secs(300), both).await.expect("it waits for a read that hangs");
}
