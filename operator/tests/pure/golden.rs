//! The whole desired set of every example, as files that a person reads in a review.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use operator::desired::{Object, objects};
use serde_json::Value;

use super::support::{EXAMPLES, LINKS, cluster, remote, valid_in, world};

/// Secrets in clear: their contents are what is of interest.
fn readable(object: &Object) -> Value {
    let mut body = object.0.clone();
    if object.kind() == "Secret"
        && let Some(data) = body.get_mut("data").map(Value::take)
    {
        let text = |value: &Value| {
            let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            Value::from(String::from_utf8_lossy(&bytes).into_owned())
        };
        let decoded = data.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect();
        body["data"] = Value::Object(decoded);
    }
    body
}

fn compare(name: &str, objects: &[Object]) -> anyhow::Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.yaml"));
    let mut text = String::new();
    for object in objects {
        write!(text, "---\n{}", serde_saphyr::to_string(&readable(object))?)?;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text)?;
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = stored.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        stored == text,
        "tests/golden/{name}.yaml differs from line {}: if that is right, UPDATE_GOLDEN=1 cargo test -p operator --test pure",
        differs.unwrap_or(stored.lines().count().min(text.lines().count())) + 1,
    );
    Ok(())
}

#[test]
fn every_example() -> anyhow::Result<()> {
    for example in EXAMPLES {
        let mut observed = world(&cluster(example)?);
        if example == "ops" {
            observed.remotes = LINKS.iter().map(|link| remote(link)).collect::<anyhow::Result<_>>()?;
        }
        compare(example, &objects(&valid_in(&observed)))?;
    }
    Ok(())
}

#[test]
fn everything_that_can_be_set() -> anyhow::Result<()> {
    let wish = super::support::wish(serde_json::json!({
        "externalLabels": {"region": "eu"},
        "profile": "Medium",
        "prometheusVersion": "3.5.0",
        "imageRegistry": "mirror.example/cache",
        "imagePullSecrets": [{"name": "pull"}],
        "objectStorage": {"secretRef": {"name": "bucket", "key": "objstore.yml"}, "prefix": "fleet"},
        "storage": {"size": "100Gi", "storageClassName": "fast"},
        "retention": {"local": "12h", "localSize": "40Gi", "raw": "60d", "fiveMinutes": "1y", "oneHour": "5y"},
        "scrape": {"interval": "15s", "timeout": "5s", "jobs": ["self", "annotated"], "annotations": {"prefix": "scrape.me"},
            "additional": [{"configMapRef": {"name": "jobs", "key": "jobs.yaml"}}]},
        "rules": {"builtin": false, "configMapSelector": {"matchLabels": {"team": "a"}}},
        "prometheus": {"replicas": 3, "logLevel": "debug", "extraArgs": ["--query.max-samples=1000"],
            "resources": {"requests": {"memory": "1Gi"}}, "maximumStartup": "10m",
            "podTemplate": {"metadata": {"annotations": {"a": "b"}}, "spec": {"nodeSelector": {"disk": "ssd"},
                "containers": [{"name": "prometheus", "env": [{"name": "GOGC", "value": "75"}]}]}}},
        "sidecar": {"logLevel": "warn", "extraArgs": ["--min-time=-2w"]},
        "storeGateway": {"shards": 2, "replicas": 3, "minTime": "-52w", "maxTime": "-1h", "logLevel": "error",
            "cache": {"size": "20Gi", "persistent": true}, "extraArgs": ["--sync-block-duration=5m"]},
        "compactor": {"concurrency": 2, "consistencyDelay": "1h", "deleteDelay": "1d", "verticalDedup": true,
            "storage": {"size": "80Gi"}, "extraArgs": ["--wait-interval=10m"]},
        "querier": {"replicas": 4, "image": "example/query:1", "extraArgs": ["--query.timeout=1m"]},
        "kubeStateMetrics": {"extraArgs": ["--metric-labels-allowlist=pods=[app]"]},
        "nodeExporter": {"port": 9110},
        "storeAPI": {"serviceName": "thanos-store-gateway"},
        "expose": {"storeAPI": {"type": "LoadBalancer", "port": 443, "annotations": {"lb": "internal"},
            "sourceRanges": ["10.0.0.0/8"], "allowPlaintext": true}},
        "availability": {"antiAffinity": "Required", "zoneSpread": false, "pdb": false, "priorityClassName": "high"},
        "commonMetadata": {"labels": {"owner": "sre"}, "annotations": {"note": "x"}},
        "deletionPolicy": "Delete",
    }));
    let mut observed = world(&wish);
    observed.secrets.extend([super::support::secret(
        "bucket",
        &[("objstore.yml", "type: S3\nconfig: {bucket: b, endpoint: s3.example}\n")],
    )]);
    observed.config_maps.extend([
        super::support::config_map(
            "jobs",
            &[("jobs.yaml", "- job_name: mine\n  static_configs: [{targets: ['a:1']}]\n")],
        ),
        super::support::config_map(
            "team-a",
            &[("up.yml", "groups: [{name: g, rules: [{record: a:up, expr: sum(up)}]}]")],
        ),
    ]);
    observed.rule_config_maps.insert("team-a".to_owned());
    let valid = valid_in(&observed);
    assert_eq!(valid.rejected, []);
    compare("everything", &objects(&valid))
}
