//! Free ports on loopback. They come from below the kernel's ephemeral range, so that an outgoing connection can't take one
//! between the moment it is found free and the moment a peer listens on it.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A TCP port that nobody listens on, different at every call in this process.
///
/// # Errors
/// When all of the range is taken.
pub fn free() -> anyhow::Result<u16> {
    // Several test processes start at different places.
    let start = std::process::id().wrapping_mul(997);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_calls_differ() {
        assert_ne!(super::free().unwrap(), super::free().unwrap());
    }
}
