//! What a query reads from: selected series, merged already, deduplicated and decoded when the evaluation asks for them. They
//! are all there, or come while the evaluation reads.

use super::dedup::{Dedup, Replica};
use super::downsampled::{self, View};
use super::flow::{Held, Opened, Reader};
use super::pairwise::{Chain, Penalty};
use super::series::{Chunk, Series, Slot, split_by_overlap, split_replicas};
use super::warning::Warning;
use args::DedupFunc;
use model::sample::{Sample, Value};
use parking_lot::Mutex;
use promql::exec::{Encoded, Entry, QueryError, Samples, SelectRequest, SeriesSet, Source, Stop};
use std::collections::VecDeque;
use std::sync::Arc;
use tsdb::chunk::{self, ChunkError, ChunkIter, Columns, Encoding};

/// The series of one select, sorted by labels, each label set once.
#[derive(Clone, Debug, Default)]
pub struct Selected(pub Arc<Vec<Series>>);

/// The series of a select.
#[derive(Clone)]
pub enum Input {
    /// All of them.
    Whole(Selected),
    /// They come while they are read, once.
    Flow(Arc<Opened>),
}

/// The series of all selects of a plan.
pub struct Inputs {
    /// By the id of the select.
    pub selected: Vec<Input>,
    /// How replicas become one.
    pub dedup: DedupFunc,
    /// Ends the wait for series.
    pub stop: Stop,
    /// Fetches the series of a select anew, for an evaluation that goes through them again.
    pub again: Box<dyn Fn(usize) -> Option<Opened> + Send + Sync>,
    /// Those that were fetched anew.
    pub anew: Mutex<Vec<Arc<Opened>>>,
}

impl Inputs {
    /// What is missing, as far as is known.
    pub fn take_warnings(&self) -> Vec<Warning> {
        let anew = self.anew.lock();
        let flows = self.selected.iter().filter_map(|input| match input {
            Input::Flow(opened) => Some(opened),
            Input::Whole(_) => None,
        });
        flows.chain(&*anew).flat_map(|opened| opened.flow.take_warnings()).collect()
    }

    /// The reader of a flow.
    fn read(&self, id: usize, opened: &Arc<Opened>) -> Result<Reader, QueryError> {
        if opened.begin() {
            return Ok(Reader::new(Arc::clone(&opened.flow), self.stop.clone()));
        }
        let gone = || QueryError::Storage(format!("select {id} can't be fetched again"));
        let anew = Arc::new((self.again)(id).ok_or_else(gone)?);
        let reader = Reader::new(Arc::clone(&anew.flow), self.stop.clone());
        self.anew.lock().push(anew);
        Ok(reader)
    }
}

/// How a series is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// First time, milliseconds since the epoch, inclusive.
    pub mint: i64,
    /// Last time, milliseconds since the epoch, inclusive.
    pub maxt: i64,
    /// What of downsampled data.
    pub view: View,
    /// How replicas become one.
    pub dedup: DedupFunc,
}

impl Reading {
    /// A fall is a reset to whoever reads it.
    fn counter(&self) -> bool {
        self.view == View::Counter
    }
}

impl Source for Inputs {
    fn select<'s>(&'s self, request: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
        let id = request.id;
        let input = self.selected.get(id);
        let input = input.ok_or_else(|| QueryError::Storage(format!("select {id} was not fetched")))?;
        let reading =
            Reading { mint: request.mint, maxt: request.maxt, view: View::of(&request.hints.func), dedup: self.dedup };
        Ok(match input {
            Input::Whole(selected) => Box::new(Set { selected, next: 0, reading }),
            Input::Flow(opened) => Box::new(Coming { from: self.read(id, opened)?, reading }),
        })
    }

    fn repeatable(&self) -> bool {
        true
    }

    fn series(&self, request: &SelectRequest) -> Option<u64> {
        Some(match self.selected.get(request.id)? {
            Input::Whole(selected) => selected.0.len() as u64,
            // No fewer than these.
            Input::Flow(opened) => opened.flow.count(),
        })
    }
}

/// Series that come.
struct Coming {
    from: Reader,
    reading: Reading,
}

