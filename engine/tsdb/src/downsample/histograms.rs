//! Aggregates of native histograms, exponential and with custom buckets.

use super::{Error, Part, each_histogram, is_gauge, windows};
use crate::chunk::aggregate::{Aggregate, Container};
use crate::chunk::histogram::Appended;
use crate::chunk::{Chunk, Columns, EncodeError, Encoding, HistogramEncoder, XorEncoder};
use model::histogram::{Accumulator, FloatHistogram, ResetHint, detect_reset};
use std::sync::Arc;

/// A counter's running total, resets taken out; of gauges the last value.
pub(super) struct Counter {
    previous: Arc<FloatHistogram>,
    total: Accumulator,
}

/// How the buckets of a batch are laid out, as far as samples are brought to it: an empty histogram.
type Layout = FloatHistogram;

/// What is known of a histogram before it is aggregated.
struct Known {
    t: i64,
    /// Histograms of different kinds are not aggregated with one another.
    kind: (bool, bool),
    /// Its sum is a number.
    counts: bool,
}

fn kind(h: &FloatHistogram) -> (bool, bool) {
    (h.has_custom_buckets(), is_gauge(h))
}

/// Raw histograms to aggregates. They are read three times: what there is, how batches are laid out, what they add up to; so none
/// is held. Gives how many of them count.
pub(super) fn raw(chunks: &[Chunk], resolution: i64, out: &mut Vec<Chunk>) -> Result<f64, Error> {
    let mut known: Vec<Known> = Vec::new();
    each(chunks, &mut |t, h| {
        known.push(Known { t, kind: kind(&h), counts: !h.sum.is_nan() });
        Ok(())
    })?;
    let (mut ends, mut begin) = (Vec::new(), 0);
    for run in known.chunk_by(|a, b| a.kind == b.kind) {
        let times: Vec<i64> = run.iter().map(|k| k.t).collect();
        let (Some(first), Some(last)) = (times.first(), times.last()) else { continue };
        let wanted = windows::chunks(*first, *last, 60_000, resolution, times.len());
        ends.extend(windows::batches(&times, times.len() / wanted + 1, resolution).map(|b| begin + b.end));
        begin += times.len();
    }
    let mut layouts: Vec<Option<Layout>> = ends.iter().map(|_| None).collect();
    let (mut i, mut batch) = (0usize, 0usize);
    each(chunks, &mut |_, h| {
        while ends.get(batch).is_some_and(|end| i >= *end) {
            batch += 1;
        }
        if !h.sum.is_nan()
            && let Some(layout) = layouts.get_mut(batch)
        {
            join_layout(layout, &h);
        }
        i += 1;
        Ok(())
    })?;
    let (mut i, mut batch, mut counter) = (0usize, 0usize, None::<Counter>);
    let mut writer: Option<Batch> = None;
    each(chunks, &mut |t, h| {
        while ends.get(batch).is_some_and(|end| i >= *end) {
            batch += 1;
            if let Some(writer) = writer.take() {
                writer.finish(counter.as_ref(), out)?;
            }
        }
        if counter.as_ref().is_some_and(|c| kind(&c.previous) != kind(&h)) {
            counter = None;
        }
        if !h.sum.is_nan()
            && let Some(Some(layout)) = layouts.get(batch)
        {
            let begin = batch.checked_sub(1).and_then(|b| ends.get(b).copied()).unwrap_or(0);
            let end = ends.get(batch).copied().unwrap_or(0);
            let last = || known.get(begin..end).unwrap_or_default().iter().rev().find(|k| k.counts).map_or(t, |k| k.t);
            let writer = writer.get_or_insert_with(|| Batch::new(resolution, last(), is_gauge(&h)));
            let sample = brought_to(layout, &h);
            writer.turn(t, counter.as_ref(), out)?;
            add_to_counter(&mut counter, layout, &h, &sample);
            writer.add(t, 1.0, &sample);
        }
        i += 1;
        Ok(())
    })?;
    if let Some(writer) = writer {
        writer.finish(counter.as_ref(), out)?;
    }
    Ok(known.iter().filter(|k| k.counts).count() as f64)
}

fn each(chunks: &[Chunk], take: &mut dyn FnMut(i64, Arc<FloatHistogram>) -> Result<(), Error>) -> Result<(), Error> {
    chunks.iter().try_for_each(|c| each_histogram(c.encoding, c, &c.data, take))
}

