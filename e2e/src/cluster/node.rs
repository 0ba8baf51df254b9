//! The node: containerd, kubelet, kube-proxy, DNS.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::{Cluster, NodeProcess};
use crate::image::{self, Archive};
use crate::run;

pub(super) fn containerd(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let cni = cluster.run_dir().join("cni");
    fs::create_dir_all(&cni)?;
    let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": cluster.run_dir().join("addresses"),
                  "ranges": [[{"subnet": cluster.pods_cidr()}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    fs::write(cni.join("10-pods.conflist"), network.to_string())?;
    let file = cluster.run_dir().join("containerd.toml");
    // restrict_oom_score_adj: without it no sandbox starts where the machine itself runs in a container.
    fs::write(
        &file,
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"#,
            root = cluster.data_dir().join("containerd").display(),
            state = cluster.run_dir().join("containerd").display(),
            socket = cluster.socket().display(),
            pause = image::PAUSE,
            cni = cni.display(),
        ),
    )?;
    Ok(NodeProcess::new(cluster, "containerd")?.arg("-c").arg(&file))
}

pub(super) fn containerd_answers(cluster: &Cluster) -> anyhow::Result<()> {
    ctr(cluster, &["version"]).map(|_| ())
}

/// Puts an image into the cluster's store, under its reference.
pub(super) fn import(cluster: &Cluster, archive: &Archive) -> anyhow::Result<()> {
    let file = archive.file.display().to_string();
    ctr(cluster, &["images", "import", &file]).with_context(|| format!("import {}", archive.reference)).map(|_| ())
}

fn ctr(cluster: &Cluster, args: &[&str]) -> anyhow::Result<String> {
    let socket = cluster.socket().display().to_string();
    run::output("ctr", &[&["-a", &socket, "-n", "k8s.io"], args].concat())
}

pub(super) fn kubelet(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    make_control_groups(&cluster.cgroup())?;
    let root = kubelet_root(cluster);
    fs::create_dir_all(&root)?;
    let pki = |name: &str| cluster.pki_dir().join(name).display().to_string();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": pki("ca.crt")}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", cluster.cgroup()),
        "clusterDNS": [cluster.dns_ip()], "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{}", cluster.socket().display()),
        "failSwapOn": false, "failCgroupV1": false, "enforceNodeAllocatable": [],
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi"},
        "tlsCertFile": pki("node.crt"), "tlsPrivateKeyFile": pki("node.key"),
        // Each kubelet removes the logs of pods that it doesn't know: several on one machine need a folder each.
        "podLogsDir": cluster.data_dir().join("pod-logs").display().to_string(),
        "readOnlyPort": 0, "maxPods": 110, "syncFrequency": "10s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "serializeImagePulls": false,
    });
    let file = cluster.run_dir().join("kubelet.yaml");
    fs::write(&file, config.to_string())?;
    Ok(NodeProcess::new(cluster, "kubelet")?
        .arg(format!("--config={}", file.display()))
        .arg(format!("--kubeconfig={}", cluster.run_dir().join("node.kubeconfig").display()))
        .arg(format!("--root-dir={}", root.display()))
        .arg(format!("--hostname-override={}", cluster.node_name()))
        .arg(format!("--node-ip={}", cluster.node_ip()))
        // So that the container metrics carry container names.
        .arg(format!("--containerd={}", cluster.socket().display()))
        .arg("--containerd-namespace=k8s.io")
        .arg("--housekeeping-interval=5s")
        .arg("--v=2"))
}

pub(super) fn kube_proxy(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
        "clientConnection": {"kubeconfig": cluster.run_dir().join("proxy.kubeconfig")},
        "clusterCIDR": cluster.pods_cidr(), "conntrack": {"maxPerCore": 0},
    });
    let file = cluster.run_dir().join("proxy.yaml");
    fs::write(&file, config.to_string())?;
    Ok(NodeProcess::new(cluster, "kube-proxy")?
        .arg(format!("--config={}", file.display()))
        .arg(format!("--hostname-override={}", cluster.node_name())))
}

/// CoreDNS runs beside the kubelet, on the address that pods ask. Names of other zones don't exist, so nothing waits for an upstream.
pub(super) fn coredns(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let file = cluster.run_dir().join("Corefile");
    let text = format!(
        "cluster.local:53 {{
    bind {dns}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    prometheus {dns}:9153
    cache 5
}}
.:53 {{
    bind {dns}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
    ready 127.0.0.1:8181
}}
",
        dns = cluster.dns_ip(),
        kubeconfig = cluster.kubeconfig().display(),
    );
    fs::write(&file, text)?;
    Ok(NodeProcess::new(cluster, "coredns")?.arg("-conf").arg(&file))
}

/// The kubelet wants its root group to exist in every hierarchy.
fn make_control_groups(name: &str) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        // One hierarchy (v2): the controllers must be handed down first.
        for controller in fs::read_to_string(root.join("cgroup.controllers"))?.split_whitespace() {
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        return fs::create_dir_all(root.join(name)).context("make the pods' control group");
    }
    for entry in fs::read_dir(root)?.flatten() {
        let hierarchy = entry.path();
        if !hierarchy.is_dir() || hierarchy.is_symlink() {
            continue;
        }
        let group = hierarchy.join(name);
        fs::create_dir_all(&group).with_context(|| format!("make {}", group.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if group.join(file).exists() {
                fs::write(group.join(file), fs::read(hierarchy.join(file))?)?;
            }
        }
    }
    Ok(())
}

fn kubelet_root(cluster: &Cluster) -> std::path::PathBuf {
    cluster.data_dir().join("kubelet")
}

impl Cluster {
    /// Where an emptyDir of a pod lies on this machine.
    pub fn empty_dir(&self, pod_uid: &str, volume: &str) -> std::path::PathBuf {
        kubelet_root(self).join("pods").join(pod_uid).join("volumes/kubernetes.io~empty-dir").join(volume)
    }
}
