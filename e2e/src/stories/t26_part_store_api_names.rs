//! T26: from a pod of the namespace, the store-API Service's name has one address per Prometheus and per store gateway, and an SRV
//! record per address with the gRPC port.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::world::{World, eventually};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::Stack;
use crate::image;

pub(super) const STORY: Story =
    Story { name: "t26_part_store_api_names", changes: &[], needs: &[Thing::Lab, Thing::Tutorial], run };

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let service = service(&stack)?;
    let name = format!("{service}.{}.svc.cluster.local", stack.namespace);
    let pods = [stack.pods("prometheus")?, stack.pods("store")?].concat();
    let mut wanted: Vec<String> = pods.into_iter().map(|p| p.ip).collect();
    wanted.sort();
    let found = ask(&stack, "a", &name)?;
    anyhow::ensure!(found == wanted, "{name} is {found:?}, the pods are {wanted:?}");
    let records = ask(&stack, "srv", &format!("_grpc._tcp.{name}"))?;
    anyhow::ensure!(records.len() == wanted.len(), "SRV records: {records:?}");
    anyhow::ensure!(records.iter().all(|r| r.starts_with("10901 ")), "SRV records: {records:?}");
    Ok(())
}

/// The name that the spec gives, else the default one.
pub(super) fn service(stack: &Stack) -> anyhow::Result<String> {
    let spec = stack.json(&["get", &stack.object()])?["spec"].take();
    let default = format!("{}-store-api", stack.name);
    Ok(spec["storeAPI"]["serviceName"].as_str().map_or(default, str::to_owned))
}

/// The sorted answers to a DNS question that a pod asks.
pub(super) fn ask(stack: &Stack, kind: &str, name: &str) -> anyhow::Result<Vec<String>> {
    // A name of its own for each call: an earlier probe may still be ending, and must not be read again.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let pod = format!("probe-{kind}-{}-{}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed));
    let spec = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": stack.namespace},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [{
            "name": "probe", "image": image::PROBE, "imagePullPolicy": "Never", "args": ["dns", LAB.dns_ip(), kind, name],
        }]},
    });
    stack.cluster.apply(&spec.to_string())?;
    let phase = eventually("the probe to end", Duration::from_secs(60), || {
        let phase = stack.json(&["get", "pod", &pod])?["status"]["phase"].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(matches!(phase.as_str(), "Succeeded" | "Failed"), "it is {phase}");
        Ok(phase)
    });
    let log = stack.kubectl(&["logs", &pod]);
    stack.kubectl(&["delete", "pod", &pod, "--wait=false"])?;
    let (phase, log) = (phase?, log.context("read the probe's answer")?);
    anyhow::ensure!(phase == "Succeeded", "the probe says {log}");
    Ok(log.lines().map(str::to_owned).collect())
}
