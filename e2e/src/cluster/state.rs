//! What is written down about a running cluster, so that a later run, perhaps from another clone, can keep it or end it.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::Cluster;

/// What the clusters are for. Stories and the demo don't share: a story may break things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// For a person to look at.
    Demo,
    /// For the end-to-end stories.
    E2e,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Demo => "demo",
            Self::E2e => "e2e",
        })
    }
}

/// The state document of one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) purpose: Purpose,
    /// A hash of the peers and of the code that sets clusters up.
    pub(super) version: String,
    /// The checkout that started it.
    pub(super) checkout: String,
    /// Process ids on the host, with the start time that tells a process from a later one of the same id.
    pub(super) processes: BTreeMap<String, Recorded>,
    /// What is imported: reference and content.
    pub(super) images: BTreeMap<String, String>,
    /// Whether it came up completely.
    pub(super) complete: bool,
}

/// A process, for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) pid: u32,
    /// In clock ticks since boot, as the kernel says.
    pub(super) started: u64,
}

impl Recorded {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    pub(super) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

impl State {
    pub(super) fn load(cluster: &Cluster) -> Option<Self> {
        let text = fs::read(cluster.run_dir().join("state.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn save(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let file = cluster.run_dir().join("state.json");
        let part = file.with_extension("part");
        fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(part, file)?)
    }
}

/// None when there is no such process or it has ended.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let me = Recorded::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Recorded { started: me.started + 1, ..me }.is_alive());
    }
}
