//! Aggregations that queriers behind a querier evaluate: the answers are those without, whatever is behind.

use super::common::until;
use super::fake_store::{Data, Evaluation, Fake, Manner, Running, Samples, Wrong, set};
use super::querier::{Querier, args};
use args::{DedupFunc, Millis, PushDown, QueryArgs};
use serde_json::Value;
use testkit::goal::Rng;

/// Counters and gauges, a sample every 15 s from 1000 s on; some series end early, some have no values for a while.
fn data(phase: i64) -> Data {
    let mut all = Data::new();
    for metric in ["m_total", "g"] {
        for i in 0..12i64 {
            let value = |n: i64| match metric {
                "g" => ((n * 37 + i * 11 + phase) % 101 - 50) as f64 / 7.0,
                _ => ((n % 60) * (i + 1) + phase) as f64,
            };
            let there = |n: &i64| !(i % 4 == 1 && (40..70).contains(n) || i % 5 == 2 && *n > 90);
            let samples = (0..120).filter(there).map(|n| (1_000_000 + n * 15_000 + phase, value(n))).collect();
            let labels =
                [("__name__", metric), ("pod", &format!("p{i}")[..]), ("job", ["a", "b", "c"][i as usize % 3])];
            all.push((set(&labels), samples));
        }
    }
    all
}

/// A querier over one store with these labels, or several.
async fn below(stores: &[&[(&str, &str)]], phase: i64) -> (Vec<Running>, Querier) {
    let mut running = Vec::new();
    for (i, external) in stores.iter().enumerate() {
        running.push(Fake::new(external, data(phase + 4000 * i as i64)).start().await);
    }
    let addresses: Vec<String> = running.iter().map(|r| r.address.clone()).collect();
    let querier = Querier::start(args(&addresses)).await;
    (running, querier)
}

/// Two queriers over the same, of which the second lets others evaluate nothing.
struct Pair {
    with: Querier,
    without: Querier,
}

impl Pair {
    async fn over(endpoints: &[String], mode: PushDown, more: impl Fn(&mut QueryArgs)) -> Self {
        let start = async |push_down| {
            let mut args = QueryArgs { push_down, ..args(endpoints) };
            more(&mut args);
            Querier::start(args).await
        };
        let me = Self { with: start(mode).await, without: start(PushDown::Off).await };
        for querier in [&me.with, &me.without] {
            until("all endpoints", async || {
                let state = querier.state().await.endpoints.unwrap();
                state.stores.len() == endpoints.len() && state.stores.iter().all(|s| s.error.is_none())
            })
            .await;
        }
        me
    }

    /// Asks both; the answers, which must be the same bit by bit.
    async fn same(&self, path: &str) -> Value {
        let (a, b) = (self.with.json(path).await, self.without.json(path).await);
        assert_eq!((a.0, sorted(&a.1)), (b.0, sorted(&b.1)), "{path}");
        a.1
    }

