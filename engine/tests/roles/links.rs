//! Links between clusters as a querier sees them: who is used, who is not and why, no loops, changes while it runs.

use super::common::{get, until};
use super::fake_store::{Fake, Running, Samples};
use args::links::{Link, LinkMode, Links, Probe};
use args::state::{self, ErrorClass};
use args::{Millis, QueryArgs, ServerArgs};
use model::world::World;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use testkit::certs::{Authority, Pair, Request};
use tokio_util::sync::CancellationToken;

/// A querier with its directory of endpoint files.
struct Querier {
    dir: tempfile::TempDir,
    cluster: String,
    http: String,
    grpc: String,
    stop: CancellationToken,
}

impl Drop for Querier {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Querier {
    fn start(cluster: &str, own: &[&Running]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (http, grpc) = (testkit::ports::free().unwrap(), testkit::ports::free().unwrap());
        let addresses: Vec<String> = own.iter().map(|s| format!("- address: {}\n", s.address)).collect();
        let text =
            if own.is_empty() { "endpoints: []\n".into() } else { format!("endpoints:\n{}", addresses.join("")) };
        std::fs::write(dir.path().join(args::files::ENDPOINTS), text).unwrap();
        let server = ServerArgs {
            http_address: format!("127.0.0.1:{http}"),
            grpc_address: format!("127.0.0.1:{grpc}"),
            ..ServerArgs::default()
        };
        let args = QueryArgs {
            server,
            endpoints_dir: dir.path().display().to_string(),
            sd_reload_interval: Millis(100),
            info_interval: Millis(300),
            info_timeout: Millis(1000),
            response_timeout: Millis(2000),
            replica_labels: vec!["replica".into()],
            ..QueryArgs::default()
        };
        let stop = CancellationToken::new();
        tokio::spawn(engine::query::run(args, World::real(), stop.clone()));
        Self {
            dir,
            cluster: cluster.into(),
            http: format!("http://127.0.0.1:{http}"),
            grpc: format!("127.0.0.1:{grpc}"),
            stop,
        }
    }

    async fn ready(&self) {
        until("the querier", async || get(format!("{}/-/ready", self.http)).is_ok_and(|(code, _)| code == 200)).await;
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Brings links into use and waits until the querier says so.
    async fn link(&self, revision: &str, links: Vec<Link>) {
        let links = Links {
            format: args::links::FORMAT,
            revision: revision.into(),
            cluster_label: "cluster".into(),
            cluster_name: self.cluster.clone(),
            files: vec![],
            links,
        };
        self.put(args::files::LINKS, &serde_json::to_string(&links).unwrap());
        until("the revision", async || self.endpoints().is_some_and(|e| e.revision.as_deref() == Some(revision))).await;
    }

    fn endpoints(&self) -> Option<state::Endpoints> {
        let (_, body) = get(format!("{}/-/state", self.http)).ok()?;
        state::State::parse(body.as_bytes()).unwrap().endpoints
    }

    fn seen(&self, name: &str) -> state::Link {
        self.endpoints().unwrap().links.into_iter().find(|l| l.name == name).unwrap_or_else(|| panic!("no link {name}"))
    }

    /// An instant query: values by cluster, and warnings.
    fn query(&self, expression: &str) -> (BTreeMap<String, String>, Vec<String>) {
        let url = format!("{}/api/v1/query?query={}", self.http, testkit::http::encode(expression));
        let v: Value = serde_json::from_str(&get(url).unwrap().1).unwrap();
        assert_eq!(v["status"], "success", "{v}");
        let one = |r: &Value| {
            (r["metric"]["cluster"].as_str().unwrap_or("").to_owned(), r["value"][1].as_str().unwrap().to_owned())
        };
        let warnings = v["warnings"].as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_owned());
        (v["data"]["result"].as_array().unwrap().iter().map(one).collect(), warnings.collect())
    }

