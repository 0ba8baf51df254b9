//! Azure Blob Storage on loopback: azurite, in memory.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use crate::process::Process;
use crate::{http, peers, ports};

/// The emulator's only account, as its documentation names it.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key, known to everybody.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const VERSION: &str = "2021-12-02";

/// A running server; it ends when dropped, and its containers with it.
#[derive(Debug)]
pub struct Azurite {
    process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Azurite {
    /// Starts one without a container.
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        let program = peers::path("azurite")?;
        let dir = tempfile::Builder::new().prefix("azurite-").tempdir()?;
        let port = ports::free()?;
        let mut command = Command::new(program);
        command
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--extentMemoryLimit", "512"]) // MB
            .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"])
            .current_dir(dir.path());
        let mut process = Process::spawn("azurite", &mut command, &dir.path().join("log"))?;
        process.wait_for("azurite", Duration::from_secs(60), || {
            // Any answer will do: without a signature it is a refusal.
            http::get(&format!("http://127.0.0.1:{port}/")).map(|_| ())
        })?;
        Ok(Self { process, port, _dir: dir })
    }

    /// Makes a container.
    ///
    /// # Errors
    /// When it is there already.
    pub fn make_container(&self, name: &str) -> anyhow::Result<()> {
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now())?;
        let url = format!("http://{}/{ACCOUNT}/{name}?restype=container", self.address());
        let authorization = format!("SharedKey {ACCOUNT}:{}", signature(name, &date)?);
        let headers = [("x-ms-date", date.as_str()), ("x-ms-version", VERSION), ("Authorization", &authorization)];
        let answer = http::request("PUT", &url, &headers, "", Duration::from_secs(30))?;
        anyhow::ensure!(answer.status == 201, "no container {name}: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// Where it answers, as in `127.0.0.1:20018`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Thanos's objstore YAML for one of its containers.
    pub fn objstore(&self, container: &str) -> String {
        objstore(&self.address(), container)
    }

    /// The process, for signals and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Thanos's objstore YAML for a container behind any address that leads to such a server, a proxy for example.
pub fn objstore(address: &str, container: &str) -> String {
    format!(
        "type: AZURE\nconfig:\n  container: {container}\n  storage_account: {ACCOUNT}\n  storage_connection_string: \
         DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=http://{address}/{ACCOUNT};\n"
    )
}

/// The request that makes a container, signed with the shared key.
/// <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>
fn signature(container: &str, date: &str) -> anyhow::Result<String> {
    let key = BASE64_STANDARD.decode(KEY).context("the emulator's key")?;
    // The account is named by the rule, and once more by the path.
    let text = format!(
        "PUT\n{}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container",
        "\n".repeat(11)
    );
    Ok(BASE64_STANDARD.encode(hmac(&key, text.as_bytes())))
}

/// HMAC with SHA-256 (RFC 2104), for keys of at most one block of 64 bytes.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_made_once() {
        if peers::skip(&["azurite"]) {
            return;
        }
        let server = Azurite::start().unwrap();
        server.make_container("one").unwrap();
        let again = server.make_container("one").unwrap_err().to_string();
        assert!(again.contains("ContainerAlreadyExists"), "{again}");
    }
}