/// Aggregates of several chunks to coarser ones. The counter goes on from batch to batch.
pub(super) fn coarser(
    parts: &[Part],
    resolution: i64,
    counter: &mut Option<Counter>,
    out: &mut Vec<Chunk>,
) -> Result<(), Error> {
    // Batches end where kinds change, which within a chunk they don't.
    let kind_of = |p: &Part| -> Result<Option<(bool, bool)>, Error> {
        let mut found = None;
        read(p, Aggregate::Counter, &mut |_, h| {
            found.get_or_insert(kind(&h));
            Ok(())
        })?;
        Ok(found)
    };
    let kinds = parts.iter().map(kind_of).collect::<Result<Vec<_>, _>>()?;
    let mut begin = 0;
    for run in kinds.chunk_by(|a, b| a == b) {
        let batch = parts.get(begin..begin + run.len()).unwrap_or_default();
        begin += run.len();
        // A counter of another kind does not go on.
        if counter.as_ref().map(|c| kind(&c.previous)) != run.first().copied().flatten() {
            *counter = None;
        }
        one_coarser(batch, resolution, counter, out)?;
    }
    Ok(())
}

fn one_coarser(
    parts: &[Part],
    resolution: i64,
    counter: &mut Option<Counter>,
    out: &mut Vec<Chunk>,
) -> Result<(), Error> {
    let mut counts = Columns::default();
    for part in parts {
        if let Some((encoding, data)) = part.container.get(Aggregate::Count) {
            super::expand(*encoding, &part.chunk, data, &mut counts)?;
        }
    }
    let (mut layout, mut totals_layout) = (None::<Layout>, None::<Layout>);
    let [mut sums, mut totals]: [Vec<(i64, Arc<FloatHistogram>)>; 2] = Default::default();
    for part in parts {
        read(part, Aggregate::Sum, &mut |t, h| {
            join_layout(&mut layout, &h);
            sums.push((t, h));
            Ok(())
        })?;
        read(part, Aggregate::Counter, &mut |t, h| {
            join_layout(&mut totals_layout, &h);
            totals.push((t, h));
            Ok(())
        })?;
    }
    let (Some(layout), Some(totals_layout)) = (layout, totals_layout) else { return Ok(()) };
    let gauge = totals.first().is_some_and(|(_, h)| is_gauge(h));
    let mut writer = Batch::new(resolution, sums.last().map_or(0, |(t, _)| *t), gauge);
    let (mut counts, mut totals) = (counts.iter().peekable(), totals.into_iter().peekable());
    for (t, h) in sums {
        let mut count = 0.0;
        while let Some((_, n)) = counts.next_if(|(at, _)| *at <= t) {
            count += n;
        }
        writer.turn(t, counter.as_ref(), out)?;
        while let Some((_, total)) = totals.next_if(|(at, _)| *at <= t) {
            let sample = brought_to(&totals_layout, &total);
            add_to_counter(counter, &totals_layout, &total, &sample);
        }
        writer.add(t, count, &brought_to(&layout, &h));
    }
    writer.finish(counter.as_ref(), out)
}

fn read(
    part: &Part,
    aggregate: Aggregate,
    take: &mut dyn FnMut(i64, Arc<FloatHistogram>) -> Result<(), Error>,
) -> Result<(), Error> {
    match part.container.get(aggregate) {
        Some((encoding, data)) => each_histogram(*encoding, &part.chunk, data, take),
        None => Ok(()),
    }
}

/// Makes a layout wide enough for one more histogram: the coarsest schema, the widest zero bucket, the common custom bounds.
fn join_layout(layout: &mut Option<Layout>, h: &FloatHistogram) {
    let of = |h: &FloatHistogram| Layout {
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        custom_values: h.custom_values.clone(),
        ..Layout::default()
    };
    match layout {
        None => *layout = Some(of(h)),
        Some(all) if has_layout(h, all) => {}
        Some(all) => {
            let mut both = Accumulator::new(all);
            // Kinds don't mix here.
            if both.add(h).is_ok() {
                *all = of(&both.finish());
            }
        }
    }
}

fn has_layout(h: &FloatHistogram, layout: &Layout) -> bool {
    h.schema == layout.schema && h.zero_threshold == layout.zero_threshold && h.custom_values == layout.custom_values
}

/// A histogram in this layout.
fn brought_to(layout: &Layout, h: &Arc<FloatHistogram>) -> Arc<FloatHistogram> {
    if has_layout(h, layout) {
        return Arc::clone(h);
    }
    let mut all = Accumulator::new(layout);
    match all.add(h) {
        Ok(_) => Arc::new(all.finish()),
        Err(_) => Arc::clone(h),
    }
}

