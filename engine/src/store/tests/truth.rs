//! Damage, blocks that go away under a request, limits: what an answer says, and what it never does.

use super::{Content, House, by_labels};
use crate::store::blocks::sync::Status;
use crate::store::blocks::{Missing, Served};
use args::StoreArgs;
use model::Labels;
use prost::Message as _;
use proto::hints::{SeriesRequestHints, SeriesResponseHints};
use proto::thanos::store_server::Store as _;
use proto::thanos::{LabelMatcher, LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;
use tonic::{Code, Request};

fn external() -> Labels {
    Labels::from_pairs([("cluster", "ops")])
}

/// `n` series of chunks of `size` bytes.
fn content(n: usize, size: usize) -> Content {
    (0..n)
        .map(|i| {
            let labels = Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{i:06}"))]);
            (labels, vec![(0, 10, 1, vec![i as u8; size]), (20, 30, 1, vec![i as u8; size])])
        })
        .collect()
}

fn request() -> SeriesRequest {
    let m = LabelMatcher { r#type: 0, name: "__name__".into(), value: "m".into() };
    SeriesRequest { min_time: 0, max_time: 100, matchers: vec![m], response_batch_size: 64, ..Default::default() }
}

fn corrupt(path: &std::path::Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_costs_itself_and_is_named() {
    let mut house = House::new(StoreArgs::default());
    let content = content(100, 50);
    let block = house.write(1, &external(), 0, &content);
    corrupt(&house.block_dir(1).join("chunks/000001"), 1000);
    house.serve([block], Vec::new());
    let got = house.series(request()).await.unwrap();
    assert_eq!(got.warnings.len(), 1, "{:?}", got.warnings);
    let text = &got.warnings[0];
    assert!(
        text.contains(&super::id(1).to_string()) && text.contains("chunks/000001") && text.contains("cluster"),
        "{text}"
    );
    let found = by_labels(&got.series);
    let chunks: usize = found.iter().map(|(_, c)| c.len()).sum();
    assert_eq!(chunks, 199);
    for (labels, chunks) in &found {
        let own = content.iter().find(|(l, _)| l.overlay(&external()) == *labels).unwrap();
        assert!(chunks.iter().all(|c| own.1.contains(c)));
    }
    let abort = SeriesRequest { partial_response_disabled: true, ..request() };
    let status = house.series(abort).await.unwrap_err();
    assert!(status.code() == Code::Aborted && status.message().contains("chunks/000001"), "{status}");
    // It is listed, and goes on being read.
    let state = Status::default().state(&house.set);
    assert_eq!((state.loaded, state.expected, state.missing), (0, 1, 1));
    assert!(state.missing_blocks[0].message.contains("chunks/000001"), "{state:?}");
    assert!(house.set.snapshot().blocks().all(|b| b.trouble().is_none()));
}

/// A series that is counted and has nothing to send takes no other one's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_filled_with_series_that_are_sent() {
    let mut house = House::new(StoreArgs::default());
    let block = house.write(1, &external(), 0, &content(5, 50));
    // Both chunks of the first series.
    let path = house.block_dir(1).join("chunks/000001");
    corrupt(&path, 12);
    corrupt(&path, 12 + 57);
    house.serve([block], Vec::new());
    for limit in 1..4 {
        let got = house.series(SeriesRequest { limit, ..request() }).await.unwrap();
        assert_eq!((got.series.len(), got.warnings.len()), (limit as usize, 1), "{:?}", got.warnings);
    }
}

/// Postings that are damaged cost the block in this answer; it is listed, and others are answered from it.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_postings_are_listed() {
    let mut house = House::new(StoreArgs::default());
    let block = house.write(1, &external(), 0, &content(50, 50));
    let path = house.block_dir(1).join("index");
    let index = std::fs::read(&path).unwrap();
    let toc =
        tsdb::index::Toc::read("index", &index[index.len() - tsdb::index::TOC_LEN..], index.len() as u64).unwrap();
    house.serve([block], Vec::new());
    // Its index-header is there.
    assert_eq!(house.series(request()).await.unwrap().series.len(), 50);
    let metric = |value: &str| LabelMatcher { r#type: 0, name: "pod".into(), value: value.into() };
    let of = |pod: &str| SeriesRequest { matchers: vec![metric(pod)], ..request() };
    // The last list.
    corrupt(&path, toc.postings_table - 6);
    let mut lost = 0;
    for i in 0..50 {
        let got = house.series(of(&format!("pod-{i:06}"))).await.unwrap();
        lost += usize::from(got.series.is_empty());
        assert_eq!(got.series.is_empty(), !got.warnings.is_empty(), "{:?}", got.warnings);
    }
    assert_eq!(lost, 1);
    let state = Status::default().state(&house.set);
    assert!(state.missing == 1 && state.missing_blocks[0].message.contains("index"), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_and_a_damaged_index_are_named_and_others_go_on() {
    let mut house = House::new(StoreArgs::default());
    let first = house.write(1, &external(), 0, &content(50, 50));
    let other = house.write(2, &Labels::from_pairs([("cluster", "two")]), 0, &content(50, 50));
    let index = std::fs::read(house.block_dir(1).join("index")).unwrap();
    let reader = tsdb::index::Reader::open("index", index.into()).unwrap();
    let entry = reader.series_offset(reader.all().unwrap().get(25).unwrap());
    corrupt(&house.block_dir(1).join("index"), entry + 4);
    house.serve([first, other], Vec::new());
    let got = house.series(request()).await.unwrap();
    assert_eq!(got.series.len(), 99, "{:?}", got.warnings);
    assert!(got.warnings.len() == 1 && got.warnings[0].contains(&super::id(1).to_string()), "{:?}", got.warnings);
    // A whole index.
    let mut house2 = House::new(StoreArgs::default());
    let third = house2.write(3, &external(), 0, &content(3, 50));
    std::fs::write(house2.block_dir(3).join("index"), b"rubbish").unwrap();
    house2.serve([third], Vec::new());
    let got = house2.series(request()).await.unwrap();
    assert!(got.series.is_empty() && got.warnings.len() == 1, "{:?}", got.warnings);
    let names = LabelNamesRequest { start: 0, end: 100, ..Default::default() };
    let got = house2.gateway.label_names(Request::new(names.clone())).await.unwrap().into_inner();
    assert!(got.names.is_empty() && got.warnings.len() == 1, "{:?}", got.warnings);
    let abort = LabelNamesRequest { partial_response_disabled: true, ..names };
    assert_eq!(house2.gateway.label_names(Request::new(abort)).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_where_it_touches() {
    let mut house = House::new(StoreArgs::default());
    let missing = Missing {
        id: super::id(9),
        external: Some(external()),
        min_t: 0,
        max_t: 50,
        reason: "meta.json is damaged".into(),
        strict: true,
    };
    house.serve([], vec![missing.clone()]);
    let abort = SeriesRequest { partial_response_disabled: true, ..request() };
    assert_eq!(house.series(abort.clone()).await.unwrap_err().code(), Code::Aborted);
    let got = house.series(request()).await.unwrap();
    assert!(got.warnings.len() == 1 && got.warnings[0].contains("meta.json is damaged"), "{:?}", got.warnings);
    let later = SeriesRequest { min_time: 50, ..request() };
    assert!(house.series(later).await.unwrap().warnings.is_empty());
    let elsewhere = LabelMatcher { r#type: 0, name: "cluster".into(), value: "two".into() };
    let other = SeriesRequest { matchers: vec![elsewhere], ..request() };
    assert!(house.series(other).await.unwrap().warnings.is_empty());
    let values = LabelValuesRequest { label: "pod".into(), start: 0, end: 100, ..Default::default() };
    assert_eq!(house.gateway.label_values(Request::new(values)).await.unwrap().into_inner().warnings.len(), 1);
    // What may be no block at all is told, and fails nobody.
    house.serve([], vec![Missing { external: None, strict: false, ..missing }]);
    assert_eq!(house.series(request()).await.unwrap().warnings.len(), 1);
    assert!(house.series(abort).await.unwrap().warnings.is_empty());
    let names = LabelNamesRequest { start: 0, end: 100, partial_response_disabled: true, ..Default::default() };
    house.gateway.label_names(Request::new(names)).await.unwrap();
}

/// Two sources are compacted into one block and deleted while an answer is half sent: no series is lost, none comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_goes_under_a_request_is_replaced_by_its_successor() {
    // Two windows of 8 MiB at a time, so that the others are read later.
    let mut house = House::new(StoreArgs { chunk_pool_size: args::Size(40 << 20), ..StoreArgs::default() });
    let all = content(1200, 15_000);
    let halves: Vec<Content> =
        [0, 1].map(|half| all.iter().map(|(l, c)| (l.clone(), vec![c[half].clone()])).collect()).into();
    let sources = [house.write(1, &external(), 0, &halves[0]), house.write(2, &external(), 0, &halves[1])];
    let successor = house.write(3, &external(), 0, &all);
    house.serve(sources, Vec::new());
    let asked = house.gateway.frames(&Request::new(request())).unwrap();
    tokio::pin!(asked);
    // Frames are let go as they come, as if they were sent.
    let mut messages = Vec::new();
    for _ in 0..3 {
        let frame = futures::StreamExt::next(&mut asked).await.unwrap().unwrap();
        messages.extend(frame.messages::<proto::thanos::SeriesResponse>().unwrap());
    }
    std::fs::remove_dir_all(house.block_dir(1)).unwrap();
    std::fs::remove_dir_all(house.block_dir(2)).unwrap();
    let set = house.set.clone();
    let replaced = tokio::spawn(async move {
        set.suspicion().await;
        set.replace(Served::new(100, [successor], Vec::new()));
    });
    while let Some(frame) = futures::StreamExt::next(&mut asked).await {
        messages.extend(frame.unwrap().messages::<proto::thanos::SeriesResponse>().unwrap());
    }
    assert!(replaced.is_finished(), "all was read before the blocks went");
    let mut series = Vec::new();
    for message in messages {
        match message.result.unwrap() {
            proto::thanos::series_response::Result::Batch(b) => series.extend(b.series),
            other => panic!("{other:?}"),
        }
    }
    let want: Content = all.iter().map(|(l, c)| (l.overlay(&external()), c.clone())).collect();
    let found = by_labels(&series);
    assert_eq!(found.len(), want.len());
    assert!(found == want, "samples were lost or came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_name_themselves() {
    let refused = async |args: StoreArgs| {
        let mut house = House::new(args);
        let block = house.write(1, &external(), 0, &content(50, 50));
        house.serve([block], Vec::new());
        let status = house.series(request()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        status.message().to_owned()
    };
    assert!(refused(StoreArgs { limit_series: 49, ..StoreArgs::default() }).await.contains("more than 49 series"));
    assert!(
        refused(StoreArgs { limit_samples_old: 11_999, ..StoreArgs::default() })
            .await
            .contains("more than 11999 samples")
    );
    assert!(
        refused(StoreArgs { limit_bytes: args::Size(100), ..StoreArgs::default() })
            .await
            .contains("more than 100 bytes")
    );
    let mut house = House::new(StoreArgs { limit_series: 50, limit_samples: 12_000, ..StoreArgs::default() });
    let block = house.write(1, &external(), 0, &content(50, 50));
    house.serve([block], Vec::new());
    assert_eq!(house.series(request()).await.unwrap().series.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_tell_what_was_done_to_those_who_ask() {
    let mut house = House::new(StoreArgs::default());
    let blocks = [house.write(1, &external(), 0, &content(5, 50)), house.write(2, &external(), 0, &content(5, 50))];
    house.serve(blocks, Vec::new());
    let only = LabelMatcher { r#type: 0, name: "__block_id".into(), value: super::id(2).to_string() };
    let asked = SeriesRequestHints { block_matchers: vec![only], enable_query_stats: true };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/hintspb.SeriesRequestHints".into(),
        value: asked.encode_to_vec(),
    };
    assert!(house.series(request()).await.unwrap().hints.is_empty());
    let got = house.series(SeriesRequest { hints: Some(any), ..request() }).await.unwrap();
    let hints = SeriesResponseHints::decode(&*got.hints[0].value).unwrap();
    assert_eq!(hints.queried_blocks.iter().map(|b| b.id.clone()).collect::<Vec<_>>(), [super::id(2).to_string()]);
    let stats = hints.query_stats.unwrap();
    assert_eq!((stats.blocks_queried, stats.merged_series_count, stats.merged_chunks_count), (1, 5, 10));
    assert!(stats.series_touched == 5 && stats.chunks_touched == 10 && stats.chunks_touched_size_sum == 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ends_with_its_caller() {
    let mut house = House::new(StoreArgs::default());
    let block = house.write(1, &external(), 0, &content(1000, 40_000));
    house.serve([block], Vec::new());
    let mut asked = house.gateway.frames(&Request::new(request())).unwrap();
    futures::StreamExt::next(&mut asked).await.unwrap().unwrap();
    let world = house.home.world.clone();
    let begin = world.clock.elapsed();
    drop(asked);
    // Everything that the request held is given back.
    while house.gateway.held() > 0 || house.gateway.in_flight() > 0 {
        assert!(world.clock.elapsed().saturating_sub(begin) < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Where nothing is left of what a request wants, that is told, too.
#[tokio::test]
async fn chunks_of_an_encoding_that_is_not_known_are_named_though_nothing_else_is_sent() {
    let mut house = House::new(StoreArgs::default());
    let labels = Labels::from_pairs([("__name__", "m"), ("pod", "a")]);
    let block = house.write(1, &external(), 0, &vec![(labels, vec![(0, 10, 77, vec![7; 300])])]);
    house.serve([block], Vec::new());
    let got = house.series(request()).await.unwrap();
    assert_eq!(got.series.len(), 0);
    assert!(got.warnings.len() == 1 && got.warnings[0].contains("encoding 77"), "{:?}", got.warnings);
    let abort = SeriesRequest { partial_response_disabled: true, ..request() };
    assert_eq!(house.series(abort).await.unwrap_err().code(), Code::Aborted);
}
