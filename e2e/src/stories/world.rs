//! What stories share: clusters with the operator, the fleet, the tutorial's stack; and sandboxes of their own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::gcs::{Remote, Right, Settings};
use testkit::wait;

use crate::cluster::{self, Cluster, FLEET, LAB, Lock, OPS, PROD, Purpose, STAGING};
use crate::demo::on_all;
use crate::fleet::{CREDENTIALS, CREDENTIALS_KEY, Certificates, Pod, Stack, apply_links, bucket, bucket_of, example};
use crate::image::Image;
use crate::install::Product;
use crate::{run, say};

/// Long enough for a stack to come up while five other stories run on two cores.
pub const READY: Duration = Duration::from_secs(240);
/// Long enough for a change to reach a running stack.
pub const CHANGE: Duration = Duration::from_secs(120);

/// Long enough for a block to be cut and uploaded, with [`SHORT_BLOCKS`].
pub const BLOCK: Duration = Duration::from_secs(360);
/// Flags that make Prometheus cut a block every minute; the first after two or three.
pub const SHORT_BLOCKS: [&str; 2] = ["--storage.tsdb.min-block-duration=1m", "--storage.tsdb.max-block-duration=2m"];

/// What stories share.
#[derive(Debug)]
pub struct World {
    /// The binary under test.
    pub product: Product,
    /// The fleet's certificates.
    pub certificates: Option<Certificates>,
    /// When the stories began, as audit logs write it.
    pub began: String,
    tutorial: Mutex<()>,
}

impl World {
    /// Starts the clusters, installs the operator, and brings up the fleet if its clusters are among them.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn create(lock: &Lock, binary: &Path, clusters: &[Cluster]) -> anyhow::Result<Self> {
        let product = Product::of(binary)?;
        let images = [product.image.clone(), Image::of_probe()?.write()?];
        let started = cluster::up(lock, clusters, Purpose::E2e, &images)?;
        on_all(&started, |s| product.install(s).with_context(|| format!("cluster {}", s.cluster.name)))?;
        say::step("the operator runs in each cluster");
        let certificates = if clusters.contains(&OPS) { Some(Certificates::ensure()?) } else { None };
        if let Some(certificates) = &certificates {
            let before = Instant::now();
            on_all(&FLEET, |c| {
                certificates.put(c)?;
                bucket(c, &bucket_of(c))?;
                c.apply(&example(&format!("{}.yaml", c.name))?)?;
                Stack::of(*c).wait_condition(&format!("moncl/{}", c.name), "Ready", READY)
            })?;
            apply_links()?;
            drop_stray_links()?;
            for link in ["rstore/prod", "rstore/staging"] {
                Stack::of(OPS).wait_condition(link, "Ready", CHANGE)?;
            }
            say::step(&format!("the fleet is ready after {:.0} s", before.elapsed().as_secs_f64()));
        }
        let began = stamp()?;
        Ok(Self { product, certificates, began, tutorial: Mutex::new(()) })
    }

    /// The fleet's certificates.
    ///
    /// # Errors
    /// When no story of the fleet was chosen.
    pub fn certificates(&self) -> anyhow::Result<&Certificates> {
        self.certificates.as_ref().context("this story needs the fleet")
    }

    /// The tutorial's stack in lab, applied if it isn't, and ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn tutorial(&self) -> anyhow::Result<Stack> {
        let _one_at_a_time = self.tutorial.lock().map_err(|_| anyhow::anyhow!("another story failed in here"))?;
        bucket(&LAB, TUTORIAL_BUCKET)?;
        LAB.apply(&example("tutorial.yaml")?)?;
        let found = LAB.json(&["-n", "monitoring", "get", "moncl"])?;
        let name = found["items"][0]["metadata"]["name"]
            .as_str()
            .context("examples/tutorial.yaml holds no MonitoringCluster")?;
        let stack = Stack { cluster: LAB, namespace: "monitoring".to_owned(), name: name.to_owned() };
        // The one thing that the file can't know here: where Google's storage is.
        stack.patch(&json!({"objectStorage": {"gcs": {"endpoint": LAB.buckets().url()}}}))?;
        stack.wait_ready(&stack.object(), READY)?;
        Ok(stack)
    }

    /// A namespace of the story's own in which the operator may work, with no MonitoringCluster yet.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn sandbox(&self, cluster: Cluster, name: &str) -> anyhow::Result<Sandbox> {
        let sandbox = Sandbox::without_rights(cluster, name)?;
        cluster.apply(&self.product.operator(&["rbac", "--namespace", name])?)?;
        // An API server on a busy machine hears of its own roles late.
        eventually("the operator's rights to be in force", CHANGE, || {
            let may = ["auth", "can-i", "patch", "secrets", "--as", OPERATOR, "-n", name];
            cluster.kubectl(&may).map(|_| ())
        })?;
        Ok(sandbox)
    }
}

