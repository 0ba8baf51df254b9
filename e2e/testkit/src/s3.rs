//! S3 on loopback: versitygw over a directory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

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
    port: u16,
    dir: tempfile::TempDir,
}

impl S3 {
    /// Starts one without a bucket.
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        let program = peers::path("versitygw")?;
        let dir = tempfile::Builder::new().prefix("s3-").tempdir()?;
        let port = ports::free()?;
        let buckets = dir.path().join("buckets");
        std::fs::create_dir(&buckets)?;
        let mut command = Command::new(program);
        command
            .args(["--quiet", "--port", &format!("127.0.0.1:{port}"), "posix"])
            .arg(&buckets)
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY)
            .current_dir(dir.path());
        let mut process = Process::spawn("versitygw", &mut command, &dir.path().join("log"))?;
        process.wait_for("versitygw", Duration::from_secs(30), || {
            // Any answer will do: without a signature it is a refusal.
            http::get(&format!("http://127.0.0.1:{port}/")).map(|_| ())
        })?;
        Ok(Self { process, port, dir })
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
        format!("127.0.0.1:{}", self.port)
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

/// Thanos's objstore YAML for a bucket behind any address that leads to such a server, a proxy for example.
pub fn objstore(address: &str, bucket: &str) -> String {
    format!(
        "type: S3\nconfig:\n  bucket: {bucket}\n  endpoint: {address}\n  insecure: true\n  access_key: {ACCESS_KEY}\n  \
         secret_key: {SECRET_KEY}\n"
    )
}
