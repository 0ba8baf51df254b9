//! The uploader as a simulation runs it: real but for Prometheus, whose labels are given, and pass by pass.

use super::Uploader;
use super::run::Pass;
use crate::server::Context;
use crate::sidecar::prometheus::Prometheus;
use crate::sidecar::watch::Watch;
use crate::storage::Storage;
use args::SidecarArgs;
use bucket::Bucket;
use model::{BlockId, Labels};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tsdb::disk::Disk;

/// A sidecar's uploads, of the blocks in a folder.
pub(crate) struct Sidecar {
    uploader: Uploader,
    labels: Labels,
}

impl Sidecar {
    /// As after a start.
    pub(crate) async fn start(
        bucket: &Bucket,
        (disk, data): (Arc<dyn Disk>, &Path),
        labels: Labels,
        context: &Context,
    ) -> Self {
        // It is never asked.
        static PROMETHEUS: OnceLock<Prometheus> = OnceLock::new();
        let prometheus = PROMETHEUS.get_or_init(|| Prometheus::new("http://127.0.0.1:1").unwrap()).clone();
        let args = SidecarArgs { tsdb_path: data.display().to_string(), ..SidecarArgs::default() };
        let storage = Storage::over(bucket.clone(), context);
        let mut uploader = Uploader::new(&args, prometheus, Watch::new(), storage, disk, context).inline();
        uploader.begin().await;
        Self { uploader, labels }
    }

    /// Sends what is to be sent.
    pub(crate) async fn pass(&mut self) -> Result<(), String> {
        let local = self.uploader.scan().await?;
        match self.uploader.send(&local, &self.labels, &CancellationToken::new()).await {
            Pass::Good => Ok(()),
            Pass::Failed(why) => Err(why),
            Pass::Waiting => Err("something is missing".to_owned()),
        }
    }

    /// The blocks that arrived, as far as it knows.
    pub(crate) fn committed(&self) -> BTreeSet<BlockId> {
        self.uploader.committed()
    }
}
