//! Examples, worlds and look-ups for the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use operator::api::{MonitoringCluster, RemoteStore};
use operator::cluster::{ConditionType, Problem, Reason, ValidCluster, validate};
use operator::desired::Object;
use operator::observe::{Defaults, Found, Live, Observed};
use serde_json::{Value, json};

pub(crate) const EXAMPLES: [&str; 4] = ["ops", "prod", "staging", "tutorial"];
/// Examples of other buckets.
pub(crate) const BUCKETS: [&str; 5] =
    ["bucket-azure", "bucket-filesystem", "bucket-gcs", "bucket-s3", "bucket-thanos-file"];
/// Examples of links.
pub(crate) const LINKS: [&str; 3] = ["remote-bucket", "remote-prod", "remote-staging"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documents of an example file.
pub(crate) fn documents(example: &str) -> anyhow::Result<Vec<Value>> {
    let path = root().join(format!("examples/{example}.yaml"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.split("\n---\n").map(|document| Ok(serde_saphyr::from_str(document)?)).collect()
}

fn of_kind<T: serde::de::DeserializeOwned>(example: &str, kind: &str) -> anyhow::Result<T> {
    let documents = documents(example)?;
    let found = documents.into_iter().find(|document| document["kind"] == kind).context("no such kind")?;
    Ok(serde_json::from_value(found)?)
}

pub(crate) fn cluster(example: &str) -> anyhow::Result<MonitoringCluster> {
    let mut cluster: MonitoringCluster = of_kind(example, "MonitoringCluster")?;
    cluster.metadata.uid = Some("00000000-0000-0000-0000-000000000001".to_owned());
    Ok(cluster)
}

pub(crate) fn remote(example: &str) -> anyhow::Result<RemoteStore> {
    of_kind(example, "RemoteStore")
}

/// A MonitoringCluster with this spec beside clusterName.
pub(crate) fn wish(mut spec: Value) -> MonitoringCluster {
    spec["clusterName"] = json!("ops");
    serde_json::from_value(json!({
        "apiVersion": "panoptes.dev/v1alpha1",
        "kind": "MonitoringCluster",
        "metadata": {"name": "ops", "namespace": "monitoring", "uid": "00000000-0000-0000-0000-000000000001"},
        "spec": spec,
    }))
    .expect("a wish")
}

pub(crate) fn link(name: &str, spec: Value) -> RemoteStore {
    serde_json::from_value(json!({
        "apiVersion": "panoptes.dev/v1alpha1",
        "kind": "RemoteStore",
        "metadata": {"name": name, "namespace": "monitoring"},
        "spec": spec,
    }))
    .expect("a link")
}

pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAQIDBA==\n-----END CERTIFICATE-----\n";
pub(crate) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nBQYHCA==\n-----END PRIVATE KEY-----\n";

pub(crate) fn service_account() -> Value {
    json!({
        "type": "service_account",
        "client_email": "panoptes@example.iam.gserviceaccount.com",
        "private_key": KEY,
        "token_uri": "https://oauth2.googleapis.com/token",
    })
}

pub(crate) fn secret(name: &str, data: &[(&str, &str)]) -> (String, Found<Secret>) {
    let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    let mut secret = Secret { data: Some(data), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    (name.to_owned(), Found::Present(secret))
}

pub(crate) fn config_map(name: &str, data: &[(&str, &str)]) -> (String, Found<ConfigMap>) {
    let data = data.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    (name.to_owned(), Found::Present(ConfigMap { data: Some(data), ..ConfigMap::default() }))
}

/// A world in which every Secret that the examples name is there and good.
pub(crate) fn world(cluster: &MonitoringCluster) -> Observed {
    let key_file = service_account().to_string();
    let secrets = BTreeMap::from([
        secret("thanos-gcs-credentials", &[("thanos-gcs-credentials.json", &key_file)]),
        secret(
            "bucket-credentials",
            &[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key"), ("account-key", "AQIDBA==")],
        ),
        secret("bucket-ca", &[("ca.crt", CERTIFICATE)]),
        secret(
            "thanos-object-storage",
            &[("objstore.yml", "type: S3\nconfig: {bucket: prometheus, endpoint: s3.example, region: eu}\n")],
        ),
        secret("store-api-tls", &[("tls.crt", CERTIFICATE), ("tls.key", KEY)]),
        secret("store-api-client-ca", &[("ca.crt", CERTIFICATE)]),
        secret("prod-store-api-ca", &[("ca.crt", CERTIFICATE)]),
        secret("staging-store-api-ca", &[("ca.crt", CERTIFICATE)]),
        secret("dr-bucket-reader", &[("key.json", &key_file)]),
        secret("ops-store-api-client", &[("tls.crt", CERTIFICATE), ("tls.key", KEY)]),
    ]);
    Observed {
        cluster: cluster.clone(),
        remotes: Vec::new(),
        conflicts: BTreeMap::new(),
        secrets,
        config_maps: BTreeMap::new(),
        rule_config_maps: BTreeSet::new(),
        namespace_labels: BTreeMap::new(),
        loaded: BTreeSet::new(),
        refused: BTreeMap::new(),
        states: BTreeMap::new(),
        live: Live::default(),
        defaults: Defaults {
            engine_image: "panoptes.dev/panoptes:0.1.0".to_owned(),
            operator_version: "0.1.0".to_owned(),
        },
    }
}

/// The world in which it was carried out: its objects exist.
pub(crate) fn carried_out(observed: &mut Observed, objects: &[Object]) -> anyhow::Result<()> {
    for object in objects.iter().filter(|object| object.kind() == "Secret") {
        let secret: Secret = serde_json::from_value(object.0.clone())?;
        observed.secrets.insert(secret.name_any(), Found::Present(secret));
    }
    for object in objects.iter().filter(|object| object.kind() == "ConfigMap") {
        let map: ConfigMap = serde_json::from_value(object.0.clone())?;
        observed.config_maps.insert(map.name_any(), Found::Present(map));
    }
    for object in objects.iter().filter(|object| object.kind() == "Deployment") {
        let deployment = serde_json::from_value(object.0.clone())?;
        observed.live.deployments.insert(object.name().to_owned(), deployment);
    }
    for object in objects.iter().filter(|object| object.kind() == "StatefulSet") {
        let set = serde_json::from_value(object.0.clone())?;
        observed.live.stateful_sets.insert(object.name().to_owned(), set);
    }
    Ok(())
}

pub(crate) fn valid(cluster: &MonitoringCluster) -> ValidCluster {
    valid_in(&world(cluster))
}

pub(crate) fn valid_in(observed: &Observed) -> ValidCluster {
    validate(&observed.cluster, observed).unwrap_or_else(|problems| panic!("not valid: {problems:#?}"))
}

/// Everything that is said about a wish, whether or not it can be carried out.
pub(crate) fn said(observed: &Observed) -> Vec<Problem> {
    match validate(&observed.cluster, observed) {
        Ok(valid) => valid.problems,
        Err(problems) => problems,
    }
}

/// The one thing said under a condition.
pub(crate) fn said_under(observed: &Observed, condition: ConditionType) -> (Reason, String) {
    let all = said(observed);
    let mut found = all.iter().filter(|problem| problem.condition == condition);
    let first = found.next().unwrap_or_else(|| panic!("nothing about {condition}: {all:#?}"));
    assert_eq!(found.next(), None, "only one thing is wrong");
    (first.reason, first.message.clone())
}

pub(crate) fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Object {
    let found = objects.iter().find(|object| object.kind() == kind && object.name() == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Kind and name of everything that a wish stands for.
pub(crate) fn names(observed: &Observed) -> Vec<String> {
    let objects = operator::desired::objects(&valid_in(observed));
    objects.iter().map(|object| format!("{}/{}", object.kind(), object.name())).collect()
}

/// Pod templates by workload.
pub(crate) fn templates(objects: &[Object]) -> BTreeMap<String, Value> {
    objects
        .iter()
        .filter_map(|object| {
            let template = object.0.pointer("/spec/template")?;
            Some((format!("{}/{}", object.kind(), object.name()), template.clone()))
        })
        .collect()
}