/// The operator, as API servers know it.
const OPERATOR: &str = "system:serviceaccount:panoptes-system:panoptes-operator";

/// Now, as audit logs write it but for the fraction.
fn stamp() -> anyhow::Result<String> {
    Ok(run::output("date", &["-u", "+%Y-%m-%dT%H:%M:%S"])?.trim().to_owned())
}

/// When a namespace of a story came or went.
#[derive(Debug)]
struct Passing {
    cluster: &'static str,
    namespace: String,
    at: String,
    ended: bool,
}

static PASSINGS: Mutex<Vec<Passing>> = Mutex::new(Vec::new());

fn note(stack: &Stack, ended: bool) {
    let Ok(at) = stamp() else { return };
    let mut all = PASSINGS.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(Passing { cluster: stack.cluster.name, namespace: stack.namespace.clone(), at, ended });
}

/// Whether a story's namespace was ending, or gone, at this time of the audit log: the operator's rights go with it, in any order.
pub fn was_ending(cluster: Cluster, namespace: &str, at: &str) -> bool {
    let all = PASSINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut of = all.iter().filter(|p| p.cluster == cluster.name && p.namespace == namespace);
    of.rfind(|p| p.at.as_str() <= at).is_some_and(|last| last.ended)
}

/// Takes away what a run that was killed has left.
fn drop_stray_links() -> anyhow::Result<()> {
    for cluster in FLEET {
        let stack = Stack::of(cluster);
        let names = stack.kubectl(&["get", "rstore", "-o", "jsonpath={.items[*].metadata.name}"])?;
        for name in names.split_whitespace().filter(|n| cluster != OPS || !matches!(*n, "prod" | "staging")) {
            stack.kubectl(&["delete", "rstore", name, "--ignore-not-found"])?;
        }
    }
    Ok(())
}

/// The bucket that the tutorial names.
pub const TUTORIAL_BUCKET: &str = "prometheus-long-term";

/// A namespace that ends with the story.
#[derive(Debug)]
pub struct Sandbox {
    /// A stack of the namespace's name, once it is applied.
    pub stack: Stack,
}

impl Sandbox {
    /// A namespace in which the operator may do nothing.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn without_rights(cluster: Cluster, name: &str) -> anyhow::Result<Self> {
        // One from a run before may still be ending.
        let _ = cluster.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=120s"]);
        let stack = Stack { cluster, namespace: name.to_owned(), name: name.to_owned() };
        note(&stack, false);
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string())?;
        Ok(Self { stack })
    }

    /// Applies a small MonitoringCluster: one Prometheus that scrapes only what the stack itself is. `more` replaces fields of its spec.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn apply(&self, more: Value) -> anyhow::Result<()> {
        let mut spec = json!({
            "clusterName": self.stack.name, "profile": "Minimal",
            "scrape": {"interval": "5s", "timeout": "5s", "evaluationInterval": "5s", "jobs": ["self"]},
            "nodeExporter": {"enabled": false}, "kubeStateMetrics": {"enabled": false},
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let object = json!({
            "apiVersion": "panoptes.dev/v1alpha1", "kind": "MonitoringCluster",
            "metadata": {"name": self.stack.name, "namespace": self.stack.namespace}, "spec": spec,
        });
        self.stack.cluster.apply(&object.to_string()).map(|_| ())
    }
}

