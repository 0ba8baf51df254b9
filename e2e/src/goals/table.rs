//! The runs of `make goals`, one entry per test. docs/goals.md describes them; a test compares the two.

/// A test that measures a goal.
pub(super) struct Goal {
    /// As in docs/goals.md: `G22`.
    pub(super) number: &'static str,
    /// The crate.
    pub(super) package: &'static str,
    /// `lib`, or the name of a test binary.
    pub(super) target: &'static str,
    /// The test's full path inside its binary: `g22::goal_g22_bit_flips`.
    pub(super) test: &'static str,
    /// The runs in which it must fail.
    pub(super) negatives: &'static [Negative],
}

/// A run with a protection switched off.
pub(super) struct Negative {
    /// The name given to `model::protection::off`.
    pub(super) protection: &'static str,
    /// What the test must say when it fails.
    pub(super) line: &'static str,
}

pub(super) const GOALS: &[Goal] = &[];
