//! What people and other programs write as documents: custom resources, rule files, configurations, lists of endpoints.

use super::{Decoder, nested, said, text, texts};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use operator::api::{MonitoringCluster, RemoteStore};
use operator::cluster::validate;
use operator::observe::{Defaults, Found, Live, Observed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

const YAML: &[&str] = &[
    "- ",
    ": ",
    "\n",
    "  ",
    "&a ",
    "*a",
    "<<: *a",
    "|",
    ">",
    "'",
    "\"",
    "[",
    "]",
    "{",
    "}",
    "!!binary ",
    "---\n",
    "~",
    "null",
    "0x7fffffffffffffff",
    "1e999",
    "groups:",
    "rules:",
    "expr: ",
    "$(HOME)",
    "#",
];
const JSON: &[&str] = &["{", "}", "[", "]", "\"", ":", ",", "null", "true", "-1", "1e999", "\\u0000", "\"spec\":"];

pub(crate) const DOCUMENTS: &[Decoder] = &[
    Decoder::new("monitoring-cluster", monitoring_cluster, monitoring_clusters)
        .bombs(|| nested("[", "", "]"))
        .words(JSON),
    Decoder::new("remote-store", |b| said(serde_json::from_slice::<RemoteStore>(b)), remote_stores)
        .bombs(|| nested("[", "", "]"))
        .words(JSON),
    Decoder::new("rule-file", rule_file, rule_files).bombs(yaml_bombs).words(YAML),
    Decoder::new("scrape-configs", scrape_configs, scrapes).bombs(yaml_bombs).words(YAML),
    Decoder::new("objstore-secret", objstore_secret, objstores).bombs(yaml_bombs).words(YAML),
    Decoder::new("endpoints", |b| text(b, |t| said(args::yaml::read::<args::endpoints::Endpoints>(t))), endpoints)
        .bombs(yaml_bombs)
        .words(YAML),
    Decoder::new("links", |b| text(b, |t| said(args::yaml::read::<args::links::Links>(t))), links)
        .bombs(yaml_bombs)
        .words(YAML),
    Decoder::new("prometheus-config", prometheus_config, prometheus_configs).bombs(yaml_bombs).words(YAML),
    Decoder::new("reloaded-config", reloaded, reloads).bombs(yaml_bombs).words(YAML).sized(unpacked),
    Decoder::new("store-address", |b| text(b, |t| said(engine::query::address::Address::parse(t))), addresses)
        .words(&["dns+", "dnssrv+", "[", "]", ":", "://", "%", ".", "65536"]),
];

pub(crate) fn world(cluster: &MonitoringCluster) -> Observed {
    Observed {
        cluster: cluster.clone(),
        remotes: Vec::new(),
        conflicts: BTreeMap::new(),
        secrets: BTreeMap::new(),
        config_maps: BTreeMap::new(),
        rule_config_maps: BTreeSet::new(),
        namespace_labels: BTreeMap::new(),
        loaded: BTreeSet::new(),
        refused: BTreeMap::new(),
        states: BTreeMap::new(),
        live: Live::default(),
        defaults: Defaults { engine_image: "panoptes:1".to_owned(), operator_version: "0.1.0".to_owned() },
    }
}

/// Read and judged, as the operator does it.
fn monitoring_cluster(b: &[u8]) -> Result<(), String> {
    let cluster: MonitoringCluster = serde_json::from_slice(b).map_err(|e| e.to_string())?;
    judge(&world(&cluster))
}

fn judge(observed: &Observed) -> Result<(), String> {
    match validate(&observed.cluster, observed) {
        Ok(valid) => valid.rejected.first().map_or(Ok(()), |r| Err(r.reason.clone())),
        Err(problems) => Err(problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; ")),
    }
}

/// A wish with the given spec beside `clusterName`, read once.
pub(crate) fn wish(spec: &str) -> MonitoringCluster {
    serde_json::from_str(&format!(
        r#"{{"apiVersion":"panoptes.dev/v1alpha1","kind":"MonitoringCluster",
            "metadata":{{"name":"ops","namespace":"monitoring","uid":"1"}},"spec":{{"clusterName":"ops"{spec}}}}}"#
    ))
    .unwrap()
}

