//! Packages of the distribution that clusters and tests need.

use std::process::Command;

use anyhow::Context as _;

use crate::{run, say};

/// A program or file that proves that a package is there, and the package.
const NEEDED: [(&str, &str); 10] = [
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("kill", "procps"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// What tests need beside these, in the same form.
const FOR_TESTS: [(&str, &str); 1] = [("strace", "strace")];

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    NEEDED.into_iter().chain(FOR_TESTS)
}

/// Installs with `apt-get` what is missing of all that clusters need.
///
/// # Errors
/// When something is missing and this isn't root on a Debian-like machine; the message says what to install by hand.
pub fn ensure() -> anyhow::Result<()> {
    anyhow::ensure!(
        testkit::peers::in_path("kubectl").is_some(),
        "kubectl is not in PATH: install it (1.31 or newer; https://kubernetes.io/docs/tasks/tools/) and try again"
    );
    install(&NEEDED)
}

/// Installs the package of one program, if it is missing.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_one(program: &str) -> anyhow::Result<()> {
    let one: Vec<_> = all().filter(|(proof, _)| *proof == program).collect();
    install(&one)
}

fn install(needed: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needed.iter().filter(|(proof, _)| !present(proof)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    anyhow::ensure!(
        is_root() && testkit::peers::in_path("apt-get").is_some(),
        "these programs are missing: {list}. Install them (on Debian, as root: apt-get install --no-install-recommends {list}) and try again"
    );
    say::step(&format!("installing packages of the distribution: {list} (about a minute)"));
    let apt = |args: &[&str]| {
        run::command(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
            .with_context(|| format!("could not install {list}: install them by hand and try again"))
    };
    apt(&["update", "-q"])?;
    let mut packages = vec!["install", "-q", "-y", "--no-install-recommends"];
    packages.extend(&missing);
    let quiet = NoServices::begin()?;
    let installed = apt(&packages);
    drop(quiet);
    installed?;
    // Nor at the next start of the machine: the harness runs its own.
    for service in missing.iter().filter_map(|package| service_of(package)) {
        let _ = run::output("systemctl", &["disable", service]); // there may be no systemd
    }
    let still: Vec<&str> = needed.iter().filter(|(proof, _)| !present(proof)).map(|(_, package)| *package).collect();
    anyhow::ensure!(still.is_empty(), "apt-get ran, but these are still missing: {}", still.join(" "));
    Ok(())
}

/// The service that a package starts when it is installed.
fn service_of(package: &str) -> Option<&'static str> {
    match package {
        "etcd-server" => Some("etcd"),
        "containerd" => Some("containerd"),
        _ => None,
    }
}

/// While this lives, installing a package starts none of its services (Debian's `policy-rc.d`).
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        // Containers often have one that says the same.
        let ours = !std::path::Path::new(POLICY).exists();
        if ours {
            std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
            std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

/// Whether a program of this name comes from a package.
pub fn provides(program: &str) -> bool {
    all().any(|(proof, _)| proof == program)
}

/// Whether this is root, which clusters need for network namespaces, mounts and cgroups.
pub fn is_root() -> bool {
    run::output("id", &["-u"]).is_ok_and(|id| id.trim() == "0")
}

fn present(proof: &str) -> bool {
    if proof.starts_with('/') { std::path::Path::new(proof).exists() } else { testkit::peers::in_path(proof).is_some() }
}
