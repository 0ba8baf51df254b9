//! Chunks of native histograms: one bucket layout for the whole chunk, then per sample what changed.
//!
//! Histograms with integer and with float counts differ in how a number follows its predecessor and in little else; that
//! difference is [`Count`], and everything here is written once for both. So are the two kinds with start times, whose head
//! is laid out differently.

mod count;
mod encoder;
mod fit;
mod iter;
mod layout;
mod reduce;
mod rows;

pub use count::Count;
pub use encoder::{Appended, HistogramEncoder};
pub use iter::HistogramIter;
pub(super) use rows::read as read_rows;

use super::bits::BitReader;
use layout::Layout;
use model::histogram::ResetHint;

/// The two bits in a chunk's head that tell what its first sample is to the chunk before.
fn header_bits(hint: ResetHint) -> u8 {
    match hint {
        ResetHint::Unknown => 0,
        ResetHint::NotReset => 0b0100_0000,
        ResetHint::Reset => 0b1000_0000,
        ResetHint::Gauge => 0b1100_0000,
    }
}

fn hint_of(bits: u8) -> ResetHint {
    match bits >> 6 {
        0 => ResetHint::Unknown,
        1 => ResetHint::NotReset,
        2 => ResetHint::Reset,
        _ => ResetHint::Gauge,
    }
}

/// See [`crate::chunk::announced_words`].
pub(super) fn announced_words(data: &[u8], samples: u16) -> u64 {
    let Ok((layout, np, nn)) = Layout::read(&mut BitReader::new(data, 3), samples) else { return 0 };
    let Layout { positive, negative, custom, .. } = layout;
    let words = np.saturating_add(nn).saturating_add(positive.len() + negative.len() + custom.len());
    (words as u64).saturating_mul(u64::from(samples))
}

/// Where a chunk with start times keeps the number of samples: the low bits of the first two bytes, below the header.
const ST_COUNT: u16 = 0x3fff;

#[cfg(test)]
mod tests;