/// A bucket of a sandbox, named as it, and the key that opens it.
#[derive(Debug)]
pub struct Bucket {
    stack: Stack,
    /// The server.
    pub server: Remote,
    /// Its name.
    pub name: String,
}

impl Sandbox {
    /// Makes the bucket; only the keys of these ids open it.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub fn bucket(&self, keys: &[&str]) -> anyhow::Result<Bucket> {
        let server = self.stack.cluster.buckets();
        let bucket = Bucket { stack: self.stack.clone(), server, name: format!("{}-blocks", self.stack.name) };
        // A story that is told a second time begins with an empty one.
        bucket.server.drop_bucket(&bucket.name)?;
        bucket.server.make_bucket(&bucket.name)?;
        bucket.allow(keys, &[])?;
        Ok(bucket)
    }
}

impl Bucket {
    /// Only the keys of these ids open it, and nobody has these rights.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub fn allow(&self, keys: &[&str], deny: &[Right]) -> anyhow::Result<()> {
        let keys = keys.iter().map(|id| (*id).to_owned()).collect();
        self.server.set(
            &self.name,
            &Settings { keys: Some(keys), deny: deny.iter().copied().collect(), ..Settings::default() },
        )
    }

    /// The same bucket for another sandbox: [`Self::put_key`] puts the key into that one's Secret.
    pub fn shared_with(&self, sandbox: &Sandbox) -> Self {
        Self { stack: sandbox.stack.clone(), server: self.server.clone(), name: self.name.clone() }
    }

    /// What a spec says of it; the Secret is the tutorial's.
    pub fn spec(&self) -> Value {
        json!({"gcs": {"bucket": self.name, "endpoint": self.server.url(),
            "credentialsSecretRef": {"name": CREDENTIALS, "key": CREDENTIALS_KEY}}})
    }

    /// Puts a key of this id into the Secret.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_key(&self, id: &str) -> anyhow::Result<()> {
        self.put(&testkit::gcs::key(id, &format!("{id}@panoptes.example"), &self.server.url())?.to_string())
    }

    /// Puts a content into the Secret, as the tutorial does it: `kubectl create secret generic NAME --from-file=FILE`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn put(&self, content: &str) -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join(CREDENTIALS_KEY);
        std::fs::write(&file, content)?;
        let from = format!("--from-file={}", file.display());
        let made = self.stack.kubectl(&[
            "create",
            "secret",
            "generic",
            CREDENTIALS,
            &from,
            "--dry-run=client",
            "-o",
            "yaml",
        ])?;
        self.stack.cluster.apply(&made).map(|_| ())
    }

    /// The metas of all whole blocks, by the replica that they are of.
    ///
    /// # Errors
    /// When the server doesn't answer or a meta is none.
    pub fn blocks(&self) -> anyhow::Result<BTreeMap<String, Vec<Value>>> {
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for name in self.server.names(&self.name)?.iter().filter(|name| name.ends_with("/meta.json")) {
            let meta: Value = serde_json::from_slice(&self.server.object(&self.name, name)?)?;
            let replica = meta["thanos"]["labels"]["prometheus_replica"].as_str().unwrap_or("(none)").to_owned();
            found.entry(replica).or_default().push(meta);
        }
        found.values_mut().for_each(|metas| metas.sort_by_key(|meta| meta["minTime"].as_i64()));
        Ok(found)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        note(&self.stack, true);
        // The objects first: with the namespace goes the binding that lets the operator look at them.
        let _ = self.stack.kubectl(&["delete", "moncl,rstore", "--all", "--timeout=30s"]);
        let _ = self.stack.cluster.kubectl(&[
            "delete",
            "namespace",
            &self.stack.namespace,
            "--wait=false",
            "--ignore-not-found",
        ]);
    }
}

/// A RemoteStore of the fleet that goes with the story.
#[derive(Debug)]
pub struct Link {
    cluster: Cluster,
    name: String,
}

