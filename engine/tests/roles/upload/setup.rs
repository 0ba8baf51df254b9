//! A data directory with blocks that Prometheus's own library made, a stub of Prometheus, a bucket in a directory.

use crate::common::Sidecar;
use args::{Millis, SidecarArgs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::oracle::Oracle;
use testkit::prometheus_stub::{PrometheusStub, Told};

pub(crate) struct Setup {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) prometheus: PrometheusStub,
    oracle: Oracle,
    made: i64,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let prometheus = PrometheusStub::start(Told::new(&[("cluster", "ops"), ("replica", "a")])).unwrap();
        Self { dir, prometheus, oracle: Oracle::start("prometheus-blocks").unwrap(), made: 0 }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    /// One more block, two hours after the one before; its id.
    pub(crate) fn block(&mut self) -> String {
        self.made += 1;
        let request = json!({
            "op": "generate", "dir": self.data(), "series": 60, "samples": 30,
            "start": 1_700_000_000_000i64 + self.made * 7_200_000, "interval": 15_000, "histograms": 5, "seed": self.made,
        });
        let made = self.oracle.ask(&request).unwrap();
        Path::new(made["dir"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) fn objstore(&self) -> String {
        format!("{{type: FILESYSTEM, config: {{directory: {}}}}}", self.bucket().display())
    }

    pub(crate) fn args(&self) -> SidecarArgs {
        SidecarArgs {
            prometheus_url: self.prometheus.url(),
            tsdb_path: self.data().display().to_string(),
            objstore_config: self.objstore(),
            prometheus_get_config_interval: Millis(200),
            ..SidecarArgs::default()
        }
    }

    pub(crate) fn meta(&self, id: &str) -> Option<Value> {
        fs::read(self.bucket().join(id).join("meta.json")).ok().map(|b| serde_json::from_slice(&b).unwrap())
    }

    /// The ids that the progress file lists.
    pub(crate) fn listed(&self) -> Vec<String> {
        let text = fs::read(self.data().join("thanos.shipper.json")).unwrap_or_default();
        let list: Value = serde_json::from_slice(&text).unwrap_or_default();
        list["uploaded"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Writes another field into the meta.json of a local block.
    pub(crate) fn change_meta(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let path = self.data().join(id).join("meta.json");
        let mut meta: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut meta);
        fs::write(path, meta.to_string()).unwrap();
    }
}

/// All files below a folder, by relative path.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            if entry.path().is_dir() {
                walk(root, &entry.path(), out);
            } else {
                let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                out.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(dir, dir, &mut out);
    out
}

pub(crate) fn upload(sidecar: &Sidecar) -> args::state::Upload {
    sidecar.state().upload.unwrap()
}
