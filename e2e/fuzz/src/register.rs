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

use decoders::{BLOCKS, CHUNKS, DOCUMENTS, Decoder, LANGUAGE, WIRE};

fn all() -> impl Iterator<Item = &'static Decoder> {
    CHUNKS.iter().chain(BLOCKS).chain(WIRE).chain(LANGUAGE).chain(DOCUMENTS)
}
