//! Every pod passes the level `restricted`, but for node-exporter, which can't.

use operator::desired::objects;
use serde_json::Value;

use super::support::{EXAMPLES, cluster, templates, valid};

/// What the level `restricted` of the Pod Security Standards forbids in this template.
fn violations(template: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &template["spec"];
    let pod = &spec["securityContext"];
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[host] == true {
            found.push(host.to_owned());
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let allowed = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        if !allowed.iter().any(|kind| volume.get(*kind).is_some()) {
            found.push(format!("volume {}", volume["name"]));
        }
    }
    let containers = ["containers", "initContainers"].map(|list| spec[list].as_array().cloned().unwrap_or_default());
    for container in containers.concat() {
        let (name, own) = (&container["name"], &container["securityContext"]);
        let inherited = |field: &str| own.get(field).or_else(|| pod.get(field)).cloned().unwrap_or(Value::Null);
        let mut must = |good: bool, what: &str| {
            if !good {
                found.push(format!("{name}: {what}"));
            }
        };
        must(own["privileged"] != true, "privileged");
        must(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
        must(own["capabilities"]["drop"] == serde_json::json!(["ALL"]), "capabilities");
        must(own["capabilities"].get("add").is_none(), "added capabilities");
        must(inherited("runAsNonRoot") == true, "runAsNonRoot");
        must(inherited("runAsUser") != 0, "runAsUser");
        must(inherited("seccompProfile")["type"] == "RuntimeDefault", "seccompProfile");
        must(own["readOnlyRootFilesystem"] == true, "readOnlyRootFilesystem");
        for port in container["ports"].as_array().into_iter().flatten() {
            must(port.get("hostPort").is_none(), "hostPort");
        }
    }
    found
}

#[test]
fn all_but_node_exporter_are_restricted() -> anyhow::Result<()> {
    for example in EXAMPLES {
        for (name, template) in templates(&objects(&valid(&cluster(example)?))) {
            let found = violations(&template);
            if name.ends_with("node-exporter") {
                assert_eq!(found.len(), 4, "what it needs and no more: {found:?}");
            } else {
                assert_eq!(found, Vec::<String>::new(), "{example} {name}");
            }
        }
    }
    Ok(())
}

#[test]
fn tokens_go_only_to_those_who_ask_the_api_server() -> anyhow::Result<()> {
    for (name, template) in templates(&objects(&valid(&cluster("ops")?))) {
        let asks = name.ends_with("-prometheus") || name.ends_with("-kube-state-metrics");
        assert_eq!(template["spec"]["automountServiceAccountToken"], asks, "{name}");
        assert_eq!(template["spec"]["enableServiceLinks"], false, "{name}");
    }
    Ok(())
}

#[test]
fn containers_say_why_they_died_and_have_no_cpu_limit() -> anyhow::Result<()> {
    for (name, template) in templates(&objects(&valid(&cluster("ops")?))) {
        for list in ["containers", "initContainers"] {
            for container in template["spec"][list].as_array().into_iter().flatten() {
                assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError", "{name}");
                assert_eq!(container["imagePullPolicy"], "IfNotPresent", "{name}");
                assert!(container["resources"]["requests"]["memory"].is_string(), "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
                assert!(container["resources"]["limits"].get("cpu").is_none(), "{name}");
            }
        }
    }
    Ok(())
}