fn rule_file(b: &[u8]) -> Result<(), String> {
    static WISH: OnceLock<MonitoringCluster> = OnceLock::new();
    text(b, |t| {
        let mut observed = world(WISH.get_or_init(|| wish("")));
        let data = BTreeMap::from([("rules.yaml".to_owned(), t.to_owned())]);
        let map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        observed.config_maps.insert("rules".to_owned(), Found::Present(map));
        observed.rule_config_maps.insert("rules".to_owned());
        judge(&observed)
    })
}

fn with_secret(cluster: &MonitoringCluster, b: &[u8]) -> Result<(), String> {
    let mut observed = world(cluster);
    let data = BTreeMap::from([("file.yaml".to_owned(), ByteString(b.to_vec()))]);
    let secret = Secret { data: Some(data), ..Secret::default() };
    observed.secrets.insert("s".to_owned(), Found::Present(secret));
    judge(&observed)
}

fn scrape_configs(b: &[u8]) -> Result<(), String> {
    static WISH: OnceLock<MonitoringCluster> = OnceLock::new();
    let spec = r#","scrape":{"additionalConfigs":[{"name":"s","key":"file.yaml"}]}"#;
    with_secret(WISH.get_or_init(|| wish(spec)), b)
}

fn objstore_secret(b: &[u8]) -> Result<(), String> {
    static WISH: OnceLock<MonitoringCluster> = OnceLock::new();
    let spec = r#","objectStorage":{"prefix":"p","secretRef":{"name":"s","key":"file.yaml"}}"#;
    with_secret(WISH.get_or_init(|| wish(spec)), b)
}

fn prometheus_config(b: &[u8]) -> Result<(), String> {
    text(b, |t| engine::sidecar::foreign::prometheus_configuration(t).map(drop))
}

fn reloaded(b: &[u8]) -> Result<(), String> {
    engine::sidecar::foreign::reloaded_configuration(b).map(drop)
}

/// gzip packs a thousandfold; the reloader's own bound is 64 MiB.
fn unpacked(b: &[u8]) -> usize {
    if b.starts_with(&[0x1f, 0x8b]) { b.len() * 1032 } else { b.len() }
}

fn monitoring_clusters() -> Vec<Vec<u8>> {
    let full = r#"{"apiVersion":"panoptes.dev/v1alpha1","kind":"MonitoringCluster",
        "metadata":{"name":"ops","namespace":"monitoring","uid":"1"},"spec":{"clusterName":"ops","profile":"Minimal",
        "externalLabels":{"region":"eu"},"prometheus":{"replicas":2,"resources":{"requests":{"cpu":"100m"}}},
        "scrape":{"interval":"30s","evaluationInterval":"30s"},"retention":{"local":"6h"}}}"#;
    vec![serde_json::to_vec(&wish("")).unwrap(), full.as_bytes().to_vec()]
}

