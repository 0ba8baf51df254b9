//! The fleet of `examples/fleet/`: certificates, the three MonitoringClusters, the links, and asking the querier.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::certs::{Authority, Pair};
use testkit::{apiserver, http};

use crate::cluster::{self, Cluster};

/// Where everything of the fleet is, in each cluster.
pub const NAMESPACE: &str = "monitoring";

/// A file of the examples.
///
/// # Errors
/// When it isn't there.
pub fn example(path: &str) -> anyhow::Result<String> {
    let file = examples().join(path);
    std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("examples")
}

/// The certificates of the fleet: one authority, a server certificate per exposed cluster, a client certificate for ops.
#[derive(Debug)]
pub struct Certificates {
    /// Who signs.
    pub authority: Authority,
    /// What the querier of ops shows.
    pub client: Pair,
}

impl Certificates {
    /// Makes new ones, or takes those that are in the clusters already, so that running again changes nothing.
    ///
    /// # Errors
    /// When a cluster doesn't answer.
    pub fn ensure() -> anyhow::Result<Self> {
        let stored = cluster::OPS.fleet_file("certificates.json");
        if let Some(found) = std::fs::read(&stored).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok()) {
            let pair = |at: &str| -> Option<Pair> {
                Some(Pair { cert: found[at]["cert"].as_str()?.to_owned(), key: found[at]["key"].as_str()?.to_owned() })
            };
            if let (Some(authority), Some(client)) = (pair("authority"), pair("client")) {
                return Ok(Self { authority: Authority::load("fleet", authority), client });
            }
        }
        let authority = Authority::new("fleet")?;
        let client = authority.client("ops", &[])?;
        let text = |p: &Pair| json!({"cert": p.cert, "key": p.key});
        std::fs::write(stored, json!({"authority": text(authority.pair()), "client": text(&client)}).to_string())?;
        Ok(Self { authority, client })
    }

    /// Puts the Secrets that the examples name into a cluster.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn put(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let authority = secret("fleet-ca", "Opaque", &[("ca.crt", self.authority.cert())]);
        let there = cluster.json(&["-n", NAMESPACE, "get", "secret", "fleet-ca"]);
        // What is signed by this very authority stays.
        if there.is_ok_and(|there| there["data"] == authority["data"]) {
            return Ok(());
        }
        let own = if *cluster == cluster::OPS {
            tls_secret("fleet-client", &self.client)
        } else {
            let name = format!("store.{}.example", cluster.name);
            tls_secret("store-api-tls", &self.authority.server(&[&name, &cluster.node_ip()])?)
        };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let items = [namespace, own, authority];
        cluster.apply(&list(&items)).map(|_| ())
    }
}

/// A List for one apply.
pub fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// A Secret in the fleet's namespace.
pub fn secret(name: &str, kind: &str, data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(k, v)| ((*k).to_owned(), Value::from(apiserver::base64(v.as_bytes())))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "data": data})
}

/// A Secret with a certificate and its key.
pub fn tls_secret(name: &str, pair: &Pair) -> Value {
    secret(name, "kubernetes.io/tls", &[("tls.crt", &pair.cert), ("tls.key", &pair.key)])
}

impl Cluster {
    /// Waits until an object of the fleet's namespace has a condition; gives the seconds that it took.
    ///
    /// # Errors
    /// After `within`, with all conditions of the object.
    pub fn wait_condition(&self, object: &str, condition: &str, within: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let (wanted, limit) = (format!("--for=condition={condition}"), format!("--timeout={}s", within.as_secs()));
        self.kubectl(&["-n", NAMESPACE, "wait", object, &wanted, &limit]).map_err(|error| {
            let state = self.conditions(object).unwrap_or_else(|e| format!("{e:#}"));
            error.context(format!("{object} in {} has no {condition}; it says:\n{state}", self.name))
        })?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// An object's conditions, a line each.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn conditions(&self, object: &str) -> anyhow::Result<String> {
        let found = self.json(&["-n", NAMESPACE, "get", object])?;
        let mut lines = Vec::new();
        for condition in found["status"]["conditions"].as_array().into_iter().flatten() {
            let text = |at: &str| condition[at].as_str().unwrap_or_default();
            lines.push(format!("  {}={}/{}: {}", text("type"), text("status"), text("reason"), text("message")));
        }
        Ok(lines.join("\n"))
    }

    /// `GET path` at a port of a Service of the fleet, through the API server.
    ///
    /// # Errors
    /// When nobody answers or the answer isn't JSON.
    pub fn get_service(&self, service: &str, port: &str, path: &str) -> anyhow::Result<Value> {
        let raw = format!("/api/v1/namespaces/{NAMESPACE}/services/{service}:{port}/proxy{path}");
        Ok(serde_json::from_str(&self.kubectl(&["get", "--raw", &raw])?)?)
    }

    /// `GET path` at a port of a pod of the fleet, through the API server.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn get_pod(&self, pod: &str, port: u16, path: &str) -> anyhow::Result<String> {
        self.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{port}/proxy{path}")])
    }

    /// An instant query to this cluster's querier: the whole answer.
    ///
    /// # Errors
    /// When the querier refuses it.
    pub fn query_full(&self, expression: &str, more: &str) -> anyhow::Result<Value> {
        let path = format!("/api/v1/query?query={}{more}", http::encode(expression));
        self.get_service(&format!("{}-query", self.name), "http", &path)
    }

    /// An instant query to this cluster's querier: `data.result`.
    ///
    /// # Errors
    /// When the querier refuses it.
    pub fn query(&self, expression: &str) -> anyhow::Result<Value> {
        Ok(self.query_full(expression, "")?["data"]["result"].take())
    }

    /// The same query to one Prometheus.
    ///
    /// # Errors
    /// When it refuses it.
    pub fn query_prometheus(&self, replica: usize, expression: &str, more: &str) -> anyhow::Result<Value> {
        let path = format!("/api/v1/query?query={}{more}", http::encode(expression));
        let pod = format!("{}-prometheus-{replica}", self.name);
        let mut answer: Value = serde_json::from_str(&self.get_pod(&pod, 9090, &path)?)?;
        Ok(answer["data"]["result"].take())
    }

    /// What `count by (cluster) (up)` gives at this cluster's querier, by cluster.
    ///
    /// # Errors
    /// When the querier does not answer.
    pub fn up_by_cluster(&self) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
        let result = self.query("count by (cluster) (up)")?;
        let rows = result.as_array().context("not a vector")?;
        Ok(rows
            .iter()
            .map(|row| {
                let count = row["value"][1].as_str().and_then(|v| v.parse().ok()).unwrap_or_default();
                (row["metric"]["cluster"].as_str().unwrap_or("(none)").to_owned(), count)
            })
            .collect())
    }
}
