//! A missing right is named, with the command that grants it; the rest goes on.

use operator::cmd;
use serde_json::json;

use crate::bench::Bench;

const OPS: (&str, &str) = ("moncl", "ops");

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_and_then_granted() {
    let Some(bench) = Bench::unbound("rights").await else { return };
    bench.cluster(json!({}));
    let message = bench.condition(OPS, "Stalled", "True", "ForbiddenByRBAC").await;
    assert!(message.contains("panoptes operator rbac -n rights | kubectl apply -f -"), "{message}");
    bench.apply(&cmd::rbac("rights").unwrap());
    bench.until("made", || bench.get("statefulset", "ops-prometheus")).await;
    bench.condition(OPS, "Reconciling", "True", "Creating").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missing_right_stops_one_kind() {
    let Some(bench) = Bench::unbound("one-right").await else { return };
    // Everything but budgets.
    let role = bench.server.kubectl(&["get", "clusterrole", "panoptes-namespace", "-o", "json"]).unwrap();
    let mut role: serde_json::Value = serde_json::from_str(&role).unwrap();
    role["metadata"] = json!({"name": "most"});
    role["rules"].as_array_mut().unwrap().retain(|rule| rule["apiGroups"] != json!(["policy"]));
    bench.apply(&role.to_string());
    bench.kubectl(&[
        "create",
        "rolebinding",
        "most",
        "--clusterrole=most",
        "--serviceaccount=panoptes-system:panoptes-operator",
    ]);
    bench.cluster(json!({"prometheus": {"replicas": 2}}));
    let message = bench.condition(OPS, "Stalled", "True", "ForbiddenByRBAC").await;
    assert!(message.contains("poddisruptionbudgets.policy"), "{message}");
    bench.until("the rest", || bench.get("daemonset", "ops-node-exporter")).await;
    assert!(bench.get("poddisruptionbudget", "ops-prometheus").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_exactly_these() {
    let Some(bench) = Bench::unbound("exact-rights").await else { return };
    let can = |verb: &str, what: &str, namespace: &str| {
        let who = "--as=system:serviceaccount:panoptes-system:panoptes-operator";
        let (what, part) = what.split_once('/').unwrap_or((what, ""));
        let part = format!("--subresource={part}");
        bench.server.kubectl(&["auth", "can-i", verb, what, &part, "-n", namespace, who]).is_ok()
    };
    for (verb, what) in [
        ("list", "monitoringclusters.panoptes.dev"),
        ("get", "namespaces"),
        ("patch", "remotestores.panoptes.dev/status"),
    ] {
        assert!(can(verb, what, "exact-rights"), "{verb} {what}");
    }
    for verb in ["get", "list", "watch", "create", "patch", "delete", "update"] {
        assert!(!can(verb, "secrets", "exact-rights"), "{verb} secrets without the binding");
        assert!(!can(verb, "secrets", "panoptes-system"), "{verb} secrets of the system namespace");
    }
    for (verb, what) in [
        ("create", "pods"),
        ("delete", "pods"),
        ("get", "nodes"),
        ("delete", "persistentvolumeclaims"),
        ("create", "clusterroles"),
    ] {
        assert!(!can(verb, what, "exact-rights"), "{verb} {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_of_the_installation_is_named_too() {
    const USER: &str = "system:serviceaccount:panoptes-system:weak";
    // It starts without any right at all, and goes on when it has some.
    let Some(bench) = Bench::with("weak", true, USER, std::time::Duration::from_secs(20)).await else { return };
    let role = bench.server.kubectl(&["get", "clusterrole", "panoptes-operator", "-o", "json"]).unwrap();
    let mut role: serde_json::Value = serde_json::from_str(&role).unwrap();
    role["metadata"] = json!({"name": "weak"});
    role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!(["clusterrolebindings"]));
    bench.apply(&role.to_string());
    for (kind, role) in [("clusterrolebinding", "weak"), ("rolebinding", "panoptes-namespace")] {
        let role = format!("--clusterrole={role}");
        bench.kubectl(&["create", kind, "weak", &role, "--serviceaccount=panoptes-system:weak"]);
    }
    bench.cluster(json!({}));
    let message = bench.condition(OPS, "Stalled", "True", "ForbiddenByRBAC").await;
    assert!(message.contains("clusterrolebindings.rbac.authorization.k8s.io"), "{message}");
    assert!(message.contains("panoptes operator manifests") && !message.contains("operator rbac"), "{message}");
    bench.until("the rest", || bench.get("daemonset", "ops-node-exporter")).await;
    bench.server.kubectl(&["delete", "clusterrolebinding,clusterrole", "weak"]).unwrap();
}
