//! Builds the peers (Kubernetes, Prometheus, Thanos and friends) from the Go modules in `e2e/peers/`, once per version, into a cache
//! outside the checkout. Only what the called target needs is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::say;

/// One Go module and the binaries that come from it.
#[derive(Debug)]
pub struct Peer {
    /// The folder in `e2e/peers/`, and what people call it.
    pub name: &'static str,
    /// The version that the module requires, for the folder's name and the binary's own answer.
    pub version: &'static str,
    /// The binaries and the packages they are built from.
    pub binaries: &'static [(&'static str, &'static str)],
    /// Packages' variables that hold the version.
    ldflags: &'static str,
    tags: &'static str,
    /// What it is good for, told while it is built.
    why: &'static str,
    /// The minutes a cold build took on two cores.
    minutes: u32,
}

const PEERS: [Peer; 6] = [
    Peer {
        name: "kubernetes",
        version: "1.34.4",
        binaries: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ],
        ldflags: "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=34",
        tags: "",
        why: "the clusters",
        minutes: 15,
    },
    Peer {
        name: "prometheus",
        version: "3.14.0",
        binaries: &[
            ("prometheus", "github.com/prometheus/prometheus/cmd/prometheus"),
            ("promtool", "github.com/prometheus/prometheus/cmd/promtool"),
        ],
        ldflags: "-X github.com/prometheus/common/version.Version=3.14.0",
        tags: "",
        why: "what the operator deploys",
        minutes: 8,
    },
    Peer {
        name: "thanos",
        version: "0.42.4",
        binaries: &[("thanos", "github.com/thanos-io/thanos/cmd/thanos")],
        ldflags: "-X github.com/prometheus/common/version.Version=0.42.4",
        tags: "slicelabels", // a StoreAPI call panics without it
        why: "the peer that our wire is compared with",
        minutes: 6,
    },
    Peer {
        name: "kube-state-metrics",
        version: "2.15.0",
        binaries: &[("kube-state-metrics", "k8s.io/kube-state-metrics/v2")],
        ldflags: "-X github.com/prometheus/common/version.Version=2.15.0",
        tags: "",
        why: "what the operator deploys",
        minutes: 2,
    },
    Peer {
        name: "node-exporter",
        version: "1.12.1",
        binaries: &[("node_exporter", "github.com/prometheus/node_exporter")],
        ldflags: "-X github.com/prometheus/common/version.Version=1.12.1",
        tags: "",
        why: "what the operator deploys",
        minutes: 1,
    },
    Peer {
        name: "coredns",
        version: "1.14.3",
        binaries: &[("coredns", "github.com/coredns/coredns")],
        ldflags: "",
        tags: "",
        why: "the clusters' DNS",
        minutes: 3,
    },
];

/// All peers' names.
pub fn names() -> Vec<&'static str> {
    PEERS.iter().map(|p| p.name).collect()
}

/// What whole clusters and the demo need.
pub const FOR_CLUSTERS: [&str; 5] = ["kubernetes", "prometheus", "kube-state-metrics", "node-exporter", "coredns"];

/// Builds those of the named peers that are not built yet.
///
/// # Errors
/// When Go is missing or too old, or a build fails.
pub fn ensure(names: &[&str]) -> anyhow::Result<()> {
    let mut todo = Vec::new();
    for name in names {
        let peer = PEERS.iter().find(|p| p.name == *name).with_context(|| format!("there is no peer {name}"))?;
        match peer.state()? {
            State::Built => peer.link()?,
            State::Missing(why) => todo.push((peer, why)),
        }
    }
    if todo.is_empty() {
        return Ok(());
    }
    check_go()?;
    let minutes: u32 = todo.iter().map(|(p, _)| p.minutes).sum();
    say::step(&format!(
        "building {} peers with Go, once (at most about {minutes} minutes on two cores): {}",
        todo.len(),
        todo.iter().map(|(p, _)| p.name).collect::<Vec<_>>().join(", ")
    ));
    for (peer, why) in todo {
        peer.build(&why)?;
    }
    Ok(())
}

