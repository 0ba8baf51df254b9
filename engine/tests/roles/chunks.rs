//! Chunks of a real Prometheus, decoded: every sample must be the one that Prometheus shows itself.

use super::common::{Sidecar, labels, matcher, series, until};
use args::SidecarArgs;
use model::histogram::FloatHistogram;
use model::sample::Value;
use proto::thanos::SeriesRequest;
use std::collections::BTreeSet;
use testkit::metrics_source::MetricsSource;
use testkit::prometheus::{Options, Prometheus};
use tsdb::chunk::{self, Encoding};

/// Scrapes a page (its classic histogram as one with custom buckets) and itself (exponential ones); a rule makes float ones.
fn prometheus(page: &MetricsSource) -> Prometheus {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        rules.path(),
        "groups:\n- name: g\n  interval: 500ms\n  rules:\n  - {record: float:histogram, expr: 'rate(prometheus_http_request_duration_seconds[5s])'}\n",
    )
    .unwrap();
    let path = rules.into_temp_path().keep().unwrap();
    let config = format!(
        r#"{{"global": {{"scrape_interval": "300ms", "external_labels": {{"cluster": "ops"}}}}, "rule_files": ["{}"],
            "scrape_configs": [
              {{"job_name": "page", "convert_classic_histograms_to_nhcb": true, "static_configs": [{{"targets": ["{}"]}}]}},
              {{"job_name": "self", "scrape_native_histograms": true, "static_configs": [{{"targets": ["SELF"]}}]}}]}}"#,
        path.display(),
        page.address()
    );
    let p = Prometheus::start(&Options { config: Some(config.clone()), ..Options::default() }).unwrap();
    p.write_config(&config.replace("SELF", &format!("127.0.0.1:{}", p.port()))).unwrap();
    p.reload().unwrap();
    p
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_the_one_that_prometheus_shows() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let page = MetricsSource::start().unwrap();
    page.set("wave", 0.0);
    page.set_histogram("classic", "", &[("0.1", 1.0), ("2.5", 3.0), ("+Inf", 4.0)], 1.5);
    let p = tokio::task::block_in_place(|| prometheus(&page));
    let sidecar = Sidecar::start(SidecarArgs { prometheus_url: p.url(), ..SidecarArgs::default() });
    sidecar.ready().await;
    let mut n = 0.0_f64;
    until("samples of every kind, more than one chunk holds", async || {
        n += 1.0;
        page.set("wave", if n % 7.0 == 0.0 { n.sin() * 1e-9 } else { n.sqrt() * 1e6 });
        page.set_histogram("classic", "", &[("0.1", n), ("2.5", 2.0 * n), ("+Inf", 3.0 * n)], n * 0.37);
        tokio::task::block_in_place(|| {
            let enough = |q: &str| p.query(q, None).is_ok_and(|r| r.as_array().is_some_and(|a| !a.is_empty()));
            enough("count_over_time(wave[5m]) > 20")
                && enough("count_over_time(classic[5m]) > 10")
                && enough("count_over_time(float:histogram[5m]) > 5")
                && enough("count_over_time(prometheus_http_request_duration_seconds[5m]) > 10")
        })
    })
    .await;
    // What goes away leaves a staleness marker.
    page.remove("wave");
    tokio::time::sleep(std::time::Duration::from_millis(900)).await;

    let now = model::world::World::real().clock.now_ms() - 500;
    let mut kinds = BTreeSet::new();
    for name in ["wave", "classic", "float:histogram", "prometheus_http_request_duration_seconds"] {
        let r = SeriesRequest {
            min_time: 0,
            max_time: now,
            matchers: vec![matcher(0, "__name__", name)],
            ..Default::default()
        };
        let (ours, _) = series(&mut sidecar.store().await, r).await.unwrap();
        let query = format!("{name}[10m]");
        let theirs = tokio::task::block_in_place(|| p.query(&query, Some(now as f64 / 1000.0))).unwrap();
        let theirs = theirs.as_array().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for s in ours {
            let own = labels(&s).without(&["cluster"]);
            let shown = theirs
                .iter()
                .find(|t| {
                    let pairs = t["metric"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap()));
                    model::Labels::from_pairs(pairs) == own
                })
                .unwrap_or_else(|| panic!("Prometheus does not show {own}"));
            let (mut floats, mut histograms, mut stale) = (Vec::new(), Vec::new(), 0);
            for c in s.chunks {
                let raw = c.raw.unwrap();
                kinds.insert(raw.r#type);
                for sample in chunk::decode(Encoding::from_store_api(raw.r#type), raw.data).unwrap() {
                    let sample = sample.unwrap();
                    match sample.v {
                        v if v.is_stale() => stale += 1,
                        _ if sample.t > now => {}
                        Value::Float(v) => floats.push((sample.t, v)),
                        Value::Histogram(h) => histograms.push((sample.t, h)),
                    }
                }
            }
            if name == "wave" {
                // A scrape that was late on a busy machine has left another one.
                assert!(stale >= 1);
            }
            let time = |v: &serde_json::Value| (v[0].as_f64().unwrap() * 1000.0).round() as i64;
            let number = |v: &serde_json::Value| v.as_str().unwrap().parse::<f64>().unwrap();
            let none = Vec::new();
            let want: Vec<(i64, f64)> =
                shown["values"].as_array().unwrap_or(&none).iter().map(|v| (time(v), number(&v[1]))).collect();
            assert_eq!(floats, want, "{name}");
            let want = shown["histograms"].as_array().unwrap_or(&none);
            assert_eq!(histograms.len(), want.len(), "{name}");
            for ((t, h), w) in histograms.iter().zip(want) {
                assert_eq!((*t, h.count, h.sum), (time(w), number(&w[1]["count"]), number(&w[1]["sum"])), "{name}");
                let mut shown: Vec<f64> =
                    w[1]["buckets"].as_array().unwrap_or(&none).iter().map(|b| number(&b[3])).collect();
                let mut own = populated(h);
                // Order is a matter of presentation (zero bucket in the middle, negative ones mirrored).
                shown.sort_by(f64::total_cmp);
                own.sort_by(f64::total_cmp);
                assert_eq!(own, shown, "{name} {h:?}");
            }
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0, 1, 2], "XOR, histogram and float histogram chunks");
}

/// The buckets that Prometheus shows: those that hold something.
fn populated(h: &FloatHistogram) -> Vec<f64> {
    let all = [h.zero_count].into_iter().chain(h.positive_buckets.iter().chain(&h.negative_buckets).copied());
    all.filter(|n| *n != 0.0).collect()
}
