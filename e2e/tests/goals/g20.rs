//! G20: every decoder of foreign bytes faces mutated inputs. No panic, no peak above 1 MiB + 16 × input, no more than
//! 1 s per MiB, and an error has words.

use crate::alloc;
use crate::decoders::{self, Decoder};
use crate::mutate::mutate;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Rng};

/// Bytes of memory per byte of input.
const FACTOR: usize = 16;

#[test]
fn goal_g20_decoders_of_chunks() {
    measure(decoders::CHUNKS);
}

#[test]
fn goal_g20_decoders_of_blocks() {
    measure(decoders::BLOCKS);
}

#[test]
fn goal_g20_decoders_of_the_wire() {
    measure(decoders::WIRE);
}

#[test]
fn goal_g20_decoders_of_the_services() {
    measure(decoders::SERVICES);
}

#[test]
fn goal_g20_decoders_of_the_language() {
    measure(decoders::LANGUAGE);
}

#[test]
fn goal_g20_decoders_of_documents() {
    measure(decoders::DOCUMENTS);
}

/// All decoders of a group, two at a time.
fn measure(group: &[Decoder]) {
    let goal = Goal::start("G20");
    // So many inputs or so much CPU time for each, and never fewer than the least: two threads share the group's time.
    let (count, time, least) = goal.pick(
        (1_000, Duration::from_secs(2), 20),
        (1_000_000, Duration::from_secs(45), 1_000),
        (100_000_000, Duration::from_secs(1_500), 100_000),
    );
    let share = time * 2 / u32::try_from(group.len()).unwrap();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let outcomes = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(decoder) = group.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let found = attack(decoder, &goal, count, share);
                    outcomes.lock().unwrap().push(found);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let broken: Vec<&str> = outcomes.iter().flat_map(|o| o.broken.iter().map(String::as_str)).collect();
    let inputs: usize = outcomes.iter().map(|o| o.inputs).sum();
    let worst = outcomes.iter().max_by(|a, b| a.factor.total_cmp(&b.factor)).unwrap();
    let slowest = outcomes.iter().min_by_key(|o| o.mutated).unwrap();
    assert!(broken.is_empty(), "{} hostile inputs do harm:\n{}", broken.len(), broken.join("\n"));
    assert!(
        slowest.mutated >= least,
        "{}: only {} mutated inputs in {share:?}, {least} are the least that counts",
        slowest.name,
        slowest.mutated
    );
    goal.figure(&format!(
        "{} decoders, {inputs} inputs ({} and more each, in {:.1} s or until {count}), 0 do harm; dearest: {} at {:.1} of 16 × input",
        group.len(),
        slowest.mutated,
        share.as_secs_f32(),
        worst.name,
        worst.factor,
    ));
}

struct Outcome {
    name: &'static str,
    inputs: usize,
    /// Those that are neither seeds nor bombs.
    mutated: usize,
    /// The highest peak beyond 1 MiB, as a multiple of the input.
    factor: f64,
    broken: Vec<String>,
}

fn attack(decoder: &Decoder, goal: &Goal, count: usize, time: Duration) -> Outcome {
    let mut rng = goal.rng(decoder.name);
    let seeds = (decoder.seeds)();
    let mut outcome = Outcome { name: decoder.name, inputs: 0, mutated: 0, factor: 0.0, broken: Vec::new() };
    assert!(!seeds.is_empty(), "{} has no seeds", decoder.name);
    for seed in &seeds {
        if let Err(e) = (decoder.decode)(seed) {
            outcome.broken.push(format!("{}: a valid input is refused: {e}", decoder.name));
        }
        judge(decoder, seed, &mut outcome);
    }
    for bomb in (decoder.bombs)() {
        judge(decoder, &bomb, &mut outcome);
    }
    let begin = alloc::thread_cpu_s();
    while outcome.mutated < count && alloc::thread_cpu_s() - begin < time.as_secs_f64() && outcome.broken.len() < 3 {
        let input = hostile(decoder, &seeds, &mut rng);
        outcome.mutated += 1;
        judge(decoder, &input, &mut outcome);
    }
    outcome
}

fn hostile(decoder: &Decoder, seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let seed = rng.choose(seeds).unwrap();
    let other = rng.choose(seeds).unwrap();
    // Mostly small and fast, now and then large.
    let most = if rng.one_in(100) { 1 << 20 } else { 16 << 10 };
    let mut input = mutate(seed, other, decoder.words, rng, most);
    if let Some(repair) = decoder.repair
        && !rng.one_in(4)
    {
        repair(&mut input);
    }
    input
}

fn judge(decoder: &Decoder, input: &[u8], outcome: &mut Outcome) {
    outcome.inputs += 1;
    let counted = decoder.size.map_or(input.len(), |size| size(input));
    let start = Instant::now();
    let (result, peak) = alloc::peak_of(|| {
        let ran = catch_unwind(AssertUnwindSafe(|| (decoder.decode)(input)));
        ran.map(|r| r.is_err_and(|text| text.trim().is_empty()))
    });
    let took = start.elapsed();
    let mut harm = |what: String| outcome.broken.push(format!("{}: {what}: {}", decoder.name, shown(input)));
    match result {
        Err(_) => harm("it panics".to_owned()),
        Ok(true) => harm("its error has no words".to_owned()),
        Ok(_) => {}
    }
    let free = (decoder.free)(input);
    if peak > free + FACTOR * counted {
        harm(format!("it takes {peak} bytes for {counted}"));
    }
    // A debug build may take ten times as long.
    let slow = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    let floor = if cfg!(debug_assertions) { 5.0 } else { 1.0 };
    let allowed = slow * counted as f64 / f64::from(1 << 20) + floor;
    if took.as_secs_f64() > allowed {
        // Once more, by this thread's own time: others on this machine don't count.
        let begin = alloc::thread_cpu_s();
        let _ = catch_unwind(AssertUnwindSafe(|| (decoder.decode)(input)));
        let own = alloc::thread_cpu_s() - begin;
        if own > allowed || took > Duration::from_secs(60) {
            harm(format!("it takes {own:.1} s of CPU for {counted} bytes"));
        }
    }
    let beyond = peak.saturating_sub(free) as f64 / counted.max(1) as f64;
    outcome.factor = outcome.factor.max(beyond);
}

/// The input as a person can use it again: short ones in hexadecimal, long ones as a file.
fn shown(input: &[u8]) -> String {
    if input.len() > 300 {
        let file = std::env::temp_dir().join(format!("panoptes-hostile-{:08x}", crc32c::crc32c(input)));
        return match std::fs::write(&file, input) {
            Ok(()) => format!("input of {} bytes in {}", input.len(), file.display()),
            Err(e) => format!("input of {} bytes, not written: {e}", input.len()),
        };
    }
    let mut hex = String::new();
    for byte in input {
        let _ = write!(hex, "{byte:02x}");
    }
    format!("input {hex} {:?}", String::from_utf8_lossy(input))
}
