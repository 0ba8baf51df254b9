//! Container images from static binaries, written straight as an archive that `ctr images import` takes: one layer, no base, no
//! build tool. The same input gives the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::peers::hex;

/// What the operator deploys by default; images are imported under these very references, so that the examples apply unchanged.
pub const PANOPTES: &str = "panoptes.dev/panoptes:0.1.0";
/// The default reference of Prometheus.
pub const PROMETHEUS: &str = "quay.io/prometheus/prometheus:v3.14.0";
/// The default reference of kube-state-metrics.
pub const KUBE_STATE_METRICS: &str = "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.15.0";
/// The default reference of node_exporter.
pub const NODE_EXPORTER: &str = "quay.io/prometheus/node-exporter:v1.12.1";
/// The sandbox of every pod here.
pub const PAUSE: &str = "localhost/pause:1";

/// The harness itself, for a look around from inside a pod.
pub const PROBE: &str = "localhost/probe:1";

/// A file in an image.
#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// An image to be written.
#[derive(Debug)]
pub struct Image {
    reference: String,
    files: Vec<(String, u32, Content)>,
    entrypoint: Vec<String>,
    env: Vec<String>,
    user: String,
}

/// A written image.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its reference.
    pub reference: String,
    /// The archive's file.
    pub file: PathBuf,
    /// A hash of all that is in it.
    pub id: String,
}

impl Image {
    /// An image with one executable, which is its entry point, run as nobody.
    pub fn of_binary(reference: &str, path: &str, binary: &Path) -> Self {
        Self {
            reference: reference.to_owned(),
            files: vec![(path.to_owned(), 0o755, Content::File(binary.to_owned()))],
            entrypoint: vec![path.to_owned()],
            env: vec!["PATH=/bin:/".to_owned()],
            user: "65534:65534".to_owned(),
        }
    }

    /// The product's image: the binary, and the machine's bundle of certificate authorities.
    pub fn of_panoptes(reference: &str, binary: &Path) -> Self {
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        let mut image = Self::of_binary(reference, "/panoptes", binary);
        image.files.push((bundle.to_owned(), 0o644, Content::File(PathBuf::from(bundle))));
        image.env.push(format!("SSL_CERT_FILE={bundle}"));
        image
    }

    /// This very program, for a look around from inside a pod.
    ///
    /// # Errors
    /// When the program's file can't be found.
    pub fn of_probe() -> anyhow::Result<Self> {
        Ok(Self::of_binary(PROBE, "/e2e", &std::env::current_exe()?))
    }

    /// The sandbox image: one program of 132 bytes that sleeps until it is killed.
    pub fn of_pause() -> Self {
        Self {
            reference: PAUSE.to_owned(),
            files: vec![("/pause".to_owned(), 0o755, Content::Bytes(pause_program()))],
            entrypoint: vec!["/pause".to_owned()],
            env: Vec::new(),
            user: "65535:65535".to_owned(),
        }
    }

    /// Writes the archive into the cache, unless it is there.
    ///
    /// # Errors
    /// When a file can't be read or the archive can't be written.
    pub fn write(&self) -> anyhow::Result<Archive> {
        let layer = self.layer()?;
        let layer_id = sha256(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": self.env, "User": self.user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
            "history": [{"created_by": "panoptes e2e"}],
        }))?;
        let config_id = sha256(&config);
        let folder = testkit::peers::cache().join("images");
        fs::create_dir_all(&folder)?;
        let stem = self.reference.rsplit('/').next().unwrap_or("image").replace(':', "-");
        let file = folder.join(format!("{stem}-{}.tar", &config_id[..12]));
        if !file.is_file() {
            remove_older(&folder, &stem)?;
            let manifest = serde_json::to_vec(&json!([{
                "Config": format!("{config_id}.json"),
                "RepoTags": [self.reference],
                "Layers": [format!("{layer_id}/layer.tar")],
            }]))?;
            let part = file.with_extension(format!("part-{}", std::process::id()));
            let mut tar = Tar(BufWriter::new(File::create(&part)?));
            tar.file(&format!("{config_id}.json"), 0o644, &config)?;
            tar.file(&format!("{layer_id}/layer.tar"), 0o644, &layer)?;
            tar.file("manifest.json", 0o644, &manifest)?;
            tar.end()?;
            fs::rename(&part, &file)?;
        }
        Ok(Archive { reference: self.reference.clone(), file, id: config_id })
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut tar = Tar(Vec::new());
        let mut made: Vec<String> = vec!["tmp".to_owned()];
        tar.folder("tmp", 0o1777)?;
        for (path, mode, content) in &self.files {
            let path = path.trim_start_matches('/');
            let mut parent = String::new();
            for part in path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
                if !parent.is_empty() {
                    parent.push('/');
                }
                parent.push_str(part);
                if !made.contains(&parent) {
                    tar.folder(&parent, 0o755)?;
                    made.push(parent.clone());
                }
            }
            match content {
                Content::Bytes(bytes) => tar.file(path, *mode, bytes)?,
                Content::File(file) => {
                    let mut bytes = Vec::new();
                    File::open(file)
                        .and_then(|mut f| f.read_to_end(&mut bytes))
                        .with_context(|| format!("read {} for the image {}", file.display(), self.reference))?;
                    tar.file(path, *mode, &bytes)?;
                }
            }
        }
        tar.end()?;
        Ok(tar.0)
    }
}

