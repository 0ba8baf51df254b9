//! A role of the binary as a process that is killed (SIGKILL), at a system call or whenever the test likes.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// System calls at which a process is killed: those that touch files, and with them a bucket that is a directory.
pub(crate) const CALLS: &[&str] = &[
    "link,linkat",
    "rename,renameat,renameat2",
    "fsync,fdatasync",
    "unlink,unlinkat",
    "mkdir,mkdirat",
    "openat",
    "pwrite64,write",
    "pread64,read",
    "flock",
    "getdents64",
    "utimensat",
    "copy_file_range,sendfile",
];

/// A process, and `strace` around it if it is to be killed at a system call.
pub(crate) struct Doomed {
    process: Child,
    http: u16,
}

impl Doomed {
    /// Starts a role; its output is appended to `log`. With `kill_at` it is killed at the n-th of these system calls in one of its
    /// threads.
    pub(crate) fn start(role: &str, args: &[String], log: &Path, kill_at: Option<(&str, usize)>) -> Self {
        let binary = env!("CARGO_BIN_EXE_panoptes");
        let http = testkit::ports::free().unwrap();
        let mut command = match kill_at {
            None => Command::new(binary),
            Some((calls, n)) => {
                let mut command = Command::new(testkit::peers::path("strace").unwrap());
                // With -D the child is what is traced, so that waiting for it means that it is dead.
                command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
                command.arg(format!("--trace={calls}")).arg(format!("--inject={calls}:signal=KILL:when={n}"));
                command.arg(binary);
                command
            }
        };
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        command
            .arg(role)
            .args(args)
            .arg(format!("--http-address=127.0.0.1:{http}"))
            .arg("--grpc-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // strace and what it traces end together.
        command.process_group(0);
        Self { process: command.spawn().unwrap(), http }
    }

    /// True if it is gone.
    pub(crate) fn ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// A metric without labels as it is now; none if it can't be asked.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let answer = testkit::http::get(&format!("http://127.0.0.1:{}/metrics", self.http)).ok()?;
        answer.body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Kills it now.
    pub(crate) fn kill(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if !self.ended() {
            self.kill();
        }
    }
}

/// Asks again and again; false if it takes longer.
pub(crate) fn until(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
