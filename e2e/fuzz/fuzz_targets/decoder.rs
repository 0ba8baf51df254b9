//! One decoder under libFuzzer; `PANOPTES_DECODER` says which. Finds panics, and memory beyond 1 MiB + 16 × input.
#![no_main]

include!("../src/register.rs");

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static DECODER: OnceLock<&'static Decoder> = OnceLock::new();
    let decoder = DECODER.get_or_init(|| {
        let name = std::env::var("PANOPTES_DECODER").unwrap_or_default();
        all().find(|d| d.name == name).unwrap_or_else(|| panic!("PANOPTES_DECODER={name:?} is no decoder"))
    });
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
