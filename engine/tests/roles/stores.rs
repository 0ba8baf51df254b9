//! The querier over stores that misbehave in every way that a test can think of.

use super::common::until;
use super::fake_store::{Data, Fake, Manner, Running, set};
use super::querier::{Names, Querier, args};
use args::{Millis, QueryArgs};
use proto::thanos::{LabelMatcher, SeriesRequest, series_response};
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

/// One good store and one of this manner, behind a querier that gives a store a second.
async fn with(manner: Manner, more: impl FnOnce(&mut QueryArgs)) -> (Running, Running, Querier) {
    let (good, bad) = (store("good", Manner::Good).await, store("bad", manner).await);
    let mut a = args(&[good.address.clone(), bad.address.clone()]);
    a.response_timeout = Millis(1000);
    more(&mut a);
    let querier = Querier::start(a).await;
    (good, bad, querier)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_misbehaves_costs_its_deadline_and_is_named() {
    for (manner, says) in [
        (Manner::Silent, "it was silent for 1s"),
        (Manner::SilentAfterHeaders, "it was silent for 1s"),
        (Manner::SilentAfterOne, "it was silent for 1s"),
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
        // The query itself may take two minutes.
        assert!(took < Duration::from_secs(20), "{manner:?} took {took:?}");
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
        bad.take_asked();
        let (_, answer) = querier.query("count(m{cluster=\"good\"})", "&time=1300").await;
        assert!(bad.take_asked().is_empty() && Querier::warnings(&answer).is_empty(), "{answer}");
        until("the calls to end", async || bad.fake.open.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_drips_ends_with_the_time_of_the_query() {
    let (_good, bad, querier) = with(Manner::Drips, |_| {}).await;
    let begin = Instant::now();
    let (status, answer) = querier.query("count by (cluster) (m)", "&time=1300&timeout=4").await;
    assert_eq!(status, 200, "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
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

/// Stores that share a name with others are forgotten when the name forgets them; one that has a name of its own is missed then,
/// also by who never saw it.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_name_of_its_own_is_missed() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, cluster: &str| {
        Fake::new(&[("cluster", cluster)], data("m", 5)).start_at(&format!("{ip}:{port}")).await
    };
    let (_live, history) = (make("127.0.0.2", "live").await, make("127.0.0.3", "history").await);
    let names = Names::default();
    names.set("all.test", &["127.0.0.2", "127.0.0.3"]);
    names.set("history.test", &["127.0.0.3"]);
    let addresses = [format!("dns+all.test:{port}"), format!("dns+history.test:{port}")];
    let querier = Querier::with_names(args(&addresses), names.clone()).await;
    let seen = async |querier: &Querier| {
        let (_, answer) = querier.query("count(m)", "&time=1300").await;
        (answer["data"]["result"][0]["value"][1].as_str().unwrap().to_owned(), Querier::warnings(&answer))
    };
    assert_eq!(seen(&querier).await, ("10".to_owned(), vec![]));
    // Behind two names, and shown once.
    assert_eq!(querier.state().await.endpoints.unwrap().stores.len(), 2);
    let listed = querier.get("/api/v1/stores").await.unwrap().1;
    assert_eq!(listed.matches("127.0.0.3:").count(), 1, "{listed}");

    names.set("all.test", &["127.0.0.2"]);
    names.remove("history.test");
    drop(history);
    let missed = async |querier: &Querier, name: &str| {
        let (count, warnings) = seen(querier).await;
        count == "5" && warnings.len() == 1 && warnings[0].contains(name)
    };
    until("it to be missed", async || missed(&querier, &format!("127.0.0.3:{port}")).await).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert!(missed(&querier, &format!("127.0.0.3:{port}")).await, "{:?}", seen(&querier).await);
    let late = Querier::with_names(args(&addresses), names.clone()).await;
    until("the name to be missed", async || missed(&late, "history.test").await).await;

    let _back = make("127.0.0.3", "history").await;
    names.set("all.test", &["127.0.0.2", "127.0.0.3"]);
    names.set("history.test", &["127.0.0.3"]);
    for querier in [&querier, &late] {
        until("nobody to be missed", async || seen(querier).await == ("10".to_owned(), vec![])).await;
    }
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
    let mut a = args(&[format!("dns+stores.test:{port}")]);
    a.unhealthy_timeout = Millis(300);
    let querier = Querier::with_names(a, names).await;
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
    let told = async || clusters().await.1.iter().any(|w| w.contains(&format!("127.0.0.4:{port}")));
    until("a warning", told).await;
    // It leaves the list after a while, but an answer without it never counts as complete.
    let listed = async || querier.get("/api/v1/stores").await.unwrap().1.contains("127.0.0.4");
    until("it to leave the list", async || !listed().await).await;
    assert!(told().await);
}

/// A SRV name with two targets, of which one can't be looked up at first, and later not any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_can_not_be_looked_up_is_missed_and_one_that_could_stays() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, cluster: &str| {
        Fake::new(&[("cluster", cluster)], data("m", 5)).start_at(&format!("{ip}:{port}")).await
    };
    let (_a, _b) = (make("127.0.0.2", "a").await, make("127.0.0.3", "b").await);
    let names = Names::default();
    names.set_srv("_grpc._tcp.stores.test", &[("a.test", port), ("b.test", port)]);
    names.set("a.test", &["127.0.0.2"]);
    let querier = Querier::with_names(args(&["dnssrv+_grpc._tcp.stores.test".to_owned()]), names).await;
    let seen = async || {
        let (_, answer) = querier.query("count(m)", "&time=1300").await;
        (answer["data"]["result"][0]["value"][1].as_str().unwrap_or_default().to_owned(), Querier::warnings(&answer))
    };
    let (count, told) = seen().await;
    assert!(count == "5" && told.len() == 1 && told[0].contains("b.test"), "{count} {told:?}");
    querier.names.set("b.test", &["127.0.0.3"]);
    until("both", async || seen().await == ("10".to_owned(), vec![])).await;
    let failures = async || metric(&querier, "thanos_query_endpoints_dns_failures_total").await;
    let before = failures().await;
    querier.names.remove("b.test");
    until("it to be looked up again", async || failures().await >= before + 2).await;
    assert_eq!(seen().await, ("10".to_owned(), vec![]), "what was found once stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_stands_for_one_store_is_tried_at_all_its_addresses() {
    let port = testkit::ports::free().unwrap();
    let _b = Fake::new(&[("cluster", "b")], data("m", 5)).start_at(&format!("127.0.0.3:{port}")).await;
    let names = Names::default();
    names.set("one.test", &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let querier = Querier::with_names(args(&[format!("one.test:{port}")]), names).await;
    until("the living address", async || {
        let (_, answer) = querier.query("count(m)", "&time=1300").await;
        answer["data"]["result"][0]["value"][1] == "5" && Querier::warnings(&answer).is_empty()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(Querier::warnings(&querier.query("m", "&time=1300").await.1).is_empty(), "it stays with what works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_store_costs_its_deadline_once_per_query() {
    let (_good, bad, querier) = with(Manner::Silent, |_| {}).await;
    let many: Vec<String> = (0..12).map(|i| format!("sum(m{{n!=\"{i}\"}})")).collect();
    let (status, answer) = querier.query(&many.join(" + "), "&time=1300").await;
    assert_eq!(status, 200, "{answer}");
    // As many selects as run at once; the others know.
    assert!((1..=4).contains(&bad.take_asked().len()));
    assert!(Querier::warnings(&answer)[0].contains(&bad.address), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_store_of_another_querier_costs_only_itself() {
    // Both have the usual patience; the time that is left travels with the call.
    let (_good, bad, below) = with(Manner::Silent, |a| a.response_timeout = Millis(30_000)).await;
    let mut a = args(std::slice::from_ref(&below.grpc));
    a.response_timeout = Millis(30_000);
    let above = Querier::start(a).await;
    let (status, answer) = above.query("count by (cluster) (m)", "&time=1300&timeout=5").await;
    assert_eq!((status, &answer["data"]["result"][0]["metric"]["cluster"]), (200, &"good".into()), "{answer}");
    assert!(Querier::warnings(&answer)[0].contains(&bad.address), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_store_is_told_before_any_warning_of_promql() {
    let data = (0..15).flat_map(|i| data(&format!("m{i:02}"), 1)).collect();
    let good = Fake::new(&[("cluster", "good")], data).start().await;
    let away = format!("127.0.0.1:{}", testkit::ports::free().unwrap());
    let querier = Querier::start(args(&[good.address.clone(), away.clone()])).await;
    let (_, answer) = querier.query("histogram_quantile(0.9, {__name__=~\"m.*\"})", "&time=1300").await;
    let warnings = Querier::warnings(&answer);
    assert!(warnings[0].contains(&away) && warnings.len() > 1, "{warnings:?}");
}

fn link(name: &str, address: &str, more: &str) -> String {
    format!("- namespace: m\n  name: {name}\n  cluster: {name}\n  address: {address}\n{more}")
}

fn links(revision: usize, links: &[String]) -> String {
    let all = links.concat();
    format!("format: 1\nrevision: r{revision}\nclusterLabel: cluster\nclusterName: ops\nlinks:\n{all}")
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_links_cost_no_answer() {
    let far = Fake::new(&[("cluster", "prod")], data("m", 5)).start().await;
    let dir = tempfile::tempdir().unwrap();
    let write = |text: String| {
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("links.yaml")).unwrap();
    };
    std::fs::write(dir.path().join("endpoints.yaml"), "endpoints: []\n").unwrap();
    let mut a = args(&[]);
    a.endpoints_dir = dir.path().to_string_lossy().into_owned();
    a.sd_reload_interval = Millis(50);
    // An edit of what decides about use, one of the connection, and one beside a name that does not resolve.
    let forms: [&dyn Fn(usize) -> Vec<String>; 3] = [
        &|i| {
            vec![link(
                "prod",
                &far.address,
                &format!(
                    "  criticality: Required\n  probe: {{intervalMs: {}, timeoutMs: 2000, failureThreshold: 3, successThreshold: 1}}\n",
                    1000 + i
                ),
            )]
        },
        &|i| {
            vec![link(
                "prod",
                &far.address,
                &format!("  criticality: Required\n  client: {{server_name: \"name-{i}\"}}\n"),
            )]
        },
        &|i| {
            vec![
                link("prod", &far.address, &format!("  client: {{server_name: \"other-{i}\"}}\n")),
                link("gone", "dns+nowhere.test:1", ""),
            ]
        },
    ];
    write(links(0, &forms[0](0)));
    let querier = Querier::start(a).await;
    let (mut revision, mut queries) = (0, 0);
    for form in forms {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1500) {
            revision += 1;
            write(links(revision, &form(revision)));
            for _ in 0..10 {
                let query = querier.query("count(m{cluster=\"prod\"})", "&time=1300&timeout=5");
                let (status, answer) = tokio::time::timeout(Duration::from_secs(10), query).await.unwrap();
                assert_eq!(status, 200, "{answer}");
                assert_eq!(answer["data"]["result"][0]["value"][1], "5", "{answer}");
                assert!(Querier::warnings(&answer).is_empty(), "{answer}");
                // A query that concerns the name without addresses looks at it while the files change.
                querier.query("m{cluster=~\"gone|prod\"}", "&time=1300").await;
                queries += 1;
            }
        }
    }
    assert!(queries >= 30, "{queries}");
    until("the last revision", async || {
        querier.state().await.endpoints.unwrap().revision == Some(format!("r{revision}"))
    })
    .await;
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
        // The store itself would have had a minute.
        assert!(begin.elapsed() < Duration::from_secs(15), "{path}: {:?}", begin.elapsed());
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
        ("query?query=m&timeout=-1", 400, "a timeout can't be negative"),
        ("query?query=m&timeout=x", 400, "cannot parse \\\"x\\\" to a valid duration"),
        ("query?query=m&storeMatch[]=%7Ba%3D", 400, "invalid parameter"),
        ("query?query=m&shard_info=%7B%22total_shards%22:2,%22shard_index%22:2%7D", 400, "there is no shard 2 of 2"),
        ("query?query=m&shard_info=%7B%22total_shards%22:0%7D", 200, "success"),
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

/// A store that would send `series` series of about 16 kB each.
async fn big(cluster: &str, series: usize) -> Running {
    let data = (0..series).map(|i| {
        let value = format!("{i:05}{}", "x".repeat(16_000));
        (set(&[("__name__", "big"), ("n", &value)]), vec![(1_000_000, 1.0)])
    });
    Fake::new(&[("cluster", cluster)], data.collect()).start().await
}

/// The value of a metric without labels.
async fn metric(querier: &Querier, name: &str) -> u64 {
    let text = querier.get("/metrics").await.unwrap().1;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_reader_holds_does_not_grow_with_the_number_of_stores() {
    const AHEAD: u64 = 2 << 20;
    const SERIES: usize = 4000;
    const SIZE: u64 = 16_100;
    let mut taken = Vec::new();
    for count in [5, 50] {
        // The same 64 MB, of 5 or of 50.
        let mut stores = Vec::new();
        for i in 0..count {
            stores.push(big(&format!("c{i:02}"), SERIES / count).await);
        }
        let mut a = args(&stores.iter().map(|s| s.address.clone()).collect::<Vec<_>>());
        (a.buffer_bytes, a.buffer_bytes_per_request) = (64 << 20, AHEAD);
        let querier = Querier::start(a).await;
        let mut client = querier.store().await;
        let mut stream = client.series(everything("big")).await.unwrap().into_inner();
        let mut got = match stream.message().await.unwrap().unwrap().result.unwrap() {
            series_response::Result::Batch(b) => b.series.len(),
            other => panic!("{other:?}"),
        };
        // It reads on for a while, then everything stands still.
        let sent = || stores.iter().map(|s| s.fake.sent.load(Ordering::SeqCst)).sum::<usize>();
        let mut before = 0;
        until("the stores to be held back", async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            std::mem::replace(&mut before, sent()) == sent()
        })
        .await;
        let held = metric(&querier, "panoptes_query_buffered_bytes").await;
        assert!(metric(&querier, "panoptes_query_buffer_waits_total").await > 0);
        // What is read ahead, and one message of each store, which are the smaller the more there are; labels are held
        // twice, as they came and as they are read.
        let heads = 2 * 512 * SIZE;
        assert!(held > 0 && held <= 2 * AHEAD + heads, "{count} stores: {held} bytes");
        taken.push((sent() - got) as u64 * SIZE);
        // The reader goes on, and nothing is missing or held any more.
        while let Some(frame) = stream.message().await.unwrap() {
            match frame.result.unwrap() {
                series_response::Result::Batch(b) => got += b.series.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, SERIES);
        until("the memory to be given back", async || metric(&querier, "panoptes_query_buffered_bytes").await == 0)
            .await;
    }
    // All that left the stores and did not arrive, also where it lies in HTTP/2's windows, in the stores' own buffers and
    // on the way to the reader: for ten times the stores nearly the same.
    assert!(taken[1] < 3 * taken[0] / 2, "{taken:?} bytes of 5 and 50 stores");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_can_not_be_held_costs_its_store_and_is_told() {
    let (small, large) = (store("good", Manner::Good).await, big("bad", 100).await);
    let mut a = args(&[small.address.clone(), large.address.clone()]);
    a.buffer_bytes = 10_000;
    let querier = Querier::start(a).await;
    let (status, answer) = querier.query("count by (cluster) ({__name__=~\"m|big\"})", "&time=1300").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"]["result"][0]["metric"]["cluster"], "good", "{answer}");
    let warnings = Querier::warnings(&answer);
    assert!(warnings.len() == 1 && warnings[0].contains(&large.address), "{warnings:?}");
    assert!(warnings[0].contains("sent a message of ") && warnings[0].contains("hold 10000 together"), "{warnings:?}");
    assert!(warnings[0].ends_with("raise --query.buffer-bytes"), "{warnings:?}");
    let (status, answer) = querier.query("count({__name__=~\"m|big\"})", "&time=1300&partial_response=false").await;
    assert_eq!(status, 422, "{answer}");
    // Label values, too; and what fits is answered as ever.
    let (_, answer) = querier.json("/api/v1/label/n/values?match[]=big").await;
    assert!(Querier::warnings(&answer)[0].contains("sent a message of "), "{answer}");
    let (_, answer) = querier.query("count(m)", "&time=1300").await;
    assert!(answer["data"]["result"][0]["value"][1] == "5" && Querier::warnings(&answer).is_empty(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_our_own_is_no_failure_of_the_store_that_is_read() {
    let value = |i: usize| format!("{i:05}{}", "x".repeat(16_000));
    let data = (0..100).map(|i| (set(&[("__name__", "big"), ("n", &value(i))]), vec![(1_000_000, 1.0)]));
    // It can't leave out replica labels itself, so that all of it is held to be sorted.
    let old = Fake::new(&[("cluster", "old"), ("replica", "a")], data.collect()).unable().start().await;
    let good = store("good", Manner::Good).await;
    let mut a = args(&[old.address.clone(), good.address.clone()]);
    a.max_bytes = 400_000;
    let querier = Querier::start(a).await;
    for partial in ["true", "false"] {
        let more = format!("&time=1000&partial_response={partial}");
        let (status, answer) = querier.query("count({__name__=~\"m|big\"})", &more).await;
        assert_eq!(status, 422, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("more than the 400000 bytes that one query may hold"), "{answer}");
        assert!(!error.contains("no answer from store"), "{answer}");
    }
    let (status, answer) = querier.json("/api/v1/series?match[]=big").await;
    assert!(status != 200 && answer["error"].as_str().unwrap().contains("more than the 400000 bytes"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stall_do_not_keep_others_from_their_answers() {
    // Two stores whose messages of a megabyte fill all that may be read ahead.
    let stores = [big("a", 400).await, big("b", 400).await];
    let mut a = args(&stores.each_ref().map(|s| s.address.clone()));
    (a.buffer_bytes, a.buffer_bytes_per_request) = (32 << 20, 32 << 20);
    a.response_timeout = Millis(1000);
    let querier = Querier::start(a).await;
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut stream = querier.store().await.series(everything("big")).await.unwrap().into_inner();
        stream.message().await.unwrap();
        stalled.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (status, answer) = querier.query("count by (cluster) (big)", "&time=1000&timeout=10").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"]["result"].as_array().unwrap().len(), 2, "{answer}");
    assert!(Querier::warnings(&answer).is_empty(), "{answer}");
    assert!(metric(&querier, "panoptes_query_buffered_bytes").await <= 2 * (32 << 20));
    // They were held up, not forgotten.
    for mut stream in stalled {
        let mut frames = 0;
        while stream.message().await.unwrap().is_some() {
            frames += 1;
        }
        assert!(frames > 5, "{frames}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_group_one_is_asked_and_another_when_that_is_gone() {
    let one = Fake::live(&[&[("s", "1")]]).start().await;
    let port = one.address.rsplit_once(':').unwrap().1.to_owned();
    let two = Fake::live(&[&[("s", "1")]]).start_at(&format!("127.0.0.2:{port}")).await;
    let names = Names::default();
    names.set("group", &["127.0.0.1", "127.0.0.2"]);
    let args = QueryArgs { endpoint_groups: vec![format!("dns+group:{port}")], ..args(&[]) };
    let querier = Querier::with_names(args, names).await;
    let (status, answer) = querier.query("up", "&partial_response=false").await;
    assert_eq!((status, answer["data"]["result"].as_array().unwrap().len()), (200, 1), "{answer}");
    let asked = (one.take_asked().len(), two.take_asked().len());
    assert_eq!(asked, (1, 0), "both are the same store");
    drop(one);
    until("the other to be asked", async || {
        let (status, answer) = querier.query("up", "&partial_response=false").await;
        // The first may still answer while it stops.
        let whole = status == 200 && answer["data"]["result"].as_array().is_some_and(|r| r.len() == 1);
        whole && !two.take_asked().is_empty()
    })
    .await;
}
