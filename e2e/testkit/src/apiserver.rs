//! A real Kubernetes API server with its etcd on loopback, without nodes: pods never run. Up in about 3 s; every one has ports and
//! folders of its own, so tests can run side by side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::certs::{self, Authority, Pair};
use crate::process::Process;
use crate::{peers, ports};

/// What runs beside the API server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Controllers of the controller manager, as in `garbage-collector-controller`, `namespace-controller`. None: it isn't started.
    pub controllers: Vec<String>,
}

impl Options {
    /// What makes deletion work as in a whole cluster: garbage collection and the end of namespaces.
    pub fn with_deletion() -> Self {
        Self {
            controllers: ["garbage-collector-controller", "namespace-controller", "serviceaccount-controller"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// A running API server; it ends, with its etcd, when dropped.
#[derive(Debug)]
pub struct ApiServer {
    // Dropped in this order: nobody is left talking to a server that is gone.
    _controllers: Option<Process>,
    process: Process,
    _etcd: Process,
    authority: Authority,
    port: u16,
    dir: tempfile::TempDir,
}

impl ApiServer {
    /// Starts etcd and the API server and waits until it is ready.
    ///
    /// # Errors
    /// When a peer is missing or does not come up; the error holds the end of its log.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("apiserver-").tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let authority = Authority::new("test-ca")?;
        fs::write(at("ca.crt"), authority.cert())?;
        write_pair(dir.path(), "server", &authority.server(&["127.0.0.1", "localhost", "kubernetes.default.svc"])?)?;
        write_pair(dir.path(), "sa", &certs::bare_key()?)?;

        let (etcd_port, peer_port) = (ports::free()?, ports::free()?);
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let mut command = Command::new(peers::path("etcd")?);
        command
            .arg("--data-dir")
            .arg(at("etcd"))
            .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer_port}")])
            .arg("--unsafe-no-fsync");
        let mut etcd = Process::spawn("etcd", &mut command, &at("etcd.log"))?;
        etcd.wait_for_url(&format!("{etcd_url}/health"), Duration::from_secs(20))?;

        let port = ports::free()?;
        let mut command = Command::new(peers::path("kube-apiserver")?);
        command
            .arg(format!("--etcd-servers={etcd_url}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={port}"))
            .arg(format!("--tls-cert-file={}", at("server.crt").display()))
            .arg(format!("--tls-private-key-file={}", at("server.key").display()))
            .arg(format!("--client-ca-file={}", at("ca.crt").display()))
            .arg(format!("--service-account-key-file={}", at("sa.crt").display()))
            .arg(format!("--service-account-signing-key-file={}", at("sa.key").display()))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg("--service-cluster-ip-range=10.0.0.0/24")
            .arg("--authorization-mode=RBAC")
            .arg("--disable-admission-plugins=ServiceAccount")
            .arg("--allow-privileged=true")
            .arg(format!("--cert-dir={}", at("certs").display()));
        let mut process = Process::spawn("kube-apiserver", &mut command, &at("apiserver.log"))?;
        let server = Unready { authority, port, dir };
        let admin = server.kubeconfig("admin", &["system:masters"])?;
        process.wait_for("the API server", Duration::from_secs(60), || {
            kubectl(&admin, &["get", "--raw", "/readyz"]).map(|_| ())
        })?;

        let controllers = if options.controllers.is_empty() {
            None
        } else {
            let mut command = Command::new(peers::path("kube-controller-manager")?);
            command
                .arg(format!("--kubeconfig={}", admin.display()))
                .arg(format!("--controllers={}", options.controllers.join(",")))
                .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
                .arg(format!("--secure-port={}", ports::free()?))
                .arg(format!("--cert-dir={}", server.dir.path().join("certs").display()));
            let log = server.dir.path().join("controllers.log");
            Some(Process::spawn("kube-controller-manager", &mut command, &log)?)
        };
        let Unready { authority, port, dir } = server;
        Ok(Self { _controllers: controllers, process, _etcd: etcd, authority, port, dir })
    }

    /// The API server's address, as in `https://127.0.0.1:20020`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The kubeconfig file of a cluster administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// A kubeconfig file for any user and groups, as in `("system:serviceaccount:panoptes-system:operator", &[])`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        write_kubeconfig(self.dir.path(), &self.authority, self.port, user, groups)
    }

    /// `kubectl` as administrator: its standard output.
    ///
    /// # Errors
    /// With its standard error, when it fails.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        kubectl(&self.kubeconfig(), args)
    }

