//! The querier over stores that misbehave in every way that a test can think of.
#![allow(clippy::disallowed_methods, reason = "deadlines are measured in real time")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails this way")]

mod querier;

use args::{Millis, QueryArgs};
use proto::thanos::{LabelMatcher, SeriesRequest, series_response};
use querier::{Data, Fake, Manner, Names, Querier, Running, args, set, until};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Some series of a counter, a sample every 15 s from 1000 s on.
fn data(metric: &str, series: usize) -> Data {
    (0..series)
        .map(|i| {
            let samples = (0..100).map(|n| (1_000_000 + n * 15_000, n as f64)).collect();
            (set(&[("__name__", metric), ("n", &format!("{i:03}"))]), samples)
        })
        .collect()
}

async fn store(cluster: &str, manner: Manner) -> Running {
    Fake::new(&[("cluster", cluster)], data("m", 5)).manner(manner).start().await
}

/// One good store and one of this manner, behind a querier that gives a store half a second.
async fn with(manner: Manner, more: impl FnOnce(&mut QueryArgs)) -> (Running, Running, Querier) {
    let (good, bad) = (store("good", Manner::Good).await, store("bad", manner).await);
    let mut a = args(&[good.address.clone(), bad.address.clone()]);
    a.response_timeout = Millis(500);
    more(&mut a);
    let querier = Querier::start(a).await;
    (good, bad, querier)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_misbehaves_costs_its_deadline_and_is_named() {
    for (manner, says) in [
        (Manner::Silent, "it was silent for 500ms"),
        (Manner::SilentAfterHeaders, "it was silent for 500ms"),
        (Manner::SilentAfterOne, "it was silent for 500ms"),
        (Manner::Fails, "the disk is on fire"),
        (Manner::Resets, "torn"),
        (Manner::Unsorted, "series out of order"),
        (Manner::Garbage, "not valid UTF-8"),
    ] {
        let (_good, bad, querier) = with(manner, |_| {}).await;
        let begin = Instant::now();
        let (status, answer) = querier.query("count by (cluster) (m)", "&time=1300").await;
        let took = begin.elapsed();
        assert_eq!(status, 200, "{manner:?}: {answer}");
        assert!(took < Duration::from_millis(1500), "{manner:?} took {took:?}");
        let result = answer["data"]["result"].as_array().unwrap();
        let good = result.iter().find(|r| r["metric"]["cluster"] == "good").unwrap();
        assert_eq!(good["value"][1], "5", "{manner:?}: {answer}");
        let warnings = Querier::warnings(&answer);
        assert_eq!(warnings.len(), 1, "{manner:?}: {warnings:?}");
        assert!(warnings[0].contains(&bad.address) && warnings[0].contains(says), "{manner:?}: {warnings:?}");

        let (status, answer) = querier.query("count by (cluster) (m)", "&time=1300&partial_response=false").await;
        assert_eq!(status, 422, "{manner:?}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(&bad.address) && error.contains(says), "{manner:?}: {error}");
        // A query that can't touch the bad store does not wait for it and says nothing of it.
        let begin = Instant::now();
        let (_, answer) = querier.query("count(m{cluster=\"good\"})", "&time=1300").await;
        assert!(begin.elapsed() < Duration::from_millis(400) && Querier::warnings(&answer).is_empty(), "{answer}");
        until("the calls to end", async || bad.fake.open.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_drips_ends_with_the_time_of_the_query() {
    let (_good, bad, querier) = with(Manner::Drips, |_| {}).await;
    let begin = Instant::now();
    let (status, answer) = querier.query("count by (cluster) (m)", "&time=1300&timeout=2").await;
    assert_eq!(status, 200, "{answer}");
    assert!(begin.elapsed() < Duration::from_millis(2250), "{:?}", begin.elapsed());
    let warnings = Querier::warnings(&answer);
    assert!(warnings[0].contains(&bad.address) && warnings[0].contains("did not finish"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_answers_are_not_cached_and_say_so_on_every_call() {
    let (_good, bad, querier) = with(Manner::Silent, |_| {}).await;
    for path in ["/api/v1/series?match[]=m", "/api/v1/label/n/values", "/api/v1/query?query=m&time=1300"] {
        let url = format!("{}{path}", querier.http);
        let answer = reqwest::get(&url).await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{path}");
        let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(Querier::warnings(&body)[0].contains(&bad.address), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_store_that_is_away_fails_the_query_though_it_was_never_seen() {
    let good = store("good", Manner::Good).await;
    let away = format!("127.0.0.1:{}", testkit::ports::free().unwrap());
    let mut a = args(std::slice::from_ref(&good.address));
    a.strict_endpoints = vec![away.clone()];
    let querier = Querier::start(a).await;
    let (status, answer) = querier.query("m", "&time=1300").await;
    assert_eq!(status, 422);
    assert!(answer["error"].as_str().unwrap().contains(&away), "{answer}");
    let state = querier.state().await.endpoints.unwrap();
    let error = state.stores.iter().find(|s| s.address == away).unwrap().error.clone().unwrap();
    assert_eq!(error.class, args::state::ErrorClass::Connect);
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_changes_are_followed() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, cluster: &str| {
        Fake::new(&[("cluster", cluster)], data("m", 5)).start_at(&format!("{ip}:{port}")).await
    };
    let (_a, _b) = (make("127.0.0.2", "a").await, make("127.0.0.3", "b").await);
    let names = Names::default();
    names.set("stores.test", &["127.0.0.2"]);
    let querier = Querier::with_names(args(&[format!("dns+stores.test:{port}")]), names).await;
    let clusters = async || {
        let (_, answer) = querier.query("count by (cluster) (m)", "&time=1300").await;
        let mut found: Vec<String> = answer["data"]["result"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["metric"]["cluster"].as_str().unwrap().to_owned())
            .collect();
        found.sort();
        (found, Querier::warnings(&answer))
    };
    assert_eq!(clusters().await, (vec!["a".to_owned()], vec![]));
    querier.names.set("stores.test", &["127.0.0.2", "127.0.0.3"]);
    until("the new store", async || clusters().await.0 == ["a", "b"]).await;
    querier.names.set("stores.test", &["127.0.0.3"]);
    until("the old store to go", async || clusters().await.0 == ["b"]).await;
    // A failed look-up keeps what was known.
    querier.names.remove("stores.test");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(clusters().await.0, ["b"]);
    // An address where nobody answers is missed, by name.
    querier.names.set("stores.test", &["127.0.0.3", "127.0.0.4"]);
    until("a warning", async || clusters().await.1.iter().any(|w| w.contains(&format!("127.0.0.4:{port}")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_become_one_series_and_gaps_are_filled() {
    let replica = |name: &str, phase: i64, gap: std::ops::Range<i64>| {
        let samples = (0..200).filter(|n| !gap.contains(n)).map(|n| (1_000_000 + phase + n * 15_000, n as f64));
        Fake::new(&[("cluster", "ops"), ("replica", name)], vec![(set(&[("__name__", "m")]), samples.collect())])
    };
    // The second can't leave out replica labels itself, as an old store.
    let a = replica("a", 0, 50..90).start().await;
    let b = replica("b", 7_000, 100..120).unable().start().await;
    let querier = Querier::start(args(&[a.address.clone(), b.address.clone()])).await;
    let (_, answer) = querier.query("m[1h]", "&time=4100").await;
    let result = answer["data"]["result"].as_array().unwrap();
    assert_eq!(result.len(), 1, "{answer}");
    assert!(result[0]["metric"].get("replica").is_none());
    let times: Vec<f64> = result[0]["values"].as_array().unwrap().iter().map(|v| v[0].as_f64().unwrap()).collect();
    let widest = times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
    assert!(widest <= 22.0, "a gap of {widest} s");
    // Without deduplication both are there, as they are.
    let (_, answer) = querier.query("count_over_time(m[1h])", "&time=4100&dedup=false").await;
    let result = answer["data"]["result"].as_array().unwrap();
    let counts: Vec<&str> = result.iter().map(|r| r["value"][1].as_str().unwrap()).collect();
    assert_eq!(counts, ["160", "180"], "{answer}");
    let (_, answer) = querier.query("count(m)", "&time=2000&replicaLabels[]=nothing").await;
    assert_eq!(answer["data"]["result"][0]["value"][1], "2");
    // The store that can is asked to.
    assert!(a.fake.requests.lock().unwrap().iter().any(|r| r.without_replica_labels == ["replica"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_all_calls() {
    let (_good, bad, querier) = with(Manner::Silent, |a| a.response_timeout = Millis(60_000)).await;
    for path in ["/api/v1/query?query=m&time=1300", "/api/v1/series?match[]=m"] {
        let call = tokio::spawn(reqwest::get(format!("{}{path}", querier.http)));
        until("the call to arrive", async || bad.fake.open.load(Ordering::SeqCst) == 1).await;
        call.abort();
        let begin = Instant::now();
        until("the call to end", async || bad.fake.open.load(Ordering::SeqCst) == 0).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{path}: {:?}", begin.elapsed());
    }
    // The same over gRPC.
    let mut client = querier.store().await;
    let stream = client.series(everything("m")).await.unwrap();
    until("the call to arrive", async || bad.fake.open.load(Ordering::SeqCst) == 1).await;
    drop(stream);
    until("the call to end", async || bad.fake.open.load(Ordering::SeqCst) == 0).await;
}

fn everything(metric: &str) -> SeriesRequest {
    SeriesRequest {
        min_time: 0,
        max_time: i64::MAX,
        matchers: vec![LabelMatcher { r#type: 0, name: "__name__".into(), value: metric.into() }],
        response_batch_size: 64,
        ..SeriesRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_querier_is_a_store() {
    let (a, b) = (store("a", Manner::Good).await, store("b", Manner::Good).await);
    let querier = Querier::start(args(&[a.address.clone(), b.address.clone()])).await;
    let info = querier.info().await;
    assert_eq!(info.component_type, "query");
    let sets: Vec<String> =
        info.label_sets.iter().map(|s| proto::labels::decode(&s.labels).unwrap().to_string()).collect();
    assert_eq!(sets, [r#"{cluster="a"}"#, r#"{cluster="b"}"#]);
    let section = info.store.unwrap();
    assert_eq!((section.min_time, section.max_time), (i64::MIN, i64::MAX));
    assert!(section.supports_without_replica_labels && section.supports_sharding);

    let mut client = querier.store().await;
    let read = async |client: &mut proto::thanos::store_client::StoreClient<_>, r: SeriesRequest| {
        let mut stream = client.series(r).await.unwrap().into_inner();
        let (mut sets, mut warnings) = (Vec::new(), Vec::new());
        while let Some(frame) = stream.message().await.unwrap() {
            match frame.result.unwrap() {
                series_response::Result::Batch(b) => {
                    sets.extend(b.series.iter().map(|s| (proto::labels::decode(&s.labels).unwrap(), s.chunks.len())));
                }
                series_response::Result::Warning(w) => warnings.push(w),
                other => panic!("{other:?}"),
            }
        }
        (sets, warnings)
    };
    let (sets, warnings) = read(&mut client, everything("m")).await;
    assert!(warnings.is_empty());
    assert_eq!(sets.len(), 10);
    assert!(sets.is_sorted_by(|x, y| x.0 < y.0) && sets.iter().all(|s| s.1 == 2));
    let limited = SeriesRequest { limit: 3, ..everything("m") };
    assert_eq!(read(&mut client, limited).await.0.len(), 3);

    // A second querier reads the first; one of the stores goes, which the far querier says, too.
    let second = Querier::start(args(std::slice::from_ref(&querier.grpc))).await;
    let (_, answer) = second.query("count by (cluster) (m)", "&time=1300").await;
    assert_eq!(answer["data"]["result"].as_array().unwrap().len(), 2, "{answer}");
    let gone = b.address.clone();
    b.fake.set_manner(Manner::Fails);
    until("the loss to be told two hops away", async || {
        let (_, answer) = second.query("m", "&time=1300").await;
        Querier::warnings(&answer).iter().any(|w| w.contains(&gone) && w.contains(&querier.grpc))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_takes_forms_and_says_what_is_wrong() {
    let good = store("good", Manner::Good).await;
    let querier = Querier::start(args(std::slice::from_ref(&good.address))).await;
    let client = reqwest::Client::builder().gzip(false).build().unwrap();
    // Body before URL, all forms of time.
    let form = "query=sum(m)&start=1970-01-01T00%3A20%3A00Z&end=1500&step=1m";
    let answer = client
        .post(format!("{}/api/v1/query_range?query=nonsense(&step=1", querier.http))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept-encoding", "gzip")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let client = reqwest::Client::new();
    let answer = client
        .post(format!("{}/api/v1/query_range", querier.http))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let values = answer["data"]["result"][0]["values"].as_array().unwrap();
    assert_eq!((values.len(), &values[0][0], &values[0][1]), (6, &serde_json::json!(1200), &serde_json::json!("65")));
    for (path, status, text) in [
        ("query_range?query=m&start=0&end=11001&step=1", 400, "exceeded maximum resolution of 11,000 points"),
        ("query_range?query=m&start=5&end=1&step=1", 400, "end timestamp must not be before start time"),
        ("query_range?query=m&start=0&end=1&step=0", 400, "zero or negative query resolution"),
        ("query_range?query=m&end=1&step=1", 400, "invalid time value for 'start'"),
        ("query?query=m%7B", 400, "parse error"),
        ("query?query=m&dedup=perhaps", 400, "'dedup' parameter"),
        ("query?query=m&timeout=x", 400, "cannot parse \\\"x\\\" to a valid duration"),
        ("series", 400, "no match[] parameter provided"),
        ("series?match[]=%7Ba%3D~%22.*%22%7D", 400, "at least one non-empty matcher"),
        ("labels?limit=-1", 400, "limit must be non-negative"),
        ("query?query=m%20*%20on(cluster)%20m&time=1300", 422, "found duplicate series"),
    ] {
        let (code, body) = querier.get(&format!("/api/v1/{path}")).await.unwrap();
        assert_eq!(code, status, "{path}: {body}");
        assert!(body.contains(text), "{path}: {body}");
    }
    let (_, answer) = querier.json("/api/v1/label/n/values?limit=2").await;
    assert_eq!(answer["data"], serde_json::json!(["000", "001"]));
    assert_eq!(Querier::warnings(&answer), ["results truncated due to limit"]);
    let (_, answer) = querier.json("/api/v1/labels?match[]=m").await;
    assert_eq!(answer["data"], serde_json::json!(["__name__", "cluster", "n"]));
    let (_, answer) = querier.json("/api/v1/stores").await;
    assert_eq!(answer["data"]["sidecar"][0]["labelSets"], serde_json::json!([{"cluster": "good"}]));
    let metrics = querier.get("/metrics").await.unwrap().1;
    for line in [
        "thanos_store_nodes_grpc_connections{external_labels=\"{cluster=\\\"good\\\"}\",store_type=\"sidecar\"} 1",
        "thanos_query_concurrent_gate_queries_max 20",
        "http_requests_total{code=\"400\",handler=\"query_range\",method=\"get\"} 4",
        "grpc_client_handled_total{grpc_type=\"unary\",grpc_service=\"thanos.Store\",grpc_method=\"LabelValues\",grpc_code=\"OK\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_stores_back() {
    // Forty stores that would send 400 series of 16 kB each: 256 MB.
    let big = |cluster: &str| {
        let data = (0..400)
            .map(|i| {
                let value = format!("{i:05}{}", "x".repeat(16_000));
                (set(&[("__name__", "big"), ("n", &value)]), vec![(1_000_000, 1.0)])
            })
            .collect();
        Fake::new(&[("cluster", cluster)], data)
    };
    let mut stores = Vec::new();
    for i in 0..40 {
        stores.push(big(&format!("c{i:02}")).start().await);
    }
    let querier = Querier::start(args(&stores.iter().map(|s| s.address.clone()).collect::<Vec<_>>())).await;
    let mut client = querier.store().await;
    let mut stream = client.series(everything("big")).await.unwrap().into_inner();
    stream.message().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ahead: Vec<usize> = stores.iter().map(|s| s.fake.sent.load(Ordering::SeqCst)).collect();
    // The first stores come first in the order of labels and fill the way to the reader; of the others no more than a
    // stream's window of 1 MB is taken.
    assert!(ahead.iter().skip(4).all(|n| *n < 100), "stores were read ahead of the reader: {ahead:?}");
    let mut got = 0;
    while let Some(frame) = stream.message().await.unwrap() {
        if let Some(series_response::Result::Batch(b)) = frame.result {
            got += b.series.len();
        }
    }
    assert!(got > 40 * 400 - 100, "{got}");
}
