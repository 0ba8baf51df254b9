//! Rules, alerts, targets, metadata, exemplars, statistics and PromQL over gRPC, beside real Prometheus and real Thanos: one
//! replica has our sidecar and one has Thanos's, and queriers of both kinds stand above them and above each other.

use super::common::{Sidecar, until};
use super::querier::{Querier, args};
use args::{DedupFunc, PushDown, QueryArgs, SidecarArgs};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::metrics_source::MetricsSource;
use testkit::prometheus::{Options, Prometheus};
use testkit::thanos::Thanos;

const RULES: &str = r#"
groups:
- name: first
  interval: 1s
  limit: 7
  rules:
  - record: code:requests:sum
    expr: sum by (code) (requests_total)
    labels: {team: a}
  - alert: Always
    expr: vector(1) > 0
    labels: {severity: page, tmpl: "{{ $value }}"}
    annotations: {summary: "it is {{ $value }}"}
  - alert: Later
    expr: vector(1)
    for: 1h
    keep_firing_for: 5m
- name: second
  rules:
  - record: broken
    expr: requests_total * on () group_left () requests_total
"#;

const PAGE: &str = "# HELP requests Requests that were served.\n# TYPE requests counter\n\
requests_total{code=\"200\"} 5 # {trace_id=\"abc\"} 0.5\nrequests_total{code=\"500\"} 1 # {trace_id=\"def\"} 2\n\
# TYPE temperature_celsius gauge\n# UNIT temperature_celsius celsius\n# HELP temperature_celsius How warm it is.\ntemperature_celsius 20\n# EOF\n";

struct Replica {
    prometheus: Prometheus,
    _rules: tempfile::TempDir,
}

fn replica(page: &str, name: &str) -> Replica {
    let rules = tempfile::tempdir().unwrap();
    let file = rules.path().join("rules.yaml");
    std::fs::write(&file, RULES).unwrap();
    let config = serde_json::json!({
        "global": {
            "scrape_interval": "1s", "evaluation_interval": "1s",
            "external_labels": {"cluster": "ops", "replica": name},
        },
        "rule_files": [file],
        "scrape_configs": [{"job_name": "demo", "static_configs": [{"targets": [page, "127.0.0.1:1"]}],
            "relabel_configs": [{"source_labels": ["__address__"], "regex": "127.0.0.1:1", "action": "drop"}]}],
    });
    let options = Options {
        config: Some(config.to_string()),
        args: vec!["--enable-feature=exemplar-storage".to_owned()],
        ..Options::default()
    };
    Replica { prometheus: Prometheus::start(&options).unwrap(), _rules: rules }
}

fn get(base: &str, path: &str) -> Value {
    let (status, body) = super::common::get(format!("{base}{path}")).unwrap();
    let value: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
    assert_eq!(status, 200, "{path}: {body}");
    value
}

/// Leaves out what moves on between two looks, and the folder of a replica's rules.
fn still(v: &mut Value) {
    const MOVING: [&str; 6] =
        ["evaluationTime", "lastEvaluation", "lastScrape", "lastScrapeDuration", "activeAt", "file"];
    match v {
        Value::Object(fields) => {
            fields.retain(|name, _| !MOVING.contains(&name.as_str()));
            // Thanos has null where nothing was found.
            if fields.get("alerts").is_some_and(Value::is_null) {
                fields.insert("alerts".into(), Value::Array(Vec::new()));
            }
            fields.values_mut().for_each(still);
        }
        Value::Array(all) => all.iter_mut().for_each(still),
        Value::Number(n) => *v = Value::from(n.as_f64().unwrap()),
        _ => {}
    }
}

