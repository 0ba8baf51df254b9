//! The operator against a real API server with etcd and garbage collection, and with exactly the rights that an
//! installation gives it. No kubelet: where a test needs pods, it makes them and says what they say.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking and wait in real time"
)]

mod bench;
mod compaction;
mod deletion;
mod history;
mod links;
mod objects;
mod rights;
mod secrets;
mod status;