impl<'s> SeriesSet<'s> for Coming {
    fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
        let Some(held) = self.from.next_series()? else { return Ok(None) };
        let labels = held.series.labels.clone();
        Ok(Some(Entry { labels, data: Box::new(Own { held, reading: self.reading }) }))
    }
}

/// A series that is dropped when it was decoded.
struct Own {
    held: Held,
    reading: Reading,
}

impl Encoded for Own {
    fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
        One { series: &self.held.series, reading: self.reading }.decode(out)
    }

    fn samples(&self) -> Option<u64> {
        One { series: &self.held.series, reading: self.reading }.samples()
    }

    fn words(&self) -> u64 {
        One { series: &self.held.series, reading: self.reading }.words()
    }
}

struct Set<'a> {
    selected: &'a Selected,
    next: usize,
    reading: Reading,
}

impl<'s> SeriesSet<'s> for Set<'s> {
    fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
        let Some(series) = self.selected.0.get(self.next) else { return Ok(None) };
        self.next += 1;
        let data = One { series, reading: self.reading };
        Ok(Some(Entry { labels: series.labels.clone(), data: Box::new(data) }))
    }
}

/// A series that waits to be decoded; its chunks are accounted for where they were fetched.
struct One<'s> {
    series: &'s Series,
    reading: Reading,
}

impl One<'_> {
    fn wanted(&self) -> impl Iterator<Item = &Chunk> + Clone {
        let Reading { mint, maxt, .. } = self.reading;
        self.series.chunks.iter().filter(move |c| c.max_time >= mint && c.min_time <= maxt)
    }
}

impl Encoded for One<'_> {
    fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
        read(self.series, self.reading, out)
            .map_err(|e| QueryError::Storage(format!("series {}: {e}", self.series.labels)))
    }

    fn samples(&self) -> Option<u64> {
        let wanted = self.wanted();
        if wanted.clone().any(|c| c.aggregates.is_some()) {
            // A window may become many.
            return None;
        }
        let announced = |c: &Chunk| {
            c.raw.as_ref().and_then(|raw| chunk::announced_samples(Encoding::from_store_api(raw.encoding), &raw.data))
        };
        Some(wanted.filter_map(announced).map(u64::from).sum())
    }

    fn words(&self) -> u64 {
        let announced = |s: &Slot| chunk::announced_words(Encoding::from_store_api(s.encoding), &s.data);
        self.wanted().flat_map(Chunk::slots).map(announced).fold(0, u64::saturating_add)
    }
}

/// Decodes a series into `out`: the samples in the range, of several replicas those that deduplication picks.
pub fn read(series: &Series, reading: Reading, out: &mut Samples) -> Result<(), ChunkError> {
    let Reading { mint, maxt, dedup, .. } = reading;
    let wanted = series.chunks.iter().filter(|c| c.max_time >= mint && c.min_time <= maxt && c.has_data());
    let coarse = wanted.clone().any(|c| c.aggregates.is_some());
    // The common case: what one store sent follows each other.
    let follow = |a: &Chunk, b: &Chunk| a.source == b.source && a.max_time < b.min_time;
    if !coarse && wanted.clone().zip(wanted.clone().skip(1)).all(|(a, b)| follow(a, b)) {
        return read_one(wanted, mint, maxt, out);
    }
    let wanted = wanted.cloned().collect();
    let mut replicas = if dedup == DedupFunc::Fill { split_replicas(wanted) } else { split_by_overlap(wanted) };
    if replicas.len() < 2 && !coarse {
        return replicas.pop().map_or(Ok(()), |chunks| read_one(chunks.iter(), mint, maxt, out));
    }
    // Thanos takes resets out of raw data, too.
    let everywhere = reading.counter() && dedup != DedupFunc::Fill;
    let mut replicas: Vec<Chunks> =
        replicas.into_iter().map(|chunks| Chunks::new(chunks, reading, everywhere)).collect();
    match (dedup, replicas.as_mut_slice()) {
        (DedupFunc::Fill, [one]) => one.give(out),
        (DedupFunc::Fill, _) => Dedup::new(replicas, reading.counter(), maxt).each(|sample| push(out, sample)),
        (DedupFunc::Penalty, _) => {
            let mut all = Penalty::new(replicas, reading.counter())?;
            pass_on(out, || all.next_sample())
        }
        (DedupFunc::Chain, _) => {
            let mut all = Chain::new(replicas);
            pass_on(out, || all.next_sample())
        }
    }
}

