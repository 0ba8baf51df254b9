//! Bringing a cluster up, or keeping one that is there.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use testkit::wait;

use super::state::{Purpose, State};
use super::{ALL, Cluster, Lock, NodeProcess, balancer, control, down, emulator, host, net, node, volumes};
use crate::image::{self, Archive, Image};
use crate::{packages, peers, say};

/// What [`up`] found or did.
#[derive(Debug, Clone)]
pub struct Started {
    /// The cluster.
    pub cluster: Cluster,
    /// Whether it was running already.
    pub kept: bool,
    /// References of images whose content is new in it.
    pub new_images: Vec<String>,
}

/// Starts the clusters, or keeps those that are healthy, from this checkout, of these versions and of this purpose; ends what was
/// left by others. `extra` images are imported besides the peers' own.
///
/// # Errors
/// When this isn't root, something can't be installed or built, or a cluster does not come up.
pub fn up(_: &Lock, clusters: &[Cluster], purpose: Purpose, extra: &[Archive]) -> anyhow::Result<Vec<Started>> {
    anyhow::ensure!(packages::is_root(), "clusters need root: network namespaces, mounts and control groups");
    packages::ensure()?;
    peers::ensure(&peers::FOR_CLUSTERS)?;
    fs::create_dir_all(super::RUN)?;
    let mut archives = own_images()?;
    archives.extend_from_slice(extra);
    let version = version()?;
    let checkout = env!("CARGO_MANIFEST_DIR").to_owned();
    let mut kept = Vec::new();
    for cluster in ALL {
        match verdict(&cluster, purpose, &version, &checkout) {
            Verdict::Keep if clusters.contains(&cluster) => kept.push(cluster),
            // A healthy one that isn't asked for now doesn't disturb.
            Verdict::Keep | Verdict::Nothing => {}
            Verdict::End(why) => {
                say::step(&format!("ending the cluster {} that was left here ({why})", cluster.name));
                down(&cluster)?;
            }
        }
    }
    host::prepare()?;
    let new: Vec<Cluster> = clusters.iter().copied().filter(|c| !kept.contains(c)).collect();
    if !kept.is_empty() {
        say::step(&format!("keeping running clusters: {}", names(&kept)));
    }
    if !new.is_empty() {
        say::step(&format!("starting clusters: {} (about 20 s)", names(&new)));
    }
    let blank =
        State { purpose, version, checkout, processes: BTreeMap::new(), images: BTreeMap::new(), complete: false };
    std::thread::scope(|scope| {
        let running: Vec<_> = clusters
            .iter()
            .map(|cluster| {
                let (blank, archives, kept) = (blank.clone(), &archives, kept.contains(cluster));
                scope.spawn(move || {
                    let state =
                        if kept { State::load(cluster).context("its state is gone")? } else { start(cluster, blank)? };
                    finish(cluster, state, archives, kept).with_context(|| format!("cluster {}", cluster.name))
                })
            })
            .collect();
        running.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a starting thread failed"))?).collect()
    })
}

enum Verdict {
    Nothing,
    Keep,
    End(String),
}

fn verdict(cluster: &Cluster, purpose: Purpose, version: &str, checkout: &str) -> Verdict {
    let Some(state) = State::load(cluster) else {
        return if down::is_anything_left(cluster) { Verdict::End("unfinished".to_owned()) } else { Verdict::Nothing };
    };
    let dead = state.processes.iter().find(|(_, process)| !process.is_alive());
    let why = if state.checkout != checkout {
        format!("from the checkout {}", state.checkout)
    } else if state.purpose != purpose {
        format!("for the purpose {}", state.purpose)
    } else if state.version != version {
        "of other versions".to_owned()
    } else if !state.complete {
        "unfinished".to_owned()
    } else if let Some((name, _)) = dead {
        format!("its {name} has ended")
    } else if !node_is_ready(cluster) {
        "its node is not ready".to_owned()
    } else {
        return Verdict::Keep;
    };
    Verdict::End(why)
}

