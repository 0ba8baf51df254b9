//! The middle of the staircase: wishes in, objects out, without a cluster; then the same objects before a real promtool
//! and a real API server.

#![allow(clippy::panic, reason = "a test that finds no such thing has failed")]

mod admission;
mod compact;
mod crds;
mod documented;
mod golden;
mod kept;
mod object_storage;
mod problems;
mod promtool;
mod security;
mod stability;
mod store;
mod support;
