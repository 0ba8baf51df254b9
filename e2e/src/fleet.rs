//! The fleet of `examples/`: certificates, the three MonitoringClusters, the links, and asking the querier.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::certs::{Authority, Pair};
use testkit::{apiserver, http, wait};

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
        let ca = |name: &str| secret(name, "Opaque", &[("ca.crt", self.authority.cert())]);
        let mut items = if *cluster == cluster::OPS {
            vec![ca("prod-store-api-ca"), ca("staging-store-api-ca"), tls_secret("ops-store-api-client", &self.client)]
        } else {
            // The name, the node, and the load balancer's address.
            let hosts =
                [format!("store.{}.example", cluster.name), cluster.node_ip(), format!("10.76.{}.10", cluster.index)];
            let server = self.authority.server(&hosts.each_ref().map(String::as_str))?;
            vec![ca("store-api-client-ca"), tls_secret("store-api-tls", &server)]
        };
        let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let get = |item: &Value| cluster.json(&["-n", NAMESPACE, "get", "secret", &name(item)]).ok();
        // What is signed by this very authority stays, if all of it is there.
        let there: Vec<Option<Value>> = items.iter().map(get).collect();
        let same = there[0].as_ref().is_some_and(|first| first["data"] == items[0]["data"]);
        if same && there.iter().all(Option::is_some) {
            return Ok(());
        }
        items.insert(0, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
        cluster.apply(&list(&items)).map(|_| ())
    }
}

/// A bucket on the cluster's own server, and the tutorial's Secret for it in the fleet's namespace. What is there stays.
///
/// # Errors
/// When the server or the cluster refuses.
pub fn bucket(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let server = cluster.buckets();
    server.make_bucket(name)?;
    if cluster.json(&["-n", NAMESPACE, "get", "secret", CREDENTIALS]).is_ok() {
        return Ok(());
    }
    let key = testkit::gcs::key("first", "thanos@panoptes.example", &server.url())?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let secret = secret(CREDENTIALS, "Opaque", &[(CREDENTIALS_KEY, &key.to_string())]);
    cluster.apply(&list(&[namespace, secret])).map(|_| ())
}

/// The Secret that the tutorial has people make for their bucket.
pub const CREDENTIALS: &str = "thanos-gcs-credentials";
/// Its only key.
pub const CREDENTIALS_KEY: &str = "thanos-gcs-credentials.json";

/// The bucket of a cluster of the fleet, as its example names it.
pub fn bucket_of(cluster: &Cluster) -> String {
    format!("{}-long-term", cluster.name)
}

/// The fleet's links, applied in ops.
///
/// # Errors
/// When the API server refuses.
pub fn apply_links() -> anyhow::Result<()> {
    for file in ["remote-prod.yaml", "remote-staging.yaml"] {
        cluster::OPS.apply(&example(file)?)?;
    }
    Ok(())
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

/// A MonitoringCluster somewhere, and what is around it.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The cluster it runs in.
    pub cluster: Cluster,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A condition of an object.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// True, False or Unknown; empty while there is no such condition.
    pub status: String,
    /// One word.
    pub reason: String,
    /// What, where, next step.
    pub message: String,
}

/// A pod, as far as stories look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Another one of the same name has another id.
    pub uid: String,
    /// Its address.
    pub ip: String,
    /// Containers that are ready, and all.
    pub ready: (usize, usize),
    /// Restarts of all its containers together.
    pub restarts: u64,
    /// When each container started: changes with every restart.
    pub started: Vec<String>,
}

impl Stack {
    /// The fleet's own in a cluster.
    pub fn of(cluster: Cluster) -> Self {
        Self { cluster, namespace: NAMESPACE.to_owned(), name: cluster.name.to_owned() }
    }

