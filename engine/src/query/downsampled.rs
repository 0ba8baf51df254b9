//! What is read of downsampled data: the aggregate that fits the function that reads it, as a stream of samples that means
//! the same to the function as the raw samples would.
//!
//! A window stands for as many samples as it was made of. Where a function counts samples or averages them, a window is given
//! out as that many samples (of its average), spread over its length: then raw and coarse data mix, and windows that a
//! selector cuts count in proportion. Counters are given out with their resets taken out, per replica, before replicas become
//! one.

use super::series::{Aggregates, Chunk, Slot};
use model::FloatHistogram;
use model::sample::{Sample, Value};
use proto::thanos::Aggr;
use std::sync::Arc;
use tsdb::chunk::{self, ChunkError, Columns, Encoding, ErrorKind, Section};

/// Most samples that one window is spread to: one each 3 ms for five minutes, one each 36 ms for an hour. A window of more is
/// refused.
const MAX_SPREAD: i64 = 100_000;
/// Said of such a window.
const TOO_MANY: &str =
    "a window of more than 100000 samples can't be counted: ask for data as scraped (max_source_resolution=0s)";
/// Most samples that a window is spread to for an average alone.
const MAX_WEIGHT: f64 = 8.0;

/// Which of the aggregates a function reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The average of each window.
    Average,
    /// The average, and windows weigh as much as they have samples.
    Weighted,
    /// As many samples as were counted.
    Count,
    /// That there are samples, and when.
    Presence,
    /// Sums.
    Sum,
    /// Least values.
    Min,
    /// Greatest values.
    Max,
    /// A counter without resets.
    Counter,
}

impl View {
    /// For the function or aggregation around a selector, by its name; empty if there is none.
    pub fn of(func: &str) -> Self {
        match func {
            "avg_over_time" => Self::Weighted,
            "count_over_time" => Self::Count,
            "count" | "group" | "present_over_time" | "absent" | "absent_over_time" | "timestamp" => Self::Presence,
            "sum_over_time" => Self::Sum,
            "min" | "min_over_time" => Self::Min,
            "max" | "max_over_time" => Self::Max,
            "rate" | "increase" | "irate" | "resets" | "xrate" | "xincrease" => Self::Counter,
            _ => Self::Average,
        }
    }

    /// What to ask stores for.
    pub fn aggregates(self) -> &'static [Aggr] {
        match self {
            Self::Average | Self::Weighted => &[Aggr::Count, Aggr::Sum],
            Self::Count | Self::Presence => &[Aggr::Count],
            Self::Sum => &[Aggr::Sum],
            Self::Min => &[Aggr::Min],
            Self::Max => &[Aggr::Max],
            Self::Counter => &[Aggr::Counter],
        }
    }

    /// True if what came before a sample changes it, so that no chunk may be left out.
    pub fn runs_on(self) -> bool {
        self == Self::Counter
    }
}

/// The coarsest data that a function makes sense on: of those that need two samples in their window, half of it.
pub fn resolution_for(most: i64, func: &str, range: i64) -> i64 {
    const TWO: [&str; 11] = [
        "rate",
        "irate",
        "increase",
        "delta",
        "idelta",
        "deriv",
        "predict_linear",
        "holt_winters",
        "double_exponential_smoothing",
        "xrate",
        "xincrease",
    ];
    if range > 0 && TWO.contains(&func) { most.min(range / 2) } else { most }
}

/// Resolutions that downsampling makes, milliseconds.
const RESOLUTIONS: [i64; 2] = [300_000, 3_600_000];

/// How far back an instant selector looks at data that may be as coarse as this: at least to the sample before.
pub fn lookback_for(flag: i64, resolution: i64) -> i64 {
    let coarsest = RESOLUTIONS.into_iter().filter(|r| *r <= resolution).max();
    coarsest.map_or(flag, |r| flag.max(r))
}

/// The samples of one replica's chunks, raw and coarse, as one view sees them.
#[derive(Debug)]
pub struct Reader {
    view: View,
    /// Raw and coarse samples stand beside each other, so that weights must be exact.
    mixed: bool,
    counter: Counter,
    /// Time of the last window given out.
    last: Option<i64>,
    /// The floats of an aggregate, or of two that belong together.
    columns: [Columns; 2],
}

