//! One Kubernetes cluster in a network namespace of its own: its names, addresses and folders, and `kubectl` on it.
//!
//! Host and node of cluster number I are `10.77.I.1` and `10.77.I.2`, its pods are in `10.8I.0.0/16`, its services in
//! `10.9I.0.0/16`, its load balancers in `10.76.I.0/24`.

mod balancer;
mod control;
mod down;
mod emulator;
mod faults;
mod host;
mod lock;
mod net;
mod node;
mod state;
mod up;
mod volumes;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use balancer::serve as serve_load_balancers;
pub use down::{down, remove_folders};
pub use emulator::serve as serve_buckets;
pub use faults::Fault;
pub use lock::Lock;
pub use net::NodeProcess;
pub use state::Purpose;
pub use up::{Started, up};

/// Where ids, certificates and kubeconfigs of running clusters are, whoever started them.
const RUN: &str = "/run/panoptes";
/// Where their data is: etcd, images, volumes, logs.
const DATA: &str = "/var/lib/panoptes-e2e";

/// The cluster from which the fleet is seen.
pub const OPS: Cluster = Cluster { name: "ops", index: 1 };
/// The first observed cluster.
pub const PROD: Cluster = Cluster { name: "prod", index: 2 };
/// The second observed cluster.
pub const STAGING: Cluster = Cluster { name: "staging", index: 3 };
/// A cluster for stories that are not about the fleet.
pub const LAB: Cluster = Cluster { name: "lab", index: 4 };
/// The clusters of the demo.
pub const FLEET: [Cluster; 3] = [OPS, PROD, STAGING];
/// All that the harness knows.
pub const ALL: [Cluster; 4] = [OPS, PROD, STAGING, LAB];

/// A cluster's identity; all else follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cluster {
    /// Its name, as in `ops`.
    pub name: &'static str,
    /// Its number, from 1: part of its addresses.
    pub index: u8,
}

impl Cluster {
    /// The cluster of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        ALL.into_iter()
            .find(|c| c.name == name)
            .ok_or_else(|| anyhow::anyhow!("no cluster {name}: ops, prod, staging or lab"))
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run_dir().join("admin.kubeconfig")
    }

    /// The node's address, which other clusters reach too.
    pub fn node_ip(&self) -> String {
        format!("10.77.{}.2", self.index)
    }

    /// The host's address as the cluster sees it.
    pub fn host_ip(&self) -> String {
        format!("10.77.{}.1", self.index)
    }

    /// The only node's name.
    pub fn node_name(&self) -> String {
        format!("{}-node", self.name)
    }

    /// The lines of the API server's audit log: requests of the operator and of what it deploys.
    ///
    /// # Errors
    /// When there is none.
    pub fn audit_log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.log("audit"))?)
    }

    /// Gives the node a second address, which leads to the same cluster.
    ///
    /// # Errors
    /// When the address can't be set.
    pub fn add_node_ip(&self) -> anyhow::Result<String> {
        let address = format!("10.77.{}.3", self.index);
        crate::run::output("ip", &["-n", &self.netns(), "addr", "replace", &format!("{address}/24"), "dev", "eth0"])?;
        Ok(address)
    }

    /// A file that lives and dies with the cluster.
    pub fn fleet_file(&self, name: &str) -> PathBuf {
        self.run_dir().join(name)
    }

    /// The ids, on the host, of all processes in its pods.
    pub fn pod_processes(&self) -> Vec<u32> {
        down::pod_processes(self)
    }

    fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(self.name)
    }

    fn data_dir(&self) -> PathBuf {
        Path::new(DATA).join(self.name)
    }

    fn pki_dir(&self) -> PathBuf {
        self.run_dir().join("pki")
    }

    fn log(&self, process: &str) -> PathBuf {
        self.data_dir().join("log").join(format!("{process}.log"))
    }

    fn socket(&self) -> PathBuf {
        self.run_dir().join("containerd.sock")
    }

    fn netns(&self) -> String {
        format!("panoptes-{}", self.name)
    }

    /// The control group of its pods, in every hierarchy.
    fn cgroup(&self) -> String {
        format!("panoptes-{}", self.name)
    }

    fn link(&self) -> String {
        format!("pan-{}", self.name)
    }

    fn pods_cidr(&self) -> String {
        format!("10.8{}.0.0/16", self.index)
    }

    fn services_cidr(&self) -> String {
        format!("10.9{}.0.0/16", self.index)
    }

    fn api_service_ip(&self) -> String {
        format!("10.9{}.0.1", self.index)
    }

    /// The DNS server's address, inside the cluster.
    pub fn dns_ip(&self) -> String {
        format!("10.9{}.0.10", self.index)
    }

    fn nodes_cidr(&self) -> String {
        format!("10.77.{}.0/24", self.index)
    }

    fn balancers_cidr(&self) -> String {
        format!("10.76.{}.0/24", self.index)
    }

    /// `kubectl` as administrator: its standard output.
    ///
    /// # Errors
    /// With its standard error, when it fails.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        testkit::apiserver::kubectl(&self.kubeconfig(), args).map_err(|e| e.context(format!("cluster {}", self.name)))
    }

    /// `kubectl … -o json`.
    ///
    /// # Errors
    /// When it fails or its answer isn't JSON.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// Server-side apply of this text (YAML or JSON).
    ///
    /// # Errors
    /// With what the API server says, when it refuses.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=e2e", "-f", "-"];
        testkit::apiserver::kubectl_with_input(&self.kubeconfig(), &args, manifest)
            .map_err(|e| e.context(format!("cluster {}", self.name)))
    }
}
