//! The functions of the language, as plain computations on numbers, windows and labels.

pub(crate) mod classic;
pub(crate) mod elementwise;
pub(crate) mod extended;
pub(crate) mod label;
pub(crate) mod math;
pub(crate) mod over_time;
pub(crate) mod rate;
pub(crate) mod sort;
pub(crate) mod window;
