//! The whole path: blocks in a bucket → store gateway → querier → JSON, beside what Prometheus 3.14 answered over the same
//! blocks (`../shared/promqltest-http`; the test says so where that is absent).

use super::gateway::{Gateway, copy};
use super::querier::{self, Querier};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// States that are served at one time.
const TOGETHER: usize = 6;
/// The features that Prometheus had on.
const FEATURES: [&str; 6] = [
    "promql-experimental-functions",
    "promql-duration-expr",
    "promql-extended-range-selectors",
    "promql-binop-fill-modifiers",
    "promql-delayed-name-removal",
    "use-start-timestamps",
];

/// The state's blocks as a sidecar would have uploaded them: with a label that the querier takes away again.
fn bucket(state: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for block in fs::read_dir(state).into_iter().flatten() {
        let block = block.unwrap().path();
        let meta: Result<Value, _> = fs::read(block.join("meta.json")).map(|b| serde_json::from_slice(&b).unwrap());
        let Ok(mut meta) = meta else { continue };
        meta["thanos"] = json!({"labels": {"replica": "a"}, "downsample": {"resolution": 0}, "source": "sidecar"});
        let target = to.join(meta["ulid"].as_str().unwrap());
        copy(&block, &target);
        fs::write(target.join("meta.json"), meta.to_string()).unwrap();
    }
}

fn number(v: &Value) -> f64 {
    match v.as_str().unwrap_or_default() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        s => s.parse().unwrap_or(f64::NAN),
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()) || (a - b).abs() < 1e-14
}

/// Numbers of a value: its time, and either the float or the histogram's count, sum and buckets.
fn numbers(point: &Value) -> Vec<f64> {
    let mut all = vec![point[0].as_f64().unwrap()];
    let Some(histogram) = point[1].as_object() else {
        all.push(number(&point[1]));
        return all;
    };
    all.extend([number(&histogram["count"]), number(&histogram["sum"])]);
    for bucket in histogram.get("buckets").and_then(Value::as_array).into_iter().flatten() {
        all.push(bucket[0].as_f64().unwrap());
        all.extend((1..4).map(|i| number(&bucket[i])));
    }
    all
}

fn same(a: &Value, b: &Value) -> bool {
    let (a, b) = (numbers(a), numbers(b));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| close(*a, *b))
}

/// What differs between an answer of Prometheus and one of ours, if anything does.
fn difference(want: &Value, got: &Value, ordered: bool) -> Option<String> {
    for field in ["status", "error", "errorType"] {
        if want[field] != got[field] {
            return Some(format!("{field}: {} against {}", want[field], got[field]));
        }
    }
    let set = |v: &Value, name: &str| -> BTreeSet<String> {
        v[name].as_array().into_iter().flatten().map(|s| s.as_str().unwrap_or_default().to_owned()).collect()
    };
    for field in ["warnings", "infos"] {
        if set(want, field) != set(got, field) {
            return Some(format!("{field}: {:?} against {:?}", set(want, field), set(got, field)));
        }
    }
    let (want, got) = (&want["data"], &got["data"]);
    if want["resultType"] != got["resultType"] {
        return Some(format!("{} against {}", want["resultType"], got["resultType"]));
    }
    if matches!(want["resultType"].as_str(), Some("scalar" | "string") | None) {
        let text = want["resultType"] == "string";
        let equal = if text {
            want["result"] == got["result"]
        } else {
            want.is_null() || same(&want["result"], &got["result"])
        };
        return (!equal).then(|| format!("{want} against {got}"));
    }
    let list = |v: &Value| v["result"].as_array().cloned().unwrap_or_default();
    let (want, got) = (list(want), list(got));
    let order = |all: &[Value]| all.iter().map(|s| s["metric"].to_string()).collect::<Vec<_>>();
    if ordered && order(&want) != order(&got) {
        return Some(format!("order: {:?} against {:?}", order(&want), order(&got)));
    }
    let by_labels = |all: Vec<Value>| all.into_iter().map(|s| (s["metric"].to_string(), s)).collect::<BTreeMap<_, _>>();
    let (want, got) = (by_labels(want), by_labels(got));
    if want.keys().ne(got.keys()) {
        return Some(format!("series: {:?} against {:?}", want.keys(), got.keys()));
    }
    let points = |s: &Value| -> Vec<Value> {
        let single = ["value", "histogram"].iter().filter_map(|f| s.get(*f).cloned());
        let many = ["values", "histograms"].iter().flat_map(|f| s[*f].as_array().cloned().unwrap_or_default());
        single.chain(many).collect()
    };
    want.iter().zip(got.values()).find_map(|((labels, want), got)| {
        let (want, got) = (points(want), points(got));
        let equal = want.len() == got.len() && want.iter().zip(&got).all(|(a, b)| same(a, b));
        (!equal).then(|| format!("{labels}: {} against {}", Value::Array(want), Value::Array(got)))
    })
}

/// Serves one state and asks all its queries; what differs.
async fn ask(blocks: PathBuf, questions: Vec<Value>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bucket");
    bucket(&blocks, &path);
    let store = Gateway::start(&path, &dir.path().join("cache"), |_| {}).await;
    let mut args = querier::args(std::slice::from_ref(&store.grpc));
    args.features = FEATURES.map(str::to_owned).to_vec();
    let querier = Querier::start(args).await;
    let mut wrong = Vec::new();
    for question in questions {
        let params = question["params"].as_object().unwrap().iter();
        let params: Vec<String> =
            params.map(|(k, v)| format!("{k}={}", testkit::http::encode(v.as_str().unwrap()))).collect();
        let path = format!("/api/v1/{}?{}", question["endpoint"].as_str().unwrap(), params.join("&"));
        let (code, got) = querier.json(&path).await;
        let want = serde_json::from_str(question["body"].as_str().unwrap()).unwrap();
        let found = (Some(u64::from(code)) != question["code"].as_u64())
            .then(|| format!("{code}: {got}"))
            .or_else(|| difference(&want, &got, question["ordered"] == true));
        wrong.extend(found.map(|what| {
            format!("{}:{} {}\n    {what}", question["file"], question["line"], question["params"]["query"])
        }));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_that_prometheus_gave_over_the_same_blocks() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/promqltest-http");
    let Ok(recorded) = fs::read_to_string(data.join("golden.jsonl")) else {
        eprintln!("skipped: the shared test data is absent ({})", data.display());
        return;
    };
    let mut states: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in recorded.lines() {
        let question: Value = serde_json::from_str(line).unwrap();
        // Thanos's StoreAPI knows no chunks with start timestamps: they are lost on the way, as between Thanos's parts.
        if question["file"] == "start_timestamps.test" {
            continue;
        }
        states.entry(question["state"].as_str().unwrap().to_owned()).or_default().push(question);
    }
    let asked: usize = states.values().map(Vec::len).sum();
    let asks = states.into_iter().map(|(state, questions)| ask(data.join("blocks").join(state), questions));
    let wrong: Vec<String> = stream::iter(asks).buffer_unordered(TOGETHER).collect::<Vec<_>>().await.concat();
    assert!(asked > 1000, "only {asked} queries were recorded");
    assert!(wrong.is_empty(), "{} of {asked} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}
