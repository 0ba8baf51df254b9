//! What every goal of docs/goals.md shares: its size, its seed, its figure.
//!
//! A goal is a plain test named `goal_g22_bit_flips` that begins with `let goal = Goal::start("G22")`, takes all its
//! randomness from [`Goal::rng`], and ends with [`Goal::figure`]. `e2e goals` runs it at fast size, and again with a
//! protection switched off (`PANOPTES_BREAK`), where it must fail.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// How much of a goal a run measures; `PANOPTES_GOALS` says which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// At most 10 s on 2 cores: what `cargo test` runs.
    Ci,
    /// At most 60 s on 2 cores: what `make goals` runs.
    Fast,
    /// At most 30 min.
    Night,
}

impl Size {
    /// The name that `PANOPTES_GOALS` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Fast => "fast",
            Self::Night => "night",
        }
    }
}

/// One run of one goal.
pub struct Goal {
    number: &'static str,
    size: Size,
    seed: u64,
    start: Instant,
}

impl Goal {
    /// Begins the goal `number` (`G22`): reads its size and seed from the environment and prints both.
    ///
    /// The seed is `PANOPTES_SEED` (decimal, or hexadecimal after `0x`); without it a ci run always takes the same one,
    /// so that a red CI is red again, and larger runs draw a new one.
    ///
    /// # Panics
    /// When the environment names an unknown size or no number: a test.
    #[allow(clippy::panic, reason = "a test fails by panicking")]
    pub fn start(number: &'static str) -> Self {
        let size = match std::env::var("PANOPTES_GOALS").as_deref() {
            Err(_) | Ok("" | "ci") => Size::Ci,
            Ok("fast") => Size::Fast,
            Ok("night") => Size::Night,
            Ok(other) => panic!("PANOPTES_GOALS={other}: the sizes are ci, fast and night"),
        };
        let seed = match std::env::var("PANOPTES_SEED") {
            Ok(text) => parse_seed(&text).unwrap_or_else(|| panic!("PANOPTES_SEED={text} is no number")),
            Err(_) if size == Size::Ci => 1,
            Err(_) => fresh(),
        };
        let goal = Self { number, size, seed, start: Instant::now() };
        goal.tell("begins");
        goal
    }

    /// The size of this run.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The value for the size of this run.
    pub fn pick<T>(&self, ci: T, fast: T, night: T) -> T {
        match self.size {
            Size::Ci => ci,
            Size::Fast => fast,
            Size::Night => night,
        }
    }

    /// Random numbers from this run's seed. `part` keeps parts of a goal apart: each has its own sequence, which does
    /// not change when another part draws more.
    pub fn rng(&self, part: &str) -> Rng {
        let mut state = self.seed;
        for byte in part.bytes() {
            state = Rng(state ^ u64::from(byte)).next_u64();
        }
        Rng(state)
    }

    /// Time since [`Goal::start`].
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints what was measured, as docs/goals.md records it: `10,000 flips, 0 silent`.
    pub fn figure(&self, text: &str) {
        self.tell(&format!("figure: {text} ({:.1} s)", self.elapsed().as_secs_f64()));
    }

    fn tell(&self, text: &str) {
        // Written past the test's capture in one piece, so that lines of tests that run side by side do not mix.
        let line = format!("goal {} size={} seed={:#x} {text}\n", self.number, self.size.name(), self.seed);
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}

fn parse_seed(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn fresh() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A small seeded generator (SplitMix64): enough for tests, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0 for `n` = 0.
    pub fn below(&mut self, n: usize) -> usize {
        match n {
            0 => 0,
            n => (self.next_u64() % n as u64) as usize,
        }
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of the items, or none of none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// `n` random bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next_u64() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_sequence_and_parts_stand_alone() {
        let goal = Goal { number: "G00", size: Size::Ci, seed: 7, start: Instant::now() };
        let draw = |part| (0..4).map(|_| goal.rng(part).next_u64()).collect::<Vec<_>>();
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
        assert_eq!(goal.pick(1, 2, 3), 1);
        assert!((0..100).all(|_| goal.rng("x").below(3) < 3));
        assert_eq!((parse_seed("0xff"), parse_seed("12"), parse_seed("x")), (Some(255), Some(12), None));
    }
}