/// A hash over what all built peers are made of: a cluster of other versions isn't kept.
///
/// # Errors
/// When a module's files can't be read.
pub fn fingerprint(names: &[&str]) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    for peer in PEERS.iter().filter(|p| names.contains(&p.name)) {
        hash.update(peer.key()?.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

enum State {
    Built,
    Missing(String),
}

impl Peer {
    fn module(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.name)
    }

    fn folder(&self) -> PathBuf {
        testkit::peers::cache().join("peers").join(format!("{}-{}", self.name, self.version))
    }

    /// What the binaries are made of: versions, checksums, flags.
    fn key(&self) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.module().join(file);
            hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        hash.update(format!("{} {:?} {} {}", self.version, self.binaries, self.ldflags, self.tags));
        Ok(hex(&hash.finalize()))
    }

    fn state(&self) -> anyhow::Result<State> {
        let Ok(stamp) = fs::read_to_string(self.folder().join("stamp")) else {
            return Ok(State::Missing("not built yet".to_owned()));
        };
        if stamp.trim() != self.key()? {
            return Ok(State::Missing("its module file or flags changed".to_owned()));
        }
        let gone = self.binaries.iter().find(|(binary, _)| !self.folder().join(binary).is_file());
        Ok(gone.map_or(State::Built, |(binary, _)| State::Missing(format!("{binary} is gone"))))
    }

    fn build(&self, why: &str) -> anyhow::Result<()> {
        let key = self.key()?;
        fs::create_dir_all(self.folder())?;
        let start = Instant::now();
        for (binary, package) in self.binaries {
            say::step(&format!("  {binary} {}: {why}; needed for {}", self.version, self.why));
            // Built beside its place and then moved: a running process may hold the old file.
            let part = self.folder().join(format!("{binary}.part"));
            let status = Command::new("go")
                .current_dir(self.module())
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-buildvcs=false -mod=readonly")
                .args(["build", "-trimpath", "-tags", self.tags])
                .arg("-ldflags")
                .arg(format!("-s -w {}", self.ldflags))
                .arg("-o")
                .arg(&part)
                .arg(package)
                .stdin(Stdio::null())
                .status()
                .context("start go")?;
            anyhow::ensure!(status.success(), "go build {package} failed ({status}); what it said is above");
            fs::rename(&part, self.folder().join(binary))?;
        }
        fs::write(self.folder().join("stamp"), key)?;
        self.link()?;
        say::step(&format!("  {} {} is built, {:.0} s", self.name, self.version, start.elapsed().as_secs_f64()));
        Ok(())
    }

    fn link(&self) -> anyhow::Result<()> {
        let bin = testkit::peers::cache().join("peers").join("bin");
        fs::create_dir_all(&bin)?;
        for (binary, _) in self.binaries {
            let (link, target) = (bin.join(binary), self.folder().join(binary));
            if fs::read_link(&link).is_ok_and(|to| to == target) {
                continue;
            }
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&target, &link).with_context(|| format!("link {}", link.display()))?;
        }
        Ok(())
    }
}

fn check_go() -> anyhow::Result<()> {
    let version = Command::new("go").args(["env", "GOVERSION"]).output().ok().filter(|o| o.status.success());
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let minor = version.as_deref().and_then(|v| v.strip_prefix("go1.")).and_then(|v| v.split('.').next()?.parse().ok());
    let minor: u32 = minor.unwrap_or(0);
    // From 1.21 on, Go fetches the release that a module asks for by itself.
    anyhow::ensure!(
        minor >= 21,
        "the peers are built with Go 1.21 or newer ({}); install it and put it in PATH",
        version.map_or_else(|| "there is none in PATH".to_owned(), |v| format!("found {v}"))
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_pins_its_version() {
        for peer in &PEERS {
            let text = fs::read_to_string(peer.module().join("go.mod")).unwrap();
            let wanted = peer.version.strip_prefix("3.").filter(|_| peer.name == "prometheus").map_or_else(
                || format!(" v{}\n", peer.version),
                |rest| format!(" v0.3{rest}\n"), // Prometheus 3.14.0 is the Go module v0.314.0
            );
            assert!(text.contains(&wanted), "{}: no{wanted}", peer.name);
            for (_, package) in peer.binaries {
                assert!(text.contains(package) && text.contains("tool"), "{}: no tool line for {package}", peer.name);
            }
        }
    }

    #[test]
    fn an_unknown_peer_is_refused() {
        assert!(ensure(&["gofakes3"]).unwrap_err().to_string().contains("no peer gofakes3"));
    }
}
