//! The nouns of the engine, without IO: labels, matchers, samples, histograms, time.
//!
//! Everything here is plain data with value semantics. No network, no files, no clock of its own:
//! whoever needs time or randomness takes it through [`world`].

pub mod block_id;
pub mod histogram;
pub mod labels;
pub mod matcher;
pub mod number;
pub mod protection;
pub mod regex;
pub mod sample;
pub mod time;
pub mod world;

pub use block_id::BlockId;
pub use histogram::FloatHistogram;
pub use labels::Labels;
pub use matcher::{MatchOp, Matcher};
