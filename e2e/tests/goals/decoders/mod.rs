//! The register of decoders of foreign bytes: one line each. Goal G20 and the fuzz targets (e2e/fuzz) share it.

mod blocks;
mod documents;
mod language;
mod services;
mod wire;

pub(crate) use blocks::{BLOCKS, CHUNKS};
pub(crate) use documents::{DOCUMENTS, wish, world};
pub(crate) use language::LANGUAGE;
pub(crate) use services::SERVICES;
pub(crate) use wire::WIRE;

/// Something that reads bytes which others wrote.
pub(crate) struct Decoder {
    /// What it reads, as in `fuzz TARGET=chunk-xor`.
    pub(crate) name: &'static str,
    /// Reads everything in the input, lazily read parts as well; the error is what a user would see.
    pub(crate) decode: fn(&[u8]) -> Result<(), String>,
    /// Valid inputs.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs made to harm, tried once each: elements of nothing, nesting, references to references.
    pub(crate) bombs: fn() -> Vec<Vec<u8>>,
    /// What a text is made of; empty for binary formats.
    pub(crate) words: &'static [&'static str],
    /// Makes checksums right again, so that a mutated input passes them.
    pub(crate) repair: Option<fn(&mut [u8])>,
    /// The bytes that memory and time are measured against, where that is not the input's size: what a compressed input
    /// unpacks to.
    pub(crate) size: Option<fn(&[u8]) -> usize>,
    /// Bytes that this input may cost however short it is: 1 MiB, where it can't ask for automata.
    pub(crate) free: fn(&[u8]) -> usize,
}

impl Decoder {
    const fn new(name: &'static str, decode: fn(&[u8]) -> Result<(), String>, seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Self { name, decode, seeds, bombs: Vec::new, words: &[], repair: None, size: None, free: |_| 1 << 20 }
    }

    const fn bombs(mut self, bombs: fn() -> Vec<Vec<u8>>) -> Self {
        self.bombs = bombs;
        self
    }

    const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    const fn repaired(mut self, repair: fn(&mut [u8])) -> Self {
        self.repair = Some(repair);
        self
    }

    const fn allowed(mut self, free: fn(&[u8]) -> usize) -> Self {
        self.free = free;
        self
    }

    const fn sized(mut self, size: fn(&[u8]) -> usize) -> Self {
        self.size = Some(size);
        self
    }
}

/// Hands a text on to its reader; other bytes are refused before they come to it.
fn text(input: &[u8], read: impl FnOnce(&str) -> Result<(), String>) -> Result<(), String> {
    read(std::str::from_utf8(input).map_err(|e| e.to_string())?)
}

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|e| e.to_string())
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Deep nesting: `open` many times, and something in the middle.
fn nested(open: &str, middle: &str, close: &str) -> Vec<Vec<u8>> {
    [100, 2_000, 100_000].map(|n| [&open.repeat(n), middle, &close.repeat(n)].concat().into_bytes()).to_vec()
}
