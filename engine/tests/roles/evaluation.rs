//! Queries over HTTP: they end when nobody wants them, wait for memory, say what they do.

use super::common::until;
use super::fake_store::{Fake, Manner, Running, set};
use super::querier::{Querier, args};
use args::QueryArgs;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The longest that an evaluation may go on when nobody waits for it any more, on a machine that is busy with all else: how
/// much work it still does is measured where the engine is tested.
const SOON: Duration = Duration::from_secs(10);

/// Series of a counter with a sample a second, from 0 s on.
async fn store(series: usize, samples: i64) -> Running {
    let one = |i: usize| {
        let values = (0..samples).map(|n| (n * 1000, (n * (i as i64 + 7) % 1009) as f64)).collect();
        (set(&[("__name__", "m"), ("n", &format!("{i:04}")), ("half", ["a", "b"][i % 2])]), values)
    };
    Fake::new(&[("cluster", "c")], (0..series).map(one).collect()).start().await
}

async fn with(series: usize, samples: i64, more: impl FnOnce(&mut QueryArgs)) -> (Running, Querier) {
    let store = store(series, samples).await;
    let mut a = args(std::slice::from_ref(&store.address));
    more(&mut a);
    (store, Querier::start(a).await)
}

async fn gauge(querier: &Querier, name: &str) -> u64 {
    let text = querier.get("/metrics").await.unwrap().1;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

fn path(query: &str, more: &str) -> String {
    format!("/api/v1/query_range?query={}&start=0&end=10000&step=1{more}", testkit::http::encode(query))
}

/// Asks in the background; the connection closes when the task is aborted.
fn ask(querier: &Querier, path: &str) -> tokio::task::JoinHandle<(u16, String)> {
    let url = format!("{}{path}", querier.http);
    tokio::spawn(async move {
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

const RUNNING: &str = "thanos_query_concurrent_gate_queries_in_flight";

/// Each takes minutes in a debug build.
const LONG: &[&str] = &[
    "quantile_over_time(0.5, m[2h])",
    "sum by (half) (quantile_over_time(0.5, m[2h]))",
    "topk(3, quantile_over_time(0.5, m[2h]))",
    "quantile_over_time(0.5, m[2h]) * on (n) group_left m",
    "max_over_time(quantile_over_time(0.5, m[2h])[2h:1s])",
    "sort_desc(absent_over_time(stddev_over_time(m[2h:1s])[1h:1s]))",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_ends_when_its_client_leaves_or_its_time_is_over() {
    let (_store, querier) = with(20, 10_000, |a| a.threads = 3).await;
    for query in LONG {
        let asked = ask(&querier, &path(query, ""));
        until("the query to run", async || gauge(&querier, RUNNING).await == 1).await;
        // Beyond fetching, into the evaluation.
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!asked.is_finished(), "{query} is no long query: {:?}", asked.await);
        assert_eq!(gauge(&querier, RUNNING).await, 1, "{query}");
        asked.abort();
        let left = Instant::now();
        until("its thread to be free", async || gauge(&querier, RUNNING).await == 0).await;
        assert!(left.elapsed() < SOON, "{query} went on for {:?}", left.elapsed());

        let begin = Instant::now();
        let (code, answer) = querier.json(&path(query, "&timeout=500ms")).await;
        assert_eq!((code, &answer["errorType"]), (503, &json!("timeout")), "{query}: {answer}");
        assert!(begin.elapsed() < Duration::from_millis(500) + SOON, "{query}: {:?}", begin.elapsed());
        let over = Instant::now();
        until("its thread to be free", async || gauge(&querier, RUNNING).await == 0).await;
        assert!(over.elapsed() < SOON, "{query} went on for {:?}", over.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_wait_for_memory_and_those_that_wait_may_leave() {
    // What is set aside for one query is all that there is.
    let (_store, querier) = with(10, 10_000, |a| (a.total_bytes, a.max_concurrent) = (1 << 20, 5)).await;
    let first = ask(&querier, &path(LONG[1], ""));
    until("the query to run", async || gauge(&querier, RUNNING).await == 1).await;
    let (second, third) = (ask(&querier, &path("count(m{n=\"0000\"})", "")), ask(&querier, &path("m{n=\"0001\"}", "")));
    until("both to wait", async || gauge(&querier, "panoptes_query_memory_waiting").await == 2).await;
    let (code, answer) = querier.json(&path("min(m)", "&timeout=300ms")).await;
    assert_eq!((code, &answer["errorType"]), (503, &json!("timeout")), "waiting counts: {answer}");
    assert!(!second.is_finished() && !third.is_finished());
    first.abort();
    let (second, third) = (second.await.unwrap(), third.await.unwrap());
    assert_eq!((second.0, third.0), (200, 200));
    assert!(second.1.contains("[0,\"1\"]"), "{:.300}", second.1);
    assert_eq!(gauge(&querier, "panoptes_query_memory_waiting").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_limit_phase_and_largest_consumer() {
    let (store, querier) = with(50, 2000, |a| a.max_bytes = 2 << 20).await;
    for (query, phase, largest) in [
        ("m", "by the estimate before the evaluation", "the answer"),
        ("sort(m * 2)", "in query execution", "inputs that are needed whole"),
        ("m * on (n) group_left m", "in query execution", "joins"),
    ] {
        let (code, answer) = querier.json(&path(query, "")).await;
        assert_eq!((code, &answer["errorType"]), (422, &json!("execution")), "{query}: {answer}");
        let text = answer["error"].as_str().unwrap();
        for part in [phase, "more than the 2097152 bytes that one query may hold", &format!("for {largest} (")] {
            assert!(text.contains(part), "{query}: {part} is not in {text}");
        }
    }
    assert_eq!(querier.json(&path("sum(m{n=~\"000.\"})", "")).await.0, 200, "what fits is answered");
    drop(querier);
    for (more, whose) in [
        ((20_000, 0), "the 20000 bytes that one query may hold"),
        ((1 << 30, 1 << 20), "the 1048576 bytes that all queries of the process together may hold"),
    ] {
        let mut a = args(std::slice::from_ref(&store.address));
        (a.max_bytes, a.total_bytes) = more;
        let querier = Querier::start(a).await;
        // Fetched twice: one has other matchers.
        let query = "sum(m) + sum(m{n!=\"x\"} offset 1s) + sum(m offset 2s)";
        let (code, answer) = querier.json(&path(if more.1 == 0 { query } else { "sort(m * 2)" }, "")).await;
        let text = answer["error"].as_str().unwrap_or_default();
        assert!(code == 422 && text.contains(whose), "{answer}");
        let phase = if more.1 == 0 { "while series are fetched" } else { "in query execution" };
        assert!(text.contains(phase), "{text}");
        if more.1 == 0 {
            assert!(text.contains("for series and chunks as they were fetched ("), "{text}");
        }
        // All that it held is given back.
        assert_eq!(querier.query("count(m{n=\"0000\"})", "&time=5").await.0, 200);
    }
}

/// Series whose values do not compress: 18 kB each.
async fn bulk(cluster: &str, series: usize, manner: Manner) -> Running {
    let value = |i: usize, n: i64| ((n * 7919 + i as i64 * 104_729) % 1_000_003) as f64 / 977.0;
    let one = |i: usize| {
        let values = (0..2000).map(|n| (n * 1000, value(i, n))).collect();
        (set(&[("__name__", "bulk"), ("n", &format!("{i:04}"))]), values)
    };
    Fake::new(&[("cluster", cluster)], (0..series).map(one).collect()).manner(manner).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_read_while_they_come_and_not_held() {
    let store = bulk("a", 1000, Manner::Good).await;
    let mut a = args(std::slice::from_ref(&store.address));
    // All of them are 18 MB.
    a.max_bytes = 14 << 20;
    let querier = Querier::start(a).await;
    let ask = |query: &str| {
        let query = testkit::http::encode(query);
        format!("/api/v1/query_range?query={query}&start=0&end=1900&step=100")
    };
    let halves = "count(rate(bulk{n=~\"0[0-4].*\"}[1m])) + on () count(bulk{n=~\"0[5-9].*\"})";
    for query in ["count(bulk)", halves] {
        let (code, answer) = querier.json(&ask(query)).await;
        assert_eq!(code, 200, "{query}: {answer:.500}");
        let last = answer["data"]["result"][0]["values"].as_array().unwrap().last().unwrap();
        assert_eq!(last[1], "1000", "{query}");
    }
    // What is read twice is held.
    let (code, answer) = querier.json(&ask("count(bulk) + sum(bulk)")).await;
    assert!(code == 422 && answer["error"].as_str().unwrap().contains("more than the 14680064 bytes"), "{answer:.500}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_when_an_evaluation_has_begun_is_told() {
    // The second is needed only when all of the first was read.
    let (good, bad) = (bulk("a", 600, Manner::Good).await, bulk("z", 3, Manner::SilentAfterOne).await);
    let mut a = args(&[good.address.clone(), bad.address.clone()]);
    a.response_timeout = args::Millis(3000);
    let querier = Querier::start(a).await;
    // Of more data than goes ahead of the evaluation.
    let path = "/api/v1/query_range?query=count%20by%20(cluster)%20(bulk)&start=0&end=1900&step=100";
    let (code, answer) = querier.json(path).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["data"]["result"][0]["values"][19][1], "600", "{answer}");
    let warnings = Querier::warnings(&answer);
    assert!(warnings.len() == 1 && warnings[0].contains(&bad.address), "{warnings:?}");
    let (code, answer) = querier.json(&format!("{path}&partial_response=false")).await;
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(code == 422 && error.contains(&bad.address) && error.contains("silent"), "{answer}");
    // One that waits for more ends when its client leaves.
    let patient = Querier::start(args(&[good.address.clone(), bad.address.clone()])).await;
    let asked = ask(&patient, path);
    until("the query to run", async || gauge(&patient, RUNNING).await == 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!asked.is_finished(), "it does not wait");
    asked.abort();
    let left = Instant::now();
    until("its thread to be free", async || gauge(&patient, RUNNING).await == 0).await;
    assert!(left.elapsed() < SOON, "it went on for {:?}", left.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_explained_and_analyzed() {
    let (store, querier) = with(6, 300, |_| ()).await;
    let text = "sum by (half) (rate(m{half=\"a\"}[1m])) / on () group_left sum(rate(m[1m]))";
    let encoded = testkit::http::encode(text);
    let of_range = format!("query_range_explain?query={encoded}&start=60&end=200&step=10");
    for path in [format!("query_explain?query={encoded}&time=100"), of_range] {
        let (code, answer) = querier.json(&format!("/api/v1/{path}")).await;
        assert_eq!((code, &answer["status"]), (200, &json!("success")), "{answer}");
        let data = &answer["data"];
        assert!(data["name"].as_str().unwrap().starts_with("[join] /"), "{data}");
        assert_eq!(data["children"].as_array().unwrap().len(), 2, "{data}");
        assert!(data.get("executionTime").is_none(), "nothing ran: {data}");
    }
    assert!(store.take_asked().is_empty(), "nothing was fetched");
    assert_eq!(querier.json("/api/v1/query_explain?query=m%7B").await.0, 400);

    let asked = format!("/api/v1/query_range?query={encoded}&start=60&end=200&step=10");
    let (_, plain) = querier.json(&asked).await;
    assert!(plain["data"].get("analysis").is_none(), "{plain}");
    assert_eq!(store.take_asked().len(), 1, "one select covers the other");
    let (_, told) = querier.json(&format!("{asked}&analyze=true&stats=all")).await;
    assert_eq!(told["data"]["result"], plain["data"]["result"]);
    let analysis = &told["data"]["analysis"];
    assert!(analysis["executionTime"].is_string() && analysis["children"].is_array(), "{analysis}");
    fn find<'v>(node: &'v Value, name: &str) -> Option<&'v Value> {
        let here = node["name"].as_str().is_some_and(|n| n.starts_with(name)).then_some(node);
        here.or_else(|| node["children"].as_array()?.iter().find_map(|c| find(c, name)))
    }
    let rate = find(analysis, "[function] rate").unwrap();
    assert_eq!((&rate["series"], &rate["totalSamples"]), (&json!(3), &json!(45)), "{analysis}");
    assert!(told["data"]["stats"]["samples"]["totalQueryableSamples"].is_number(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_have_prometheus_s_form() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let feature = || "promql-per-step-stats".to_owned();
    let (_a, plain) = with(6, 300, |_| ()).await;
    let (_b, by_step) = with(6, 300, |a| a.features = vec![feature()]).await;
    let peer = |features: &[String]| {
        let args = features.iter().map(|f| format!("--enable-feature={f}")).collect();
        testkit::prometheus::Prometheus::start(&testkit::prometheus::Options { args, ..Default::default() }).unwrap()
    };
    let peers = tokio::task::block_in_place(|| [peer(&[]), peer(&[feature()])]);
    fn keys(v: &Value) -> Vec<String> {
        // The number of series is ours alone.
        v.as_object().unwrap().keys().filter(|k| *k != "seriesRead").cloned().collect()
    }
    let text = testkit::http::encode("count_over_time(m[1m])");
    for path in [format!("query?query={text}&time=100.5"), format!("query_range?query={text}&start=60&end=100&step=10")]
    {
        for (ours, theirs, featured) in [(&plain, &peers[0], false), (&by_step, &peers[1], true)] {
            for more in ["", "&stats=true", "&stats=all"] {
                let path = format!("/api/v1/{path}{more}");
                let (_, ours) = ours.json(&path).await;
                let theirs = tokio::task::block_in_place(|| theirs.get(&path)).unwrap();
                let (ours, theirs) = (&ours["data"]["stats"], &theirs["data"]["stats"]);
                assert_eq!(ours.is_null(), more.is_empty(), "{path}: {ours}");
                assert_eq!(ours.is_null(), theirs.is_null(), "{path}: {theirs}");
                if ours.is_null() {
                    continue;
                }
                assert_eq!(keys(&ours["timings"]), keys(&theirs["timings"]), "{path}");
                let (ours, theirs) = (&ours["samples"], &theirs["samples"]);
                assert_eq!(keys(ours), keys(theirs), "{path}");
                // Six series with sixty samples in a window, ten of them new at each further step.
                let steps = if path.contains("range") { 5 } else { 1 };
                assert_eq!(ours["totalQueryableSamples"], 360 * steps, "{path}: {ours}");
                assert_eq!(ours["samplesRead"], 360 + 60 * (steps - 1), "{path}: {ours}");
                assert_eq!(
                    ours.get("samplesReadPerStep").is_some(),
                    featured && more == "&stats=all",
                    "{path}: {ours}"
                );
                for name in ["totalQueryableSamplesPerStep", "samplesReadPerStep"] {
                    let times = |v: &Value| v[name].as_array().map(|all| all.iter().map(|p| p[0].clone()).collect());
                    let (a, b): (Option<Vec<Value>>, Option<Vec<Value>>) = (times(ours), times(theirs));
                    assert_eq!(a, b, "{path}: {ours}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_and_trees_of_queries_are_prometheus_s() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let (_store, querier) = with(2, 300, |_| ()).await;
    let peer = tokio::task::block_in_place(|| testkit::prometheus::Prometheus::start(&Default::default()).unwrap());
    for query in [
        "sum  by(a)(rate(x{b=\"<&>\"}[5m]))>0.5",
        "topk(3,max_over_time(rate(http_requests_total{instance=~\"a.*\"}[5m])[30m:1m]offset 1h))/ignoring(b)group_left(c)\
         label_replace(some_other_metric_with_a_long_name,\"c\",\"$1\",\"d\",\"(.*)\")",
        "x @ end() or -x[5m:] @ 1.5",
        "{\"näme\", a!=\"b\"}",
        "sum(",
        "rate(x)",
        "",
    ] {
        for endpoint in ["format_query", "parse_query"] {
            let path = format!("/api/v1/{endpoint}?query={}", testkit::http::encode(query));
            let (_, ours) = querier.json(&path).await;
            let theirs = tokio::task::block_in_place(|| testkit::http::get(&format!("{}{path}", peer.url()))).unwrap();
            let theirs: Value = serde_json::from_str(&theirs.body).unwrap();
            assert_eq!(ours, theirs, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_open_what_is_experimental() {
    let (_store, closed) = with(2, 300, |_| ()).await;
    let flags = ["promql-experimental-functions,promql-extended-range-selectors", "promql-binop-fill-modifiers"];
    let (_second, open) = with(2, 300, |a| {
        a.x_functions = args::Switch(true);
        a.features = flags.map(str::to_owned).to_vec();
    })
    .await;
    for (query, values) in [
        ("xincrease(m{n=\"0000\"}[1m])", vec!["420"]),
        ("mad_over_time(m{n=\"0000\"}[1m])", vec!["105"]),
        ("increase(m{n=\"0000\"}[1m] anchored)", vec!["420"]),
        ("m{n=\"0000\"} + on (n) fill_right(1) m{n=\"0001\"}", vec!["701"]),
    ] {
        let (code, answer) = closed.query(query, "&time=100").await;
        assert_eq!(code, 400, "{query}: {answer}");
        let (code, answer) = open.query(query, "&time=100").await;
        let found: Vec<&str> =
            answer["data"]["result"].as_array().unwrap().iter().map(|s| s["value"][1].as_str().unwrap()).collect();
        assert_eq!((code, found), (200, values), "{query}: {answer}");
    }
}
