//! A cluster's network namespace, and processes inside it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::Cluster;
use super::state::Recorded;
use crate::run;

/// Makes the namespace with a link to the host, and turns on forwarding on both sides.
pub(super) fn create(cluster: &Cluster) -> anyhow::Result<()> {
    let (ns, link) = (cluster.netns(), cluster.link());
    let ip = |args: &[&str]| run::output("ip", args);
    for prefix in [cluster.nodes_cidr(), cluster.balancers_cidr()] {
        // A LAN's or a VPN's: ours would hide it.
        let routes = ip(&["-4", "route", "show", "root", &prefix])?;
        let mut others =
            routes.lines().filter(|route| !route.contains(&cluster.link()) && !route.contains(&cluster.node_ip()));
        if let Some(route) = others.next() {
            anyhow::bail!(
                "the addresses {prefix} are in use on this machine: {route}. Take that route away for the time"
            );
        }
    }
    ip(&["netns", "add", &ns])?;
    ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &ns])?;
    ip(&["addr", "add", &format!("{}/24", cluster.host_ip()), "dev", &link])?;
    ip(&["link", "set", &link, "up"])?;
    ip(&["-n", &ns, "addr", "add", &format!("{}/24", cluster.node_ip()), "dev", "eth0"])?;
    ip(&["-n", &ns, "link", "set", "eth0", "up"])?;
    ip(&["-n", &ns, "link", "set", "lo", "up"])?;
    ip(&["-n", &ns, "addr", "add", &format!("{}/32", cluster.dns_ip()), "dev", "lo"])?;
    ip(&["-n", &ns, "route", "add", "default", "via", &cluster.host_ip()])?;
    ip(&["route", "replace", &cluster.balancers_cidr(), "via", &cluster.node_ip()])?;
    // A host whose firewall drops forwarded packets (docker's does) must let the clusters through.
    for rule in forward_rules(cluster) {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        if !run::succeeds("iptables", &[&["-w", "-C"], &rule[..]].concat()) {
            run::output("iptables", &[&["-w", "-I"], &rule[..]].concat())?;
        }
    }
    // A missing bridge setting only matters where bridged packets would pass by the firewall.
    let inside = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                  f=/proc/sys/net/bridge/bridge-nf-call-iptables; [ ! -e $f ] || echo 1 > $f";
    run::command(inside_command(cluster, "sh").args(["-c", inside]))?;
    Ok(())
}

/// Takes away what [`create`] made; what isn't there is passed over.
pub(super) fn remove(cluster: &Cluster) {
    for rule in forward_rules(cluster) {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        while run::succeeds("iptables", &[&["-w", "-D"], &rule[..]].concat()) {}
    }
    let _ = run::output("ip", &["link", "del", &cluster.link()]);
    let _ = run::output("ip", &["netns", "del", &cluster.netns()]);
}

fn forward_rules(cluster: &Cluster) -> Vec<Vec<String>> {
    ["-i", "-o"].map(|side| ["FORWARD", side, &cluster.link(), "-j", "ACCEPT"].map(str::to_owned).to_vec()).to_vec()
}

/// The ids of all processes in the cluster's network namespace: its daemons, and pods that use the host's network.
pub(super) fn processes(cluster: &Cluster) -> Vec<u32> {
    let Ok(wanted) = fs::metadata(netns_file(cluster)).map(|m| (m.dev(), m.ino())) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| (m.dev(), m.ino()) == wanted))
        .collect()
}

fn netns_file(cluster: &Cluster) -> PathBuf {
    PathBuf::from("/run/netns").join(cluster.netns())
}

/// A command that runs inside the namespace. `ip netns exec` would also remount `/sys` and hide the control groups from the kubelet.
pub(super) fn inside_command(cluster: &Cluster, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns_file(cluster).display())).arg(program);
    command
}

/// A daemon of a cluster to be started on the host, inside the cluster's network.
#[derive(Debug)]
pub struct NodeProcess {
    command: Command,
    name: &'static str,
}

impl NodeProcess {
    /// Prepares a program from the peers or from `PATH`.
    pub(super) fn new(cluster: &Cluster, name: &'static str) -> anyhow::Result<Self> {
        Ok(Self::at(cluster, name, testkit::peers::path(name)?))
    }

    /// Prepares a program at a path.
    pub(super) fn at(cluster: &Cluster, name: &'static str, program: PathBuf) -> Self {
        // Its own session: it outlives this process and its terminal.
        let mut command = Command::new("setsid");
        command.arg("nsenter").arg(format!("--net={}", netns_file(cluster).display())).arg(program);
        Self { command, name }
    }

    pub(super) fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Starts it, with its output in the cluster's log folder.
    pub(super) fn start(mut self, cluster: &Cluster) -> anyhow::Result<(&'static str, Recorded)> {
        let log = File::create(cluster.log(self.name))?;
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        let recorded = Recorded::of(child.id()).with_context(|| format!("{} ended at once", self.name))?;
        Ok((self.name, recorded))
    }
}