fn pass_on(out: &mut Samples, mut next: impl FnMut() -> Result<Option<Sample>, ChunkError>) -> Result<(), ChunkError> {
    while let Some(sample) = next()? {
        push(out, sample);
    }
    Ok(())
}

fn push(out: &mut Samples, sample: Sample) {
    match sample.v {
        Value::Float(v) => out.push(sample.t, v),
        Value::Histogram(h) => out.push_histogram(sample.t, h),
    }
}

fn open(chunk: &Chunk) -> Result<Option<ChunkIter>, ChunkError> {
    let Some(raw) = &chunk.raw else { return Ok(None) };
    chunk::decode(Encoding::from_store_api(raw.encoding), raw.data.clone()).map(Some)
}

/// One replica, decoded straight into the columns.
fn read_one<'c>(
    chunks: impl Iterator<Item = &'c Chunk>,
    mint: i64,
    maxt: i64,
    out: &mut Samples,
) -> Result<(), ChunkError> {
    let mut last = i64::MIN;
    for c in chunks {
        let Some(raw) = &c.raw else { continue };
        let encoding = Encoding::from_store_api(raw.encoding);
        if encoding == Encoding::Xor {
            let from = out.times.len();
            let mut columns =
                Columns { times: std::mem::take(&mut out.times), values: std::mem::take(&mut out.floats) };
            let read = chunk::floats(encoding, &raw.data, &mut columns);
            (out.times, out.floats) = (columns.times, columns.values);
            read?;
            keep(out, from, mint.max(last.saturating_add(1)), maxt);
            last = out.times.last().map_or(last, |t| last.max(*t));
            continue;
        }
        if out.wants_rows && out.histograms.is_empty() {
            let wants = |t: i64| {
                let wanted = t >= mint && t <= maxt && t > last;
                last = if wanted { t } else { last };
                wanted
            };
            if chunk::histograms(encoding, &raw.data, &mut out.table, wants)? {
                continue;
            }
        }
        out.settle();
        for sample in chunk::decode(encoding, raw.data.clone())? {
            let s = sample?;
            if s.t >= mint && s.t <= maxt && s.t > last {
                last = s.t;
                match s.v {
                    Value::Float(v) => out.push(s.t, v),
                    Value::Histogram(h) => out.push_histogram(s.t, h),
                }
            }
        }
    }
    Ok(())
}

/// Of the floats from `from` on keeps those in `[mint, maxt]` that ascend.
fn keep(out: &mut Samples, from: usize, mint: i64, maxt: i64) {
    let new = out.times.get(from..).unwrap_or_default();
    let ascend = new.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
    let within = new.first().is_none_or(|t| *t >= mint) && new.last().is_none_or(|t| *t <= maxt);
    if ascend && within {
        return;
    }
    let (mut to, mut least) = (from, mint);
    for i in from..out.times.len() {
        let (Some(t), Some(v)) = (out.times.get(i).copied(), out.floats.get(i).copied()) else { break };
        if t < least || t > maxt {
            continue;
        }
        least = t.saturating_add(1);
        if let (Some(time), Some(value)) = (out.times.get_mut(to), out.floats.get_mut(to)) {
            (*time, *value) = (t, v);
        }
        to += 1;
    }
    out.times.truncate(to);
    out.floats.truncate(to);
}

/// A replica's chunks.
struct Chunks {
    chunks: VecDeque<Chunk>,
    mint: i64,
    maxt: i64,
    interval: Option<i64>,
    /// Needed where some of the chunks are downsampled.
    reader: Option<downsampled::Reader>,
    /// No chunk may be left out: each goes on where the one before ended.
    whole: bool,
    /// What the reader gave, before it is cut.
    read: Vec<Sample>,
    /// The floats of a chunk.
    columns: Columns,
}

impl Chunks {
    fn new(chunks: Vec<Chunk>, reading: Reading, everywhere: bool) -> Self {
        let Reading { mint, maxt, view, .. } = reading;
        let coarse = chunks.iter().filter(|c| c.aggregates.is_some()).count();
        let reader = (coarse > 0 || everywhere).then(|| downsampled::Reader::new(view, coarse < chunks.len()));
        let whole = reader.is_some() && view.runs_on();
        Self {
            chunks: chunks.into(),
            mint,
            maxt,
            interval: None,
            reader,
            whole,
            read: Vec::new(),
            columns: Columns::default(),
        }
    }

