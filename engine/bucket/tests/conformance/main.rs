//! One suite for every provider: what `CONTRACT.md` promises, tried.
#![allow(clippy::disallowed_methods, reason = "a test harness waits for real servers in real time")]

mod providers;
mod suite;
