//! The querier beside real Prometheus and real Thanos: it reads a Thanos sidecar, a Thanos querier reads it, and the
//! answers are the same.

use super::common::until;
use super::querier::{Querier, args};
use ::args::DedupFunc;
use serde_json::Value;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::metrics_source::MetricsSource;
use testkit::prometheus::{Options, Prometheus};
use testkit::thanos::Thanos;

/// Queries of every kind that dashboards and rules use.
const QUERIES: &[&str] = &[
    "up",
    "requests_total",
    "count by (cluster) (up)",
    "sum by (code) (rate(requests_total[10s]))",
    "sum(rate(requests_total{code=~\"5..\"}[10s])) / sum(rate(requests_total[10s]))",
    "increase(requests_total[15s])",
    "irate(requests_total[10s])",
    "histogram_quantile(0.9, sum by (le) (rate(latency_seconds_bucket[15s])))",
    "temperature - 3 * avg_over_time(temperature[10s])",
    "max_over_time(temperature[8s])",
    "quantile_over_time(0.5, temperature[9s])",
    "stddev_over_time(temperature[9s])",
    "count_over_time(temperature[12s])",
    "deriv(temperature[10s])",
    "delta(temperature[10s])",
    "changes(temperature[10s])",
    "topk(2, requests_total)",
    "absent(no_such_metric)",
    "max_over_time(rate(requests_total[5s])[10s:2s])",
    "temperature offset 5s",
    "label_replace(up, \"short\", \"$1\", \"instance\", \"(.*):.*\")",
    "requests_total and on (code) requests_total{code=\"500\"}",
    "sort_desc(requests_total)",
    "predict_linear(temperature[10s], 60)",
    "vector(1) + 1",
    "time()",
    "histogram_quantile(0.5, rate(prometheus_http_request_duration_seconds[15s]))",
    "histogram_count(prometheus_http_request_duration_seconds{handler=\"/metrics\"})",
    "sum(rate(prometheus_http_request_duration_seconds[15s]))",
];

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

struct Pair {
    prometheus: Prometheus,
    sidecar: Thanos,
}

fn pair(page: &MetricsSource, replica: &str) -> Pair {
    let config = |own: &str| {
        format!(
            r#"{{"global": {{"scrape_interval": "1s", "external_labels": {{"cluster": "ops", "replica": "{replica}"}}}},
                "scrape_configs": [
                  {{"job_name": "demo", "static_configs": [{{"targets": ["{}"]}}]}},
                  {{"job_name": "self", "scrape_native_histograms": true, "static_configs": [{{"targets": ["{own}"]}}]}}]}}"#,
            page.address()
        )
    };
    let prometheus = Prometheus::start(&Options { config: Some(config("none:1")), ..Options::default() }).unwrap();
    prometheus.write_config(&config(&format!("127.0.0.1:{}", prometheus.port()))).unwrap();
    prometheus.reload().unwrap();
    let sidecar = Thanos::sidecar(&prometheus).unwrap();
    Pair { prometheus, sidecar }
}

/// A page whose values move until it is dropped.
struct Moving {
    page: Arc<MetricsSource>,
    _stop: Sender<()>,
}

fn moving() -> Moving {
    let page = Arc::new(MetricsSource::start().unwrap());
    let (stop, stopped) = std::sync::mpsc::channel();
    page.declare("requests_total", "counter");
    let mover = Arc::clone(&page);
    let set = move |n: f64| {
        // The counters fall once on the way, to a value well above zero: where a window begins right after a fall to almost
        // zero, Prometheus (and we) extrapolate less, but Thanos takes resets out before its engine sees them.
        let n = 40.0 + if n > 60.0 { n - 60.0 } else { n + 60.0 };
        for (code, rate) in [("200", 7.0), ("404", 2.0), ("500", 0.5)] {
            mover.set(&format!("requests_total{{code=\"{code}\"}}"), n * rate);
        }
        mover.set("temperature", 20.0 + (n / 3.0).sin() * 5.0);
        let le = |share: f64| (n * 9.5 * share).floor();
        mover.set_histogram("latency_seconds", "", &[("0.1", le(0.5)), ("0.5", le(0.9)), ("1", le(1.0))], n);
    };
    set(0.0);
    std::thread::spawn(move || {
        let mut n = 1.0;
        while stopped.recv_timeout(Duration::from_millis(250)) == Err(RecvTimeoutError::Timeout) {
            set(n);
            n += 1.0;
        }
    });
    Moving { page, _stop: stop }
}

fn ask(base: &str, path: &str) -> Value {
    tokio::task::block_in_place(|| {
        let answer = testkit::http::get(&format!("{base}{path}")).unwrap();
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.body))
    })
}

/// The result in an order of its own, without these labels.
fn result(answer: &Value, without: &[&str]) -> Value {
    let mut result = answer["data"]["result"].clone();
    if let Some(all) = result.as_array_mut().filter(|a| a.first().is_some_and(Value::is_object)) {
        for element in all.iter_mut() {
            for label in without {
                element["metric"].as_object_mut().unwrap().remove(*label);
            }
        }
        all.sort_by_key(|e| e["metric"].to_string());
    }
    result
}

