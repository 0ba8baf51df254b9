//! Load balancers: every Service of that type gets an address that the host routes to the node; kube-proxy does the rest.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, NodeProcess};

/// The annotation by which a well-known balancer for plain machines takes a wish for an address.
const WANTED: &str = "metallb.io/loadBalancerIPs";

/// The process that gives out addresses: this very program.
pub(super) fn process(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let program = std::env::current_exe()?;
    Ok(NodeProcess::at(cluster, "balancer", program).arg("balancer").arg(cluster.name))
}

/// Watches Services and gives addresses, for ever.
///
/// # Errors
/// When `kubectl` is missing.
pub fn serve(cluster: &Cluster) -> anyhow::Result<()> {
    let program = testkit::peers::path("kubectl")?;
    loop {
        let mut child = Command::new(&program)
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig())
            .args(["get", "services", "-A", "--watch", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(out) = child.stdout.take() {
            for service in serde_json::Deserializer::from_reader(out).into_iter::<Value>().map_while(Result::ok) {
                let items = service["items"].as_array().cloned().unwrap_or_else(|| vec![service]);
                for item in items.iter().filter(|s| wants_address(s)) {
                    let _ = assign(cluster, item);
                }
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn wants_address(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["status"]["loadBalancer"]["ingress"].is_null()
}

/// The node port is unique in the cluster, so an address made from it is too (as far as 254 go).
fn assign(cluster: &Cluster, service: &Value) -> anyhow::Result<()> {
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    let wanted = service["metadata"]["annotations"][WANTED].as_str().map(str::to_owned);
    let address = wanted.unwrap_or_else(|| format!("10.76.{}.{}", cluster.index, 1 + port % 254));
    let text = |at: &str| service["metadata"][at].as_str().unwrap_or_default();
    let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}).to_string();
    cluster
        .kubectl(&[
            "patch",
            "service",
            text("name"),
            "-n",
            text("namespace"),
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])
        .map(|_| ())
}