impl Reader {
    /// For chunks that are partly raw, or all coarse.
    pub fn new(view: View, mixed: bool) -> Self {
        Self { view, mixed, counter: Counter::default(), last: None, columns: Default::default() }
    }

    /// Forgets what came before: the next chunk does not follow.
    pub fn restart(&mut self) {
        (self.counter, self.last) = (Counter::default(), None);
    }

    /// Puts the samples of a chunk into `out`, in the order of their times.
    pub fn read(&mut self, c: &Chunk, out: &mut Vec<Sample>) -> Result<(), ChunkError> {
        let Some(a) = c.aggregates.as_deref() else {
            if let Some(raw) = &c.raw {
                for s in samples(raw)? {
                    let s = s?;
                    match self.view {
                        View::Counter => out.extend(self.counter.next(s)),
                        _ => out.push(s),
                    }
                }
            }
            self.last = Some(c.max_time);
            return Ok(());
        };
        match self.view {
            View::Average => out.extend(self.pairs(a)?.into_iter().map(|(_, mean)| mean)),
            View::Weighted => {
                let windows = self.pairs(a)?;
                self.weighted(windows, out)?;
            }
            View::Count => {
                let mut windows = Vec::new();
                self.windows(need(a.count.as_ref(), "count")?, &mut windows)?;
                let apart = apart(windows.iter().map(|s| s.t));
                for s in windows {
                    let Value::Float(n) = s.v else { continue };
                    self.spread(s.t, n, &Value::Float(1.0), apart, out)?;
                }
            }
            View::Presence => self.windows(need(a.count.as_ref(), "count")?, out)?,
            View::Sum => self.windows(need(a.sum.as_ref(), "sum")?, out)?,
            // Of histograms there is neither.
            View::Min => a.min.iter().try_for_each(|min| self.windows(min, out))?,
            View::Max => a.max.iter().try_for_each(|max| self.windows(max, out))?,
            View::Counter => {
                let slot = need(a.counter.as_ref(), "counter")?;
                let [columns, _] = &mut self.columns;
                if floats(slot, columns)? {
                    let all = columns.iter().map(|(t, v)| Sample { t, v: Value::Float(v) });
                    out.extend(all.filter_map(|s| self.counter.next(s)));
                } else {
                    for s in samples(slot)? {
                        out.extend(self.counter.next(s?));
                    }
                }
            }
        }
        Ok(())
    }