    /// All of it: there is no other replica.
    fn give(&mut self, out: &mut Samples) -> Result<(), ChunkError> {
        let (mut last, mut stretch) = (i64::MIN, Vec::new());
        while self.read(last, &mut stretch)? {
            for sample in stretch.drain(..) {
                if sample.t > last {
                    last = sample.t;
                    push(out, sample);
                }
            }
        }
        Ok(())
    }
}

/// Distances that an interval is taken from.
const DISTANCES: usize = 4;

impl Replica for Chunks {
    type Error = ChunkError;

    fn next_from(&self) -> Option<i64> {
        self.chunks.front().map(|c| c.min_time.max(self.mint))
    }

    fn read(&mut self, after: i64, out: &mut Vec<Sample>) -> Result<bool, ChunkError> {
        while !self.whole && self.chunks.get(1).is_some_and(|c| c.min_time <= after) {
            self.chunks.pop_front();
        }
        while let Some(c) = self.chunks.pop_front() {
            let (mut last, mut least, mut distances) = (None, i64::MAX, 0);
            let mut take = |s: Sample| {
                if let Some(last) = last {
                    if s.t <= last {
                        return;
                    }
                    (least, distances) = (least.min(s.t - last), distances + 1);
                }
                last = Some(s.t);
                // The chunk knows the interval even where the query wants few of its samples.
                if s.t >= self.mint && s.t <= self.maxt {
                    out.push(s);
                }
            };
            match &mut self.reader {
                None => match &c.raw {
                    Some(raw) if Encoding::from_store_api(raw.encoding) == Encoding::Xor => {
                        self.columns.times.clear();
                        self.columns.values.clear();
                        chunk::floats(Encoding::Xor, &raw.data, &mut self.columns)?;
                        let floats = self.columns.times.iter().zip(&self.columns.values);
                        floats.for_each(|(t, v)| take(Sample { t: *t, v: Value::Float(*v) }));
                    }
                    _ => {
                        for sample in open(&c)?.into_iter().flatten() {
                            take(sample?);
                        }
                    }
                },
                Some(reader) => {
                    reader.read(&c, &mut self.read)?;
                    self.read.drain(..).for_each(take);
                }
            }
            self.interval = (distances >= DISTANCES).then_some(least);
            if !out.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn interval(&self) -> Option<i64> {
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Labels;
    use model::histogram::{FloatHistogram, Span};
    use tsdb::chunk::{HistogramEncoder, XorEncoder};

    fn encoded(source: u32, samples: &[(i64, f64)]) -> Chunk {
        let mut e = XorEncoder::default();
        for (t, v) in samples {
            e.append(*t, *v).unwrap();
        }
        let (min_time, max_time) = e.range();
        let raw = Some(Slot { encoding: 0, data: e.bytes(), hash: 0 });
        Chunk { min_time, max_time, raw, aggregates: None, source }
    }

    fn every15(from: i64, n: i64) -> Vec<(i64, f64)> {
        (0..n).map(|i| (from + 15 * i, i as f64)).collect()
    }

    fn times(chunks: Vec<Chunk>, mint: i64, maxt: i64) -> Vec<i64> {
        let mut out = Samples::default();
        let reading = Reading { mint, maxt, view: View::Average, dedup: DedupFunc::Fill };
        read(&Series { labels: Labels::empty(), chunks }, reading, &mut out).unwrap();
        out.times
    }

    #[test]
    fn one_replica_is_read_as_it_is() {
        let chunks = vec![encoded(0, &every15(0, 10)), encoded(0, &every15(150, 10))];
        assert_eq!(times(chunks, 30, 200), (2..14).map(|i| 15 * i).collect::<Vec<_>>());
    }

    #[test]
    fn samples_that_do_not_ascend_are_left_out() {
        let wild = encoded(0, &[(10, 1.0), (30, 2.0), (20, 3.0), (30, 4.0), (40, 5.0)]);
        let mut wild = Chunk { min_time: 10, max_time: 40, ..wild };
        assert_eq!(times(vec![wild.clone()], 0, 100), [10, 30, 40]);
        assert_eq!(times(vec![wild.clone()], 15, 30), [30]);
        // A chunk may lie about where it ends.
        wild.max_time = 35;
        assert_eq!(times(vec![wild, encoded(0, &every15(36, 2))], 0, 100), [10, 30, 40, 51]);
    }

    #[test]
    fn the_same_data_from_two_stores_is_one_series() {
        // A sidecar and a store gateway cut the same samples differently.
        let chunks = vec![
            encoded(0, &every15(0, 10)),
            encoded(0, &every15(150, 10)),
            encoded(1, &every15(0, 7)),
            encoded(1, &every15(105, 5)),
        ];
        assert_eq!(times(chunks, 0, 1000), (0..20).map(|i| 15 * i).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_of_one_replica_is_filled_from_the_other() {
        let chunks = vec![
            encoded(0, &every15(0, 10)),
            encoded(0, &every15(600, 10)),
            encoded(1, &every15(7, 25)),
            encoded(1, &every15(382, 25)),
        ];
        let t = times(chunks, 0, 10_000);
        assert!(t.windows(2).all(|w| w[1] - w[0] <= 22), "{t:?}");
        assert_eq!((t[0], t[t.len() - 1]), (0, 742));
        // A short range of the same data: home's samples, not both replicas'.
        let chunks = vec![encoded(0, &every15(0, 100)), encoded(1, &every15(7, 100))];
        assert_eq!(times(chunks, 300, 340), [300, 315, 330]);
    }

    /// One series, whole.
    fn inputs(labels: Labels, chunks: Vec<Chunk>) -> Inputs {
        Inputs {
            selected: vec![Input::Whole(Selected(Arc::new(vec![Series { labels, chunks }])))],
            dedup: DedupFunc::Fill,
            stop: Stop::new(),
            again: Box::new(|_| None),
            anew: Mutex::default(),
        }
    }

    /// A chunk of 230 KB whose histograms would take 200 MB: a bucket that does not change is a bit in it.
    #[test]
    fn what_histograms_will_take_is_known_before_they_are_decoded() {
        let h = FloatHistogram {
            positive_spans: vec![Span { offset: 0, length: 1_000 }],
            positive_buckets: vec![1.0; 1_000],
            count: 1_000.0,
            ..FloatHistogram::default()
        };
        let mut e = HistogramEncoder::new(false, 0, 0, &h, None).unwrap();
        (1..25_000).for_each(|i| drop(e.append(0, i, &h).unwrap()));
        let raw = Some(Slot { encoding: 2, data: e.bytes(), hash: 0 });
        let all = Chunk { min_time: 0, max_time: 25_000, raw, aggregates: None, source: 0 };
        let one = encoded(1, &every15(0, 10));
        // As they lie in one store, beside floats of another, and twice.
        let request = SelectRequest { id: 0, matchers: vec![], mint: 0, maxt: 20_000, hints: Default::default() };
        for (times, chunks) in
            [(1, vec![all.clone()]), (1, vec![all.clone(), one]), (2, vec![all.clone(), Chunk { source: 1, ..all }])]
        {
            let inputs = inputs(Labels::empty(), chunks);
            let entry = inputs.select(&request).unwrap().next_series().unwrap().unwrap();
            // A span, its buckets, as often as there are histograms.
            assert_eq!(entry.data.words(), times * 25_000 * 1_001);
        }
    }

    #[test]
    fn a_broken_chunk_is_an_error_that_names_the_series() {
        let mut c = encoded(0, &every15(0, 10));
        c.raw.as_mut().unwrap().data.truncate(9);
        let set = inputs(Labels::from_pairs([("a", "b")]), vec![c]);
        let request = SelectRequest { id: 0, matchers: vec![], mint: 0, maxt: 1000, hints: Default::default() };
        let mut set = set.select(&request).unwrap();
        let entry = set.next_series().unwrap().unwrap();
        let e = entry.data.decode(&mut Samples::default()).unwrap_err().to_string();
        assert!(e.contains(r#"series {a="b"}: XOR chunk"#), "{e}");
    }
}
