//! What our processes in a cluster hold in memory.

use std::fs;

use crate::cluster::Cluster;

/// The largest resident memory, in bytes, of the pods' processes that run `panoptes ROLE`.
pub fn largest(cluster: &Cluster, role: &str) -> Option<u64> {
    cluster.pod_processes().into_iter().filter(|pid| is_role(*pid, role)).filter_map(resident).max()
}

/// The process that runs `panoptes ROLE` in the pod of this name, by the variable that tells it its name.
pub fn process(cluster: &Cluster, role: &str, pod: &str) -> Option<u32> {
    let is_named = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = environment.split(|b| *b == 0).find_map(|line| line.strip_prefix(b"POD_NAME="));
        name.is_some_and(|name| name.rsplit(|b| *b == b'.').next() == Some(pod.as_bytes()))
    };
    cluster.pod_processes().into_iter().filter(|pid| is_role(*pid, role)).find(is_named)
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
