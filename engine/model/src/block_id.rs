//! The name of a block: a ULID, 48 bits of milliseconds and 80 random bits, as 26 characters that sort by time.
//!
//! Written as Thanos and Prometheus write it, in upper case. Only that form is read: the text becomes the name of a
//! folder and a prefix in a bucket, so one id must have one spelling.

use crate::world::Entropy;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TEXT_LEN: usize = 26;
const RANDOM_BITS: u32 = 80;

/// A block's id. Ordered by time, then by its random part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockId(u128);

/// A text that is not a block id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a block id: 26 characters 0-9 A-Z without I, L, O, U, the first 0-7, are expected")]
pub struct InvalidBlockId;

impl BlockId {
    /// A new id: `clock_ms` is the wall clock in ms since the epoch, of which 48 bits are kept (until the year 10889).
    pub fn new(clock_ms: i64, entropy: &dyn Entropy) -> Self {
        let random = (u128::from(entropy.next_u64()) << 64) | u128::from(entropy.next_u64());
        Self::from_parts(u64::try_from(clock_ms).unwrap_or(0), random)
    }

    /// The id of a time in ms (lower 48 bits are kept) and a random number (lower 80 bits are kept).
    pub fn from_parts(time_ms: u64, random: u128) -> Self {
        let time = u128::from(time_ms & ((1 << 48) - 1));
        Self((time << RANDOM_BITS) | (random & ((1 << RANDOM_BITS) - 1)))
    }

    /// The id of 16 bytes, most significant first.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// When the id was made, in ms since the epoch, by the clock of its maker.
    pub fn time_ms(self) -> u64 {
        (self.0 >> RANDOM_BITS) as u64
    }

    /// True for the id that Go programs write for "none": all zeros.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    fn text(self) -> [u8; TEXT_LEN] {
        let mut out = [b'0'; TEXT_LEN];
        let mut rest = self.0;
        for byte in out.iter_mut().rev() {
            *byte = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        out
    }
}

impl FromStr for BlockId {
    type Err = InvalidBlockId;

    fn from_str(text: &str) -> Result<Self, InvalidBlockId> {
        let bytes: &[u8; TEXT_LEN] = text.as_bytes().try_into().map_err(|_e| InvalidBlockId)?;
        if bytes[0] > b'7' {
            return Err(InvalidBlockId); // 26 characters hold 130 bits; an id has 128
        }
        let mut value = 0u128;
        for byte in bytes {
            let digit = ALPHABET.iter().position(|a| a == byte).ok_or(InvalidBlockId)?;
            value = (value << 5) | digit as u128;
        }
        Ok(Self(value))
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BlockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = BlockId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a block id (ULID)")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BlockId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_ids() {
        // From the ULID specification's example and from a block of a real Prometheus.
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        assert_eq!(id.time_ms(), 1_469_922_850_259);
        assert_eq!(id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(BlockId::default().to_string(), "0".repeat(26));
        assert_eq!(BlockId::from_bytes([0xff; 16]).to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"");
        assert!(serde_json::from_str::<BlockId>("\"x\"").is_err());
        assert!(BlockId::from_parts(1, u128::MAX) < BlockId::from_parts(2, 0));
    }

    #[test]
    fn one_id_has_one_spelling() {
        for bad in [
            "",
            "01arz3ndektsv4rrffq69g5fav",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01ARZ3NDEKTSV4RRFFQ69G5FAVV",
            "01ARZ3NDEKTSV4RRFFQ69G5FAI",
            "../RZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5F\u{e9}",
        ] {
            assert_eq!(bad.parse::<BlockId>(), Err(InvalidBlockId), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(bytes in any::<[u8; 16]>()) {
            let id = BlockId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_bytes(), bytes);
        }
        #[test]
        fn any_text(text in "[0-9A-Za-z/.]{20,30}") {
            if let Ok(id) = text.parse::<BlockId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