fn start(cluster: &Cluster, mut state: State) -> anyhow::Result<State> {
    let begin = Instant::now();
    for dir in [cluster.run_dir(), cluster.data_dir().join("log")] {
        fs::create_dir_all(dir)?;
    }
    state.save(cluster)?;
    net::create(cluster)?;
    control::write_certificates(cluster)?;
    let run = |state: &mut State, process: NodeProcess| -> anyhow::Result<()> {
        let (name, recorded) = process.start(cluster)?;
        state.processes.insert(name.to_owned(), recorded);
        state.save(cluster)
    };
    run(&mut state, control::etcd(cluster)?)?;
    run(&mut state, control::api_server(cluster)?)?;
    run(&mut state, node::containerd(cluster)?)?;
    wait_for(cluster, "containerd", 20, || node::containerd_answers(cluster))?;
    node::import(cluster, &Image::of_pause().write()?)?;
    wait_for(cluster, "kube-apiserver", 60, || cluster.kubectl(&["get", "--raw", "/readyz"]).map(|_| ()))?;
    run(&mut state, control::controller_manager(cluster)?)?;
    run(&mut state, control::scheduler(cluster)?)?;
    run(&mut state, node::kubelet(cluster)?)?;
    run(&mut state, node::coredns(cluster)?)?;
    cluster.apply(PROXY_RIGHTS)?;
    run(&mut state, node::kube_proxy(cluster)?)?;
    run(&mut state, balancer::process(cluster)?)?;
    run(&mut state, emulator::process(cluster)?)?;
    wait_for(cluster, "kubelet", 60, || {
        // All kubelets of a machine listen for device plugins at one path: of two that begin at the same moment one may end.
        if state.processes.get("kubelet").is_some_and(|p| !p.is_alive()) {
            run(&mut state, node::kubelet(cluster)?)?;
        }
        anyhow::ensure!(node_is_ready(cluster), "the node is not ready");
        Ok(())
    })?;
    say::step(&format!("  {} is up: node Ready after {:.0} s", cluster.name, begin.elapsed().as_secs_f64()));
    Ok(state)
}

/// Brings images and volumes to what they should be, in a new cluster and in a kept one.
fn finish(cluster: &Cluster, mut state: State, archives: &[Archive], kept: bool) -> anyhow::Result<Started> {
    let mut new_images = Vec::new();
    for archive in archives {
        if state.images.get(&archive.reference) != Some(&archive.id) {
            node::import(cluster, archive)?;
            state.images.insert(archive.reference.clone(), archive.id.clone());
            new_images.push(archive.reference.clone());
        }
    }
    // A story that was killed may have closed the node.
    cluster.kubectl(&["uncordon", &cluster.node_name()])?;
    volumes::ensure(cluster)?;
    cluster.recycle_volumes()?;
    state.complete = true;
    state.save(cluster)?;
    Ok(Started { cluster: *cluster, kept, new_images })
}

/// The images of what the operator deploys besides ourselves.
fn own_images() -> anyhow::Result<Vec<Archive>> {
    let of = |reference: &str, path: &str, binary: &str| {
        Image::of_binary(reference, path, &testkit::peers::path(binary)?).write()
    };
    Ok(vec![
        of(image::PROMETHEUS, "/bin/prometheus", "prometheus")?,
        of(image::KUBE_STATE_METRICS, "/kube-state-metrics", "kube-state-metrics")?,
        of(image::NODE_EXPORTER, "/bin/node_exporter", "node_exporter")?,
    ])
}

/// A cluster set up by other code or from other peers isn't kept.
fn version() -> anyhow::Result<String> {
    const CODE: [&str; 6] = [
        include_str!("control.rs"),
        include_str!("net.rs"),
        include_str!("node.rs"),
        include_str!("balancer.rs"),
        include_str!("emulator.rs"),
        include_str!("up.rs"),
    ];
    let mut hash = Sha256::new();
    hash.update(peers::fingerprint(&["kubernetes", "coredns"])?);
    CODE.iter().for_each(|text| hash.update(text));
    Ok(peers::hex(&hash.finalize()))
}

fn node_is_ready(cluster: &Cluster) -> bool {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let name = cluster.node_name();
    cluster.kubectl(&["get", "node", &name, "--request-timeout=5s", "-o", path]).is_ok_and(|status| status == "True")
}

/// Waits, and shows the end of the process's log when it does not come.
fn wait_for(
    cluster: &Cluster,
    process: &str,
    seconds: u64,
    attempt: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    wait::until(process, Duration::from_secs(seconds), Duration::from_millis(200), attempt).map_err(|error| {
        let log = fs::read(cluster.log(process)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        error.context(format!("{process} of {} did not come up; its log ends:\n{tail}", cluster.name))
    })
}

fn names(clusters: &[Cluster]) -> String {
    clusters.iter().map(|c| c.name).collect::<Vec<_>>().join(", ")
}

const PROXY_RIGHTS: &str = r#"{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "kube-proxy"},
  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
  "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}]}"#;
