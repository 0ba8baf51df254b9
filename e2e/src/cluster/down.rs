//! Ending a cluster, whoever started it and however it was left: its processes are those in its network namespace and those in its
//! control group; nothing else is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Cluster, host, net};
use crate::run;

/// Ends a cluster and removes all that belongs to it, its volumes too. A cluster that isn't there is fine.
///
/// # Errors
/// When a process does not end or a folder can't be removed.
pub fn down(cluster: &Cluster) -> anyhow::Result<()> {
    // Daemons first, so that nobody starts pods again; then the pods; then shims that were left.
    let start = Instant::now();
    loop {
        let mut left = net::processes(cluster);
        left.extend(pod_processes(cluster));
        if left.is_empty() {
            break;
        }
        anyhow::ensure!(start.elapsed() < Duration::from_secs(30), "processes of {} don't end: {left:?}", cluster.name);
        let ids: Vec<String> = left.iter().map(u32::to_string).collect();
        // Some may have ended meanwhile.
        let _ = run::command(Command::new("kill").arg("-KILL").args(&ids));
        std::thread::sleep(Duration::from_millis(100));
    }
    for mount in mounts(cluster) {
        let mount = mount.display().to_string();
        if !run::succeeds("umount", &[&mount]) {
            let _ = run::output("umount", &["-l", &mount]);
        }
    }
    // Removing a folder under which something of the host is still mounted would empty that.
    let left = mounts(cluster);
    anyhow::ensure!(
        left.is_empty(),
        "{} is still mounted: unmount it by hand and try again",
        left.iter().map(|m| m.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    net::remove(cluster);
    for group in control_groups(cluster) {
        remove_groups(&group);
    }
    for dir in [cluster.run_dir(), cluster.data_dir()] {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

/// When no cluster is left: puts the machine's settings back, and removes the machine-wide folders.
pub fn remove_folders() {
    for what in host::restore() {
        crate::say::step(&format!("could not be put back as it was: {what}"));
    }
    let _ = fs::remove_dir(super::RUN);
    let _ = fs::remove_dir(super::DATA);
}

/// The ids of all processes in the cluster's pods.
pub(super) fn pod_processes(cluster: &Cluster) -> Vec<u32> {
    let mut found = Vec::new();
    for group in control_groups(cluster) {
        collect_processes(&group, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether anything of the cluster is there.
pub(super) fn is_anything_left(cluster: &Cluster) -> bool {
    cluster.run_dir().exists()
        || cluster.data_dir().exists()
        || Path::new("/run/netns").join(cluster.netns()).exists()
        || control_groups(cluster).iter().any(|g| g.exists())
}

fn control_groups(cluster: &Cluster) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut groups = vec![root.join(cluster.cgroup())];
    groups.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path().join(cluster.cgroup())));
    groups.retain(|g| g.is_dir());
    groups
}

fn collect_processes(group: &Path, into: &mut Vec<u32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    into.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            collect_processes(&child.path(), into);
        }
    }
}

fn remove_groups(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            remove_groups(&child.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Everything mounted below the cluster's folders, the innermost first.
fn mounts(cluster: &Cluster) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(cluster.run_dir()) || path.starts_with(cluster.data_dir()))
        .collect();
    mounts.reverse();
    mounts
}