    /// `kubectl apply --server-side -f -` of this text.
    ///
    /// # Errors
    /// With its standard error, when it fails.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        kubectl_with_input(&self.kubeconfig(), &["apply", "--server-side", "-f", "-"], manifest)
    }

    /// The API server's process, for signals and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

struct Unready {
    authority: Authority,
    port: u16,
    dir: tempfile::TempDir,
}

impl Unready {
    fn kubeconfig(&self, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        write_kubeconfig(self.dir.path(), &self.authority, self.port, user, groups)
    }
}

/// Writes `NAME.crt` and `NAME.key` into a folder.
///
/// # Errors
/// When a file can't be written.
pub fn write_pair(dir: &Path, name: &str, pair: &Pair) -> anyhow::Result<()> {
    fs::write(dir.join(format!("{name}.crt")), &pair.cert)?;
    fs::write(dir.join(format!("{name}.key")), &pair.key)?;
    Ok(())
}

/// The text of a kubeconfig with everything inside (JSON, which is YAML).
pub fn kubeconfig_text(server: &str, ca: &str, pair: &Pair) -> String {
    let text = |pem: &str| base64(pem.as_bytes());
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": text(ca)}}],
        "users": [{"name": "u", "user": {"client-certificate-data": text(&pair.cert), "client-key-data": text(&pair.key)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    })
    .to_string()
}

/// `kubectl` with this kubeconfig: its standard output.
///
/// # Errors
/// With its standard error, when it fails.
pub fn kubectl(kubeconfig: &Path, args: &[&str]) -> anyhow::Result<String> {
    kubectl_with_input(kubeconfig, args, "")
}

/// `kubectl` with this kubeconfig and text on its standard input.
///
/// # Errors
/// With its standard error, when it fails.
pub fn kubectl_with_input(kubeconfig: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut child = Command::new(peers::path("kubectl")?)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl")?;
    // Written by a thread: a large input and a large output at once must not block each other.
    let writer = child.stdin.take().map(|mut stdin| {
        let input = input.to_owned();
        std::thread::spawn(move || stdin.write_all(input.as_bytes()))
    });
    let output = child.wait_with_output()?;
    if let Some(writer) = writer {
        let _ = writer.join();
    }
    anyhow::ensure!(
        output.status.success(),
        "kubectl {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_kubeconfig(
    dir: &Path,
    authority: &Authority,
    port: u16,
    user: &str,
    groups: &[&str],
) -> anyhow::Result<PathBuf> {
    let pair = authority.client(user, groups)?;
    let file = dir.join(format!("{}.kubeconfig", user.replace([':', '/'], "-")));
    fs::write(&file, kubeconfig_text(&format!("https://127.0.0.1:{port}"), authority.cert(), &pair))?;
    Ok(file)
}

/// Base64 with padding, as Secrets and kubeconfigs hold bytes.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = (word >> (18 - 6 * at)) as usize & 63;
            out.push(if at <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
    }

    #[test]
    fn two_side_by_side_answer_and_authorize() {
        if peers::skip(&["etcd", "kube-apiserver", "kube-controller-manager"]) {
            return;
        }
        let other = std::thread::spawn(|| ApiServer::start(&Options::default()).unwrap());
        let server = ApiServer::start(&Options::with_deletion()).unwrap();
        server.kubectl(&["create", "namespace", "a"]).unwrap();
        let nobody = server.kubeconfig_for("nobody", &[]).unwrap();
        let refused = kubectl(&nobody, &["get", "pods", "-n", "a"]).unwrap_err().to_string();
        assert!(refused.contains("forbidden"), "{refused}");
        server.apply(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"a"}}"#).unwrap();
        server.kubectl(&["delete", "namespace", "a", "--timeout=30s"]).unwrap();
        let other = other.join().unwrap();
        assert!(other.kubectl(&["get", "namespace", "a"]).is_err());
    }
}
