//! A real promtool reads what is generated.

use std::process::Command;

use operator::desired::objects;
use serde_json::{Value, json};

use super::support::{EXAMPLES, cluster, valid, wish};

fn check(cluster: &operator::api::MonitoringCluster) -> anyhow::Result<()> {
    let valid = valid(cluster);
    let dir = tempfile::tempdir()?;
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules)?;
    for object in objects(&valid).iter().filter(|object| object.name().contains("-prometheus-rules-")) {
        for (name, text) in object.0["data"].as_object().into_iter().flatten() {
            std::fs::write(rules.join(name), text.as_str().unwrap_or_default())?;
        }
    }
    let account = dir.path().join("serviceaccount");
    std::fs::create_dir(&account)?;
    for file in ["token", "ca.crt"] {
        std::fs::write(account.join(file), "")?;
    }
    let text = valid
        .configuration
        .next
        .replace("/etc/prometheus/rules", &rules.display().to_string())
        .replace("/var/run/secrets/kubernetes.io/serviceaccount", &account.display().to_string());
    let config = dir.path().join("prometheus.yaml");
    std::fs::write(&config, &text)?;
    let output = Command::new(testkit::peers::path("promtool")?).args(["check", "config"]).arg(&config).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{text}");
    if cluster.spec.rules.builtin {
        assert!(said.contains("rules found"), "{said}");
    }
    Ok(())
}

#[test]
fn every_example() -> anyhow::Result<()> {
    if testkit::peers::skip(&["promtool"]) {
        return Ok(());
    }
    EXAMPLES.iter().try_for_each(|example| check(&cluster(example)?))
}

#[test]
fn every_job_alone_and_odd_names() -> anyhow::Result<()> {
    if testkit::peers::skip(&["promtool"]) {
        return Ok(());
    }
    for job in ["apiserver", "kubelet", "cadvisor", "nodeExporter", "kubeStateMetrics", "coredns", "self", "annotated"] {
        let spec: Value = json!({
            "scrape": {"jobs": [job], "annotations": {"prefix": "a-b.c"}, "verifyKubelets": true},
            "externalLabels": {"version": "1.10", "on": "yes", "quote": "a\"b'c: # {d}"},
            "replicaLabel": "replica",
        });
        check(&wish(spec))?;
    }
    Ok(())
}