/// Removes what nobody has a use for any more. A young one may just be on its way into another checkout's clusters.
fn remove_older(folder: &Path, stem: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if entry.file_name().to_string_lossy().starts_with(&format!("{stem}-")) && age > HOUR {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A tar archive in the ustar form, with all times and owners zero.
struct Tar<W: Write>(W);

impl<W: Write> Tar<W> {
    fn folder(&mut self, path: &str, mode: u32) -> anyhow::Result<()> {
        self.header(&format!("{path}/"), mode, 0, b'5')
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        self.header(path, mode, bytes.len(), b'0')?;
        self.0.write_all(bytes)?;
        let rest = bytes.len() % 512;
        if rest > 0 {
            self.0.write_all(&[0; 512][rest..])?;
        }
        Ok(())
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8) -> anyhow::Result<()> {
        anyhow::ensure!(path.len() <= 100, "{path}: longer than a tar header holds");
        let mut block = [0u8; 512];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{size:011o}"));
        put(136, "00000000000");
        put(148, "        ");
        put(257, "ustar\u{0}00");
        block[156] = kind;
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\u{0} ").as_bytes());
        Ok(self.0.write_all(&block)?)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.0.write_all(&[0; 1024])?;
        Ok(self.0.flush()?)
    }
}

/// A whole ELF program for x86-64: `1: mov eax, 34 (pause); syscall; jmp 1b`.
fn pause_program() -> Vec<u8> {
    const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0]); // an executable, x86-64
    elf.extend(1u32.to_le_bytes());
    elf.extend((BASE + HEADERS).to_le_bytes()); // entry
    elf.extend(64u64.to_le_bytes()); // the program header follows
    elf.extend(0u64.to_le_bytes()); // no sections
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let size = HEADERS + CODE.len() as u64;
    elf.extend(1u32.to_le_bytes()); // load
    elf.extend(5u32.to_le_bytes()); // read and execute
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(CODE);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn tar_reads_what_we_write() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Tar(Vec::new());
        tar.folder("a", 0o755).unwrap();
        tar.file("a/b", 0o644, &[7; 700]).unwrap();
        tar.end().unwrap();
        fs::write(dir.path().join("x.tar"), &tar.0).unwrap();
        let status = Command::new("tar").arg("xf").arg("x.tar").current_dir(dir.path()).status().unwrap();
        assert!(status.success());
        assert_eq!(fs::read(dir.path().join("a/b")).unwrap(), vec![7; 700]);
    }

    #[test]
    fn the_pause_program_sleeps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pause");
        fs::write(&file, pause_program()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        // Another test may have forked while the file was open for writing: it is busy until that child has become its program.
        let mut child = testkit::wait::until("the program", Duration::from_secs(5), Duration::from_millis(20), || {
            Ok(Command::new(&file).spawn()?)
        })
        .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let running = child.try_wait().unwrap().is_none();
        let _ = child.kill();
        child.wait().unwrap();
        assert!(running);
    }
}