fn remote_stores() -> Vec<Vec<u8>> {
    texts(&[r#"{"apiVersion":"panoptes.dev/v1alpha1","kind":"RemoteStore","metadata":{"name":"prod","namespace":"m"},
        "spec":{"clusterName":"prod","address":"prod.example:10901","mode":"Active","criticality":"Required"}}"#])
}

fn rule_files() -> Vec<Vec<u8>> {
    texts(&[
        "groups: []\n",
        "groups:\n- name: a\n  interval: 30s\n  labels: {team: x}\n  rules:\n  - record: a:b\n    expr: sum by (job) (rate(x[5m]))\n    labels: {k: v}\n  - alert: Down\n    expr: up == 0\n    for: 5m\n    keep_firing_for: 1m\n    annotations:\n      summary: '{{ $labels.job }} is down'\n",
    ])
}

fn scrapes() -> Vec<Vec<u8>> {
    texts(&[
        "- job_name: a\n  static_configs: [{targets: ['a:1']}]\n",
        "- job_name: b\n  scrape_interval: 15s\n  kubernetes_sd_configs:\n  - role: pod\n  relabel_configs:\n  - {action: keep, source_labels: [x], regex: 'a.*'}\n",
    ])
}

fn objstores() -> Vec<Vec<u8>> {
    texts(&[
        "type: S3\nconfig:\n  bucket: b\n  endpoint: e:9000\n  access_key: k\n  secret_key: s\n",
        "type: FILESYSTEM\nconfig: {directory: /var/bucket}\nprefix: a/b\n",
    ])
}

fn endpoints() -> Vec<Vec<u8>> {
    texts(&[
        "endpoints: []\n",
        "default_client_config: {server_name: x}\nendpoints:\n- address: dns+a:10901\n  strict: false\n  client_config:\n    tls_config: {enabled: true, ca_file: ca.crt}\n",
    ])
}

fn links() -> Vec<Vec<u8>> {
    texts(&[
        "format: 1\nrevision: a\nclusterLabel: cluster\nclusterName: ops\nlinks:\n- namespace: m\n  name: prod\n  cluster: prod\n  address: prod:10901\n  mode: Active\n  criticality: Required\n",
    ])
}

fn prometheus_configs() -> Vec<Vec<u8>> {
    texts(&[
        "global:\n  scrape_interval: 15s\n  external_labels:\n    cluster: ops\n    replica: \"0\"\nscrape_configs: []\n",
        "# TYPE prometheus_tsdb_lowest_timestamp_seconds gauge\nprometheus_tsdb_lowest_timestamp_seconds 1.7e+09\n",
    ])
}

fn reloads() -> Vec<Vec<u8>> {
    use std::io::Write as _;
    let plain = "global:\n  external_labels: {replica: $(HOME)}\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(plain.repeat(20).as_bytes()).unwrap();
    vec![plain.as_bytes().to_vec(), packed.finish().unwrap()]
}

fn addresses() -> Vec<Vec<u8>> {
    texts(&["a:10901", "dns+a.b:10901", "dnssrv+_grpc._tcp.a", "[::1]:10901"])
}

fn yaml_bombs() -> Vec<Vec<u8>> {
    let laughs: String =
        (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))).collect();
    let laughs = format!("a0: &a0 lol\n{laughs}groups: *a11\nendpoints: *a11\nlinks: *a11\n");
    let reloaded = "$(HOME)".repeat(2000);
    let mut all =
        [nested("[", "", "]"), nested("{a: ", "1", "}"), nested("- ", "1", ""), texts(&[&laughs, &reloaded])].concat();
    // As much as possible of every list that there is, once as long as a ConfigMap may be.
    for item in
        ["1", "{}", "{address: a}", "{address: a.example:10901}", "{name: a, rules: []}", "{record: a, expr: a}"]
    {
        for before in
            ["", "endpoints: ", "links: ", "groups: ", "groups: [{name: a, rules: ", "global: {external_labels: "]
        {
            for size in [40 << 10, 1 << 20] {
                let list = vec![item; size / (item.len() + 1)].join(",");
                let after = if before.contains('{') { "}]" } else { "" };
                all.push(format!("{before}[{list}]{after}").into_bytes());
            }
        }
    }
    let pairs: String = (0..100_000).map(|n| format!("a{n}: b,")).collect();
    let lines: String = (0..100_000).map(|n| format!("  a{n}: b\n")).collect();
    all.extend(texts(&[
        &format!("{{{pairs}}}"),
        &format!("global:\n  external_labels:\n  {}", lines.replace("  ", "    ")),
    ]));
    all
}
