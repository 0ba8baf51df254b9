//! T22: one apply makes all objects, owned; a second apply and a new leader write nothing; deletion removes everything and keeps the
//! volumes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;

use super::world::{CHANGE, World, eventually};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::{Stack, example};

pub(super) const STORY: Story =
    Story { name: "t22_part_apply_and_delete", changes: &[Thing::Tutorial, Thing::Lab], needs: &[], run };

/// What the operator makes in a namespace.
pub(super) const KINDS: &str =
    "statefulsets,deployments,daemonsets,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets";

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let uid = stack.json(&["get", &stack.object()])?["metadata"]["uid"].clone();
    let found = stack.json(&["get", KINDS, "-l", &selector(&stack)])?;
    let items = found["items"].as_array().context("no objects")?;
    let has = |kind: &str, name: &str| {
        let name = format!("{}-{name}", stack.name);
        items.iter().any(|i| i["kind"] == kind && i["metadata"]["name"] == name.as_str())
    };
    for (kind, name) in [
        ("StatefulSet", "prometheus"),
        ("StatefulSet", "store"),
        ("StatefulSet", "compact"),
        ("Deployment", "query"),
        ("Deployment", "kube-state-metrics"),
        ("DaemonSet", "node-exporter"),
        ("Service", "prometheus"),
        ("Service", "prometheus-headless"),
        ("Service", "query"),
        ("PodDisruptionBudget", "prometheus"),
        ("ServiceAccount", "prometheus"),
    ] {
        anyhow::ensure!(has(kind, name), "there is no {kind} {}-{name}", stack.name);
    }
    for item in items {
        let owner = &item["metadata"]["ownerReferences"][0];
        let name = &item["metadata"]["name"];
        anyhow::ensure!(owner["uid"] == uid && owner["controller"] == true, "{} {name} has no owner", item["kind"]);
    }

    let before = settled(&stack)?;
    LAB.apply(&example("tutorial.yaml")?)?;
    let leader = holder()?;
    // Another replica leads: it looks at everything for the first time.
    LAB.kubectl(&[
        "-n",
        "panoptes-system",
        "delete",
        "pod",
        "-l",
        "app.kubernetes.io/component=operator",
        "--wait=true",
    ])?;
    LAB.kubectl(&["-n", "panoptes-system", "rollout", "status", "deployment/panoptes-operator", "--timeout=120s"])?;
    new_leader_has_looked(&leader)?;
    let after = versions(&stack)?;
    let written: Vec<&String> = before.iter().filter(|(k, v)| after.get(*k) != Some(*v)).map(|(k, _)| k).collect();
    anyhow::ensure!(written.is_empty() && before.len() == after.len(), "written without a need: {written:?}");

    // The compactor's hold copies, and go with it.
    let mut claims = names(&stack, "persistentvolumeclaims", "")?;
    claims.retain(|claim| !claim.contains(&format!("{}-compact-", stack.name)));
    anyhow::ensure!(!claims.is_empty(), "the tutorial's Prometheus has no volume");
    stack.kubectl(&["delete", &stack.object(), "--timeout=60s"])?;
    eventually("everything to be removed", CHANGE, || {
        let left = names(&stack, &format!("{KINDS},pods"), &selector(&stack))?;
        anyhow::ensure!(left.is_empty(), "left: {left:?}");
        let cluster_wide = LAB.kubectl(&["get", "clusterrolebindings", "-o", "name"])?;
        let ours = format!("panoptes:{}:{}:", stack.namespace, stack.name);
        anyhow::ensure!(!cluster_wide.contains(&ours), "a ClusterRoleBinding of it is left");
        Ok(())
    })?;
    eventually("the compactor's volume to go", CHANGE, || {
        let left = names(&stack, "persistentvolumeclaims", "")?;
        anyhow::ensure!(left == claims, "left: {left:?}, and to be kept are {claims:?}");
        Ok(())
    })?;
    Ok(())
}

/// The operator's lease.
const LEASE: &str = "panoptes-operator";

/// Who holds the operator's lease in lab: the name of a pod.
fn holder() -> anyhow::Result<String> {
    let lease = LAB.json(&["-n", "panoptes-system", "get", "lease", LEASE])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

/// Waits until a pod that led nothing before holds the lease and has reconciled all objects at least once.
fn new_leader_has_looked(before: &str) -> anyhow::Result<()> {
    eventually("a new leader that has looked at everything", CHANGE, || {
        let now = holder()?;
        anyhow::ensure!(!now.is_empty() && now != before, "the lease is held by {now:?}");
        // Its identity is the pod's name and a mark of this very process.
        let pod = now.split('_').next().unwrap_or(&now);
        let metrics = LAB.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/namespaces/panoptes-system/pods/{pod}:10902/proxy/metrics"),
        ])?;
        let sum = |name: &str| -> f64 {
            let lines = metrics.lines().filter(|l| l.starts_with(name));
            lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let (done, of) = (sum("panoptes_operator_reconciles_total"), sum("panoptes_operator_namespaces"));
        anyhow::ensure!(of >= 1.0 && done >= of, "{now} has reconciled {done} times for {of} namespaces");
        Ok(())
    })?;
    // What it would write, it writes right after.
    std::thread::sleep(Duration::from_secs(5));
    Ok(())
}

fn selector(stack: &Stack) -> String {
    format!("app.kubernetes.io/managed-by=panoptes-operator,app.kubernetes.io/instance={}", stack.name)
}

/// Names of what a selector finds.
pub(super) fn names(stack: &Stack, kinds: &str, selector: &str) -> anyhow::Result<Vec<String>> {
    let listed = stack.kubectl(&["get", kinds, "-l", selector, "-o", "name"])?;
    Ok(listed.lines().map(str::to_owned).collect())
}

fn versions(stack: &Stack) -> anyhow::Result<BTreeMap<String, String>> {
    let found = stack.json(&["get", KINDS, "-l", &selector(stack)])?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let one = |i: &serde_json::Value| {
        let name = format!("{}/{}", text(&i["kind"]), text(&i["metadata"]["name"]));
        (name, text(&i["metadata"]["resourceVersion"]))
    };
    Ok(found["items"].as_array().into_iter().flatten().map(one).collect())
}

/// The versions once nothing changes them any more by itself.
fn settled(stack: &Stack) -> anyhow::Result<BTreeMap<String, String>> {
    let mut last = versions(stack)?;
    for _ in 0..12 {
        std::thread::sleep(Duration::from_secs(5));
        let now = versions(stack)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    anyhow::bail!("objects keep being written without a change")
}
