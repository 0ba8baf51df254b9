//! Waiting for something to become true, with a deadline and the last reason in the error.

use std::time::{Duration, Instant};

/// Calls `attempt` until it gives a value, pausing `every` between two calls.
///
/// # Errors
/// After `within`, with `what` and the last failure.
pub fn until<T>(
    what: &str,
    within: Duration,
    every: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= within => {
                return Err(error.context(format!("waited {:.0?} for {what}", start.elapsed())));
            }
            Err(_) => std::thread::sleep(every),
        }
    }
}

/// [`until`] with a pause of 100 ms, for a plain condition.
///
/// # Errors
/// When the condition does not hold within the time.
pub fn holds(what: &str, within: Duration, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    until(
        what,
        within,
        Duration::from_millis(100),
        || {
            if condition() { Ok(()) } else { Err(anyhow::anyhow!("not yet")) }
        },
    )
}
