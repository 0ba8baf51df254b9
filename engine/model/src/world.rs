//! What the engine takes from the outside world beside bytes: time and randomness.
//!
//! They come through these traits, so that all roles can run in one process under a seed. Clippy bans the real
//! functions everywhere else. Connections come through `engine::server::net`, files of blocks through `tsdb::disk`.

use std::sync::Arc;
use std::time::Duration;

/// Time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time in milliseconds since the epoch.
    fn now_ms(&self) -> i64;
    /// Time since an arbitrary start that never goes back: for latencies and deadlines.
    fn elapsed(&self) -> Duration;
}

/// Randomness, for ids and jitter; never for secrets.
pub trait Entropy: Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Time and randomness, as handed to every service.
#[derive(Clone)]
pub struct World {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl World {
    /// The real world.
    pub fn real() -> Self {
        Self { clock: Arc::new(RealClock::default()), entropy: Arc::new(RealEntropy) }
    }
}

/// The machine's clocks.
pub struct RealClock {
    start: std::time::Instant,
}

#[allow(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
impl Default for RealClock {
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
impl Clock for RealClock {
    fn now_ms(&self) -> i64 {
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            Err(_) => 0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Randomness from the standard library's per-process hash keys.
pub struct RealEntropy;

impl Entropy for RealEntropy {
    fn next_u64(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    }
}