    /// Parts that were asked for, and queries that were answered from series after all.
    async fn counts(&self) -> (u64, u64) {
        let metrics = self.with.get("/metrics").await.unwrap().1;
        let of = |name: &str| {
            let line = metrics.lines().find(|l| l.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
        };
        (of("panoptes_query_pushed_down_total"), of("panoptes_query_push_down_refused_total"))
    }

    async fn explained(&self, query: &str) -> String {
        let path = format!("/api/v1/query_explain?query={}&time=1900", testkit::http::encode(query));
        self.with.json(&path).await.1.to_string()
    }
}

/// An answer with its series in an order of their own: that of an instant vector is nobody's promise.
fn sorted(answer: &Value) -> Value {
    let mut answer = answer.clone();
    if let Some(all) = answer["data"]["result"].as_array_mut().filter(|a| a.first().is_some_and(Value::is_object)) {
        all.sort_by_key(|e| e["metric"].to_string());
    }
    answer
}

fn instant(query: &str) -> String {
    format!("/api/v1/query?query={}&time=1900.25", testkit::http::encode(query))
}

fn range(query: &str) -> String {
    format!("/api/v1/query_range?query={}&start=900.5&end=2900&step=37.5", testkit::http::encode(query))
}

/// What may be evaluated elsewhere with the same bits.
const EXACT: &[&str] = &[
    "count by (cluster) (g)",
    "count(m_total)",
    "group without (pod) (g)",
    "min by (job) (g)",
    "max without (pod, cluster) (rate(m_total[2m]))",
    "max(abs(g) > 3)",
    "count by (job) (changes(g[5m]) % 3 != 1)",
    "max by (job) (increase(m_total[90s] offset 1m))",
    "count(g{cluster=~\"b|c\"})",
    "count(g{cluster=\"nobody\"})",
    "min by (pod) (avg_over_time(g[3m])) * on (pod) group_left () max by (pod) (g)",
    "count(g) / count(m_total) + count(g)",
    "max(count by (job) (g))",
    "clamp_max(max by (cluster, job) (irate(m_total[1m])), 20) or vector(1)",
    "topk(1, max(g))",
    "count(g) and max(g)",
];

/// And those only with other last bits.
const CLOSE: &[&str] = &["sum by (job) (rate(m_total[2m]))", "sum(g)", "sum(max by (cluster) (g))"];

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_queriers_below_are_put_together_with_the_same_bits() {
    let (_b, b) = below(&[&[("cluster", "b"), ("replica", "0")]], 0).await;
    let (_c, c) = below(&[&[("cluster", "c"), ("replica", "0")], &[("cluster", "d"), ("replica", "0")]], 7).await;
    let a = Fake::new(&[("cluster", "a"), ("replica", "0")], data(3)).start().await;
    let endpoints = [a.address.clone(), b.grpc.clone(), c.grpc.clone()];
    let pair = Pair::over(&endpoints, PushDown::Exact, |_| {}).await;
    for query in EXACT {
        pair.same(&instant(query)).await;
        pair.same(&range(query)).await;
    }
    let (asked, refused) = pair.counts().await;
    assert!(asked >= 2 * 2 * EXACT.len() as u64 - 8 && refused == 0, "{asked} asked, {refused} refused");
    // What is asked of whom can be seen.
    let explained = pair.explained("count by (job) (g{job=\"a\"})").await;
    for part in ["__pushed_to__", &b.grpc, &c.grpc, "count by (job) (g{job=\\\\\\\"a\\\\\\\"})", "__pushed_elsewhere__"]
    {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    // No series of theirs travel: the store beside them is asked, and they are not.
    let before = series_asked(&b).await;
    pair.with.query("count by (cluster) (g)", "&time=1900").await;
    assert_eq!(series_asked(&b).await, before);
    let (asked, _) = pair.counts().await;
    for query in CLOSE {
        pair.same(&range(query)).await;
    }
    assert_eq!(pair.counts().await.0, asked, "sums are left alone");
    let close = Pair::over(&endpoints, PushDown::Close, |_| {}).await;
    for query in CLOSE {
        let path = range(query);
        let (x, y) = (close.with.json(&path).await.1, close.without.json(&path).await.1);
        assert!(super::thanos::close(&sorted(&x), &sorted(&y)), "{query}\n{x}\n{y}");
    }
    assert!(close.counts().await == (2 * CLOSE.len() as u64, 0), "{:?}", close.counts().await);
    // A query that reads our own labels is nobody's.
    let own = pair.same(&instant("count(g) + count({__pushed__=\"0\"})")).await;
    assert!(own["data"]["result"].as_array().unwrap().is_empty(), "{own}");
}

/// How many Series calls a querier was asked.
async fn series_asked(querier: &Querier) -> f64 {
    let metrics = querier.get("/metrics").await.unwrap().1;
    let series = |l: &&str| l.starts_with("grpc_server_handled_total") && l.contains("\"Series\"");
    metrics.lines().filter(series).map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// A random query of which parts may be evaluated elsewhere.
fn random(rng: &mut Rng) -> String {
    let pick = |rng: &mut Rng, of: &[&str]| of[rng.below(of.len())].to_owned();
    let series = |rng: &mut Rng| {
        let name = pick(rng, &["g", "m_total"]);
        let filter = pick(rng, &["", "{cluster!=\"b\"}", "{job=~\"a|b\"}", "{cluster=\"c\"}", "{pod=\"p1\"}"]);
        let offset = pick(rng, &["", "", " offset 2m", " offset -30s"]);
        let window = pick(rng, &["1m", "100s", "5m"]);
        match rng.below(4) {
            0 => format!("{name}{filter}{offset}"),
            1 => format!("abs({name}{filter}{offset}) {} 2.5", pick(rng, &["*", "+", ">", "<= bool", "%", "^"])),
            2 => {
                let f = pick(rng, &["max", "min", "sum", "avg", "count", "last", "stddev", "present"]);
                format!("{f}_over_time({name}{filter}[{window}]{offset})")
            }
            _ => {
                let f = pick(rng, &["rate", "increase", "irate", "resets", "changes", "delta", "deriv"]);
                format!("{f}(m_total{filter}[{window}]{offset})")
            }
        }
    };
    let aggregate = |rng: &mut Rng| {
        let op = pick(rng, &["count", "min", "max", "group", "count", "sum", "topk", "avg"]);
        let by = pick(rng, &["", " by (job)", " by (cluster)", " by (cluster, job)", " without (pod)", " by (pod)"]);
        let inner = series(rng);
        if op == "topk" { format!("topk{by} (2, {inner})") } else { format!("{op}{by} ({inner})") }
    };
    let first = aggregate(rng);
    match rng.below(4) {
        0 => format!("{first} {} {}", pick(rng, &["/", "-", "or", "and", "unless", ">"]), aggregate(rng)),
        1 => format!("{} by (job) ({first})", pick(rng, &["max", "count", "sum", "min"])),
        _ => first,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_have_the_same_answers_with_and_without() {
    let goal = testkit::goal::Goal::start("push-down");
    let (_b, b) = below(&[&[("cluster", "b"), ("replica", "0")]], 0).await;
    let (_c, c) = below(&[&[("cluster", "c"), ("replica", "0")], &[("cluster", "d"), ("replica", "0")]], 7).await;
    let a = Fake::new(&[("cluster", "a"), ("replica", "0")], data(3)).start().await;
    let pair = Pair::over(&[a.address.clone(), b.grpc.clone(), c.grpc.clone()], PushDown::Exact, |_| {}).await;
    let mut rng = goal.rng("queries");
    for i in 0..goal.pick(80, 10_000, 100_000) {
        let query = random(&mut rng);
        pair.same(&if i % 2 == 0 { instant(&query) } else { range(&query) }).await;
    }
    let (asked, refused) = pair.counts().await;
    assert!(asked > refused, "{asked} asked, {refused} refused");
    goal.figure(&format!("{asked} parts asked for, {refused} queries answered from series after all: 0 differences"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_in_two_stores_is_not_pushed() {
    let (query, in_exact) = ("count by (cluster) (g)", PushDown::Exact);
    let (_b0, b0) = below(&[&[("cluster", "b"), ("replica", "0")]], 0).await;
    let (_b1, b1) = below(&[&[("cluster", "b"), ("replica", "1")]], 4000).await;
    let (_c, c) = below(&[&[("cluster", "c"), ("replica", "0")]], 7).await;
    let local = Fake::new(&[("cluster", "b"), ("replica", "1")], data(4000)).start().await;
    let unlabelled = Fake::new(&[], data(5)).start().await;
    let elsewhere = Fake::new(&[("region", "x")], data(6)).start().await;
    let (_hidden, hides) = below(&[&[("cluster", "f")], &[]], 0).await;
    for (what, endpoints, pushed) in [
        ("replicas behind two queriers", vec![b0.grpc.clone(), b1.grpc.clone()], 0),
        ("replicas behind two queriers, and a third one", vec![b0.grpc.clone(), b1.grpc.clone(), c.grpc.clone()], 1),
        ("a replica in a store beside", vec![b0.grpc.clone(), local.address.clone()], 0),
        ("a store that does not say what it has", vec![c.grpc.clone(), unlabelled.address.clone()], 0),
        ("a store with other labels", vec![c.grpc.clone(), elsewhere.address.clone()], 0),
        ("a store that does not say what it has behind the querier", vec![hides.grpc.clone(), c.grpc.clone()], 0),
        ("nothing else", vec![c.grpc.clone()], 1),
    ] {
        let pair = Pair::over(&endpoints, in_exact, |_| {}).await;
        pair.same(&range(query)).await;
        pair.same(&range("max by (job) (rate(m_total[2m]))")).await;
        assert_eq!(pair.counts().await, (2 * pushed, 0), "{what}");
        // Told apart by their replica label, they are no replicas.
        let path = format!("{}&dedup=false", range("count by (cluster, replica) (g)"));
        pair.same(&path).await;
    }
    // Replicas behind one querier: what it picks of them need not be what we would.
    let (_ha, ha) = below(&[&[("cluster", "e"), ("replica", "0")], &[("cluster", "e"), ("replica", "1")]], 0).await;
    let pair = Pair::over(std::slice::from_ref(&ha.grpc), in_exact, |_| {}).await;
    pair.same(&range("max by (pod) (g)")).await;
    assert_eq!(pair.counts().await.0, 0);
    let close = Pair::over(std::slice::from_ref(&ha.grpc), PushDown::Close, |_| {}).await;
    close.same(&range(query)).await;
    assert_eq!(close.counts().await, (1, 0));
    // One that evaluates otherwise.
    let pair = Pair::over(std::slice::from_ref(&c.grpc), in_exact, |a| a.deduplication_func = DedupFunc::Penalty).await;
    pair.same(&range(query)).await;
    assert_eq!(pair.counts().await.0, 0);
    // A share of the series is not a share of answers.
    let pair = Pair::over(std::slice::from_ref(&c.grpc), in_exact, |_| {}).await;
    let shard = testkit::http::encode(r#"{"shard_index":0,"total_shards":2,"by":true,"labels":["pod"]}"#);
    pair.same(&format!("{}&shard_info={shard}", range(query))).await;
    assert_eq!(pair.counts().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_missing_below_is_told_as_without() {
    let (stores, c) = below(&[&[("cluster", "c"), ("replica", "0")], &[("cluster", "d"), ("replica", "0")]], 7).await;
    let a = Fake::new(&[("cluster", "a"), ("replica", "0")], data(3)).start().await;
    let pair = Pair::over(&[a.address.clone(), c.grpc.clone()], PushDown::Exact, |_| {}).await;
    let query = "count by (cluster) (g)";
    pair.same(&range(query)).await;
    assert_eq!(pair.counts().await, (1, 0));
    stores[1].fake.set_manner(Manner::Fails);
    let answer = pair.same(&range(query)).await;
    let told = answer["missing"].as_array().unwrap();
    assert!(told.len() == 1 && told[0]["store"] == *stores[1].address && told[0]["via"] == *c.grpc, "{answer}");
    assert_eq!(pair.counts().await, (2, 1));
    // It is not tried again at once.
    pair.same(&range(query)).await;
    let (status, strict) = pair.with.json(&format!("{}&partial_response=false", range(query))).await;
    assert!(status == 422 && strict["error"].as_str().unwrap().contains(&stores[1].address), "{strict}");
    assert_eq!(pair.counts().await, (2, 1));
    // Each of the two finds out by itself that it is gone, and may have other words for it.
    drop(c);
    for querier in [&pair.with, &pair.without] {
        until("the loss to be told", async || {
            let (_, answer) = querier.json(&range(query)).await;
            answer["missing"].as_array().is_some_and(|m| m.len() == 1)
                && answer["data"]["result"].as_array().unwrap().len() == 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_fit_is_not_used() {
    let (_b, b) = below(&[&[("cluster", "b"), ("replica", "0")]], 0).await;
    let settings = b.info().await.query.unwrap().settings;
    assert!(settings.contains("deduplication.func=fill"), "{settings}");
    let a = Fake::new(&[("cluster", "a"), ("replica", "0")], data(3)).start().await;
    for wrong in [
        Wrong::OtherCluster,
        Wrong::OtherLabels,
        Wrong::Twice,
        Wrong::OtherTimes,
        Wrong::Histogram,
        Wrong::Stale,
        Wrong::Warning,
        Wrong::Garbage,
        Wrong::Fails,
        Wrong::Resets,
        Wrong::Silent,
    ] {
        let liar = Fake::new(&[("cluster", "l"), ("replica", "0")], data(9));
        let evaluation = Evaluation { settings: settings.clone(), wrong, asked: std::sync::Arc::default() };
        let liar = liar.evaluates(evaluation.clone()).start().await;
        let endpoints = [a.address.clone(), b.grpc.clone(), liar.address.clone()];
        let pair = Pair::over(&endpoints, PushDown::Exact, |a| a.response_timeout = Millis(15_000)).await;
        let answer = pair.same(&range("count by (cluster) (g)")).await;
        assert_eq!(answer["data"]["result"].as_array().unwrap().len(), 3, "{wrong:?}: {answer}");
        assert!(answer.get("missing").is_none_or(|m| m.as_array().unwrap().is_empty()), "{wrong:?}: {answer}");
        assert_eq!(pair.counts().await, (2, 1), "{wrong:?}");
        // Milliseconds go to our own, and no partial answers are asked for.
        let asked = evaluation.asked.lock().unwrap()[0].clone();
        assert_eq!(asked.precise.map(|p| (p.start_ms, p.end_ms, p.step_ms)), Some((900_500, 2_900_000, 37_500)));
        assert!(!asked.enable_partial_response && asked.enable_dedup && asked.replica_labels == ["replica"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_querier_of_thanos_is_asked_what_it_evaluates_as_we_do() {
    let like_thanos = |wrong| Evaluation { settings: String::new(), wrong, asked: std::sync::Arc::default() };
    let plain = |q: &str| format!("/api/v1/query_range?query={}&start=1000&end=2800&step=30", testkit::http::encode(q));
    let evaluation = like_thanos(Wrong::Fails);
    let fake = Fake::new(&[("cluster", "b"), ("replica", "0")], data(0)).evaluates(evaluation.clone()).start().await;
    let endpoints = [fake.address.clone()];
    // It does not say which Prometheus it is built on, nor which stores it has that say nothing of themselves.
    let pair = Pair::over(&endpoints, PushDown::Exact, |_| {}).await;
    pair.same(&format!("{}&dedup=false", plain("count(g)"))).await;
    assert_eq!(pair.counts().await.0, 0);
    // Its deduplication is not ours.
    let pair = Pair::over(&endpoints, PushDown::Close, |_| {}).await;
    pair.same(&plain("count(g)")).await;
    assert_eq!(pair.counts().await.0, 0);
    // Without any, it is; but it has no milliseconds, and takes resets out of counters by itself.
    for path in [range("count(g)"), plain("max(rate(m_total[5m]))"), plain("avg(g)")] {
        pair.same(&format!("{path}&dedup=false")).await;
    }
    pair.same(&format!("{}&dedup=false&max_source_resolution=5m", plain("count(g)"))).await;
    assert_eq!(pair.counts().await.0, 0);
    pair.same(&format!("{}&dedup=false", plain("count(g)"))).await;
    assert_eq!(pair.counts().await, (1, 1));
    let asked = evaluation.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.start_time_seconds, asked.end_time_seconds, asked.interval_seconds), (1000, 2800, 30));
    assert!(asked.precise.is_none() && !asked.enable_dedup && asked.lookback_delta_seconds == 300, "{asked:?}");
    let pair = Pair::over(&endpoints, PushDown::Close, |a| a.deduplication_func = DedupFunc::Penalty).await;
    pair.same(&plain("count(g)")).await;
    assert_eq!(pair.counts().await, (1, 1));
}

/// A store has loaded data of other labels since it was last asked what it has.
#[tokio::test(flavor = "multi_thread")]
async fn series_that_the_proof_does_not_allow_for_end_the_evaluation_elsewhere() {
    let of = |external: &[(&str, &str)]| {
        let external = set(external);
        data(0).into_iter().map(|(l, s)| (l.overlay(&external), Samples::Given(s))).collect::<Vec<_>>()
    };
    let b = [("cluster", "b"), ("replica", "0")];
    let (_b, below_b) = below(&[&b], 0).await;
    // Beside the querier one has what the querier evaluates.
    let gained = Fake::new(&[("cluster", "a"), ("replica", "0")], data(3)).and(of(&b)).start().await;
    let pair = Pair::over(&[gained.address.clone(), below_b.grpc.clone()], PushDown::Exact, |_| {}).await;
    let answer = pair.same(&range("count(g)")).await;
    assert!(answer.get("warnings").is_none(), "{answer}");
    assert_eq!(pair.counts().await, (1, 1));
    // It is not tried again at once.
    pair.same(&range("count(g)")).await;
    assert_eq!(pair.counts().await, (1, 1));
    // Behind the querier one has what is beside it.
    let a = [("cluster", "a"), ("replica", "0")];
    let (plain, gained) = (Fake::new(&a, data(0)).start().await, Fake::new(&b, data(3)).and(of(&a)).start().await);
    let below_b = Querier::start(args(std::slice::from_ref(&gained.address))).await;
    let pair = Pair::over(&[plain.address.clone(), below_b.grpc.clone()], PushDown::Exact, |_| {}).await;
    pair.same(&range("count(g)")).await;
    assert_eq!(pair.counts().await, (1, 1));
    // Where the proof holds, it is used, also by one who has not seen this fail.
    let pair = Pair::over(&[plain.address.clone(), below_b.grpc.clone()], PushDown::Exact, |_| {}).await;
    pair.same(&range("count(g{cluster=\"b\"})")).await;
    assert_eq!(pair.counts().await, (1, 0));
}