impl Link {
    /// Applies it in ops; `spec` is the whole spec.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn apply(name: &str, spec: &Value) -> anyhow::Result<Self> {
        Self::apply_in(OPS, name, spec)
    }

    /// Applies it in another cluster of the fleet.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn apply_in(cluster: Cluster, name: &str, spec: &Value) -> anyhow::Result<Self> {
        let object = json!({
            "apiVersion": "panoptes.dev/v1alpha1", "kind": "RemoteStore",
            "metadata": {"name": name, "namespace": "monitoring"}, "spec": spec,
        });
        cluster.apply(&object.to_string())?;
        Ok(Self { cluster, name: name.to_owned() })
    }

    /// As `kubectl` takes it.
    pub fn object(&self) -> String {
        format!("rstore/{}", self.name)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Stack::of(self.cluster).kubectl(&["delete", "--ignore-not-found", &self.object()]);
    }
}

/// The `tls` of a link to one of the fleet's clusters.
pub fn fleet_tls(cluster: &str) -> Value {
    json!({
        "caSecretRef": {"name": format!("{cluster}-store-api-ca")}, "clientSecretRef": {"name": "ops-store-api-client"},
        "serverName": format!("store.{cluster}.example"),
    })
}

/// Files of the examples are put back in ops at the end, come what may.
#[derive(Debug)]
pub struct Restore(pub &'static [&'static str]);

impl Drop for Restore {
    fn drop(&mut self) {
        for text in self.0.iter().filter_map(|file| example(file).ok()) {
            let _ = OPS.apply(&text);
        }
    }
}

/// A change of a stack's spec is taken back at the end, come what may.
#[derive(Debug)]
pub struct Undo(pub Stack, pub Value);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = self.0.patch(&self.1);
    }
}

/// Files of the fleet's links.
pub const LINKS: &[&str] = &["remote-prod.yaml", "remote-staging.yaml"];

/// A rows-to-value map of an instant vector, keyed by the labels without the named ones.
///
/// # Errors
/// When the result isn't a vector, or two rows have the same labels.
pub fn vector(result: &Value, without: &[&str]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut rows = BTreeMap::new();
    for row in result.as_array().context("not a vector")? {
        let value = row["value"][1].as_str().context("a row without a value")?.to_owned();
        let key = labels(row, without);
        anyhow::ensure!(rows.insert(key.clone(), value).is_none(), "two rows are {key}");
    }
    Ok(rows)
}

/// The labels of a row, without the named ones, as text.
pub fn labels(row: &Value, without: &[&str]) -> String {
    let mut metric = row["metric"].as_object().cloned().unwrap_or_default();
    metric.retain(|name, _| !without.contains(&name.as_str()));
    let sorted: BTreeMap<_, _> = metric.into_iter().collect();
    serde_json::to_string(&sorted).unwrap_or_default()
}

/// `attempt` until it succeeds, every half second.
///
/// # Errors
/// After `within`, with the last failure.
pub fn eventually<T>(what: &str, within: Duration, attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    wait::until(what, within, Duration::from_millis(500), attempt)
}

/// Fails unless the pods are the very same, never restarted.
///
/// # Errors
/// With both lists.
pub fn same_pods(before: &[Pod], after: &[Pod]) -> anyhow::Result<()> {
    let identity = |pods: &[Pod]| -> Vec<(String, String, Vec<String>)> {
        pods.iter().map(|p| (p.name.clone(), p.uid.clone(), p.started.clone())).collect()
    };
    anyhow::ensure!(identity(before) == identity(after), "pods changed: {before:?} are now {after:?}");
    Ok(())
}

/// Fails when a container of these pods has restarted.
///
/// # Errors
/// With the pods.
pub fn no_restarts(pods: &[Pod]) -> anyhow::Result<()> {
    anyhow::ensure!(pods.iter().all(|p| p.restarts == 0), "containers restarted: {pods:?}");
    Ok(())
}

/// The host's address as a cluster's pods reach it.
///
/// # Errors
/// Never, for the clusters there are.
pub fn host(cluster: &Cluster) -> anyhow::Result<Ipv4Addr> {
    Ok(cluster.host_ip().parse()?)
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The clusters that ops is linked to.
pub const LINKED: [Cluster; 2] = [PROD, STAGING];
