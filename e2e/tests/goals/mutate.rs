//! Changes to valid inputs that reach deep into decoders: flips, cuts, lengths that lie, pieces in wrong places, growth.

use testkit::goal::Rng;

/// Numbers that break length arithmetic.
const NUMBERS: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// One mutated input made of `seed`; `other` lends pieces, `words` are what the format is made of (none for bytes).
pub(crate) fn mutate(seed: &[u8], other: &[u8], words: &[&str], rng: &mut Rng, most: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        once(&mut bytes, other, words, rng);
    }
    if rng.one_in(64) {
        grow(&mut bytes, rng, most);
    }
    bytes.truncate(most);
    bytes
}

fn once(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], rng: &mut Rng) {
    let at = rng.below(bytes.len() + 1);
    let kind = rng.below(if words.is_empty() { 9 } else { 13 });
    match kind {
        0 => flip(bytes, rng),
        1 => bytes.truncate(at),
        2 => set(bytes, at, &length(rng)),
        3 => insert(bytes, at, &length(rng)),
        4 => {
            let piece = piece(other, rng, 64).to_vec();
            insert(bytes, at, &piece);
        }
        5 => {
            let piece = piece(bytes, rng, 64).to_vec();
            insert(bytes, at, &piece);
        }
        6 => {
            let end = (at + rng.below(32)).min(bytes.len());
            bytes.drain(at..end);
        }
        7 => {
            let byte = [rng.next_u64() as u8];
            set(bytes, at, &byte);
        }
        8 => {
            let tail = piece(other, rng, usize::MAX).to_vec();
            bytes.truncate(at);
            bytes.extend(tail);
        }
        _ => {
            if let Some(word) = rng.choose(words) {
                insert(bytes, at, word.as_bytes());
            }
        }
    }
}

fn flip(bytes: &mut [u8], rng: &mut Rng) {
    let at = rng.below(bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

/// A number in one of the ways that formats write lengths.
fn length(rng: &mut Rng) -> Vec<u8> {
    let number = rng.choose(NUMBERS).copied().unwrap_or(0);
    match rng.below(5) {
        0 => (number as u32).to_be_bytes().to_vec(),
        1 => number.to_be_bytes().to_vec(),
        2 => (number as u16).to_be_bytes().to_vec(),
        3 => number.to_string().into_bytes(),
        _ => uvarint(number),
    }
}

/// A number as protobuf and Prometheus write it.
pub(crate) fn uvarint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn piece<'a>(bytes: &'a [u8], rng: &mut Rng, most: usize) -> &'a [u8] {
    let start = rng.below(bytes.len());
    let rest = bytes.get(start..).unwrap_or_default();
    rest.get(..rng.below(rest.len().min(most) + 1)).unwrap_or_default()
}

fn set(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (old, new) in bytes.iter_mut().skip(at).zip(new) {
        *old = *new;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    let tail = bytes.split_off(at.min(bytes.len()));
    bytes.extend_from_slice(new);
    bytes.extend(tail);
}

/// One piece again and again: what is cheap once must stay cheap many times (nesting, repeated fields).
fn grow(bytes: &mut Vec<u8>, rng: &mut Rng, most: usize) {
    let length = 1 + rng.below(8);
    let piece = piece(bytes, rng, length).to_vec();
    if piece.is_empty() {
        return;
    }
    let at = rng.below(bytes.len() + 1);
    let size = most.saturating_sub(bytes.len());
    let many: Vec<u8> = piece.iter().copied().cycle().take(size).collect();
    insert(bytes, at, &many);
}
