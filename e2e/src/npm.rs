//! Peers that are Node programs: installed with `npm ci` from the lock files in `e2e/peers/`, once per version, into the cache
//! outside the checkout. No script of any package runs; a launcher in `peers/bin` starts the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::peers::{hex, link};
use crate::say;

/// One package and its program.
#[derive(Debug)]
struct Package {
    /// The folder in `e2e/peers/`, the package, the launcher, and what people call it.
    name: &'static str,
    /// The version that its `package.json` requires.
    version: &'static str,
    /// The program inside `node_modules`.
    program: &'static str,
    /// What it is good for, told while it is installed.
    why: &'static str,
}

const PACKAGES: [Package; 1] = [Package {
    name: "azurite",
    version: "3.35.0",
    program: "azurite/dist/src/blob/main.js",
    why: "Azure Blob Storage on loopback; 100 MB",
}];

/// The oldest release of Node.js that all locked packages run on.
const NODE: u32 = 20;

/// What the program never reads, by the ends of names: half of what a package brings.
const NEEDLESS: [&str; 5] = [".map", ".ts", ".mts", ".cts", ".md"];

/// All such peers' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    PACKAGES.iter().map(|p| p.name)
}

/// Whether a peer of this name is a Node program.
pub fn provides(name: &str) -> bool {
    names().any(|n| n == name)
}

/// Installs the peer, if it isn't yet, or if its lock changed.
///
/// # Errors
/// When npm or Node.js is missing or too old, or npm fails.
pub fn ensure_one(name: &str) -> anyhow::Result<()> {
    PACKAGES.iter().filter(|p| p.name == name).try_for_each(Package::ensure)
}

impl Package {
    fn sources(&self) -> [PathBuf; 2] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.name);
        ["package.json", "package-lock.json"].map(|file| dir.join(file))
    }

    fn folder(&self) -> PathBuf {
        testkit::peers::cache().join("peers").join(format!("{}-{}", self.name, self.version))
    }

    /// `$0` may be a link to it.
    fn launcher(&self) -> String {
        format!("#!/bin/sh\nexec node \"$(dirname \"$(readlink -f \"$0\")\")/node_modules/{}\" \"$@\"\n", self.program)
    }

    /// What the installed peer is made of.
    fn key(&self) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        for path in self.sources() {
            hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        hash.update(self.launcher());
        hash.update(format!("{NEEDLESS:?}"));
        Ok(hex(&hash.finalize()))
    }

    fn is_installed(&self) -> anyhow::Result<bool> {
        let stamp = fs::read_to_string(self.folder().join("stamp")).unwrap_or_default();
        Ok(stamp == self.key()? && self.folder().join(self.name).is_file())
    }

    fn ensure(&self) -> anyhow::Result<()> {
        let folder = self.folder();
        if !self.is_installed()? {
            check_node(self.name)?;
            let beside = |end: &str| folder.with_file_name(format!("{}-{}.{end}", self.name, self.version));
            let (part, lock) = (beside("part"), beside("lock"));
            fs::create_dir_all(folder.parent().context("the cache has no parent")?)?;
            // Another checkout's make may be installing the same.
            let lock = fs::File::create(lock)?;
            lock.lock().context("wait for another installation of the same peer")?;
            if !self.is_installed()? {
                say::step(&format!("  {} {} with npm, for {}", self.name, self.version, self.why));
                remove(&part)?;
                self.install(&part)?;
                remove(&folder)?;
                fs::rename(&part, &folder).with_context(|| format!("move {}", part.display()))?;
            }
        }
        link(self.name, &folder.join(self.name))
    }

    fn install(&self, part: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir_all(part)?;
        for file in self.sources() {
            let name = file.file_name().context("a source has no name")?;
            fs::copy(&file, part.join(name)).with_context(|| format!("copy {}", file.display()))?;
        }
        let status = Command::new("npm")
            .current_dir(part)
            .args(["ci", "--ignore-scripts", "--omit=dev", "--omit=optional", "--no-audit", "--no-fund"])
            .args(["--no-bin-links", "--no-update-notifier", "--loglevel=error"])
            .stdin(Stdio::null())
            .status()
            .context("start npm")?;
        anyhow::ensure!(status.success(), "npm ci for {} failed ({status}); what it said is above", self.name);
        prune(&part.join("node_modules"))?;
        let launcher = part.join(self.name);
        fs::write(&launcher, self.launcher())?;
        fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))?;
        fs::write(part.join("stamp"), self.key()?)?;
        Ok(())
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn prune(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            prune(&entry.path())?;
        } else if NEEDLESS.iter().any(|end| name.to_string_lossy().ends_with(end)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn check_node(peer: &str) -> anyhow::Result<()> {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    checked(peer, version("npm").as_deref(), version("node").as_deref())
}

fn checked(peer: &str, npm: Option<&str>, node: Option<&str>) -> anyhow::Result<()> {
    let major = node.and_then(|v| v.strip_prefix('v')?.split('.').next()?.parse::<u32>().ok());
    let found = match (npm, node) {
        (Some(_), Some(_)) if major.is_some_and(|m| m >= NODE) => return Ok(()),
        (Some(_), Some(node)) => format!("found Node.js {node}"),
        (Some(_), None) => "there is no node in PATH".to_owned(),
        (None, _) => "there is no npm in PATH".to_owned(),
    };
    anyhow::bail!(
        "the peer {peer} is a Node program and needs npm and Node.js {NODE} or newer ({found}); install them \
         (https://nodejs.org/) and put them in PATH, or set PANOPTES_NO_PEERS=1 and run `cargo test` without it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_lock_pins_versions_and_checksums_and_names_no_address() {
        for package in &PACKAGES {
            let [wanted, lock] = package.sources().map(|f| fs::read_to_string(f).unwrap());
            let wanted: Value = serde_json::from_str(&wanted).unwrap();
            assert_eq!(wanted["dependencies"][package.name], package.version);
            assert!(!lock.contains("\"resolved\"") && !lock.contains(".tgz"), "{}: an address", package.name);
            let lock: Value = serde_json::from_str(&lock).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            assert_eq!(packages[&format!("node_modules/{}", package.name)]["version"], package.version);
            for (path, locked) in packages.iter().filter(|(path, _)| !path.is_empty()) {
                assert!(locked["integrity"].as_str().is_some_and(|i| i.starts_with("sha512-")), "{path}");
            }
        }
    }

    #[test]
    fn a_missing_npm_says_what_to_do() {
        checked("azurite", Some("10.1.0"), Some("v20.1.0")).unwrap();
        for (npm, node, says) in [
            (None, Some("v22.0.0"), "no npm in PATH"),
            (Some("10.1.0"), None, "no node in PATH"),
            (Some("10.1.0"), Some("v18.20.1"), "found Node.js v18.20.1"),
        ] {
            let error = checked("azurite", npm, node).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("Node.js 20 or newer"), "{error}");
        }
    }
}
