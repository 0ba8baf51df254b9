//! One run of the harness at a time on this machine, whichever clone it comes from.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};

use anyhow::Context as _;

use crate::say;

/// Never removed: who waits for it holds it open.
const PATH: &str = "/run/lock/panoptes-e2e";

/// Held for a whole run, from the first look at what is there to the last thing taken down.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for other runs, and says so.
    ///
    /// # Errors
    /// When the file can't be made; it needs root.
    pub fn take(what: &str) -> anyhow::Result<Self> {
        fs::create_dir_all("/run/lock")?;
        let open = File::options().create(true).truncate(false).read(true).write(true).open(PATH);
        let mut file = open.with_context(|| format!("open {PATH} (clusters need root)"))?;
        if file.try_lock().is_err() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            say::step(&format!("waiting for another run on this machine: {}", holder.trim()));
            file.lock().context("wait for another run of the harness")?;
            say::step("the other run has ended");
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{what}, process {}, from {}", std::process::id(), env!("CARGO_MANIFEST_DIR"))?;
        Ok(Self { _file: file })
    }
}