    /// All values of one aggregate.
    fn windows(&mut self, slot: &Slot, out: &mut Vec<Sample>) -> Result<(), ChunkError> {
        let [columns, _] = &mut self.columns;
        if floats(slot, columns)? {
            out.extend(columns.iter().map(|(t, v)| Sample { t, v: Value::Float(v) }));
        } else {
            out.extend(samples(slot)?.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(())
    }

    /// Counts and averages of windows.
    fn pairs(&mut self, a: &Aggregates) -> Result<Vec<(f64, Sample)>, ChunkError> {
        let (count, sum) = (need(a.count.as_ref(), "count")?, need(a.sum.as_ref(), "sum")?);
        let [counts, sums] = &mut self.columns;
        if !floats(count, counts)? || !floats(sum, sums)? {
            return Pairs { counts: samples(count)?, sums: samples(sum)? }.collect();
        }
        if counts.times != sums.times {
            return Err(bad("sum", NOT_THOSE));
        }
        let windows = counts.iter().zip(&sums.values);
        Ok(windows.map(|((t, n), sum)| (n, Sample { t, v: Value::Float(sum / n) })).collect())
    }

    fn weighted(&mut self, windows: Vec<(f64, Sample)>, out: &mut Vec<Sample>) -> Result<(), ChunkError> {
        let apart = apart(windows.iter().map(|(_, s)| s.t));
        let most = windows.iter().map(|(n, _)| *n).fold(0.0, f64::max);
        let weight = |n: f64| match self.mixed {
            true => n,
            // Among windows alone only the proportion counts.
            false => (n / most * MAX_WEIGHT).round().max(1.0),
        };
        let weights: Vec<f64> = windows.iter().map(|(n, _)| weight(*n)).collect();
        let equal = weights.windows(2).all(|w| matches!(w, [a, b] if a == b));
        for ((_, s), weight) in windows.into_iter().zip(weights) {
            self.spread(s.t, if equal && !self.mixed { 1.0 } else { weight }, &s.v, apart, out)?;
        }
        Ok(())
    }

    /// Gives a window that ends at `t` out as `n` samples of one value, evenly over its length, the last at `t`.
    fn spread(&mut self, t: i64, n: f64, v: &Value, apart: i64, out: &mut Vec<Sample>) -> Result<(), ChunkError> {
        if n.round() > MAX_SPREAD as f64 {
            return Err(refused("count", ErrorKind::Limit(TOO_MANY)));
        }
        // Longer than a window is a gap.
        let from = match self.last {
            Some(last) if last < t && t.saturating_sub(last) <= apart.saturating_add(apart / 2) => last,
            _ => t.saturating_sub(apart),
        };
        self.last = Some(t);
        let length = t.saturating_sub(from).max(1);
        // NaN and less than one become none, which no window is.
        // More than one a millisecond there can't be, unless it was given out already.
        let n = (n.round() as i64).clamp(1, length);
        out.extend((0..n).rev().map(|k| Sample { t: t - length * k / n, v: v.clone() }));
        Ok(())
    }
}

/// Largest distance of the windows of a chunk: their length. Of a single one it is not known; the shortest is assumed.
fn apart(times: impl Iterator<Item = i64> + Clone) -> i64 {
    let [shortest, _] = RESOLUTIONS;
    let distances = times.clone().zip(times.skip(1)).map(|(a, b)| b.saturating_sub(a));
    // The first window after a cut, and the last before one, may be short.
    distances.max().map_or(shortest, |d| d.max(shortest))
}

type Decoded = chunk::ChunkIter;

fn samples(slot: &Slot) -> Result<Decoded, ChunkError> {
    chunk::decode(Encoding::from_store_api(slot.encoding), slot.data.clone())
}

/// The floats of an aggregate, read in the fastest way; false if it has no floats.
fn floats(slot: &Slot, columns: &mut Columns) -> Result<bool, ChunkError> {
    columns.times.clear();
    columns.values.clear();
    let encoding = Encoding::from_store_api(slot.encoding);
    if encoding != Encoding::Xor {
        return Ok(false);
    }
    chunk::floats(encoding, &slot.data, columns).map(|()| true)
}

/// An aggregate that was asked for.
fn need<'s>(slot: Option<&'s Slot>, name: &'static str) -> Result<&'s Slot, ChunkError> {
    slot.ok_or_else(|| bad(name, "the store did not send it"))
}

/// Counts and sums that do not belong together.
const NOT_THOSE: &str = "its windows are not those of the count";

fn bad(aggregate: &'static str, why: &'static str) -> ChunkError {
    refused(aggregate, ErrorKind::Corrupt(why))
}

fn refused(aggregate: &'static str, kind: ErrorKind) -> ChunkError {
    ChunkError { encoding: Encoding::Aggregate, section: Section::Aggregate(aggregate), bit: 0, length: 0, kind }
}

/// Counts and averages of windows.
struct Pairs {
    counts: Decoded,
    sums: Decoded,
}

impl Pairs {
    fn pair(&mut self) -> Result<Option<(f64, Sample)>, ChunkError> {
        let (count, sum) = (self.counts.next().transpose()?, self.sums.next().transpose()?);
        let (n, sum) = match (count, sum) {
            (None, None) => return Ok(None),
            (Some(Sample { t, v: Value::Float(n) }), Some(sum)) if t == sum.t => (n, sum),
            _ => return Err(bad("sum", NOT_THOSE)),
        };
        let v = match sum.v {
            Value::Float(sum) => Value::Float(sum / n),
            Value::Histogram(h) => Value::Histogram(Arc::new(divided(&h, n))),
        };
        Ok(Some((n, Sample { t: sum.t, v })))
    }
}

impl Iterator for Pairs {
    type Item = Result<(f64, Sample), ChunkError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.pair().transpose()
    }
}

fn divided(h: &FloatHistogram, n: f64) -> FloatHistogram {
    let mut h = h.clone();
    let all = h.positive_buckets.iter_mut().chain(&mut h.negative_buckets);
    for v in all.chain([&mut h.count, &mut h.sum, &mut h.zero_count]) {
        *v /= n;
    }
    h
}

/// Takes the resets out of a counter: what falls begins anew from nothing. A downsampled chunk ends with its last raw value
/// under the time of its last window, so that a reset between two chunks shows.
#[derive(Debug, Default)]
struct Counter {
    total: f64,
    last: Option<(i64, f64)>,
}

impl Counter {
    fn next(&mut self, s: Sample) -> Option<Sample> {
        let Value::Float(v) = s.v else { return Some(s) };
        if v.is_nan() {
            return None;
        }
        match &mut self.last {
            None => self.total = v,
            Some((t, _)) if s.t < *t => return None,
            Some((t, raw)) if s.t == *t => {
                *raw = v;
                return None;
            }
            Some((_, raw)) => self.total += if v < *raw { v } else { v - *raw },
        }
        self.last = Some((s.t, v));
        Some(Sample { t: s.t, v: Value::Float(self.total) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tsdb::chunk::XorEncoder;

    fn slot(samples: &[(i64, f64)]) -> Slot {
        let mut e = XorEncoder::default();
        for (t, v) in samples {
            e.append(*t, *v).unwrap();
        }
        Slot { encoding: 0, data: e.bytes(), hash: 0 }
    }

    fn raw(samples: &[(i64, f64)]) -> Chunk {
        Chunk {
            min_time: samples[0].0,
            max_time: samples[samples.len() - 1].0,
            raw: Some(slot(samples)),
            aggregates: None,
            source: 0,
        }
    }

    /// Downsamples as Thanos does: by the rules DS-15 to DS-18 of its format.
    pub(crate) fn downsample(samples: &[(i64, f64)], window: i64, source: u32) -> Chunk {
        let (mut count, mut sum, mut min, mut max, mut counter) = (vec![], vec![], vec![], vec![], vec![]);
        let end = samples[samples.len() - 1].0;
        let mut total = Counter::default();
        counter.push(samples[0]);
        for part in samples.chunk_by(|a, b| a.0 / window == b.0 / window) {
            let t = (part[0].0 - part[0].0 % window + window - 1).min(end);
            let values = || part.iter().map(|s| s.1);
            count.push((t, part.len() as f64));
            sum.push((t, values().sum()));
            min.push((t, values().fold(f64::INFINITY, f64::min)));
            max.push((t, values().fold(f64::NEG_INFINITY, f64::max)));
            for (t, v) in part {
                total.next(Sample { t: *t, v: Value::Float(*v) });
            }
            if t > counter[counter.len() - 1].0 || counter.len() == 1 {
                counter.push((t, total.total));
            }
        }
        counter.push((count[count.len() - 1].0, samples[samples.len() - 1].1));
        Chunk {
            min_time: count[0].0,
            max_time: count[count.len() - 1].0,
            raw: None,
            aggregates: Some(Box::new(Aggregates {
                count: Some(slot(&count)),
                sum: Some(slot(&sum)),
                min: Some(slot(&min)),
                max: Some(slot(&max)),
                counter: Some(slot(&counter)),
            })),
            source,
        }
    }

    fn view(view: View, mixed: bool, chunks: &[Chunk]) -> Vec<(i64, f64)> {
        let (mut reader, mut out) = (Reader::new(view, mixed), Vec::new());
        for c in chunks {
            reader.read(c, &mut out).unwrap();
        }
        out.into_iter()
            .map(|s| match s.v {
                Value::Float(v) => (s.t, v),
                Value::Histogram(_) => panic!("floats went in"),
            })
            .collect()
    }

    const M: i64 = 60_000;

    #[test]
    fn functions_read_what_they_mean() {
        let data: Vec<(i64, f64)> = (0..60).map(|i| (i * M, (i % 7) as f64)).collect();
        let c = [downsample(&data, 5 * M, 0)];
        let first = |v: View| view(v, false, &c)[0];
        assert_eq!(first(View::Sum), (5 * M - 1, 10.0));
        assert_eq!(first(View::Min), (5 * M - 1, 0.0));
        assert_eq!(first(View::Max), (5 * M - 1, 4.0));
        assert_eq!(first(View::Average), (5 * M - 1, 2.0));
        let counted = view(View::Count, false, &c);
        assert_eq!(counted.len(), 60);
        assert!(counted.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(counted.iter().filter(|s| s.0 >= 30 * M && s.0 < 60 * M).count(), 30);
        // Equal windows need no weights, others do.
        assert_eq!(view(View::Weighted, false, &c).len(), 12);
        let gappy: Vec<(i64, f64)> = data.iter().copied().filter(|(t, _)| *t < 30 * M || t % (5 * M) == 0).collect();
        let weighted = view(View::Weighted, true, &[downsample(&gappy, 5 * M, 0)]);
        let mean = |s: &[(i64, f64)]| s.iter().map(|s| s.1).sum::<f64>() / s.len() as f64;
        assert!((mean(&weighted) - mean(&gappy)).abs() < 1e-9, "{} {}", mean(&weighted), mean(&gappy));
    }

    #[test]
    fn counters_go_on_over_chunks_and_resets() {
        let value = |i: i64| if i < 47 { i as f64 } else { (i - 47) as f64 };
        let data: Vec<(i64, f64)> = (0..120).map(|i| (i * M, value(i))).collect();
        for cut in [30, 47, 50, 90] {
            let (a, b) = data.split_at(cut);
            let chunks = [downsample(a, 5 * M, 0), downsample(b, 5 * M, 0)];
            let read = view(View::Counter, false, &chunks);
            assert!(read.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{cut}: {read:?}");
            assert_eq!((read[0], read[read.len() - 1].1), ((0, 0.0), 46.0 + 72.0), "{cut}: {read:?}");
            // Raw data that follows is counted on.
            let read = view(View::Counter, true, &[downsample(a, 5 * M, 0), raw(b)]);
            assert_eq!(read[read.len() - 1], (119 * M, 46.0 + 72.0), "{cut}: {read:?}");
        }
    }

    #[test]
    fn what_is_lacking_or_lies_is_an_error() {
        let mut c = downsample(&[(0, 1.0), (M, 2.0), (6 * M, 3.0)], 5 * M, 0);
        let a = c.aggregates.as_mut().unwrap();
        a.counter = None;
        a.sum = Some(slot(&[(5, 1.0)]));
        let e = |v| Reader::new(v, false).read(&c, &mut Vec::new()).unwrap_err().to_string();
        assert!(e(View::Counter).contains("aggregate counter") && e(View::Average).contains("windows are not those"));
    }

    #[test]
    fn a_window_of_more_samples_than_can_be_spread_is_refused_and_none_is_left_out() {
        let windows = |counts: &[(i64, f64)]| {
            let mut c = downsample(&[(0, 1.0), (60 * M, 1.0)], 60 * M, 0);
            let a = c.aggregates.as_mut().unwrap();
            (a.count, a.sum) = (Some(slot(counts)), Some(slot(counts)));
            c
        };
        let most = MAX_SPREAD as f64;
        let all = windows(&[(60 * M - 1, most), (120 * M - 1, 7.0)]);
        assert_eq!(view(View::Count, false, &[all]).len(), MAX_SPREAD as usize + 7);
        for n in [most + 1.0, 1e300, f64::INFINITY] {
            let c = windows(&[(60 * M - 1, 1.0), (120 * M - 1, n)]);
            let read = |v, mixed| Reader::new(v, mixed).read(&c, &mut Vec::new());
            for (v, mixed) in [(View::Count, false), (View::Count, true), (View::Weighted, true)] {
                let e = read(v, mixed).unwrap_err();
                assert!(matches!(e.kind, ErrorKind::Limit(_)), "{e}");
                assert!(
                    e.to_string().contains("aggregate count") && e.to_string().contains("max_source_resolution"),
                    "{e}"
                );
            }
            // Proportions need no such number.
            read(View::Weighted, false).unwrap();
        }
        // The last window was cut a millisecond after the first: that says nothing about its length.
        let cut = windows(&[(5 * M - 1, 20.0), (5 * M, 1.0)]);
        assert_eq!(view(View::Count, false, &[cut]).len(), 21);
    }

    #[test]
    fn a_short_window_lowers_the_resolution() {
        assert_eq!(resolution_for(3_600_000, "rate", 5 * M), 150_000);
        assert_eq!(resolution_for(3_600_000, "max_over_time", 5 * M), 3_600_000);
        assert_eq!(resolution_for(0, "rate", 5 * M), 0);
        assert_eq!(lookback_for(5 * M, 0), 5 * M);
        assert_eq!(lookback_for(M, 300_000), 5 * M);
        assert_eq!(lookback_for(5 * M, i64::MAX), 60 * M);
    }
}
