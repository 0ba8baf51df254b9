//! T37: a RemoteStore with a DNS name uses all of its addresses and follows the record when it changes, also through SRV; no querier
//! pod restarts.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{CHANGE, LINKS, Link, Restore, World, eventually, fleet_tls, same_pods};
use super::{Story, Thing};
use crate::cluster::{OPS, PROD};
use crate::fleet::{Stack, list};

pub(super) const STORY: Story =
    Story { name: "t37_remote_by_name", changes: &[Thing::OpsLinks], needs: &[Thing::OpsPods, Thing::Prod], run };

/// The querier asks every 5 s, the cluster's DNS caches for 5 s, a new address is probed at once, and the operator writes what
/// the queriers say into the status every few seconds.
const FOLLOWED: Duration = Duration::from_secs(30);

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let _restore = Restore(LINKS);
    let (one, two) = (PROD.node_ip(), PROD.add_node_ip()?);
    let pods = ops.pods("query")?;
    ops.kubectl(&["delete", "rstore", "prod"])?;
    let name = "far.monitoring.svc.cluster.local";
    for address in [format!("dns+{name}:30901"), format!("dnssrv+_grpc._tcp.{name}")] {
        record(&[&one, &two])?;
        let link =
            Link::apply("by-name", &json!({"clusterName": "prod", "address": address, "tls": fleet_tls("prod")}))?;
        ops.wait_condition(&link.object(), "Ready", CHANGE)?;
        uses(&ops, &link, &[&one, &two])?;
        eventually("prod in the answer", CHANGE, || {
            anyhow::ensure!(ops.up_by_cluster("")?.contains_key("prod"), "it isn't");
            Ok(())
        })?;
        record(&[&two])?;
        uses(&ops, &link, &[&two])?;
        anyhow::ensure!(ops.up_by_cluster("")?.contains_key("prod"), "prod left the answer with one of its addresses");
    }
    ops.kubectl(&["delete", "service,endpointslice", "far"])?;
    same_pods(&pods, &ops.pods("query")?)
}

/// Makes the name in the cluster's own DNS mean these addresses.
fn record(addresses: &[&str]) -> anyhow::Result<()> {
    let endpoints: Vec<Value> =
        addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "far", "namespace": "monitoring"},
        "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 30901}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "far", "namespace": "monitoring", "labels": {"kubernetes.io/service-name": "far"}},
        "ports": [{"name": "grpc", "port": 30901}], "endpoints": endpoints,
    });
    OPS.apply(&list(&[service, slice])).map(|_| ())
}

fn uses(ops: &Stack, link: &Link, addresses: &[&str]) -> anyhow::Result<()> {
    let mut wanted: Vec<String> = addresses.iter().map(|a| format!("{a}:30901")).collect();
    wanted.sort();
    eventually(&format!("the link to use {wanted:?}"), FOLLOWED, || {
        let found = ops.json(&["get", &link.object()])?;
        let endpoints = found["status"]["endpoints"].as_array().cloned().unwrap_or_default();
        let healthy = endpoints.iter().filter(|e| e["state"] == "Healthy");
        let mut used: Vec<String> = healthy.filter_map(|e| e["address"].as_str().map(str::to_owned)).collect();
        used.sort();
        anyhow::ensure!(used == wanted && endpoints.len() == wanted.len(), "it uses {endpoints:?}");
        Ok(())
    })
}
