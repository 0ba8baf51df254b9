//! A bucket that hangs, matchers and labels beyond reason: bounded, typed, cancellable.

use super::{Content, House, by_labels, id};
use crate::store::blocks::Block;
use args::StoreArgs;
use bucket::layers::faults::Plan;
use http_body_util::{BodyExt as _, Full};
use model::{BlockId, Labels};
use proto::thanos::store_server::Store as _;
use proto::thanos::{LabelMatcher, LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request};
use tsdb::BlockMeta;

/// How long a read may take here: on a busy machine a good one, too, takes long.
const DEADLINE: Duration = Duration::from_secs(5);

fn external(cluster: &str) -> Labels {
    Labels::from_pairs([("cluster", cluster)])
}

fn content(n: usize) -> Content {
    let labels = |i: usize| Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{i:06}"))]);
    (0..n).map(|i| (labels(i), vec![(0, 10, 1, vec![i as u8; 600])])).collect()
}

fn matcher(kind: i32, name: &str, value: impl Into<String>) -> LabelMatcher {
    LabelMatcher { r#type: kind, name: name.into(), value: value.into() }
}

fn request(matchers: Vec<LabelMatcher>) -> SeriesRequest {
    SeriesRequest { min_time: 0, max_time: 100, matchers, response_batch_size: 64, ..Default::default() }
}

fn all() -> SeriesRequest {
    request(vec![matcher(0, "__name__", "m")])
}

/// Blocks 1, 2 and 3 of the clusters a, b and c; of 1 and 3 meta.json does not tell the sizes of its segments.
fn three() -> House {
    let mut house = House::patient(StoreArgs::default(), DEADLINE);
    let blocks = [(1, "a"), (2, "b"), (3, "c")].map(|(n, c)| house.write(n, &external(c), 0, &content(20)));
    house.serve(blocks, Vec::new());
    house
}

fn hang(house: &House, what: &[String]) {
    house.faults.set(Plan { hangs: what.to_vec(), ..Plan::default() });
}

/// So many requests have their turn.
async fn begun(house: &House, requests: i64) {
    for _ in 0..6000 {
        if house.gateway.turns() == requests {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} requests have begun, not {requests}", house.gateway.turns());
}

fn held(house: &House) -> (u64, u64, i64) {
    (house.gateway.held(), house.gateway.held_chunks(), house.gateway.in_flight())
}

/// Everything that requests held is given back.
pub(super) async fn at_rest(house: &House) {
    for _ in 0..6000 {
        if held(house) == (0, 0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("bytes of postings, bytes of chunks and requests are held: {:?}", held(house));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_never_comes_is_named_and_the_rest_is_answered() {
    let house = three();
    hang(&house, &[format!("{}/index", id(1))]);
    let got = house.series(all()).await.unwrap();
    assert_eq!(got.series.len(), 40);
    let text = got.warnings.join("\n");
    assert!(got.warnings.len() == 1 && text.contains(&id(1).to_string()) && text.contains("5s"), "{text}");
    let names = LabelNamesRequest { start: 0, end: 100, ..Default::default() };
    let got = house.gateway.label_names(Request::new(names)).await.unwrap().into_inner();
    assert!(got.names.len() == 3 && got.warnings.len() == 1, "{got:?}");
    let abort = SeriesRequest { partial_response_disabled: true, ..all() };
    let status = house.series(abort).await.unwrap_err();
    assert!(status.code() == Code::Aborted && status.message().contains(&id(1).to_string()), "{status}");
    at_rest(&house).await;
    // Nobody holds it against the block once it answers.
    hang(&house, &[]);
    let got = house.series(all()).await.unwrap();
    assert!(got.series.len() == 60 && got.warnings.is_empty(), "{:?}", got.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_never_come_are_named_together() {
    let house = three();
    // Their index-headers are there.
    assert_eq!(house.series(all()).await.unwrap().series.len(), 60);
    hang(&house, &[format!("{}/chunks", id(1)), format!("{}/chunks", id(2))]);
    let clock = &house.home.world.clock;
    let begin = clock.elapsed();
    let got = house.series(all()).await.unwrap();
    let took = clock.elapsed().saturating_sub(begin);
    assert_eq!(got.series.len(), 20, "{:?}", got.warnings);
    assert!(got.warnings.len() == 2 && got.warnings.iter().all(|w| w.contains("5s")), "{:?}", got.warnings);
    // Both at once: not one deadline after the other.
    assert!(took < DEADLINE * 2, "{took:?}");
    at_rest(&house).await;
    hang(&house, &[]);
    assert_eq!(house.series(all()).await.unwrap().series.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_less_patience_is_told_and_one_that_leaves_takes_all_with_it() {
    let house = three();
    hang(&house, &["chunks".to_owned()]);
    let mut asked = Request::new(all());
    asked.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let mut stream = house.gateway.series(asked).await.unwrap().into_inner();
    let first = futures::StreamExt::next(&mut stream).await.unwrap();
    assert_eq!(first.unwrap_err().code(), Code::DeadlineExceeded);
    at_rest(&house).await;
    let leaving = house.gateway.frames(&Request::new(all())).unwrap();
    begun(&house, 1).await;
    drop(leaving);
    at_rest(&house).await;
}

/// What it has asked for is read on and gives its turns towards the bucket back, although nobody takes it; and the request
/// itself gives its turn back, the only one here.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_holds_up_nobody_else() {
    let mut house = House::new(StoreArgs {
        estimated_chunk_size: args::Size(66_000),
        series_max_concurrency: 1,
        ..StoreArgs::default()
    });
    // Eight windows of 127 reads, in eight messages each.
    let big = content(1000).into_iter();
    let big: Content = big.map(|(labels, _)| (labels, vec![(0, 10, 1, vec![7; 64 << 10])])).collect();
    let blocks = [house.write(1, &external("a"), 0, &big), house.write(2, &external("b"), 0, &content(20))];
    house.serve(blocks, Vec::new());
    house.faults.set(Plan { delay: Duration::from_millis(10), ..Plan::default() });
    let mut slow = house.gateway.series(Request::new(all())).await.unwrap().into_inner();
    // It stops in the second window: the third is there and nobody takes it.
    for _ in 0..10 {
        assert!(futures::StreamExt::next(&mut slow).await.unwrap().is_ok());
    }
    let other = request(vec![matcher(0, "__name__", "m"), matcher(0, "cluster", "b")]);
    for _ in 0..20 {
        let got = tokio::time::timeout(Duration::from_secs(100), house.series(other.clone())).await;
        let got = got.expect("held up by a caller that does not read").unwrap();
        assert_eq!((got.series.len(), got.warnings.len()), (20, 0));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // And gets the rest when it reads again.
    let mut rest = 0;
    while let Some(message) = futures::StreamExt::next(&mut slow).await {
        rest += message.map(|_| 1).unwrap();
    }
    assert!(rest > 0);
    at_rest(&house).await;
}

/// All turns are with callers that don't read, and stay away: others are answered, and those get the rest when they read again.
#[tokio::test(flavor = "multi_thread")]
async fn turns_are_given_back_while_callers_do_not_read() {
    let mut house = House::new(StoreArgs { series_max_concurrency: 2, ..StoreArgs::default() });
    let big: Content =
        content(400).into_iter().map(|(labels, _)| (labels, vec![(0, 10, 1, vec![7; 32 << 10])])).collect();
    let block = house.write(2, &external("a"), 0, &big);
    house.serve([block], Vec::new());
    let slow: Vec<_> = (0..6).map(|_| house.gateway.frames(&Request::new(all())).unwrap()).collect();
    // None of them reads anything.
    let few = request(vec![matcher(0, "__name__", "m"), matcher(0, "pod", "pod-000007")]);
    for _ in 0..3 {
        let got = tokio::time::timeout(Duration::from_secs(100), house.series(few.clone())).await;
        assert_eq!(got.expect("no turn is left").unwrap().series.len(), 1);
    }
    begun(&house, 0).await;
    assert_eq!(house.gateway.in_flight(), 6);
    // All read now, and take turns.
    let read = slow.into_iter().map(|frames| async {
        let frames: Vec<_> = futures::TryStreamExt::try_collect(frames).await.unwrap();
        frames
            .iter()
            .map(|f| f.messages::<proto::thanos::SeriesResponse>().unwrap().iter().map(count).sum::<usize>())
            .sum()
    });
    let series: Vec<usize> = futures::future::join_all(read).await;
    assert_eq!(series, [400; 6]);
    at_rest(&house).await;
}

fn count(message: &proto::thanos::SeriesResponse) -> usize {
    match message.result.as_ref().unwrap() {
        proto::thanos::series_response::Result::Batch(batch) => batch.series.len(),
        other => panic!("{other:?}"),
    }
}

/// Where meta.json does not tell the longest chunk, a guess is read first: what then turns out longer counts, too.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_longer_than_expected_are_counted() {
    let big = |n| -> Content {
        content(n)
            .into_iter()
            .map(|(l, c)| (l, c.into_iter().map(|c| (c.0, c.1, c.2, vec![7; 100 << 10])).collect()))
            .collect()
    };
    let read = async |pool: u64| {
        let mut house = House::new(StoreArgs { chunk_pool_size: args::Size(pool), ..StoreArgs::default() });
        let block = house.write(1, &external("a"), 0, &big(300));
        house.serve([block], Vec::new());
        let got = house.series(all()).await.map(|got| (got.series.len(), got.warnings));
        at_rest(&house).await;
        got
    };
    assert_eq!(read(400 << 20).await.unwrap(), (300, vec![]));
    let status = read(40 << 20).await.unwrap_err();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("hold"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn matchers_beyond_reason_are_answered_or_refused_by_name() {
    let mut house = House::new(StoreArgs::default());
    let block = house.write(1, &external("a"), 0, &content(300));
    house.serve([block], Vec::new());
    let count = async |m: Vec<LabelMatcher>| house.series(request(m)).await.map(|got| got.series.len());
    let many = |from: usize| (from..from + 10_000).map(|i| format!("pod-{i:06}")).collect::<Vec<_>>().join("|");
    assert_eq!(count(vec![matcher(2, "pod", many(100))]).await.unwrap(), 200);
    assert_eq!(count(vec![matcher(3, "pod", many(100))]).await.unwrap(), 100);
    // Of literals and not.
    assert_eq!(count(vec![matcher(2, "pod", format!("{}|.*7", many(290)))]).await.unwrap(), 39);
    // Nothing that keeps, only what drops.
    assert_eq!(count(vec![matcher(1, "pod", "pod-000001"), matcher(3, "pod", ".*[02468]")]).await.unwrap(), 149);
    // What an absent label passes.
    for (kind, value, want) in [(0, "", 300), (2, ".*", 300), (2, "|x", 300), (1, "x", 300), (2, ".+", 0), (1, "", 0)] {
        assert_eq!(count(vec![matcher(kind, "absent", value)]).await.unwrap(), want, "{kind} {value:?}");
    }
    assert_eq!(count(vec![matcher(0, "pod", "")]).await.unwrap(), 0);
    // As many as may be, and one more.
    let ones = |n: usize| (0..n).map(|i| matcher(3, "pod", format!("pod-{i:06}"))).collect::<Vec<_>>();
    assert_eq!(count(ones(1000)).await.unwrap(), 0);
    let status = count(ones(1001)).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("1001 matchers"), "{status}");
    // Expressions that no machine has the memory for.
    for huge in
        ["(((a{1000}){1000}){1000})".to_owned(), "(".repeat(100_000), format!("x({}y)", ".*a".repeat(2_000_000))]
    {
        let status = count(vec![matcher(2, "pod", huge)]).await.unwrap_err();
        assert!(
            status.code() == Code::InvalidArgument && status.message().contains("matcher 0 on label \"pod\""),
            "{status}"
        );
    }
    // A value of 8 MiB, which is no series's.
    assert_eq!(count(vec![matcher(0, "pod", "x".repeat(8 << 20))]).await.unwrap(), 0);
    at_rest(&house).await;
}

/// Long matchers are kept once, not once per external label set.
#[test]
fn matchers_are_shared_by_groups() {
    let mut house = House::new(StoreArgs::default());
    let blocks = [1, 2].map(|n| house.write(n, &external(&n.to_string()), 0, &content(1)));
    house.serve(blocks, Vec::new());
    let matchers = [model::Matcher::new(model::MatchOp::Equal, "pod", "x").unwrap()];
    let wanted = crate::store::series::Wanted {
        range: (0, 100),
        max_resolution: None,
        matchers: &matchers,
        block_matchers: &[],
        excluded: &Default::default(),
    };
    let chosen = crate::store::series::choose_blocks(&house.set.snapshot(), wanted);
    assert!(chosen.len() == 2 && Arc::ptr_eq(&chosen[0].1, &chosen[1].1));
}

/// Thanos's store answers both with an empty success.
#[tokio::test(flavor = "multi_thread")]
async fn matchers_on_external_labels_alone_give_all_and_none_at_all_are_refused() {
    let house = three();
    let got = house.series(request(vec![matcher(2, "cluster", "a|b")])).await.unwrap();
    assert_eq!((got.series.len(), got.warnings.len()), (40, 0));
    let status = house.series(request(Vec::new())).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("no matchers"), "{status}");
    // Label calls need none.
    let values = LabelValuesRequest { label: "cluster".into(), start: 0, end: 100, ..Default::default() };
    let got = house.gateway.label_values(Request::new(values)).await.unwrap().into_inner();
    assert_eq!(got.values, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_pass_nothing_is_answered() {
    let house = House::new(StoreArgs::default());
    assert_eq!(house.series(all()).await.unwrap_err().code(), Code::Unavailable);
    let names = LabelNamesRequest { start: 0, end: 100, ..Default::default() };
    assert_eq!(house.gateway.label_names(Request::new(names)).await.unwrap_err().code(), Code::Unavailable);
}

/// What one request leaves in the cache is not what another finds, whatever its values hold.
#[tokio::test(flavor = "multi_thread")]
async fn no_matcher_is_taken_for_another() {
    let house = three();
    let all = house.series(request(vec![matcher(1, "a", "x\u{1}pod\u{0}=\u{0}pod-000001")])).await.unwrap();
    assert_eq!(all.series.len(), 60);
    let few = house.series(request(vec![matcher(1, "a", "x"), matcher(0, "pod", "pod-000001")])).await.unwrap();
    assert_eq!(few.series.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_of_ten_thousand_labels_and_a_value_of_a_mebibyte_come_whole() {
    let mut house = House::new(StoreArgs::default());
    let names: Vec<String> = (0..10_000).map(|i| format!("label_{i:05}")).collect();
    let wide = Labels::from_pairs(names.iter().map(|n| (n.as_str(), "v")).chain([("__name__", "m"), ("pod", "a")]));
    let long = "x".repeat((1 << 20) - 100);
    let long = Labels::from_pairs([("__name__", "m"), ("pod", long.as_str())]);
    let chunk = || vec![(0, 10, 1, vec![7; 600])];
    let mut content: Content = vec![(wide, chunk()), (long, chunk())];
    content.sort();
    let block = house.write(1, &external("a"), 0, &content);
    house.serve([block], Vec::new());
    let got = house.series(all()).await.unwrap();
    assert!(got.warnings.is_empty(), "{:?}", got.warnings);
    let want: Content = content.iter().map(|(l, c)| (l.overlay(&external("a")), c.clone())).collect();
    assert!(by_labels(&got.series) == want, "something is missing of long labels");
    at_rest(&house).await;
}

/// Series that have to be sorted anew are held: long labels count.
#[tokio::test(flavor = "multi_thread")]
async fn long_labels_that_have_to_be_held_are_bounded() {
    let mut house = House::new(StoreArgs { chunk_pool_size: args::Size(16 << 20), ..StoreArgs::default() });
    let one = |i: usize| {
        let long = format!("{i:06}{}", "x".repeat(100_000));
        (
            Labels::from_pairs([("__name__", "m"), ("cluster", "own"), ("pod", long.as_str())]),
            vec![(0, 10, 1, vec![7; 9])],
        )
    };
    let block = house.write(1, &external("a"), 0, &(0..300).map(one).collect());
    house.serve([block], Vec::new());
    let status = house.series(all()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    at_rest(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_turn_is_told_when_its_time_is_over_and_gets_the_next_one() {
    let mut house = House::new(StoreArgs { series_max_concurrency: 1, ..StoreArgs::default() });
    let block = house.write(1, &external("a"), 0, &content(20));
    house.serve([block], Vec::new());
    assert_eq!(house.series(all()).await.unwrap().series.len(), 20);
    hang(&house, &["chunks".to_owned()]);
    let first = house.gateway.frames(&Request::new(all())).unwrap();
    begun(&house, 1).await;
    let mut asked = Request::new(all());
    asked.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let mut second = house.gateway.series(asked).await.unwrap().into_inner();
    let status = futures::StreamExt::next(&mut second).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    begun(&house, 1).await;
    hang(&house, &[]);
    let third = tokio::join!(house.series(all()), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(first);
    });
    assert_eq!(third.0.unwrap().series.len(), 20);
    at_rest(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_blocks_those_that_are_touched_cost_something() {
    const HOUR: i64 = 3_600_000;
    let mut house = House::new(StoreArgs::default());
    let others: Vec<Labels> = (0..10).map(|n| external(&format!("other-{n}"))).collect();
    let block = |n: u64| {
        let hour = n as i64 / 10 * HOUR;
        let meta = BlockMeta::new(BlockId::from_parts(1000 + n, 9), hour, hour + HOUR);
        Arc::new(Block::new(&meta, others[n as usize % 10].clone(), Arc::clone(&house.home)))
    };
    let mut blocks: Vec<_> = (0..145_000).map(block).collect();
    blocks.push(house.write(1, &external("a"), 0, &content(20)));
    house.serve(blocks, Vec::new());
    // What Info tells does not grow with them.
    assert_eq!(house.set.snapshot().tsdbs().len(), 11);
    let clock = &house.home.world.clock;
    let calls = || house.faults.calls().values().sum::<u64>();
    let (begin, before) = (clock.elapsed(), calls());
    let everything = |m| SeriesRequest { max_time: i64::MAX, ..request(m) };
    let one = vec![matcher(0, "__name__", "m"), matcher(0, "cluster", "a")];
    let got = house.series(everything(one)).await.unwrap();
    assert_eq!((got.series.len(), got.warnings.len()), (20, 0));
    let took = clock.elapsed().saturating_sub(begin);
    assert!(took < Duration::from_secs(30) && calls() - before < 10, "{took:?}, {} requests", calls() - before);
    // All of them are touched, and none answers: it ends with its caller's time, and few were tried.
    hang(&house, &["index".to_owned()]);
    let before = calls();
    let mut asked = Request::new(everything(vec![matcher(0, "__name__", "m")]));
    asked.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut stream = house.gateway.series(asked).await.unwrap().into_inner();
    let first = futures::StreamExt::next(&mut stream).await.unwrap();
    assert_eq!(first.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(calls() - before < 100, "{} requests", calls() - before);
    at_rest(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_beyond_the_memory_are_refused_and_what_they_held_is_given_back() {
    let args = StoreArgs { chunk_pool_size: args::Size(512 << 10), ..StoreArgs::default() };
    let mut house = House::patient(args, DEADLINE);
    let many = content(20_000).into_iter().map(|(l, _)| (l, vec![(0, 10, 1, vec![1])])).collect();
    let (wide, narrow) = (house.write(2, &external("a"), 0, &many), house.write(4, &external("b"), 0, &content(20)));
    house.serve([wide, narrow], Vec::new());
    let ask = |label: &str, matchers: Vec<LabelMatcher>, limit: i64| {
        let request =
            LabelValuesRequest { label: label.to_owned(), start: 0, end: 100, matchers, limit, ..Default::default() };
        house.gateway.label_values(Request::new(request))
    };
    let status = ask("pod", Vec::new(), 0).await.unwrap_err();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("--chunk-pool-size"), "{status}");
    at_rest(&house).await;
    // By entries, and by postings lists.
    for matchers in [vec![matcher(2, "pod", "pod-.*")], vec![matcher(0, "__name__", "m")]] {
        assert_eq!(ask("pod", matchers, 0).await.unwrap_err().code(), Code::ResourceExhausted);
        at_rest(&house).await;
    }
    let few = ask("pod", Vec::new(), 3).await.unwrap().into_inner().values;
    assert_eq!(few, ["pod-000000", "pod-000001", "pod-000002"]);
    // What was kept of one answer is counted for the next one, too.
    for _ in 0..2 {
        let few = ask("pod", vec![matcher(0, "cluster", "b")], 0).await.unwrap().into_inner().values;
        assert_eq!(few.len(), 20);
    }
    at_rest(&house).await;
}

/// An answer to a label call is counted until its caller has it: slow ones don't hold more than there may be.
#[tokio::test(flavor = "multi_thread")]
async fn answers_with_values_are_counted_until_they_were_sent() {
    // Of 512 KiB half is for what is counted here; a list of values takes 90 KiB.
    let mut house = House::new(StoreArgs { chunk_pool_size: args::Size(512 << 10), ..StoreArgs::default() });
    let many: Content = content(7_000).into_iter().map(|(l, _)| (l, vec![(0, 10, 1, vec![1])])).collect();
    let block = house.write(2, &external("a"), 0, &many);
    house.serve([block], Vec::new());
    let asked = LabelValuesRequest { label: "pod".into(), start: 0, end: 100, ..Default::default() };
    // As a client does: the message behind its prefix; its answer is read only a little.
    let ask = || {
        let message = prost::Message::encode_to_vec(&asked);
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&message);
        let request = http::Request::post("/thanos.Store/LabelValues").body(tonic::body::Body::new(Full::from(body)));
        tonic::codegen::Service::call(&mut house.gateway.server(), request.unwrap())
    };
    let refused =
        |response: &http::Response<_>| response.headers().get("grpc-status").map(|s| s.to_str().unwrap().to_owned());
    let (mut slow, mut sent) = (Vec::new(), Vec::new());
    let status = loop {
        let response = ask().await.unwrap();
        if let Some(status) = refused(&response) {
            break status;
        }
        // It was handed to the connection, which has not sent it.
        let mut body = response.into_body();
        let prefix = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let values = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((prefix.len(), values.len()), (5, 7_000 * 12));
        slow.push(body);
        sent.push(values);
        assert!(house.gateway.held() >= 84_000 * sent.len() as u64, "{} of {}", house.gateway.held(), sent.len());
        assert!(sent.len() < 10, "what waits is not counted");
    };
    assert_eq!(status, (Code::ResourceExhausted as i32).to_string());
    // It was sent, and the connection asks for what is behind it.
    for body in &mut slow {
        body.frame().await.unwrap().unwrap().into_data().unwrap();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert!(trailers.get("grpc-status").unwrap() == "0" && body.frame().await.is_none());
    }
    at_rest(&house).await;
    assert_eq!(refused(&ask().await.unwrap()), None);
    at_rest(&house).await;
}

/// What was read of an answer waits in frames for a caller who does not read, and is counted although the request has ended.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_wait_are_counted() {
    let mut house = House::new(StoreArgs::default());
    let block = house.write(2, &external("a"), 0, &content(20));
    house.serve([block], Vec::new());
    let mut waiting = house.gateway.frames(&Request::new(all())).unwrap();
    for _ in 0..6000 {
        if house.gateway.in_flight() == 0 && looks(&house) > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held(&house).2, 0, "the request goes on");
    assert!(house.gateway.held_chunks() > 0, "a frame that waits is not counted");
    let frame = futures::StreamExt::next(&mut waiting).await.unwrap().unwrap();
    assert_eq!(frame.messages::<proto::thanos::SeriesResponse>().unwrap().iter().map(count).sum::<usize>(), 20);
    assert!(house.gateway.held_chunks() > 0, "a frame that is being sent is not counted");
    drop(frame);
    assert!(futures::StreamExt::next(&mut waiting).await.is_none());
    at_rest(&house).await;
}

/// Requests that reached the bucket.
fn looks(house: &House) -> u64 {
    house.faults.calls().values().sum()
}

/// Lists are merged while others wait for the same turns of the CPU.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_many_blocks_are_merged_while_others_are_read() {
    let mut house = House::new(StoreArgs::default());
    let many: Content = content(4_000).into_iter().map(|(l, _)| (l, vec![(0, 10, 1, vec![1])])).collect();
    // Not all the same, else there would be nothing to merge.
    let of = |n: u64| many.iter().skip(n as usize).cloned().collect::<Content>();
    let blocks: Vec<_> = (1..=40).map(|n| house.write(n, &external(&format!("c{n}")), 0, &of(n))).collect();
    house.serve(blocks, Vec::new());
    let request = LabelValuesRequest { label: "pod".into(), start: 0, end: 100, ..Default::default() };
    let asked = house.gateway.label_values(Request::new(request));
    let got = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("turns that nobody takes").unwrap();
    assert_eq!(got.into_inner().values.len(), 3_999);
    at_rest(&house).await;
}
