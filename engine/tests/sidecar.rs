//! The sidecar beside a real Prometheus, read by our client and by a real Thanos querier.
//!
//! This binary never decodes a chunk, so the counter that proves pass-through must stay at 0.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "roles/common.rs"]
#[allow(dead_code, unreachable_pub, clippy::disallowed_methods, reason = "it uses a part of what the others share")]
mod common;

use args::SidecarArgs;
use common::{Sidecar, labels, matcher, series, until};
use model::Labels;
use proto::thanos::info::InfoRequest;
use proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest, ShardInfo};
use serde_json::Value;
use std::collections::BTreeMap;
use testkit::metrics_source::MetricsSource;
use testkit::prometheus::{self, Options, Prometheus};
use testkit::thanos::Thanos;
use tonic::Code;

/// A Prometheus that scrapes a page and, with native histograms, itself.
fn prometheus(page: &MetricsSource) -> Prometheus {
    let config = format!(
        r#"{{"global": {{"scrape_interval": "500ms", "external_labels": {{"cluster": "ops", "replica": "a"}}}},
            "scrape_configs": [
              {{"job_name": "demo", "static_configs": [{{"targets": ["{}"]}}]}},
              {{"job_name": "self", "scrape_native_histograms": true, "static_configs": [{{"targets": ["SELF"]}}]}}]}}"#,
        page.address()
    );
    // The port is known only once it runs.
    let p = Prometheus::start(&Options { config: Some(config.clone()), ..Options::default() }).unwrap();
    p.write_config(&config.replace("SELF", &format!("127.0.0.1:{}", p.port()))).unwrap();
    p.reload().unwrap();
    p
}

fn page() -> MetricsSource {
    let page = MetricsSource::start().unwrap();
    for i in 0..200 {
        page.set(&format!("demo_total{{n=\"{i:03}\",zone=\"z{}\"}}", i % 3), f64::from(i));
    }
    // A label set and one that extends it by a name below an external label: their order changes.
    page.set("short{a=\"1\"}", 1.0);
    page.set("short{a=\"1\",k=\"2\"}", 2.0);
    page
}

fn args(p: &Prometheus) -> SidecarArgs {
    SidecarArgs { prometheus_url: p.url(), ..SidecarArgs::default() }
}

fn everything(m: Vec<proto::thanos::LabelMatcher>) -> SeriesRequest {
    SeriesRequest { min_time: 0, max_time: i64::MAX, matchers: m, response_batch_size: 64, ..SeriesRequest::default() }
}