/// Equal but for the last digits of floats, which depend on the order of additions.
pub fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| close(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| close(v, w)))
        }
        (Value::String(x), Value::String(y)) => {
            x == y
                || match (x.parse::<f64>(), y.parse::<f64>()) {
                    (Ok(x), Ok(y)) => (x - y).abs() <= 1e-12 * x.abs().max(y.abs()),
                    _ => false,
                }
        }
        _ => a == b,
    }
}

/// Instant and range forms of all queries, over the last 20 s before `end`.
fn paths(end: f64) -> Vec<String> {
    let mut paths = Vec::new();
    for q in QUERIES {
        let q = testkit::http::encode(q);
        paths.push(format!("/api/v1/query?query={q}&time={end}"));
        paths.push(format!("/api/v1/query_range?query={q}&start={}&end={end}&step=2", end - 20.0));
    }
    paths
}

/// Compares all answers of two servers; gives the differences.
fn compare(ours: &str, theirs: &str, end: f64, more: &str, without: &[&str]) -> Vec<String> {
    let (mut different, mut empty) = (Vec::new(), Vec::new());
    for path in paths(end) {
        // Prometheus ignores Thanos's parameters.
        let (a, b) = (ask(ours, &format!("{path}{more}")), ask(theirs, &format!("{path}{more}")));
        assert_eq!(a["status"], "success", "{path}: {a}");
        assert!(Querier::warnings(&a).iter().all(|w| w.starts_with("PromQL")), "{path}: {a}");
        if a["data"]["result"].as_array().is_none_or(Vec::is_empty) {
            empty.push(path.clone());
        }
        if !close(&result(&a, without), &result(&b, without)) {
            different.push(format!("{path}\n  ours   {a}\n  theirs {b}"));
        }
    }
    assert!(empty.is_empty(), "nothing was compared by {empty:?}");
    different
}

