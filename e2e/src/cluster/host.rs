//! What clusters change on the machine itself: written down before the first one starts, put back when the last one is gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{ALL, RUN, down};
use crate::run;

/// Kernel settings outside of network namespaces' own: the first is ours, the others are the kubelet's.
const SETTINGS: [&str; 6] = [
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Makes bridges pass packets by the firewall, which pods need and other bridges of the machine do not.
const MODULE: &str = "br_netfilter";
const BRIDGES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

#[derive(Debug, Serialize, Deserialize)]
struct Before {
    settings: BTreeMap<String, String>,
    module: bool,
}

fn file() -> PathBuf {
    Path::new(RUN).join("host.json")
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Writes down how the machine is, unless clusters have changed it already, and lets it forward packets.
pub(super) fn prepare() -> anyhow::Result<()> {
    if !file().exists() {
        let read = |name: &&str| Some(((*name).to_owned(), fs::read_to_string(setting(name)).ok()?.trim().to_owned()));
        let before =
            Before { settings: SETTINGS.iter().filter_map(read).collect(), module: Path::new(BRIDGES).exists() };
        fs::create_dir_all(RUN)?;
        fs::write(file(), serde_json::to_vec_pretty(&before)?)?;
        if !before.module {
            // It may be built in, or not be there; then nothing is bridged past the firewall.
            let loaded = run::succeeds("modprobe", &[MODULE]);
            if loaded && Path::new(BRIDGES).exists() {
                // Only inside the clusters.
                fs::write(BRIDGES, "0").context("keep the machine's own bridges as they were")?;
            }
        }
    }
    fs::write(setting("net/ipv4/ip_forward"), "1").context("turn on forwarding")
}

/// Puts everything back, when no cluster is left; gives what could not be put back.
pub(super) fn restore() -> Vec<String> {
    if ALL.iter().any(down::is_anything_left) {
        return Vec::new();
    }
    let Some(before) = fs::read(file()).ok().and_then(|text| serde_json::from_slice::<Before>(&text).ok()) else {
        return Vec::new();
    };
    let mut failed = Vec::new();
    for (name, value) in &before.settings {
        let now = fs::read_to_string(setting(name)).unwrap_or_default();
        if now.trim() != value && fs::write(setting(name), value).is_err() {
            failed.push(format!("{} = {value}", name.replace('/', ".")));
        }
    }
    if !before.module && Path::new(BRIDGES).exists() && !run::succeeds("modprobe", &["-r", MODULE]) {
        failed.push(format!("the kernel module {MODULE} stays loaded (bridges of the machine don't use it)"));
    }
    let _ = fs::remove_file(file());
    failed
}
