//! Google Cloud Storage as far as a test needs it, one server per cluster: a process in the cluster's network, which ends
//! with the cluster. Pods of every cluster reach it at the node's address.

use std::net::SocketAddr;

use testkit::gcs::Remote;

use super::{Cluster, NodeProcess};

/// Where it listens, on the node's address; `examples/` name it.
const PORT: u16 = 4443;

/// The process: this very program.
pub(super) fn process(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let address = cluster.bucket_server();
    Ok(NodeProcess::at(cluster, "gcs", std::env::current_exe()?).arg("gcs").arg("--listen").arg(address))
}

/// Serves for as long as the process lives.
///
/// # Errors
/// When the address is taken.
pub fn serve(address: SocketAddr) -> anyhow::Result<()> {
    testkit::gcs::serve(address, &[])
}

impl Cluster {
    /// Where its Google Cloud Storage answers.
    pub fn bucket_server(&self) -> String {
        format!("{}:{PORT}", self.node_ip())
    }

    /// Its buckets, and who may do what with them.
    pub fn buckets(&self) -> Remote {
        Remote::at(self.bucket_server())
    }
}
