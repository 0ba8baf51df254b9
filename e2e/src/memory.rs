//! What our processes in a cluster hold in memory.

use std::fs;

use crate::cluster::Cluster;

/// The largest resident memory, in bytes, of the pods' processes that run `panoptes ROLE`.
pub fn largest(cluster: &Cluster, role: &str) -> Option<u64> {
    cluster.pod_processes().into_iter().filter(|pid| is_role(*pid, role)).filter_map(resident).max()
}

fn is_role(pid: u32, role: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|b| *b == 0);
    words.next() == Some(b"/panoptes") && words.next() == Some(role.as_bytes())
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
