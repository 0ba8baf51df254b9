//! Builds the peers (Kubernetes, Prometheus, Thanos and friends) from the Go modules in `e2e/peers/`, once per version, into a cache
//! outside the checkout. Only what the called target needs is built. Node programs among them are in `npm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::{npm, packages, say};

/// One Go module and the binaries that come from it.
#[derive(Debug)]
struct Peer {
    /// The folder in `e2e/peers/`, and what people call it.
    name: &'static str,
    /// The version that the module requires, for the folder's name and the binary's own answer.
    version: &'static str,
    binaries: &'static [Binary],
    /// Packages' variables that hold the version.
    ldflags: &'static str,
    tags: &'static str,
    /// What it is good for, told while it is built.
    why: &'static str,
}

/// One program of a module.
#[derive(Debug, Clone, Copy)]
struct Binary {
    name: &'static str,
    package: &'static str,
    /// The minutes that a cold build took on two cores, the module's other binaries built before it.
    minutes: u32,
}

const fn binary(name: &'static str, package: &'static str, minutes: u32) -> Binary {
    Binary { name, package, minutes }
}

const PEERS: [Peer; 9] = [
    Peer {
        name: "kubernetes",
        version: "1.34.4",
        binaries: &[
            binary("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 7),
            binary("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 5),
            binary("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 1),
            binary("kubelet", "k8s.io/kubernetes/cmd/kubelet", 1),
            binary("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 1),
        ],
        ldflags: "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=34",
        tags: "",
        why: "the clusters",
    },
    Peer {
        name: "prometheus",
        version: "3.14.0",
        binaries: &[
            binary("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", 7),
            binary("promtool", "github.com/prometheus/prometheus/cmd/promtool", 1),
        ],
        ldflags: "-X github.com/prometheus/common/version.Version=3.14.0",
        tags: "",
        why: "what the operator deploys",
    },
    Peer {
        name: "prometheus-blocks",
        version: "3.14.0",
        binaries: &[binary("prometheus-blocks", "panoptes.dev/e2e/peers/prometheus-blocks", 1)],
        ldflags: "",
        tags: "",
        why: "our questions to Prometheus's own storage library",
    },
    Peer {
        name: "thanos",
        version: "0.42.4",
        binaries: &[binary("thanos", "github.com/thanos-io/thanos/cmd/thanos", 5)],
        ldflags: "-X github.com/prometheus/common/version.Version=0.42.4",
        tags: "slicelabels", // a StoreAPI call panics without it
        why: "the peer that our wire is compared with",
    },
    Peer {
        name: "thanos-blocks",
        version: "0.42.4",
        binaries: &[binary("thanos-blocks", "panoptes.dev/e2e/peers/thanos-blocks", 2)],
        ldflags: "",
        tags: "slicelabels",
        why: "our questions to Thanos's own block library",
    },
    Peer {
        name: "kube-state-metrics",
        version: "2.15.0",
        binaries: &[binary("kube-state-metrics", "k8s.io/kube-state-metrics/v2", 2)],
        ldflags: "-X github.com/prometheus/common/version.Version=2.15.0",
        tags: "",
        why: "what the operator deploys",
    },
    Peer {
        name: "node-exporter",
        version: "1.12.1",
        binaries: &[binary("node_exporter", "github.com/prometheus/node_exporter", 1)],
        ldflags: "-X github.com/prometheus/common/version.Version=1.12.1",
        tags: "",
        why: "what the operator deploys",
    },
    Peer {
        name: "coredns",
        version: "1.14.3",
        binaries: &[binary("coredns", "github.com/coredns/coredns", 3)],
        ldflags: "",
        tags: "",
        why: "the clusters' DNS",
    },
    Peer {
        name: "versitygw",
        version: "1.8.0",
        binaries: &[binary("versitygw", "github.com/versity/versitygw/cmd/versitygw", 2)],
        ldflags: "",
        tags: "",
        why: "S3 on loopback",
    },
];

/// All peers' names.
pub fn names() -> Vec<&'static str> {
    PEERS.iter().map(|p| p.name).chain(npm::names()).collect()
}

/// What whole clusters and the demo need.
pub const FOR_CLUSTERS: [&str; 5] = ["kubernetes", "prometheus", "kube-state-metrics", "node-exporter", "coredns"];

/// Builds those of the named peers that are not built yet. A name is a module's (`kubernetes`: all its binaries), a binary's
/// (`kube-apiserver`), a Node program's (`azurite`), or that of a program from the distribution's packages (`etcd`).
///
/// # Errors
/// When a name is unknown, Go or npm is missing or too old, or a build fails.
pub fn ensure(names: &[&str]) -> anyhow::Result<()> {
    let mut todo = Vec::new();
    for name in names {
        let mut known = packages::provides(name);
        if known {
            packages::ensure_one(name)?;
        }
        if npm::provides(name) {
            known = true;
            npm::ensure_one(name)?;
        }
        for peer in &PEERS {
            for binary in peer.binaries.iter().filter(|b| peer.name == *name || b.name == *name) {
                known = true;
                match peer.state(binary)? {
                    State::Built => peer.link(binary)?,
                    State::Missing(why) => todo.push((peer, binary, why)),
                }
            }
        }
        anyhow::ensure!(known, "there is no peer {name}");
    }
    if todo.is_empty() {
        return Ok(());
    }
    check_go()?;
    let minutes: u32 = todo.iter().map(|(_, b, _)| b.minutes).sum();
    say::step(&format!(
        "building {} programs with Go, once (about {minutes} minutes on two cores if nothing is cached): {}",
        todo.len(),
        todo.iter().map(|(_, b, _)| b.name).collect::<Vec<_>>().join(", ")
    ));
    for (peer, binary, why) in todo {
        peer.build(binary, why)?;
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
    Missing(&'static str),
}

impl Peer {
    fn module(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.name)
    }

    fn folder(&self) -> PathBuf {
        testkit::peers::cache().join("peers").join(format!("{}-{}", self.name, self.version))
    }

    /// The module's files; besides versions and checksums, the programs that are ours.
    fn sources(&self) -> anyhow::Result<Vec<PathBuf>> {
        let module = self.module();
        let mut files = vec![module.join("go.mod"), module.join("go.sum")];
        let all = fs::read_dir(&module).with_context(|| format!("read {}", module.display()))?;
        let mut own: Vec<_> = all.map(|f| f.map(|f| f.path())).collect::<Result<_, _>>()?;
        own.retain(|f| f.extension().is_some_and(|e| e == "go"));
        own.sort();
        files.append(&mut own);
        Ok(files)
    }

    /// What the binaries are made of: versions, checksums, our own sources, flags.
    fn key(&self) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        for path in self.sources()? {
            hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        hash.update(format!("{} {:?} {} {}", self.version, self.binaries, self.ldflags, self.tags));
        Ok(hex(&hash.finalize()))
    }

    fn state(&self, binary: &Binary) -> anyhow::Result<State> {
        let file = self.folder().join(binary.name);
        let Ok(stamp) = fs::read_to_string(file.with_extension("stamp")) else {
            return Ok(State::Missing("not built yet"));
        };
        Ok(match (stamp.trim() == self.key()?, file.is_file()) {
            (false, _) => State::Missing("its module or its flags changed"),
            (true, false) => State::Missing("it is gone from the cache"),
            (true, true) => State::Built,
        })
    }

    fn build(&self, binary: &Binary, why: &str) -> anyhow::Result<()> {
        fs::create_dir_all(self.folder())?;
        // Another checkout's make may be building the same.
        let lock = fs::File::create(self.folder().join(format!("{}.lock", binary.name)))?;
        lock.lock().context("wait for another build of the same peer")?;
        if matches!(self.state(binary)?, State::Built) {
            return self.link(binary);
        }
        say::step(&format!(
            "  {} {} for {}: {why}; at most {} min",
            binary.name, self.version, self.why, binary.minutes
        ));
        // Built beside its place and then moved: a running process may hold the old file.
        let file = self.folder().join(binary.name);
        let part = file.with_extension("part");
        let status = Command::new("go")
            .current_dir(self.module())
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-buildvcs=false -mod=readonly")
            .args(["build", "-trimpath", "-tags", self.tags])
            .arg("-ldflags")
            .arg(format!("-s -w {}", self.ldflags))
            .arg("-o")
            .arg(&part)
            .arg(binary.package)
            .stdin(Stdio::null())
            .status()
            .context("start go")?;
        anyhow::ensure!(status.success(), "go build {} failed ({status}); what it said is above", binary.package);
        fs::rename(&part, &file)?;
        fs::write(file.with_extension("stamp"), self.key()?)?;
        self.link(binary)
    }

    fn link(&self, binary: &Binary) -> anyhow::Result<()> {
        link(binary.name, &self.folder().join(binary.name))
    }
}

/// Makes `peers/bin/<name>` lead to a program.
///
/// # Errors
/// When the link can't be made.
pub(crate) fn link(name: &str, target: &Path) -> anyhow::Result<()> {
    let bin = testkit::peers::cache().join("peers").join("bin");
    fs::create_dir_all(&bin)?;
    let link = bin.join(name);
    if fs::read_link(&link).is_ok_and(|to| to == target) {
        return Ok(());
    }
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(target, &link).with_context(|| format!("link {}", link.display()))
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
            let wanted = peer.version.strip_prefix("3.").filter(|_| peer.name.starts_with("prometheus")).map_or_else(
                || format!(" v{}\n", peer.version),
                |rest| format!(" v0.3{rest}\n"), // Prometheus 3.14.0 is the Go module v0.314.0
            );
            assert!(text.contains(&wanted), "{}: no{wanted}", peer.name);
            for binary in peer.binaries {
                let own = text.starts_with(&format!("module {}\n", binary.package));
                let tool = text.contains(binary.package) && text.contains("tool");
                assert!(own || tool, "no tool line for {}", binary.name);
            }
        }
    }

    #[test]
    fn an_unknown_peer_is_refused() {
        assert!(ensure(&["gofakes3"]).unwrap_err().to_string().contains("no peer gofakes3"));
    }
}
