//! The binary: picks a subcommand, sets allocator, tracing and signals.

fn main() {}
