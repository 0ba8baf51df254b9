//! Goals about foreign bytes and names (docs/goals.md): every decoder of the engine and the operator in one test binary,
//! with an allocator that counts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "goals measure real time")]

mod alloc;
mod decoders;
mod g20;
mod g21;
mod g22;
mod g41;
mod made;
mod mutate;