fn data(base: &str, path: &str) -> Value {
    let mut answer = get(base, path);
    still(&mut answer["data"]);
    answer["data"].take()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_those_of_thanos_in_both_directions() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let (page, a, b, theirs) = tokio::task::block_in_place(|| {
        let page = MetricsSource::start().unwrap();
        page.set_text("application/openmetrics-text; version=1.0.0; charset=utf-8", PAGE);
        let (a, b) = (replica(&page.address(), "a"), replica(&page.address(), "b"));
        let theirs = Thanos::sidecar(&b.prometheus).unwrap();
        (page, a, b, theirs)
    });
    let ours = Sidecar::start(SidecarArgs { prometheus_url: a.prometheus.url(), ..SidecarArgs::default() });
    ours.ready().await;
    let endpoints = [ours.grpc.clone(), theirs.grpc_address()];
    // All that is asked here travels packed: Thanos's parts ask ours so, and ours ask Thanos's.
    let snappy = "--grpc-compression=snappy".to_owned();
    let packed = |endpoints: &[String]| QueryArgs { grpc_compression: "snappy".to_owned(), ..args(endpoints) };
    let querier = Querier::start(packed(&endpoints)).await;
    let (thanos, above) = tokio::task::block_in_place(|| {
        let over = |endpoints: &[String]| {
            let mut flags: Vec<String> = endpoints.iter().map(|e| format!("--endpoint={e}")).collect();
            flags.extend([snappy.clone(), "--query.replica-label=replica".to_owned()]);
            Thanos::start("query", &flags).unwrap()
        };
        (over(&endpoints), over(std::slice::from_ref(&querier.grpc)))
    });
    let over = Querier::start(packed(&[thanos.grpc_address()])).await;
    let found = async |path: &str, enough: &dyn Fn(&Value) -> bool| {
        until(path, async || enough(&data(&querier.http, path))).await;
    };
    found("/api/v1/alerts", &|d| d["alerts"].as_array().unwrap().len() == 4).await;
    found("/api/v1/query_exemplars?query=requests_total", &|d| d.as_array().unwrap().len() == 2).await;
    found("/api/v1/rules?rule_name[]=broken", &|d| d["groups"][0]["rules"][0]["health"] == "err").await;

    let end = now();
    let exemplars = |query: &str| {
        format!(
            "/api/v1/query_exemplars?start={}&end={}&query={}",
            end - 300.0,
            end + 300.0,
            testkit::http::encode(query)
        )
    };
    let paths = [
        "/api/v1/rules".to_owned(),
        "/api/v1/rules?type=alert".to_owned(),
        "/api/v1/rules?type=record".to_owned(),
        "/api/v1/rules?rule_name[]=Always".to_owned(),
        "/api/v1/rules?rule_group[]=second".to_owned(),
        format!("/api/v1/rules?match[]={}", testkit::http::encode("{team=\"a\"}")),
        format!("/api/v1/rules?match[]={}", testkit::http::encode("{tmpl=~\".+\"}")),
        "/api/v1/alerts".to_owned(),
        "/api/v1/targets".to_owned(),
        "/api/v1/targets?state=active".to_owned(),
        "/api/v1/targets?state=dropped".to_owned(),
        "/api/v1/metadata".to_owned(),
        "/api/v1/metadata?metric=temperature_celsius".to_owned(),
        "/api/v1/metadata?limit=0".to_owned(),
        exemplars("requests_total"),
        exemplars("sum(rate(requests_total{code=\"200\", cluster=\"ops\"}[5m])) / temperature_celsius"),
        exemplars("requests_total{cluster=\"other\"}"),
        "/api/v1/status/tsdb".to_owned(),
        "/api/v1/status/tsdb?limit=2".to_owned(),
        format!("/api/v1/status/tsdb?match[]={}", testkit::http::encode("{replica=\"a\"}")),
    ];
    for path in &paths {
        // The two rule files differ in their folder: groups of one name stay apart. A head may grow between two looks.
        let mut last = (Value::Null, Value::Null, Value::Null, Value::Null);
        let equal = async || {
            let of = |base: &str| data(base, path);
            last = (of(&querier.http), of(&thanos.url()), of(&above.url()), of(&over.http));
            last.0 == last.1 && last.0 == last.2 && last.0 == last.3
        };
        let mut equal = equal;
        let begin = std::time::Instant::now();
        while !equal().await {
            if begin.elapsed() > Duration::from_secs(10) {
                let _ = equal;
                panic!(
                    "{path}\nours        {}\nThanos      {}\nThanos/ours {}\nours/Thanos {}",
                    last.0, last.1, last.2, last.3
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    // The comparisons were of something.
    let rules = data(&querier.http, "/api/v1/rules");
    assert_eq!(rules["groups"].as_array().unwrap().len(), 4, "{rules}");
    assert_eq!(rules["groups"][0]["rules"][0]["labels"]["cluster"], "ops");
    assert!(rules["groups"][0]["rules"][0]["labels"].get("replica").is_none(), "{rules}");
    let targets = data(&querier.http, "/api/v1/targets");
    assert_eq!(targets["activeTargets"].as_array().unwrap().len(), 1, "{targets}");
    assert_eq!(targets["droppedTargets"].as_array().unwrap().len(), 1, "{targets}");
    assert_eq!(data(&querier.http, "/api/v1/metadata")["temperature_celsius"][0]["unit"], "celsius");
    let tsdb = data(&querier.http, "/api/v1/status/tsdb?limit=2");
    assert_eq!(tsdb["seriesCountByMetricName"].as_array().unwrap().len(), 2);
    assert!(data(&querier.http, &exemplars("requests_total{cluster=\"other\"}")).as_array().unwrap().is_empty());
    for path in ["/api/v1/rules?type=x", "/api/v1/targets?state=x", "/api/v1/query_exemplars?query=rate("] {
        assert_eq!(querier.get(path).await.unwrap().0, 400, "{path}");
    }

    // PromQL over gRPC: a Thanos querier hands parts of a query down to ours.
    let distributed = tokio::task::block_in_place(|| {
        let flags = [
            snappy.clone(),
            format!("--endpoint={}", querier.grpc),
            "--query.mode=distributed".to_owned(),
            "--query.replica-label=replica".to_owned(),
        ];
        Thanos::start("query", &flags).unwrap()
    });
    until("Thanos to see ours", async || !data(&distributed.url(), "/api/v1/stores").as_object().unwrap().is_empty())
        .await;
    // Of some seconds before, too, so that nothing is compared with nothing.
    let before = "/api/v1/query?query=requests_total%20offset%208s";
    until("samples", async || !data(&querier.http, before)["result"].as_array().unwrap().is_empty()).await;
    let at = now().floor() - 2.0;
    for query in [
        "sum by (code) (requests_total)",
        "count(up)",
        "max by (instance) (temperature_celsius) or vector(1)",
        "histogram_quantile(0.9, sum by (le) (rate(prometheus_http_request_duration_seconds_bucket[10s])))",
        "sum(rate(requests_total[10s]))",
    ] {
        let query = testkit::http::encode(query);
        for path in [
            format!("/api/v1/query?query={query}&time={at}"),
            format!("/api/v1/query_range?query={query}&start={}&end={at}&step=1", at - 5.0),
        ] {
            assert_eq!(data(&distributed.url(), &path)["result"], data(&querier.http, &path)["result"], "{path}");
        }
    }
    until("ours to be asked for PromQL", async || {
        querier
            .get("/metrics")
            .await
            .unwrap()
            .1
            .lines()
            .any(|l| l.starts_with("grpc_server_handled_total") && l.contains("thanos.Query") && l.contains("\"OK\""))
    })
    .await;

    // And ours hands parts down to a Thanos querier: what that evaluates as we do, bit by bit.
    let pushing = async |push_down, deduplication_func| {
        let args = QueryArgs { push_down, deduplication_func, ..packed(&[thanos.grpc_address()]) };
        let querier = Querier::start(args).await;
        until("ours to see Thanos", async || {
            data(&querier.http, "/api/v1/stores").as_object().is_some_and(|s| !s.is_empty())
        })
        .await;
        querier
    };
    let pushed = async |querier: &Querier| {
        let metrics = querier.get("/metrics").await.unwrap().1;
        ["panoptes_query_pushed_down_total ", "panoptes_query_push_down_refused_total "]
            .map(|name| metrics.lines().find_map(|l| l.strip_prefix(name)).unwrap().parse::<u64>().unwrap())
    };
    let in_order = |answer: &mut Value| {
        let mut all = answer["result"].take();
        all.as_array_mut().unwrap().sort_by_key(|e| e["metric"].to_string());
        all
    };
    // Replicas are told apart by label, or the querier picks among them as Thanos does.
    for (push_down, dedup, more) in
        [(PushDown::Close, DedupFunc::Fill, "&dedup=false"), (PushDown::Close, DedupFunc::Penalty, "")]
    {
        let ours = pushing(push_down, dedup).await;
        let queries = [
            "count by (code) (requests_total)",
            "max by (instance) (temperature_celsius)",
            "min(min_over_time(up[5s]))",
        ];
        for query in queries {
            let query = testkit::http::encode(query);
            for path in [
                format!("/api/v1/query?query={query}&time={at}{more}"),
                format!("/api/v1/query_range?query={query}&start={}&end={at}&step=1{more}", at - 5.0),
            ] {
                let mut answers = [data(&ours.http, &path), data(&thanos.url(), &path)];
                let [mine, its] = answers.each_mut().map(in_order);
                assert_eq!(mine, its, "{path}");
                assert!(!mine.as_array().unwrap().is_empty(), "{path}");
            }
        }
        assert_eq!(pushed(&ours).await, [2 * queries.len() as u64, 0], "{push_down:?}");
        let (_, plan) = ours.json(&format!("/api/v1/query_explain?query=count(up)&time={at}{more}")).await;
        assert!(plan.to_string().contains(&thanos.grpc_address()), "{plan}");
    }

    // Who is missing is told, and in strict mode the answer fails.
    drop(theirs);
    for path in ["rules", "alerts", "targets", "metadata", "query_exemplars?query=up", "status/tsdb"] {
        let path = format!("/api/v1/{path}");
        let (status, answer) = querier.json(&path).await;
        assert_eq!(status, 200, "{answer}");
        assert!(Querier::warnings(&answer).iter().any(|w| w.contains(&endpoints[1])), "{path}: {answer}");
        let join = if path.contains('?') { '&' } else { '?' };
        let (status, answer) = querier.json(&format!("{path}{join}partial_response=false")).await;
        assert_eq!(status, 422, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(&endpoints[1]), "{path}: {answer}");
    }
    drop((page, a, b));
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_and_shares_are_picked_by_request() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let (_page, a, theirs) = tokio::task::block_in_place(|| {
        let page = MetricsSource::start().unwrap();
        for i in 0..40 {
            page.set(&format!("many{{n=\"{i}\"}}"), f64::from(i));
        }
        let a = replica(&page.address(), "a");
        let theirs = Thanos::sidecar(&a.prometheus).unwrap();
        (page, a, theirs)
    });
    let ours = Sidecar::start(SidecarArgs { prometheus_url: a.prometheus.url(), ..SidecarArgs::default() });
    ours.ready().await;
    let querier = Querier::start(args(&[ours.grpc.clone(), "127.0.0.1:1".to_owned()])).await;
    until("40 series", async || querier.query("count(many)", "").await.1["data"]["result"][0]["value"][1] == "40")
        .await;
    let only = |address: &str| {
        format!(
            "&partial_response=false&storeMatch[]={}",
            testkit::http::encode(&format!("{{__address__=\"{address}\"}}"))
        )
    };
    // The store that is missing is not asked for, so nothing is missing.
    let (status, answer) = querier.query("count(many)", &only(&ours.grpc)).await;
    assert_eq!((status, answer["data"]["result"][0]["value"][1].as_str()), (200, Some("40")), "{answer}");
    let (status, answer) = querier.query("count(many)", &only("127.0.0.1:1")).await;
    assert_eq!(status, 422, "{answer}");
    let (status, answer) = querier.query("count(many)", &only("127.0.0.1:2")).await;
    assert_eq!((status, answer["data"]["result"].as_array().unwrap().len()), (200, 0), "{answer}");
    assert_eq!(querier.query("many", "&storeMatch[]={").await.0, 400);
    let path = format!("/api/v1/label/n/values?match[]=many{}", only(&ours.grpc));
    assert_eq!(querier.json(&path).await.1["data"].as_array().unwrap().len(), 40);

    // Shares: each series in exactly one, and in the same as Thanos says.
    let thanos = tokio::task::block_in_place(|| Thanos::query(&[theirs.grpc_address()], &["replica"]).unwrap());
    let names = |answer: &Value| {
        let all = answer["data"]["result"].as_array().unwrap();
        all.iter().map(|e| e["metric"]["n"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    let (mut all, mut total) = (std::collections::BTreeSet::new(), 0);
    for index in 0..3 {
        let shard = format!(r#"{{"shard_index":{index},"total_shards":3,"by":true,"labels":["n"]}}"#);
        let more = format!("&shard_info={}", testkit::http::encode(&shard));
        let mine = names(&querier.query("many", &more).await.1);
        let path = format!("/api/v1/query?query=many{more}");
        assert_eq!(mine, names(&get(&thanos.url(), &path)), "{shard}");
        total += mine.len();
        all.extend(mine);
    }
    assert_eq!((all.len(), total), (40, 40));
}