    /// `kubectl` in its namespace.
    ///
    /// # Errors
    /// With its standard error, when it fails.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["-n", &self.namespace], args].concat())
    }

    /// `kubectl … -o json` in its namespace.
    ///
    /// # Errors
    /// When it fails.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        self.cluster.json(&[&["-n", &self.namespace], args].concat())
    }

    /// The object itself, as `moncl/NAME`.
    pub fn object(&self) -> String {
        format!("moncl/{}", self.name)
    }

    /// Changes fields of the object.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn patch(&self, spec: &Value) -> anyhow::Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        self.kubectl(&["patch", &self.object(), "--type=merge", "-p", &patch]).map(|_| ())
    }

    /// Waits until an object has a condition with status True; gives the seconds that it took.
    ///
    /// # Errors
    /// After `within`, with all conditions of the object.
    pub fn wait_condition(&self, object: &str, condition: &str, within: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let (wanted, limit) = (format!("--for=condition={condition}"), format!("--timeout={}s", within.as_secs()));
        self.kubectl(&["wait", object, &wanted, &limit]).map_err(|error| self.with_state(error, object))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Waits until an object is ready for its newest generation: what was changed before this call is in effect.
    ///
    /// # Errors
    /// After `within`, with all conditions of the object.
    pub fn wait_ready(&self, object: &str, within: Duration) -> anyhow::Result<()> {
        wait::until("Ready for the newest generation", within, Duration::from_millis(300), || {
            let found = self.json(&["get", object])?;
            let generation = &found["metadata"]["generation"];
            let ready = condition_in(&found, "Ready");
            anyhow::ensure!(
                found["status"]["observedGeneration"] == *generation && ready.status == "True",
                "Ready={}/{} at generation {} of {generation}",
                ready.status,
                ready.reason,
                found["status"]["observedGeneration"]
            );
            Ok(())
        })
        .map_err(|error| self.with_state(error, object))
    }

    /// Waits until a condition of an object has this status and reason; gives it.
    ///
    /// # Errors
    /// After `within`, with all conditions of the object.
    pub fn wait_reason(
        &self,
        object: &str,
        kind: &str,
        status: &str,
        reasons: &[&str],
        within: Duration,
    ) -> anyhow::Result<Condition> {
        let what = format!("{object} {kind}={status}/{}", reasons.join("|"));
        wait::until(&what, within, Duration::from_millis(300), || {
            let now = self.condition(object, kind)?;
            let right = now.status == status && reasons.contains(&now.reason.as_str());
            anyhow::ensure!(right, "it is {}/{}: {}", now.status, now.reason, now.message);
            Ok(now)
        })
        .map_err(|error| self.with_state(error, object))
    }

    fn with_state(&self, error: anyhow::Error, object: &str) -> anyhow::Error {
        let state = self.conditions(object).unwrap_or_else(|e| format!("{e:#}"));
        error.context(format!("{object} in {}/{} says:\n{state}", self.cluster.name, self.namespace))
    }

    /// One condition of an object, empty if there is none.
    ///
    /// # Errors
    /// When the object isn't there.
    pub fn condition(&self, object: &str, kind: &str) -> anyhow::Result<Condition> {
        Ok(condition_in(&self.json(&["get", object])?, kind))
    }

    /// An object's conditions, a line each.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn conditions(&self, object: &str) -> anyhow::Result<String> {
        let found = self.json(&["get", object])?;
        let mut lines = Vec::new();
        for condition in found["status"]["conditions"].as_array().into_iter().flatten() {
            let text = |at: &str| condition[at].as_str().unwrap_or_default();
            lines.push(format!("  {}={}/{}: {}", text("type"), text("status"), text("reason"), text("message")));
        }
        Ok(lines.join("\n"))
    }

    /// The pods of one part (`prometheus`, `query`, …), by name.
    ///
    /// # Errors
    /// When the API server doesn't answer.
    pub fn pods(&self, part: &str) -> anyhow::Result<Vec<Pod>> {
        let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/component={part}", self.name);
        self.pods_with(&selector)
    }

    /// The pods that a label selector chooses, by name.
    ///
    /// # Errors
    /// When the API server doesn't answer.
    pub fn pods_with(&self, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let found = self.json(&["get", "pods", "-l", selector])?;
        let mut pods: Vec<Pod> = found["items"].as_array().into_iter().flatten().map(pod).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// `GET path` at a port of a Service, through the API server.
    ///
    /// # Errors
    /// When nobody answers or the answer isn't JSON.
    pub fn get_service(&self, service: &str, port: &str, path: &str) -> anyhow::Result<Value> {
        let raw = format!("/api/v1/namespaces/{}/services/{service}:{port}/proxy{path}", self.namespace);
        Ok(serde_json::from_str(&self.cluster.kubectl(&["get", "--raw", &raw])?)?)
    }

    /// `GET path` at a port of a pod, through the API server.
    ///
    /// # Errors
    /// When nobody answers or the answer isn't JSON.
    pub fn get_pod(&self, pod: &str, port: u16, path: &str) -> anyhow::Result<Value> {
        let raw = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy{path}", self.namespace);
        Ok(serde_json::from_str(&self.cluster.kubectl(&["get", "--raw", &raw])?)?)
    }

    /// `GET path` at the querier's HTTP API.
    ///
    /// # Errors
    /// When it refuses.
    pub fn get_query(&self, path: &str) -> anyhow::Result<Value> {
        self.get_service(&format!("{}-query", self.name), "http", path)
    }

    /// `GET path` at one Prometheus.
    ///
    /// # Errors
    /// When it refuses.
    pub fn get_prometheus(&self, replica: usize, path: &str) -> anyhow::Result<Value> {
        self.get_pod(&format!("{}-prometheus-{replica}", self.name), 9090, path)
    }

    /// An instant query to the querier: `data.result`. `more` are further parameters, as in `&dedup=false`.
    ///
    /// # Errors
    /// When the querier refuses it.
    pub fn query(&self, expression: &str, more: &str) -> anyhow::Result<Value> {
        let path = format!("/api/v1/query?query={}{more}", http::encode(expression));
        Ok(self.get_query(&path)?["data"]["result"].take())
    }

    /// The same query to one Prometheus.
    ///
    /// # Errors
    /// When it refuses it.
    pub fn query_prometheus(&self, replica: usize, expression: &str, more: &str) -> anyhow::Result<Value> {
        let path = format!("/api/v1/query?query={}{more}", http::encode(expression));
        Ok(self.get_prometheus(replica, &path)?["data"]["result"].take())
    }

    /// What `count by (cluster) (up)` gives at the querier, by cluster. `more` as in [`Self::query`].
    ///
    /// # Errors
    /// When the querier does not answer.
    pub fn up_by_cluster(&self, more: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let result = self.query("count by (cluster) (up)", more)?;
        let rows = result.as_array().context("not a vector")?;
        let count = |row: &Value| row["value"][1].as_str().and_then(|v| v.parse().ok()).unwrap_or_default();
        let name = |row: &Value| row["metric"]["cluster"].as_str().unwrap_or("(none)").to_owned();
        Ok(rows.iter().map(|row| (name(row), count(row))).collect())
    }
}

fn condition_in(object: &Value, kind: &str) -> Condition {
    let conditions = object["status"]["conditions"].as_array();
    let Some(found) = conditions.into_iter().flatten().find(|c| c["type"] == kind) else { return Condition::default() };
    let text = |at: &str| found[at].as_str().unwrap_or_default().to_owned();
    Condition { status: text("status"), reason: text("reason"), message: text("message") }
}

fn pod(found: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = found["status"]["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
    Pod {
        name: text(&found["metadata"]["name"]),
        uid: text(&found["metadata"]["uid"]),
        ip: text(&found["status"]["podIP"]),
        ready: (
            containers.iter().filter(|c| c["ready"] == true).count(),
            found["spec"]["containers"].as_array().map_or(0, Vec::len),
        ),
        restarts: containers.iter().filter_map(|c| c["restartCount"].as_u64()).sum(),
        started: containers.iter().map(|c| text(&c["state"]["running"]["startedAt"])).collect(),
    }
}
