//! What the harness tells the person in front of it: plain lines with the seconds since it began.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// The seconds since the first call.
pub fn seconds() -> f64 {
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// A line of progress: `[ 12.3s] text`.
pub fn step(text: &str) {
    plain(&format!("[{:6.1}s] {text}", seconds()));
}

/// A line of output without a time, for tables and hints.
pub fn plain(text: &str) {
    // Nobody may be listening any more.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
