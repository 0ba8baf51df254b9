//! Goals that need the real binary as a process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]

mod doomed;
mod g02;
mod g03;
mod g16;
mod g17;
mod g34;
