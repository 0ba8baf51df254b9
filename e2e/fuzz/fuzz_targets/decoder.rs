//! One decoder under libFuzzer; `PANOPTES_DECODER` says which, and without it the names of all are printed. Finds panics, and memory
//! beyond 1 MiB + 16 × input.
#![no_main]

// The register of goal G20, as it is: one place says which decoders there are.
#[path = "../../tests/goals/alloc.rs"]
#[allow(dead_code, unused_imports)]
mod alloc;
#[path = "../../tests/goals/decoders/mod.rs"]
#[allow(dead_code, unused_imports)]
mod decoders;
#[path = "../../tests/goals/made.rs"]
#[allow(dead_code, unused_imports)]
mod made;
#[path = "../../tests/goals/mutate.rs"]
#[allow(dead_code, unused_imports)]
mod mutate;

use decoders::{BLOCKS, CHUNKS, DOCUMENTS, Decoder, LANGUAGE, SERVICES, WIRE};
use std::sync::OnceLock;

static DECODER: OnceLock<&'static Decoder> = OnceLock::new();

/// Finds the decoder, and writes its valid inputs into the folder that `PANOPTES_SEEDS` names: there fuzzing begins.
fn begin() {
    let name = std::env::var("PANOPTES_DECODER").unwrap_or_default();
    let mut all = [CHUNKS, BLOCKS, WIRE, SERVICES, LANGUAGE, DOCUMENTS].into_iter().flatten();
    if name.is_empty() {
        all.for_each(|d| println!("{}", d.name));
        std::process::exit(0);
    }
    let decoder = all.find(|d| d.name == name).unwrap_or_else(|| panic!("there is no decoder {name}"));
    if let Ok(folder) = std::env::var("PANOPTES_SEEDS") {
        for (n, seed) in (decoder.seeds)().iter().enumerate() {
            std::fs::write(format!("{folder}/seed-{n:03}"), seed).unwrap();
        }
    }
    DECODER.set(decoder).ok();
}

libfuzzer_sys::fuzz_target!(init: begin(), |input: &[u8]| {
    let decoder = DECODER.get().unwrap();
    // Every second input with checksums made right, so that what lies behind them is reached.
    let mut bytes = input.to_vec();
    if let (Some(repair), Some(1)) = (decoder.repair, input.last().map(|b| b & 1)) {
        repair(&mut bytes);
    }
    let counted = decoder.size.map_or(bytes.len(), |size| size(&bytes));
    let (result, peak) = alloc::peak_of(|| (decoder.decode)(&bytes).err().map(|e| e.trim().is_empty()));
    assert_ne!(result, Some(true), "an error without words");
    assert!(peak <= (decoder.free)(&bytes) + 16 * counted, "{peak} bytes for an input of {counted}");
});
