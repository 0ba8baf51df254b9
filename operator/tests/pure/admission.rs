//! A real API server: it accepts both definitions and every object that is generated, strictly, and refuses bad wishes
//! with a sentence that names the field.

use operator::api::crd_files;
use operator::desired::objects;
use serde_json::{Value, json};
use testkit::apiserver::{ApiServer, Options};

use super::support::{BUCKETS, EXAMPLES, LINKS, cluster, documents, remote, valid_in, wish, world};

const PEERS: [&str; 2] = ["kube-apiserver", "etcd"];

fn server() -> anyhow::Result<ApiServer> {
    let server = ApiServer::start(&Options::default())?;
    for (_, text) in crd_files()? {
        server.apply(&text)?;
    }
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=20s"])?;
    Ok(server)
}

/// `kubectl create --dry-run=server` of one document: strict, as it is by default.
fn create(server: &ApiServer, document: &Value) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(file.path(), document.to_string()).map_err(|e| e.to_string())?;
    let path = file.path().display().to_string();
    server.kubectl(&["create", "--dry-run=server", "-f", &path]).map_err(|e| format!("{e:#}"))
}

#[test]
fn the_examples_and_all_they_stand_for() -> anyhow::Result<()> {
    if testkit::peers::skip(&PEERS) {
        return Ok(());
    }
    let server = server()?;
    let all: Vec<&str> = EXAMPLES.iter().chain(&BUCKETS).chain(&LINKS).copied().collect();
    let mut files: Vec<String> = std::fs::read_dir(super::support::root().join("examples"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().trim_end_matches(".yaml").to_owned()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let mut known = all.clone();
    known.sort_unstable();
    assert_eq!(files, known, "every file is applied");
    for example in all {
        for document in documents(example)? {
            // the role is part of the installation
            if document["kind"] != "RoleBinding" {
                server.apply(&document.to_string())?;
            }
        }
    }
    let printed = server.kubectl(&["get", "moncl,rstore", "-A", "-o", "wide"])?;
    for heading in
        ["CLUSTER", "READY", "PHASE", "PROM", "REMOTES", "QUERIERS", "LATENCY", "LAG", "CRITICALITY", "MESSAGE"]
    {
        assert!(printed.contains(heading), "{heading}: {printed}");
    }
    server.kubectl(&["get", "fleet", "-A"])?;

    for example in BUCKETS.iter().chain(&EXAMPLES) {
        let mut cluster = cluster(example)?;
        let found = server.kubectl(&[
            "-n",
            "monitoring",
            "get",
            "moncl",
            &cluster.metadata.name.clone().unwrap_or_default(),
            "-o",
            "json",
        ])?;
        let stored: operator::api::MonitoringCluster = serde_json::from_str(&found)?;
        assert_eq!(serde_json::to_value(&stored.spec)?["clusterLabel"], "cluster", "defaults are written down");
        cluster.metadata = stored.metadata.clone();
        let mut observed = world(&cluster);
        observed.remotes = LINKS.iter().map(|link| remote(link)).collect::<anyhow::Result<_>>()?;
        let objects: Vec<Value> = objects(&valid_in(&observed)).into_iter().map(|object| object.0).collect();
        let roles = ["panoptes-prometheus", "panoptes-kube-state-metrics"].map(|name| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": []})
        });
        let list = |items: &[Value]| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        server.apply(&list(&roles))?;
        server.apply(&list(&objects))?;
        // the second apply changes nothing
        let versions = || {
            server.kubectl(&[
                "-n",
                "monitoring",
                "get",
                "sts,deploy,ds,svc,secret,cm,sa,pdb",
                "-o",
                "jsonpath={.items[*].metadata.resourceVersion}",
            ])
        };
        let before = versions()?;
        server.apply(&list(&objects))?;
        assert_eq!(before, versions()?);
        // the next example has the same name or the same node port
        server.kubectl(&["-n", "monitoring", "delete", "service,statefulset", "--all"])?;
    }
    Ok(())
}

#[test]
fn bad_wishes_are_refused_naming_the_field() -> anyhow::Result<()> {
    if testkit::peers::skip(&PEERS) {
        return Ok(());
    }
    let server = server()?;
    server.kubectl(&["create", "namespace", "monitoring"])?;
    let body = |kind: &str, name: &str, spec: &Value| json!({"apiVersion": "panoptes.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "monitoring"}, "spec": spec});
    let cluster = |mut spec: Value| {
        if spec.get("clusterName").is_none() {
            spec["clusterName"] = json!("ops");
        }
        body("MonitoringCluster", "ops", &spec)
    };
    let remote = |mut spec: Value| {
        spec["clusterName"] = json!("prod");
        body("RemoteStore", "prod", &spec)
    };
    create(&server, &cluster(json!({}))).map_err(anyhow::Error::msg)?;
    create(&server, &remote(json!({"serviceRef": {"name": "query", "port": 10901}}))).map_err(anyhow::Error::msg)?;
    create(
        &server,
        &serde_json::to_value(wish(json!({"querier": {"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}})))?,
    )
    .map_err(anyhow::Error::msg)?;
    for (document, parts) in [
        (cluster(json!({"unknown": 1})), &["unknown field", "spec.unknown"][..]),
        (cluster(json!({"querier": {"replics": 1}})), &["unknown field", "spec.querier.replics"]),
        (cluster(json!({"querier": {"replicas": "two"}})), &["spec.querier.replicas"]),
        (cluster(json!({"querier": {"replicas": 51}})), &["spec.querier.replicas", "50"]),
        (cluster(json!({"clusterName": "a b"})), &["spec.clusterName"]),
        (cluster(json!({"clusterName": ""})), &["spec.clusterName"]),
        (cluster(json!({"profile": "Huge"})), &["spec.profile", "Minimal"]),
        (cluster(json!({"externalLabels": {"cluster": "x"}})), &["externalLabels must not hold"]),
        (cluster(json!({"replicaLabel": "cluster"})), &["must differ"]),
        (cluster(json!({"objectStorage": {}})), &["spec.objectStorage", "exactly one of gcs, s3"]),
        (
            cluster(json!({"objectStorage": {"gcs": {"bucket": "abc"}, "filesystem": {"volumeClaimName": "a"}}})),
            &["spec.objectStorage", "exactly one of gcs, s3"],
        ),
        (cluster(json!({"objectStorage": {"gcs": {"bucket": "A"}}})), &["spec.objectStorage.gcs.bucket"]),
        (
            cluster(json!({"objectStorage": {"gcs": {"bucket": "abc", "endpoint": "10.0.0.1:4443"}}})),
            &["spec.objectStorage.gcs.endpoint"],
        ),
        (cluster(json!({"objectStorage": {"s3": {"bucket": "abc"}}})), &["s3 needs endpoint, or region"]),
        (cluster(json!({"objectStorage": {"azure": {"container": "abc"}}})), &["spec.objectStorage.azure.account"]),
        (
            cluster(json!({"objectStorage": {"prefix": "/a", "filesystem": {"volumeClaimName": "a"}}})),
            &["spec.objectStorage.prefix"],
        ),
        (cluster(json!({"commonMetadata": {"labels": {"a": "b c"}}})), &["spec.commonMetadata.labels"]),
        (cluster(json!({"storage": {"size": "many"}})), &["spec.storage.size"]),
        (cluster(json!({"scrape": {"interval": "1 minute"}})), &["spec.scrape.interval"]),
        (cluster(json!({"scrape": {"jobs": ["self", "self"]}})), &["spec.scrape.jobs", "Duplicate"]),
        (
            cluster(json!({"expose": {"storeAPI": {"type": "NodePort"}}})),
            &["spec.expose.storeAPI", "allowPlaintext: true"],
        ),
        (
            cluster(json!({"expose": {"storeAPI": {"type": "LoadBalancer", "nodePort": 3, "allowPlaintext": true}}})),
            &["nodePort needs"],
        ),
        (body("MonitoringCluster", &"a".repeat(33), &json!({"clusterName": "a"})), &["32 characters"]),
        (body("MonitoringCluster", "a.b", &json!({"clusterName": "a"})), &["metadata.name must start with a letter"]),
        (remote(json!({})), &["exactly one of address, serviceRef and bucketRef"]),
        (
            remote(json!({"address": "a:1", "serviceRef": {"name": "b"}})),
            &["exactly one of address, serviceRef and bucketRef"],
        ),
        (
            remote(json!({"address": "a:1", "bucketRef": {"gcs": {"bucket": "abc"}}})),
            &["exactly one of address, serviceRef and bucketRef"],
        ),
        (remote(json!({"bucketRef": {}})), &["spec.bucketRef", "exactly one of gcs, s3"]),
        (
            remote(json!({"bucketRef": {"gcs": {"bucket": "abc"}}, "tls": {"caSecretRef": {"name": "a"}}})),
            &["bucketRef takes no tls and no auth"],
        ),
        (remote(json!({"address": "a:443", "auth": {}})), &["spec.auth.bearerTokenSecretRef"]),
        (cluster(json!({"storeGateway": {"shards": 0}})), &["spec.storeGateway.shards"]),
        (
            cluster(json!({"storeGateway": {"cache": {"storageClassName": "fast"}}})),
            &["spec.storeGateway.cache", "needs persistent: true"],
        ),
        (cluster(json!({"compactor": {"concurrency": 0}})), &["spec.compactor.concurrency"]),
        (cluster(json!({"compactor": {"replicas": 2}})), &["unknown field", "spec.compactor.replicas"]),
        (cluster(json!({"retention": {"raw": "1.5d"}})), &["spec.retention.raw"]),
        (
            cluster(json!({"compactor": {"storage": {"storageClassName": "fast", "persistent": false}}})),
            &["spec.compactor.storage", "exclude each other"],
        ),
        (remote(json!({"address": "http://a:1"})), &["spec.address"]),
        (remote(json!({"address": "a:1", "tls": {"mode": "Mutual"}})), &["spec.tls", "needs clientSecretRef"]),
        (
            remote(json!({"address": "a:1", "tls": {"insecureSkipVerify": true, "caSecretRef": {"name": "x"}}})),
            &["exclude each other"],
        ),
        (remote(json!({"address": "a:1", "adress": "b:1"})), &["unknown field", "spec.adress"]),
    ] {
        let said = create(&server, &document).expect_err(&document.to_string());
        for part in parts {
            assert!(said.contains(part), "{part:?} in {said}");
        }
    }

    // what can't be changed
    server.apply(&cluster(json!({"storage": {"storageClassName": "a"}})).to_string())?;
    for (spec, part) in [
        (json!({"clusterName": "other", "storage": {"storageClassName": "a"}}), "clusterName can't be changed"),
        (json!({"clusterLabel": "k", "storage": {"storageClassName": "a"}}), "clusterLabel can't be changed"),
        (json!({"storage": {"storageClassName": "b"}}), "storageClassName can't be changed"),
        (json!({}), "storageClassName can't be changed"),
    ] {
        let said = format!("{:#}", server.apply(&cluster(spec).to_string()).expect_err(part));
        assert!(said.contains(part), "{said}");
    }
    Ok(())
}
