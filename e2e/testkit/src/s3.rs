//! S3 on loopback: versitygw over a directory.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::certs::Pair;
use crate::process::Process;
use crate::{http, peers, ports};

/// The access key that it takes.
pub const ACCESS_KEY: &str = "testkit";
/// Its secret.
pub const SECRET_KEY: &str = "testkit-secret";

/// A running server; it ends when dropped, and its buckets with it.
#[derive(Debug)]
pub struct S3 {
    process: Process,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl S3 {
    /// Starts one without a bucket.
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, None)
    }

    /// The same at another of this machine's addresses, with TLS where a certificate is given.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub fn start_at(ip: Ipv4Addr, certificate: Option<&Pair>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("s3-").tempdir()?;
        std::fs::create_dir(dir.path().join("buckets"))?;
        let address = SocketAddr::from((ip, ports::free()?));
        let process = serve(dir.path(), address, certificate)?;
        Ok(Self { process, address, dir })
    }

    /// Ends the process and starts it anew at the same address with the same buckets, and this certificate.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub fn restart(self, certificate: Option<&Pair>) -> anyhow::Result<Self> {
        let Self { process, address, dir } = self;
        process.stop()?;
        let process = serve(dir.path(), address, certificate)?;
        Ok(Self { process, address, dir })
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// When it is there already.
    pub fn make_bucket(&self, name: &str) -> anyhow::Result<()> {
        Ok(std::fs::create_dir(self.directory().join(name))?)
    }

    /// Where the buckets lie, each a directory.
    pub fn directory(&self) -> std::path::PathBuf {
        self.dir.path().join("buckets")
    }

    /// Where it answers, as in `127.0.0.1:20018`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Thanos's objstore YAML for one of its buckets.
    pub fn objstore(&self, bucket: &str) -> String {
        objstore(&self.address(), bucket)
    }

    /// The process, for signals and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether a file of an object is there.
    pub fn has(&self, bucket: &str, name: &str) -> bool {
        Path::new(&self.directory()).join(bucket).join(name).is_file()
    }
}

fn serve(dir: &Path, address: SocketAddr, certificate: Option<&Pair>) -> anyhow::Result<Process> {
    let mut command = Command::new(peers::path("versitygw")?);
    command.args(["--quiet", "--port", &address.to_string()]);
    if let Some(Pair { cert, key }) = certificate {
        for (flag, file, text) in [("--cert", "tls.crt", cert), ("--key", "tls.key", key)] {
            std::fs::write(dir.join(file), text)?;
            command.arg(flag).arg(dir.join(file));
        }
    }
    command
        .arg("posix")
        .arg(dir.join("buckets"))
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .current_dir(dir);
    let mut process = Process::spawn("versitygw", &mut command, &dir.join("log"))?;
    let encrypted = certificate.is_some();
    process.wait_for("versitygw", Duration::from_secs(30), || match encrypted {
        // That it listens has to do: whose certificate it shows is for the caller to know.
        true => Ok(TcpStream::connect(address).map(|_| ())?),
        // Any answer will do: without a signature it is a refusal.
        false => http::get(&format!("http://{address}/")).map(|_| ()),
    })?;
    Ok(process)
}

/// Thanos's objstore YAML for a bucket behind any address that leads to such a server, a proxy for example.
pub fn objstore(address: &str, bucket: &str) -> String {
    format!(
        "type: S3\nconfig:\n  bucket: {bucket}\n  endpoint: {address}\n  insecure: true\n  access_key: {ACCESS_KEY}\n  \
         secret_key: {SECRET_KEY}\n"
    )
}