    fn clusters(&self) -> Vec<String> {
        self.query("count by (cluster) (up)").0.into_keys().collect()
    }
}

fn link(name: &str, cluster: &str, address: &str) -> Link {
    Link {
        namespace: "monitoring".into(),
        name: name.into(),
        cluster: cluster.into(),
        address: address.into(),
        probe: Probe { interval_ms: 300, timeout_ms: 700, ..Probe::default() },
        ..Link::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_expected_cluster_is_used_and_every_other_case_is_told() {
    let ops =
        Fake::live(&[&[("cluster", "ops"), ("replica", "a")], &[("cluster", "ops"), ("replica", "b")]]).start().await;
    let prod = Fake::live(&[&[("cluster", "prod"), ("replica", "a")]]).start().await;
    let other = Fake::live(&[&[("cluster", "other"), ("replica", "a")]]).start().await;
    let bare = Fake::live(&[&[("region", "eu")]]).start().await;
    let drained = Fake::live(&[&[("cluster", "drained"), ("replica", "a")]]).start().await;
    let web = testkit::metrics_source::MetricsSource::start().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("127.0.0.1:{}", testkit::ports::free().unwrap());

    let querier = Querier::start("ops", &[&ops]);
    querier.ready().await;
    querier
        .link(
            "r1",
            vec![
                link("prod", "prod", &prod.address),
                link("impostor", "staging", &other.address),
                link("bare", "bare", &bare.address),
                link("web", "web", &web.address()),
                link("dead", "dead", &dead),
                link("silent", "silent", &silent.local_addr().unwrap().to_string()),
                link("nowhere", "nowhere", "no.such.host.invalid:10901"),
                Link { mode: LinkMode::Drained, ..link("drained", "drained", &drained.address) },
                Link { rejected: Some("older link".into()), ..link("rejected", "prod", &prod.address) },
            ],
        )
        .await;
    let class = |name: &str| querier.seen(name).error.map(|e| e.class);
    for (name, expected) in [
        ("impostor", ErrorClass::WrongCluster),
        ("bare", ErrorClass::WrongCluster),
        ("web", ErrorClass::NotHttp2),
        ("dead", ErrorClass::Connect),
        ("silent", ErrorClass::Timeout),
        ("nowhere", ErrorClass::Dns),
    ] {
        until(&format!("{name} to be {expected:?}, it is {:?}", querier.seen(name).error), async || {
            class(name) == Some(expected)
        })
        .await;
        assert!(!querier.seen(name).used, "{name}");
    }
    until("prod", async || querier.seen("prod").used).await;
    let p = querier.seen("prod");
    assert!(
        p.error.is_none() && p.cluster_matches == Some(true) && p.clusters == ["prod"] && p.last_success_ms.is_some(),
        "{p:?}"
    );
    assert!(p.endpoints[0].healthy && p.endpoints[0].latency_us.is_some() && p.endpoints[0].component == "sidecar");
    let i = querier.seen("impostor");
    assert!(i.cluster_matches == Some(false) && i.clusters == ["other"], "{i:?}");
    // Taken out on purpose: still watched, and nobody's fault.
    for name in ["drained", "rejected"] {
        until(name, async || querier.seen(name).endpoints.first().is_some_and(|e| e.healthy)).await;
        let l = querier.seen(name);
        assert!(!l.used && l.error.is_none(), "{l:?}");
    }

    let (count, warnings) = querier.query("count by (cluster) (up)");
    let want = [("ops", "1"), ("prod", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(count, BTreeMap::from(want), "replicas are one, and nobody else takes part");
    for name in ["impostor", "bare", "web", "dead", "silent", "nowhere"] {
        assert!(warnings.iter().any(|w| w.contains(name)), "{name} is missed: {warnings:#?}");
    }
    assert!(!warnings.iter().any(|w| w.contains("drained") || w.contains("rejected")), "{warnings:#?}");
    // A question that only concerns prod misses nobody.
    let (count, warnings) = querier.query(r#"count by (cluster) (up{cluster="prod"})"#);
    assert!(count.len() == 1 && warnings.is_empty(), "{count:?} {warnings:?}");
    assert!(other.take_asked().is_empty() && bare.take_asked().is_empty() && drained.take_asked().is_empty());
    // What we don't have is unknown, not forbidden.
    for path in ["notifications", "status/walreplay", "no/such"] {
        assert_eq!(get(format!("{}/api/v1/{path}", querier.http)).unwrap().0, 404, "{path}");
    }
    // A limit of the caller's own is no store's failure.
    let prod_only = testkit::http::encode(r#"up{cluster="prod"}"#);
    let url = format!("{}/api/v1/labels?limit=1&match[]={prod_only}&partial_response=false", querier.http);
    let (code, body) = get(url).unwrap();
    assert!(code == 200 && body.contains("truncated") && !body.contains("store "), "{code} {body}");
    let (_, metrics) = get(format!("{}/metrics", querier.http)).unwrap();
    assert!(metrics.contains("grpc_client_handled_total{grpc_type=\"server_stream\",grpc_service=\"thanos.Store\",grpc_method=\"Series\",grpc_code=\"OK\"}"), "{metrics}");
    // Required to be whole, it fails.
    let strict = format!("{}/api/v1/query?query=up&partial_response=false", querier.http);
    assert_eq!(get(strict).unwrap().0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_queriers_that_link_each_other_ask_every_store_once() {
    let (a_store, b_store) = (
        Fake::live(&[&[("cluster", "a"), ("replica", "0")]]).start().await,
        Fake::live(&[&[("cluster", "b"), ("replica", "0")]]).start().await,
    );
    let (a, b) = (Querier::start("a", &[&a_store]), Querier::start("b", &[&b_store]));
    a.ready().await;
    b.ready().await;
    a.link("r1", vec![link("b", "b", &b.grpc)]).await;
    b.link("r1", vec![link("a", "a", &a.grpc)]).await;
    until("both directions", async || a.seen("b").used && b.seen("a").used).await;
    // Let them see what the other has learnt about themselves.
    tokio::time::sleep(Duration::from_millis(900)).await;
    for q in [&a, &b] {
        a_store.take_asked();
        b_store.take_asked();
        let (count, warnings) = q.query("count by (cluster) (up)");
        assert_eq!(count.into_iter().collect::<Vec<_>>(), [("a".into(), "1".into()), ("b".into(), "1".into())]);
        assert!(warnings.is_empty(), "{warnings:?}");
        let asked = |s: &Running| {
            s.take_asked().into_iter().filter(|r| r.matchers.iter().any(|m| m.value == "up")).collect::<Vec<_>>()
        };
        let (to_a, to_b) = (asked(&a_store), asked(&b_store));
        assert_eq!((to_a.len(), to_b.len()), (1, 1), "no question goes round");
        // The question that crossed carries the cluster it is about.
        let crossed = if q.cluster == "a" { (&to_b[0], "b") } else { (&to_a[0], "a") };
        assert!(crossed.0.matchers.iter().any(|m| m.name == "cluster" && m.value == crossed.1), "{:?}", crossed.0);
    }
    let l = a.seen("b");
    assert!(l.error.is_none() && l.conflicts.is_empty() && l.cluster_matches == Some(true), "{l:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_newest_sample_is_not_that_of_targets_that_are_gone() {
    let gone = |i: usize| {
        let name = format!("{i:03}");
        model::Labels::from_pairs([("__name__", "up"), ("cluster", "prod"), ("gone", &name)])
    };
    let prod = Fake::live(&[&[("cluster", "prod")]]).and((0..30).map(|i| (gone(i), Samples::Gone))).start().await;
    let q = Querier::start("ops", &[]);
    q.ready().await;
    q.link("r1", vec![link("prod", "prod", &prod.address)]).await;
    until("the age", async || q.seen("prod").data_lag_ms.is_some()).await;
    let lag = q.seen("prod").data_lag_ms.unwrap();
    assert!((0..10_000).contains(&lag), "{lag} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_come_and_go_while_it_runs() {
    let ops = Fake::live(&[&[("cluster", "ops"), ("replica", "a")]]).start().await;
    let port = testkit::ports::free().unwrap();
    let at = ServerArgs { grpc_address: format!("127.0.0.1:{port}"), ..ServerArgs::default() };
    let prod = Fake::live(&[&[("cluster", "prod")]]).start_with(at.clone()).await;
    let staging = Fake::live(&[&[("cluster", "staging")]]).start().await;
    let q = Querier::start("ops", &[&ops]);
    q.ready().await;
    assert_eq!(q.clusters(), ["ops"]);
    let prod_address = prod.address.clone();
    let both = || vec![link("prod", "prod", &prod_address), link("staging", "staging", &staging.address)];
    q.link("r1", both()).await;
    until("both", async || q.clusters() == ["ops", "prod", "staging"]).await;

    // A broken file changes nothing and is told.
    q.put(args::files::LINKS, "format: 1\nrevision: [");
    until("the error", async || q.endpoints().unwrap().error.is_some_and(|e| e.contains("links.yaml"))).await;
    assert_eq!(q.clusters(), ["ops", "prod", "staging"]);
    q.put(args::files::LINKS, r#"{"format": 99, "revision": "r9", "clusterLabel": "cluster", "clusterName": "ops"}"#);
    until("the format", async || q.endpoints().unwrap().error.is_some_and(|e| e.contains("format 99"))).await;
    assert_eq!(q.endpoints().unwrap().revision.as_deref(), Some("r1"));

    // Gone on purpose: no warning.
    q.link("r2", vec![link("prod", "prod", &prod.address)]).await;
    until("staging to be gone", async || q.clusters() == ["ops", "prod"]).await;
    assert!(q.query("up").1.is_empty());
    assert!(q.endpoints().unwrap().error.is_none());

    // Gone by accident: missed by name, and back by itself.
    q.link("r3", both()).await;
    drop(prod);
    until("prod to be missed", async || q.query("up").1.iter().any(|w| w.contains("prod"))).await;
    assert_eq!(q.clusters(), ["ops", "staging"]);
    let _prod = Fake::live(&[&[("cluster", "prod")]]).start_with(at).await;
    until("prod to be back", async || q.clusters() == ["ops", "prod", "staging"] && q.query("up").1.is_empty()).await;

    // Two links to one cluster's data: both say so.
    let twin = link("twin", "staging", &staging.address);
    q.link("r4", both().into_iter().chain([twin]).collect()).await;
    until("the conflict", async || q.seen("twin").conflicts.iter().any(|c| c.with == "link monitoring/staging")).await;
    assert!(q.seen("staging").conflicts.iter().any(|c| c.with == "link monitoring/twin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_of_links_by_files_that_may_come_late_and_change() {
    let (ca, stranger) = (Authority::new("ca").unwrap(), Authority::new("stranger").unwrap());
    let files = tempfile::tempdir().unwrap();
    let serve = async |name: &str, pair: &Pair, client_ca: bool| {
        let put = |suffix: &str, text: &str| {
            let path = files.path().join(format!("{name}.{suffix}"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let args = ServerArgs {
            grpc_tls_cert: put("crt", &pair.cert),
            grpc_tls_key: put("key", &pair.key),
            grpc_tls_client_ca: if client_ca { put("ca", ca.cert()) } else { String::new() },
            ..ServerArgs::default()
        };
        Fake::live(&[&[("cluster", name)]]).start_with(args).await
    };
    let good = ca.server(&["store.example"]).unwrap();
    let expired =
        Request { name: "old".into(), hosts: vec!["store.example".into()], expired: true, ..Default::default() };
    let plain = serve("plain", &good, false).await;
    let mutual = serve("mutual", &good, true).await;
    let old = serve("old", &ca.issue(&expired).unwrap(), false).await;

    let q = Querier::start("ops", &[]);
    q.put("ca.pem", ca.cert());
    q.put("stranger.pem", stranger.cert());
    let client = ca.client("querier", &[]).unwrap();
    q.put("client.pem", &client.cert);
    q.put("client.key", &client.key);
    let with = |l: Link, ca_file: &str, server_name: &str, identity: bool| {
        let file = |f: &str| if identity { f.to_owned() } else { String::new() };
        let tls = args::endpoints::TlsConfig {
            enabled: Some(true),
            ca_file: ca_file.into(),
            cert_file: file("client.pem"),
            key_file: file("client.key"),
            ..Default::default()
        };
        let client = args::endpoints::ClientConfig {
            tls_config: Some(tls),
            server_name: server_name.into(),
            ..Default::default()
        };
        Link { client, ..l }
    };
    let links = || {
        vec![
            with(link("good", "plain", &plain.address), "ca.pem", "store.example", false),
            with(link("mutual", "mutual", &mutual.address), "ca.pem", "store.example", true),
            with(link("bare", "mutual", &mutual.address), "ca.pem", "store.example", false),
            with(link("unknown-ca", "plain", &plain.address), "stranger.pem", "store.example", false),
            with(link("wrong-name", "plain", &plain.address), "ca.pem", "elsewhere.example", false),
            with(link("expired", "old", &old.address), "ca.pem", "store.example", false),
        ]
    };
    q.link("r1", links()).await;
    for (name, expected) in [
        ("bare", ErrorClass::ClientCertificate),
        ("unknown-ca", ErrorClass::UnknownCa),
        ("wrong-name", ErrorClass::WrongServerName),
        ("expired", ErrorClass::CertificateExpired),
    ] {
        until(&format!("{name} to be {expected:?}, it is {:?}", q.seen(name).error), async || {
            q.seen(name).error.is_some_and(|e| e.class == expected)
        })
        .await;
    }
    for name in ["good", "mutual"] {
        until(name, async || q.seen(name).used).await;
        let tls = q.seen(name).tls.unwrap();
        assert!(tls.protocol == "1.3" && tls.server_not_after_ms.is_some(), "{tls:?}");
        assert_eq!(tls.client_not_after_ms.is_some(), name == "mutual");
    }
    assert_eq!(q.clusters(), ["mutual", "plain"]);

    // The right authority arrives: the same link recovers by itself.
    q.put("stranger.pem", ca.cert());
    until("the mended authority", async || q.seen("unknown-ca").used).await;
}