async fn scraped(p: &Prometheus) {
    until("a few scrapes, native histograms among them", async || {
        tokio::task::block_in_place(|| {
            let has = |q: &str| p.query(q, None).is_ok_and(|r| r.as_array().is_some_and(|a| !a.is_empty()));
            has("count_over_time(demo_total{n=\"000\"}[1m]) > 6")
                && has("count_over_time(prometheus_http_request_duration_seconds{handler=\"/metrics\"}[1m]) > 6")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_store_api() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let page = page();
    let p = tokio::task::block_in_place(|| prometheus(&page));
    let sidecar = Sidecar::start(args(&p));
    sidecar.ready().await;
    scraped(&p).await;

    let info = sidecar.info().await.info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.component_type, "sidecar");
    assert_eq!(
        proto::labels::decode(&info.label_sets[0].labels).unwrap(),
        Labels::from_pairs([("cluster", "ops"), ("replica", "a")])
    );
    let section = info.store.unwrap();
    assert!(section.supports_sharding && section.supports_without_replica_labels && section.max_time == i64::MAX);

    let mut store = sidecar.store().await;
    let demo = || everything(vec![matcher(0, "__name__", "demo_total"), matcher(2, "cluster", "o.s")]);
    let (all, warnings) = series(&mut store, demo()).await.unwrap();
    assert!(warnings.is_empty());
    assert_eq!(all.len(), 200);
    assert!(all.iter().map(labels).is_sorted());
    let first = labels(&all[0]);
    assert_eq!((first.value("cluster"), first.value("replica"), first.value("n")), ("ops", "a", "000"));
    let raw = all[0].chunks[0].raw.as_ref().unwrap();
    assert_eq!(raw.r#type, 0);
    assert_eq!(raw.hash, xxhash_rust::xxh64::xxh64(&raw.data, 0));

    // Replica labels are left out, and external labels that don't match give nothing.
    let without = SeriesRequest { without_replica_labels: vec!["replica".into()], ..demo() };
    let (some, _) = series(&mut store, without).await.unwrap();
    assert!(some.iter().all(|s| labels(s).get("replica").is_none()) && some.len() == 200);
    let elsewhere = everything(vec![matcher(0, "__name__", "demo_total"), matcher(0, "cluster", "prod")]);
    assert_eq!(series(&mut store, elsewhere).await.unwrap().0.len(), 0);
    let nothing_left = series(&mut store, everything(vec![matcher(0, "cluster", "ops")])).await.unwrap_err();
    assert_eq!(nothing_left.code(), Code::InvalidArgument);

    // Shards share the series out; limits cut; labels only need no chunks.
    let mut shared = 0;
    for shard_index in 0..3 {
        let shard_info = Some(ShardInfo { shard_index, total_shards: 3, by: true, labels: vec!["n".into()] });
        let part = series(&mut store, SeriesRequest { shard_info, ..demo() }).await.unwrap().0.len();
        let skip = SeriesRequest {
            shard_info: Some(ShardInfo { shard_index, total_shards: 3, by: true, labels: vec!["n".into()] }),
            skip_chunks: true,
            ..demo()
        };
        assert_eq!(series(&mut store, skip).await.unwrap().0.len(), part, "the labels-only path has the same shards");
        assert!(part > 20 && part < 150, "{part}");
        shared += part;
    }
    assert_eq!(shared, 200);
    let (cut, warnings) = series(&mut store, SeriesRequest { limit: 7, ..demo() }).await.unwrap();
    assert!(cut.len() == 7 && warnings.is_empty(), "{} {warnings:?}", cut.len());
    let (bare, _) = series(
        &mut store,
        SeriesRequest { skip_chunks: true, without_replica_labels: vec!["n".into(), "replica".into()], ..demo() },
    )
    .await
    .unwrap();
    assert_eq!(bare.len(), 3, "equal label sets are sent once: {:?}", bare.iter().map(labels).collect::<Vec<_>>());
    assert!(bare.iter().all(|s| s.chunks.is_empty()));

    // A set and its extension change places.
    let (short, _) = series(&mut store, everything(vec![matcher(0, "__name__", "short")])).await.unwrap();
    let short: Vec<Labels> = short.iter().map(labels).collect();
    assert!(short.len() == 2 && short.is_sorted() && short[0].get("k") == Some("2"), "{short:?}");

    // Own labels under a removed name: everything is sorted.
    let own = SeriesRequest { without_replica_labels: vec!["n".into()], ..demo() };
    let (sorted, _) = series(&mut store, own).await.unwrap();
    assert!(sorted.len() == 200 && sorted.iter().map(labels).is_sorted());

    // Names and values.
    let all_time = LabelNamesRequest { start: 0, end: i64::MAX, ..Default::default() };
    let names = store
        .label_names(LabelNamesRequest { matchers: vec![matcher(0, "__name__", "demo_total")], ..all_time.clone() });
    assert_eq!(
        names.await.unwrap().into_inner().names,
        ["__name__", "cluster", "instance", "job", "n", "replica", "zone"]
    );
    let none = store.label_names(LabelNamesRequest { matchers: vec![matcher(0, "__name__", "no_such")], ..all_time });
    assert!(none.await.unwrap().into_inner().names.is_empty());
    let few = store.label_names(LabelNamesRequest { start: 0, end: i64::MAX, limit: 2, ..Default::default() });
    let few = few.await.unwrap().into_inner();
    assert!(few.names.len() == 2 && few.warnings.is_empty(), "the caller's own limit is no news: {few:?}");
    let mut values = async |label: &str, m: Vec<_>| {
        let r = LabelValuesRequest { label: label.into(), start: 0, end: i64::MAX, matchers: m, ..Default::default() };
        store.label_values(r).await.map(|v| v.into_inner().values)
    };
    assert_eq!(values("zone", vec![]).await.unwrap(), ["z0", "z1", "z2"]);
    assert_eq!(values("zone", vec![matcher(0, "n", "001")]).await.unwrap(), ["z1"]);
    assert_eq!(values("cluster", vec![]).await.unwrap(), ["ops"]);
    assert_eq!(values("cluster", vec![matcher(0, "n", "001")]).await.unwrap(), ["ops"]);
    assert!(values("cluster", vec![matcher(0, "n", "nope")]).await.unwrap().is_empty());
    assert!(values("zone", vec![matcher(1, "cluster", "ops")]).await.unwrap().is_empty());
    assert_eq!(values("", vec![]).await.unwrap_err().code(), Code::InvalidArgument);

    // All of it went through undecoded.
    let metrics = sidecar.metrics();
    assert!(metrics.contains("\npanoptes_chunks_decoded_total 0\n"), "{metrics}");
    assert!(
        metrics.contains(
            "grpc_server_handled_total{grpc_type=\"server_stream\",grpc_service=\"thanos.Store\",grpc_method=\"Series\",grpc_code=\"OK\"}"
        ),
        "{metrics}"
    );
    let state = sidecar.state();
    assert!(state.ready && state.component == "sidecar" && state.prometheus.unwrap().version == "3.14.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let page = page();
    let p = tokio::task::block_in_place(|| prometheus(&page));
    let sidecar = Sidecar::start(SidecarArgs { limit_series: 100, ..args(&p) });
    sidecar.ready().await;
    scraped(&p).await;
    let demo = everything(vec![matcher(0, "__name__", "demo_total")]);
    let error = series(&mut sidecar.store().await, demo).await.unwrap_err();
    assert!(error.code() == Code::ResourceExhausted && error.message().contains("100 series"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thanos_querier_reads_us_and_answers_as_prometheus_does() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let page = page();
    let p = tokio::task::block_in_place(|| prometheus(&page));
    let sidecar = Sidecar::start(args(&p));
    sidecar.ready().await;
    for i in 0..8 {
        page.set("demo_total{n=\"000\",zone=\"z0\"}", f64::from(i * i));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    scraped(&p).await;
    let querier =
        tokio::task::block_in_place(|| Thanos::query(std::slice::from_ref(&sidecar.grpc), &["replica"])).unwrap();
    // A moment that both have in full: a scrape that is still under way must not matter.
    let now = World::now() - 1.0;
    let queries = [
        "count(up)",
        "sum by (zone) (demo_total)",
        "demo_total",
        "rate(demo_total[5s])",
        "sum(rate(demo_total[5s])) by (zone)",
        "short",
        "prometheus_http_request_duration_seconds{handler=\"/metrics\"}",
        "histogram_quantile(0.9, rate(prometheus_http_request_duration_seconds[5s]))",
        "histogram_count(sum(prometheus_http_request_duration_seconds))",
    ];
    for query in queries {
        let (theirs, through_us) = tokio::task::block_in_place(|| {
            (p.query(query, Some(now)).unwrap(), prometheus::query(&querier.url(), query, Some(now)).unwrap())
        });
        let theirs = by_labels(&theirs, true);
        assert!(!theirs.is_empty(), "{query} finds nothing");
        // Aggregations drop the external label on both sides; where Thanos shows it, Prometheus has none.
        assert_eq!(theirs, by_labels(&through_us, true), "{query}");
    }
    let cluster =
        tokio::task::block_in_place(|| prometheus::query(&querier.url(), "count by (cluster) (up)", Some(now)));
    assert_eq!(cluster.unwrap()[0]["metric"]["cluster"], "ops");
}

struct World;
impl World {
    /// Seconds since the epoch.
    fn now() -> f64 {
        model::world::World::real().clock.now_ms() as f64 / 1000.0
    }
}

/// An answer with its series as keys, without the external label.
fn by_labels(result: &Value, strip: bool) -> BTreeMap<String, Value> {
    let one = |r: &Value| {
        let mut metric: BTreeMap<String, Value> =
            r["metric"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        if strip {
            metric.remove("cluster");
        }
        let value = if r["histogram"].is_null() { r["value"].clone() } else { r["histogram"].clone() };
        (serde_json::to_string(&metric).unwrap(), value)
    };
    result.as_array().unwrap().iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_info_follow_prometheus() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let page = page();
    let p = tokio::task::block_in_place(|| prometheus(&page));
    let sidecar = Sidecar::start(args(&p));
    sidecar.ready().await;
    p.process().signal("STOP").unwrap();
    until("not ready", async || common::get(format!("{}/-/ready", sidecar.http)).is_ok_and(|(code, _)| code == 503))
        .await;
    let info = sidecar.info().await.info(InfoRequest {}).await.unwrap().into_inner();
    assert!(info.store.is_none() && !info.label_sets.is_empty(), "no store, but still known who it is: {info:?}");
    assert!(sidecar.metrics().contains("thanos_sidecar_prometheus_up 0"));
    let error = series(&mut sidecar.store().await, everything(vec![matcher(0, "__name__", "up")])).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(sidecar.state().prometheus.unwrap().error.is_some());
    p.process().signal("CONT").unwrap();
    sidecar.ready().await;

    // Without external labels: not ready, and said why; no crash.
    tokio::task::block_in_place(|| {
        p.write_config("scrape_configs: []").unwrap();
        p.reload().unwrap();
    });
    let bare = Sidecar::start(args(&p));
    until("the reason", async || {
        common::get(format!("{}/-/ready", bare.http))
            .is_ok_and(|(code, body)| code == 503 && body.contains("no external labels"))
    })
    .await;

    // An orderly end.
    sidecar.stop.cancel();
    let stop = sidecar.stop.clone();
    assert!(stop.is_cancelled());
}
