//! Stores that lie, places that lag, stores that vanish: the answer is right, or says what it lacks.

use super::common::until;
use super::fake_store::{Data, Fake, Manner, set};
use super::querier::{Names, Querier, args};
use args::{Millis, QueryArgs};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn data(series: usize) -> Data {
    (0..series)
        .map(|i| {
            let samples = (0..100).map(|n| (1_000_000 + n * 15_000, n as f64)).collect();
            (set(&[("__name__", "m"), ("n", &format!("{i:03}"))]), samples)
        })
        .collect()
}

fn missing(answer: &Value) -> Vec<(String, String)> {
    let all = answer["missing"].as_array().into_iter().flatten();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    all.map(|m| (text(&m["store"]), text(&m["reason"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_gets_wrong_is_made_right_or_told_and_never_answered() {
    let good = Fake::new(&[("cluster", "good")], data(5)).start().await;
    for (manner, says) in [
        (Manner::Twice, None),
        (Manner::AllTimes, None),
        (Manner::Backwards, Some("before it begins")),
        (Manner::Lacks, Some("block 01KA can't be read")),
        (Manner::Unsorted, Some("series out of order")),
        (Manner::Garbage, Some("not valid UTF-8")),
    ] {
        let bad = Fake::new(&[("cluster", "bad")], data(5)).manner(manner).start().await;
        let querier = Querier::start(args(&[good.address.clone(), bad.address.clone()])).await;
        // Five samples of each in the window, whatever else is sent.
        let (status, answer) = querier.query("sum by (cluster) (count_over_time(m[75s]))", "&time=1300").await;
        assert_eq!(status, 200, "{manner:?}: {answer}");
        // What of a store arrives before it is found out may be in the answer: a part that is told as such.
        let whole = |r: &&Value| says.is_none() || r["metric"]["cluster"] == "good";
        for result in answer["data"]["result"].as_array().unwrap().iter().filter(whole) {
            assert_eq!(result["value"][1], "25", "{manner:?}: {answer}");
        }
        let found = answer["data"]["result"].as_array().unwrap().len();
        match says {
            None => assert!(found == 2 && missing(&answer).is_empty(), "{manner:?}: {answer}"),
            Some(says) => {
                let told = missing(&answer);
                assert!(
                    told.len() == 1 && told[0].0 == bad.address && told[0].1.contains(says),
                    "{manner:?}: {answer}"
                );
                let first = &answer["missing"][0];
                assert_eq!((&first["minTime"], &first["maxTime"]), (&json!(1_225_001), &json!(1_300_000)), "{answer}");
                let (status, answer) = querier.query("count(m)", "&time=1300&partial_response=false").await;
                assert!(status == 422 && answer["error"].as_str().unwrap().contains(says), "{manner:?}: {answer}");
            }
        }
    }
    // What can't be decoded is found only when it is read: the query fails and says where.
    let bad = Fake::new(&[("cluster", "bad")], data(1)).manner(Manner::Noise).start().await;
    let querier = Querier::start(args(&[good.address.clone(), bad.address.clone()])).await;
    let (status, answer) = querier.query("sum(m)", "&time=1300").await;
    let right = status == 422 && answer["error"].as_str().unwrap().contains("series {");
    assert!(right || answer["data"]["result"][0]["value"][1] == "95", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_a_store_did_not_advertise_are_answered_as_they_are() {
    // It says that it is cluster a, and has series of b: those are found where it is asked at all, and never as a's.
    let liar = Fake::live(&[&[("cluster", "a")]])
        .and([(set(&[("__name__", "up"), ("cluster", "b")]), super::fake_store::Samples::Live)]);
    let liar = liar.start().await;
    let querier = Querier::start(args(std::slice::from_ref(&liar.address))).await;
    let (_, answer) = querier.query("count(up{cluster=\"a\"})", "").await;
    assert_eq!(answer["data"]["result"][0]["value"][1], "1", "{answer}");
    let (_, answer) = querier.query("count by (cluster) (up)", "").await;
    assert_eq!(answer["data"]["result"].as_array().unwrap().len(), 2, "{answer}");
}

/// Two places of one store, behind one name.
async fn group(manners: [Manner; 2], series: usize) -> ([super::fake_store::Running; 2], Querier) {
    let one = Fake::new(&[("s", "1")], data(series)).manner(manners[0]).start().await;
    let port = one.address.rsplit_once(':').unwrap().1.to_owned();
    let two = Fake::new(&[("s", "1")], data(series)).manner(manners[1]).start_at(&format!("127.0.0.2:{port}")).await;
    let names = Names::default();
    names.set("group", &["127.0.0.1", "127.0.0.2"]);
    let args =
        QueryArgs { endpoint_groups: vec![format!("dns+group:{port}")], response_timeout: Millis(4000), ..args(&[]) };
    ([one, two], Querier::with_names(args, names).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_data_is_offered_twice_the_other_place_is_asked_when_one_lags_or_breaks() {
    for manner in [
        Manner::Silent,
        Manner::SilentAfterHeaders,
        Manner::Slow(3000),
        Manner::Fails,
        Manner::Resets,
        Manner::Garbage,
        Manner::SilentAfterOne,
    ] {
        let ([one, two], querier) = group([manner, Manner::Good], 200).await;
        let begin = Instant::now();
        let (status, answer) = querier.query("sum(count_over_time(m[75s]))", "&time=1300&partial_response=false").await;
        let took = begin.elapsed();
        assert_eq!(
            (status, answer["data"]["result"][0]["value"][1].as_str()),
            (200, Some("1000")),
            "{manner:?}: {answer}"
        );
        assert!(answer.get("warnings").is_none() && answer.get("missing").is_none(), "{manner:?}: {answer}");
        // Half-way through there is nothing to do but to wait for the deadline.
        let most = if manner == Manner::SilentAfterOne { 5500 } else { 2500 };
        assert!(took < Duration::from_millis(most), "{manner:?}: {took:?}");
        assert!(one.take_asked().len() <= 1 && !two.take_asked().is_empty(), "{manner:?}");
        until("the calls to end", async || {
            one.fake.open.load(Ordering::SeqCst) + two.fake.open.load(Ordering::SeqCst) == 0
        })
        .await;
    }
    // If neither answers, one store is missing.
    let (_places, querier) = group([Manner::Fails, Manner::Fails], 2).await;
    let (_, answer) = querier.query("m", "&time=1300").await;
    assert_eq!(missing(&answer).len(), 1, "{answer}");
    assert!(missing(&answer)[0].1.contains("127.0.0.2:"), "both are named: {answer}");
    // Label calls, too.
    let (_places, querier) = group([Manner::Silent, Manner::Good], 3).await;
    let (_, answer) = querier.json("/api/v1/label/n/values?match[]=m&start=1000&end=1300").await;
    assert_eq!((answer["data"].as_array().unwrap().len(), answer.get("warnings")), (3, None), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_should_be_there_and_is_not_is_missing() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, cluster: &str| {
        Fake::new(&[("cluster", cluster)], data(5)).start_at(&format!("{ip}:{port}")).await
    };
    let stores = [make("127.0.0.2", "a").await, make("127.0.0.3", "b").await];
    let names = Names::default();
    names.set("stores.test", &["127.0.0.2", "127.0.0.3"]);
    let dir = tempfile::tempdir().unwrap();
    let write = |expected: usize| {
        let text = format!("endpoints:\n- address: dns+stores.test:{port}\n  expected: {expected}\n");
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("endpoints.yaml")).unwrap();
    };
    write(2);
    let a = QueryArgs { endpoints_dir: dir.path().display().to_string(), ..args(&[]) };
    let querier = Querier::with_names(a, names).await;
    let ask = async |query: &str| {
        let (status, answer) = querier.query(query, "&time=1300").await;
        assert_eq!(status, 200, "{answer}");
        missing(&answer)
    };
    assert_eq!(ask("m").await, []);
    // One leaves: it is missed by name, where it would have been asked.
    querier.names.set("stores.test", &["127.0.0.3"]);
    until("the loss to be told", async || ask("m").await.len() == 1).await;
    let told = ask("m").await;
    assert_eq!(told[0].0, stores[0].address);
    assert!(told[0].1.contains("behind which 2 stores should be; 1 are"), "{told:?}");
    assert_eq!(ask("m{cluster=\"b\"}").await, [], "what is there is whole");
    assert_eq!(ask("m{cluster=\"a\"}").await.len(), 1);
    assert_eq!(querier.query("m", "&time=1300&partial_response=false").await.0, 422);
    let state = querier.state().await.endpoints.unwrap();
    assert!(
        state.stores.iter().any(|s| s.address == stores[0].address && !s.healthy && s.error.is_some()),
        "{state:?}"
    );
    // It comes back at another address, as pods do.
    let back = make("127.0.0.4", "a").await;
    querier.names.set("stores.test", &["127.0.0.3", "127.0.0.4"]);
    until("it to be back", async || ask("m").await.is_empty()).await;
    // One more is expected that was never seen.
    write(3);
    until("the third to be missed", async || ask("m").await.len() == 1).await;
    assert!(ask("m").await[0].1.contains("3 stores should be behind it, and 2 are"));
    // On purpose, fewer are expected.
    querier.names.set("stores.test", &["127.0.0.4"]);
    write(1);
    until("nothing to be missed", async || ask("m").await.is_empty()).await;
    drop(back);
}
