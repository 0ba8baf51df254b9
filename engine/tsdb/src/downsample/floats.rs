//! Aggregates of floats.

use super::{Error, Part, Resets, expand, windows};
use crate::chunk::aggregate::{Aggregate, Container};
use crate::chunk::{Chunk, Columns, Encoding, XorEncoder};

/// The aggregates of one window.
struct Window {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Window {
    fn of(values: &[f64]) -> Self {
        Self::counted(values, &mut Counter::default())
    }

    /// All at once: none waits for the others.
    fn counted(values: &[f64], counter: &mut Counter) -> Self {
        let start = Self { count: values.len() as u64, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        values.iter().fold(start, |w, v| {
            counter.add(*v);
            Self {
                sum: w.sum + v,
                min: if *v < w.min { *v } else { w.min },
                max: if *v > w.max { *v } else { w.max },
                ..w
            }
        })
    }
}

/// A counter's running total, resets taken out.
#[derive(Default)]
struct Counter {
    last: Option<f64>,
    total: f64,
}

impl Counter {
    fn add(&mut self, v: f64) {
        self.total = match self.last {
            None => v,
            Some(last) if v < last && !model::protection::off("counter-resets") => self.total + v,
            Some(last) => self.total + (v - last),
        };
        self.last = Some(v);
    }
}

/// Puts the five chunks into a container.
fn finish(encoders: [(Aggregate, &XorEncoder); 5], min_t: i64, max_t: i64, samples: u16) -> Chunk {
    let mut container = Container::default();
    for (aggregate, encoder) in encoders {
        if encoder.count() > 0 {
            container.set(aggregate, Encoding::Xor, encoder.bytes());
        }
    }
    Chunk { encoding: Encoding::Aggregate, min_t, max_t, samples, data: container.bytes() }
}

/// Raw samples to aggregates.
pub(super) fn raw(samples: &Columns, resolution: i64, out: &mut Vec<Chunk>) -> Result<(), Error> {
    let (Some(first), Some(last)) = (samples.times.first(), samples.times.last()) else { return Ok(()) };
    let length = samples.times.len();
    let wanted = windows::chunks(*first, *last, 60_000, resolution, length);
    let mut numbers = Columns::default();
    for range in windows::batches(&samples.times, length / wanted + 1, resolution) {
        let (mut times, mut values) =
            (samples.times.get(range.clone()).unwrap_or_default(), samples.values.get(range).unwrap_or_default());
        if values.iter().any(|v| v.is_nan()) {
            numbers.clear();
            for (t, v) in times.iter().zip(values).filter(|(_, v)| !v.is_nan()) {
                numbers.times.push(*t);
                numbers.values.push(*v);
            }
            (times, values) = (&numbers.times, &numbers.values);
        }
        out.extend(one_batch(times, values, resolution)?);
    }
    Ok(())
}

fn one_batch(times: &[i64], values: &[f64], resolution: i64) -> Result<Option<Chunk>, Error> {
    let (Some(first_t), Some(first_v), Some(last_v)) = (times.first(), values.first(), values.last()) else {
        return Ok(None);
    };
    let [mut count, mut sum, mut min, mut max, mut total] = std::array::from_fn(|_| XorEncoder::default());
    total.append(*first_t, *first_v)?;
    let mut counter = Counter::default();
    for (t, run) in windows::runs(times, resolution) {
        let window = Window::counted(values.get(run).unwrap_or_default(), &mut counter);
        count.append(t, window.count as f64)?;
        sum.append(t, window.sum)?;
        min.append(t, window.min)?;
        max.append(t, window.max)?;
        total.append(t, counter.total)?;
    }
    let (min_t, max_t) = count.range();
    total.append(max_t, *last_v)?;
    let all = [
        (Aggregate::Count, &count),
        (Aggregate::Sum, &sum),
        (Aggregate::Min, &min),
        (Aggregate::Max, &max),
        (Aggregate::Counter, &total),
    ];
    Ok(Some(finish(all, min_t, max_t, count.count())))
}

/// Aggregates of several chunks to one chunk of coarser ones.
pub(super) fn coarser(parts: &[Part], resolution: i64, out: &mut Vec<Chunk>) -> Result<(), Error> {
    let [mut count, mut sum, mut min, mut max, mut total] = std::array::from_fn(|_| XorEncoder::default());
    let mut samples = Columns::default();
    let mut one = |aggregate, to: &mut XorEncoder, pick: fn(&Window) -> f64| -> Result<(), Error> {
        read(parts, aggregate, &mut samples)?;
        for (t, run) in windows::runs(&samples.times, resolution) {
            to.append(t, pick(&Window::of(samples.values.get(run).unwrap_or_default())))?;
        }
        Ok(())
    };
    one(Aggregate::Count, &mut count, |w| w.sum)?;
    one(Aggregate::Sum, &mut sum, |w| w.sum)?;
    one(Aggregate::Min, &mut min, |w| w.min)?;
    one(Aggregate::Max, &mut max, |w| w.max)?;

    let (mut resets, mut totals) = (Resets::default(), Columns::default());
    read(parts, Aggregate::Counter, &mut samples)?;
    for (t, v) in samples.iter() {
        if let Some(v) = resets.next(t, v) {
            totals.times.push(t);
            totals.values.push(v);
        }
    }
    if let (Some(t), Some(v)) = (totals.times.first(), totals.values.first()) {
        total.append(*t, *v)?;
        let mut counter = Counter::default();
        for (t, run) in windows::runs(&totals.times, resolution) {
            totals.values.get(run).unwrap_or_default().iter().for_each(|v| counter.add(*v));
            total.append(t, counter.total)?;
        }
        total.append(total.range().1, resets.last())?;
    }
    let times = [&count, &sum, &min, &max].into_iter().filter(|e| e.count() > 0).map(XorEncoder::range);
    // The first true value of a counter lies within the first window.
    let windows = windows::runs(&totals.times, resolution).map(|(t, _)| (t, t));
    let times: Vec<(i64, i64)> = times.chain(windows).collect();
    let (Some(min_t), Some(max_t)) = (times.iter().map(|r| r.0).min(), times.iter().map(|r| r.1).max()) else {
        return Ok(());
    };
    let samples = count.count();
    let all = [
        (Aggregate::Count, &count),
        (Aggregate::Sum, &sum),
        (Aggregate::Min, &min),
        (Aggregate::Max, &max),
        (Aggregate::Counter, &total),
    ];
    out.push(finish(all, min_t, max_t, samples));
    Ok(())
}

/// The samples of an aggregate.
fn read(parts: &[Part], aggregate: Aggregate, to: &mut Columns) -> Result<(), Error> {
    to.clear();
    for part in parts {
        if let Some((encoding, data)) = part.container.get(aggregate) {
            expand(*encoding, &part.chunk, data, to)?;
        }
    }
    Ok(())
}