async fn scraped(url: &str) {
    let query = "count_over_time(requests_total{code=\"200\"}[1m])";
    until("24 scrapes", async || {
        let answer = ask(url, &format!("/api/v1/query?query={}", testkit::http::encode(query)));
        answer["data"]["result"][0]["value"][1].as_str().is_some_and(|n| n.parse::<f64>().unwrap() >= 24.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_gives_the_answers_of_prometheus_and_of_thanos() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let (moving, one, thanos) = tokio::task::block_in_place(|| {
        let moving = moving();
        let one = pair(&moving.page, "a");
        let thanos = Thanos::query(&[one.sidecar.grpc_address()], &["replica"]).unwrap();
        (moving, one, thanos)
    });
    let querier = Querier::start(args(&[one.sidecar.grpc_address()])).await;
    scraped(&one.prometheus.url()).await;
    let end = (now() - 2.0).floor();
    drop(moving);

    let different = compare(&querier.http, &thanos.url(), end, "", &[]);
    assert!(different.is_empty(), "ours and Thanos's differ:\n{}", different.join("\n"));
    // Prometheus's own answers lack the external labels.
    let different = compare(&querier.http, &one.prometheus.url(), end, "", &["cluster", "replica"]);
    assert!(different.is_empty(), "ours and Prometheus's differ:\n{}", different.join("\n"));

    for path in
        ["/api/v1/labels", "/api/v1/label/job/values", "/api/v1/label/__name__/values", "/api/v1/series?match[]=up"]
    {
        assert_eq!(ask(&querier.http, path)["data"], ask(&thanos.url(), path)["data"], "{path}");
    }
    for path in ["/api/v1/query?query=sum(", "/api/v1/query_range?query=up&start=0&end=99999&step=1", "/api/v1/series"]
    {
        let (a, b) = (ask(&querier.http, path), ask(&one.prometheus.url(), path));
        assert_eq!((&a["errorType"], &a["error"]), (&b["errorType"], &b["error"]), "{path}");
    }

    // A Thanos querier reads ours: a querier is a store, in both directions.
    let above =
        tokio::task::block_in_place(|| Thanos::query(std::slice::from_ref(&querier.grpc), &["replica"]).unwrap());
    let different = compare(&querier.http, &above.url(), end, "", &[]);
    assert!(different.is_empty(), "ours and Thanos's over ours differ:\n{}", different.join("\n"));
    let over_thanos = Querier::start(args(&[thanos.grpc_address()])).await;
    let different = compare(&over_thanos.http, &querier.http, end, "", &[]);
    assert!(different.is_empty(), "ours over Thanos's and ours differ:\n{}", different.join("\n"));
}

/// Two replicas whose target is away now and then, each at other times: by Thanos's two functions ours gives what Thanos gives.
#[tokio::test(flavor = "multi_thread")]
async fn penalty_and_chain_give_what_thanos_gives() {
    use super::fake_store::{Fake, set};
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let mut rng = testkit::goal::Rng(23);
    let mut replica = |name: &str, phase: i64| {
        let series = (0..12).map(|n| {
            let gaps: Vec<(usize, usize)> = (0..4).map(|_| (rng.below(240), 2 + rng.below(20))).collect();
            let reset = 60 + rng.below(100) as i64;
            let scraped = (0..240usize).filter(|i| !gaps.iter().any(|(from, n)| (*from..from + n).contains(i)));
            let samples = scraped.map(|i| {
                let t = 1_000_000 + phase + i as i64 * 15_000;
                let counted = if (i as i64) < reset { 5_000 + i as i64 * 7 } else { (i as i64 - reset) * 11 };
                (t, counted as f64)
            });
            (set(&[("__name__", "m_total"), ("n", &format!("{n:02}"))]), samples.collect())
        });
        Fake::new(&[("cluster", "ops"), ("replica", name)], series.collect())
    };
    let (a, b) = (replica("a", 0).start().await, replica("b", 6_000).start().await);
    let endpoints = [a.address.clone(), b.address.clone()];
    for (name, func) in [("penalty", DedupFunc::Penalty), ("chain", DedupFunc::Chain)] {
        let thanos = tokio::task::block_in_place(|| {
            let mut flags: Vec<String> = endpoints.iter().map(|e| format!("--endpoint={e}")).collect();
            flags.extend(["--query.replica-label=replica".to_owned(), format!("--deduplication.func={name}")]);
            flags.push("--query.promql-engine=prometheus".to_owned());
            Thanos::start("query", &flags).unwrap()
        });
        let querier = Querier::start(::args::QueryArgs { deduplication_func: func, ..args(&endpoints) }).await;
        let all = "/api/v1/query?query=m_total&time=2000";
        until("Thanos to see both", async || {
            ask(&thanos.url(), all)["data"]["result"].as_array().is_some_and(|r| r.len() == 12)
        })
        .await;
        let mut compared = 0;
        for query in [
            "m_total",
            "rate(m_total[2m])",
            "increase(m_total[5m])",
            "count_over_time(m_total[3m])",
            "irate(m_total[2m])",
        ] {
            let query = testkit::http::encode(query);
            let path = format!("/api/v1/query_range?query={query}&start=1100&end=4600&step=45");
            let (ours, theirs) = (ask(&querier.http, &path), ask(&thanos.url(), &path));
            assert!(ours.get("warnings").is_none(), "{ours}");
            assert!(
                close(&result(&ours, &[]), &result(&theirs, &[])),
                "{name} {path}\n ours   {ours}\n theirs {theirs}"
            );
            compared += ours["data"]["result"].as_array().unwrap().len();
        }
        assert_eq!(compared, 5 * 12);
        // The samples themselves.
        let path = format!("/api/v1/query?query={}&time=4600", testkit::http::encode("m_total[1h]"));
        let (ours, theirs) = (ask(&querier.http, &path), ask(&thanos.url(), &path));
        assert!(close(&result(&ours, &[]), &result(&theirs, &[])), "{name}\n ours   {ours}\n theirs {theirs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_leaves_no_gap() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let (moving, a, b) = tokio::task::block_in_place(|| {
        let moving = moving();
        let a = pair(&moving.page, "a");
        let b = pair(&moving.page, "b");
        (moving, a, b)
    });
    let endpoints = [a.sidecar.grpc_address(), b.sidecar.grpc_address()];
    let thanos = tokio::task::block_in_place(|| Thanos::query(&endpoints, &["replica"]).unwrap());
    let querier = Querier::start(args(&endpoints)).await;
    scraped(&b.prometheus.url()).await;
    let end = (now() - 2.0).floor();
    // Without deduplication there is nothing to choose: the answers are the same.
    let different = compare(&querier.http, &thanos.url(), end, "&dedup=false", &[]);
    assert!(different.is_empty(), "ours and Thanos's differ:\n{}", different.join("\n"));

    let (gone, killed) = (a.sidecar.grpc_address(), now());
    tokio::task::block_in_place(|| drop(a));
    tokio::time::sleep(Duration::from_secs(8)).await;
    let path = format!("/api/v1/query?query={}", testkit::http::encode("requests_total{code=\"200\"}[30s]"));
    let answer = ask(&querier.http, &path);
    let result = answer["data"]["result"].as_array().unwrap();
    assert_eq!(result.len(), 1, "{answer}");
    let times: Vec<f64> = result[0]["values"].as_array().unwrap().iter().map(|v| v[0].as_f64().unwrap()).collect();
    assert!(times[0] < killed - 10.0 && times[times.len() - 1] > killed + 5.0, "{times:?}, killed at {killed}");
    let widest = times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
    assert!(widest <= 2.0, "a gap of {widest} s: {times:?}");
    assert!(Querier::warnings(&answer).iter().any(|w| w.contains(&gone)), "{answer}");
    // The counter moved on at its pace.
    let path = format!("/api/v1/query?query={}", testkit::http::encode("rate(requests_total{code=\"200\"}[10s])"));
    let rate: f64 = ask(&querier.http, &path)["data"]["result"][0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!((rate - 28.0).abs() < 6.0, "7 every 250 ms are 28 a second, not {rate}");
    drop(moving);
}