/// Adds the next histogram, as it was stored and in the layout of its batch.
fn add_to_counter(
    counter: &mut Option<Counter>,
    layout: &Layout,
    stored: &Arc<FloatHistogram>,
    sample: &Arc<FloatHistogram>,
) {
    let Some(Counter { previous, total }) = counter else {
        *counter = Some(Counter { previous: Arc::clone(stored), total: Accumulator::new(sample) });
        return;
    };
    // What a chunk says of a reset before it may be about a chunk that is gone; that there is none is seen anyway.
    let unhinted;
    let asked = if stored.reset_hint == ResetHint::NotReset {
        unhinted = FloatHistogram { reset_hint: ResetHint::Unknown, ..(**stored).clone() };
        &unhinted
    } else {
        &**stored
    };
    let outcome = if !is_gauge(stored) && detect_reset(asked, previous) {
        total.add(sample)
    } else {
        let mut grown = Accumulator::new(sample);
        grown.sub(&brought_to(layout, previous)).and_then(|_| total.add(&grown.finish()))
    };
    if outcome.is_err() {
        *total = Accumulator::new(sample);
    }
    *previous = Arc::clone(stored);
}

/// Writes one batch.
struct Batch {
    resolution: i64,
    /// Time of its last sample.
    last: i64,
    gauge: bool,
    window: Option<Window>,
    chunk: Option<Open>,
}

/// The window that is being added up.
struct Window {
    end: i64,
    count: f64,
    sum: Accumulator,
}

/// The chunks that are being written.
struct Open {
    count: XorEncoder,
    sum: HistogramEncoder<f64>,
    total: HistogramEncoder<f64>,
    layout: Layout,
}

impl Batch {
    fn new(resolution: i64, last: i64, gauge: bool) -> Self {
        Self { resolution, last, gauge, window: None, chunk: None }
    }

    /// Writes the window if `t` lies behind it; the counter has been added up to its end.
    fn turn(&mut self, t: i64, counter: Option<&Counter>, out: &mut Vec<Chunk>) -> Result<(), Error> {
        if self.window.as_ref().is_some_and(|w| t > w.end) { self.close(counter, out) } else { Ok(()) }
    }

    /// Takes a histogram that stands for `count` samples.
    fn add(&mut self, t: i64, count: f64, h: &FloatHistogram) {
        match &mut self.window {
            Some(w) => {
                w.count += count;
                // Kinds don't mix here.
                let _added = w.sum.add(h);
            }
            None => {
                let end = windows::end(t, self.resolution).min(self.last.max(t));
                self.window = Some(Window { end, count, sum: Accumulator::new(h) });
            }
        }
    }

    /// Writes the window.
    fn close(&mut self, counter: Option<&Counter>, out: &mut Vec<Chunk>) -> Result<(), Error> {
        let Some(Window { end, count, sum }) = self.window.take() else { return Ok(()) };
        let mut sum = sum.finish();
        sum.reset_hint = ResetHint::Gauge;
        let mut total = counter.map_or_else(|| sum.clone(), |c| c.total.clone().finish());
        total.reset_hint = if self.gauge { ResetHint::Gauge } else { ResetHint::Unknown };
        let layout = Layout {
            schema: sum.schema,
            zero_threshold: sum.zero_threshold,
            custom_values: sum.custom_values.clone(),
            ..Layout::default()
        };
        if let Some(open) = &mut self.chunk
            && open.layout == layout
        {
            // The counter first: where it begins a new chunk, the others have not gone on yet.
            match open.total.append(0, end, &total)? {
                Appended::Here => {
                    open.count.append(end, count)?;
                    if let Appended::Cut(_) = open.sum.append(0, end, &sum)? {
                        return Err(EncodeError::BucketIndex.into());
                    }
                    return Ok(());
                }
                Appended::Cut(before) => open.total = *before,
            }
        }
        if let Some(open) = self.chunk.take() {
            out.push(open.finish());
        }
        let mut open = Open {
            count: XorEncoder::default(),
            sum: HistogramEncoder::new(false, 0, end, &sum, None)?,
            total: HistogramEncoder::new(false, 0, end, &total, None)?,
            layout,
        };
        open.count.append(end, count)?;
        self.chunk = Some(open);
        Ok(())
    }

    fn finish(mut self, counter: Option<&Counter>, out: &mut Vec<Chunk>) -> Result<(), Error> {
        self.close(counter, out)?;
        out.extend(self.chunk.map(Open::finish));
        Ok(())
    }
}

impl Open {
    fn finish(self) -> Chunk {
        let (min_t, max_t) = self.count.range();
        let mut container = Container::default();
        container.set(Aggregate::Count, Encoding::Xor, self.count.bytes());
        container.set(Aggregate::Sum, Encoding::FloatHistogram, self.sum.bytes());
        container.set(Aggregate::Counter, Encoding::FloatHistogram, self.total.bytes());
        Chunk { encoding: Encoding::Aggregate, min_t, max_t, samples: self.count.count(), data: container.bytes() }
    }
}
