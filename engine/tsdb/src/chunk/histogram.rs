//! Chunks of native histograms: one bucket layout for the whole chunk, then per sample what changed.

use super::bits::{BitReader, BitWriter, Truncated};
use super::varbit::{
    read_custom_bound, read_int, read_uint, read_zero_threshold, write_custom_bound, write_int, write_uint,
    write_zero_threshold,
};
use super::xor::{Window, XorFault, error, read_xor, write_xor};
use super::{ChunkError, Encoding, ErrorKind};
use bytes::Bytes;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, ResetHint, Span};
use model::sample::is_stale;

/// Most buckets that a histogram may have: twice what the finest resolution needs to cover all floats.
const MAX_BUCKETS: usize = 1 << 20;
/// Resolutions that can be computed with.
const SCHEMAS: std::ops::RangeInclusive<i64> = -9..=8;

enum Fault {
    Value(XorFault),
    Schema(i64),
}

impl From<Truncated> for Fault {
    fn from(t: Truncated) -> Self {
        Self::Value(t.into())
    }
}

impl From<XorFault> for Fault {
    fn from(f: XorFault) -> Self {
        Self::Value(f)
    }
}

fn corrupt(what: &'static str) -> Fault {
    Fault::Value(XorFault::Corrupt(what))
}

/// What all samples of a chunk share.
#[derive(Debug, Clone, Default, PartialEq)]
struct Layout {
    schema: i32,
    zero_threshold: f64,
    positive: Vec<Span>,
    negative: Vec<Span>,
    custom: Vec<f64>,
}

impl Layout {
    /// Reads the layout. `bucket_bits` is the least that a bucket takes in the first sample: it bounds what hostile bytes can
    /// make us allocate.
    fn read(r: &mut BitReader, bucket_bits: usize) -> Result<(Self, usize, usize), Fault> {
        let zero_threshold = read_zero_threshold(r)?;
        let schema = read_int(r)?;
        if !SCHEMAS.contains(&schema) && schema != i64::from(CUSTOM_BUCKETS_SCHEMA) {
            return Err(Fault::Schema(schema));
        }
        let (positive, np) = read_spans(r)?;
        let (negative, nn) = read_spans(r)?;
        let mut custom = Vec::new();
        if schema == i64::from(CUSTOM_BUCKETS_SCHEMA) {
            let n = usize::try_from(read_uint(r)?).unwrap_or(usize::MAX);
            if n > r.remaining() {
                return Err(corrupt("more custom bounds than the chunk has room for"));
            }
            for _ in 0..n {
                custom.push(read_custom_bound(r)?);
            }
        }
        if np + nn > MAX_BUCKETS.min(r.remaining() / bucket_bits) {
            return Err(corrupt("more buckets than the chunk has room for"));
        }
        // The range check above keeps the schema within i32.
        Ok((Self { schema: schema as i32, zero_threshold, positive, negative, custom }, np, nn))
    }

    fn write(&self, w: &mut BitWriter) {
        write_zero_threshold(w, self.zero_threshold);
        write_int(w, i64::from(self.schema));
        for spans in [&self.positive, &self.negative] {
            write_uint(w, spans.len() as u64);
            for s in spans {
                write_uint(w, u64::from(s.length));
                write_int(w, i64::from(s.offset));
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            write_uint(w, self.custom.len() as u64);
            for bound in &self.custom {
                write_custom_bound(w, *bound);
            }
        }
    }

    fn of(h: &FloatHistogram) -> Self {
        Self {
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            positive: h.positive_spans.clone(),
            negative: h.negative_spans.clone(),
            custom: h.custom_values.clone(),
        }
    }

    /// Equality without the surprises of floats.
    fn same(&self, h: &FloatHistogram) -> bool {
        let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        self.schema == h.schema
            && self.zero_threshold.to_bits() == h.zero_threshold.to_bits()
            && self.positive == h.positive_spans
            && self.negative == h.negative_spans
            && bits(&self.custom) == bits(&h.custom_values)
    }
}

fn read_spans(r: &mut BitReader) -> Result<(Vec<Span>, usize), Fault> {
    let n = usize::try_from(read_uint(r)?).unwrap_or(usize::MAX);
    if n > MAX_BUCKETS.min(r.remaining() / 2) {
        return Err(corrupt("more spans than the chunk has room for"));
    }
    let (mut spans, mut buckets) = (Vec::with_capacity(n), 0usize);
    for _ in 0..n {
        let length = u32::try_from(read_uint(r)?).map_err(|_e| corrupt("a span is longer than 32 bits"))?;
        let offset = i32::try_from(read_int(r)?).map_err(|_e| corrupt("a span's offset has more than 32 bits"))?;
        buckets = buckets.saturating_add(length as usize);
        spans.push(Span { offset, length });
    }
    Ok((spans, buckets))
}

/// What both kinds of chunk have in common.
#[derive(Debug)]
struct Head {
    encoding: Encoding,
    r: BitReader,
    total: u16,
    read: u16,
    gauge: bool,
    t: i64,
    delta: i64,
    layout: Layout,
    failed: bool,
}

impl Head {
    fn new(encoding: Encoding, data: Bytes) -> Result<Self, ChunkError> {
        let Some([a, b, flags]) = data.first_chunk::<3>().copied() else {
            let kind = ErrorKind::Corrupt("it is shorter than its head of 3 bytes");
            return Err(ChunkError { encoding, offset: 0, length: data.len(), kind });
        };
        Ok(Self {
            encoding,
            total: u16::from_be_bytes([a, b]),
            r: BitReader::new(data, 3),
            read: 0,
            gauge: flags & 0b1100_0000 == 0b1100_0000,
            t: 0,
            delta: 0,
            layout: Layout::default(),
            failed: false,
        })
    }

    fn advance_time(&mut self) -> Result<(), Truncated> {
        self.delta = self.delta.wrapping_add(read_int(&mut self.r)?);
        self.t = self.t.wrapping_add(self.delta);
        Ok(())
    }

    /// What the chunk knows about a reset before the sample just read. The first sample's predecessor is in another chunk,
    /// which may not be the one that the writer saw; so nothing is known there.
    fn hint(&self) -> ResetHint {
        match (self.gauge, self.read) {
            (true, _) => ResetHint::Gauge,
            (false, 0) => ResetHint::Unknown,
            (false, _) => ResetHint::NotReset,
        }
    }

    fn error(&mut self, fault: Fault) -> ChunkError {
        self.failed = true;
        match fault {
            Fault::Value(f) => error(self.encoding, &self.r, f, self.read, self.total),
            Fault::Schema(s) => ChunkError {
                encoding: self.encoding,
                offset: self.r.offset(),
                length: self.r.length(),
                kind: ErrorKind::Schema(s),
            },
        }
    }

    fn histogram(&self, count: f64, zero_count: f64, sum: f64) -> FloatHistogram {
        FloatHistogram {
            reset_hint: self.hint(),
            schema: self.layout.schema,
            zero_threshold: self.layout.zero_threshold,
            zero_count,
            count,
            sum,
            positive_spans: self.layout.positive.clone(),
            negative_spans: self.layout.negative.clone(),
            positive_buckets: Vec::new(),
            negative_buckets: Vec::new(),
            custom_values: self.layout.custom.clone(),
        }
    }
}

/// A stale histogram has nothing but its marker.
fn stale(sum: f64) -> FloatHistogram {
    FloatHistogram { sum, ..FloatHistogram::default() }
}

/// The samples of a chunk with integer counts: time in milliseconds since the epoch, histogram.
#[derive(Debug)]
pub struct HistogramIter {
    head: Head,
    count: (u64, i64),
    zero: (u64, i64),
    sum: f64,
    window: Window,
    /// Per bucket: the difference to its left neighbour, and how much that changed last time.
    positive: Vec<(i64, i64)>,
    negative: Vec<(i64, i64)>,
}

impl HistogramIter {
    /// Opens a chunk; fails if it has no head. Prefer [`super::decode`], which counts.
    pub fn new(data: Bytes) -> Result<Self, ChunkError> {
        Ok(Self {
            head: Head::new(Encoding::Histogram, data)?,
            count: (0, 0),
            zero: (0, 0),
            sum: 0.0,
            window: Window::default(),
            positive: Vec::new(),
            negative: Vec::new(),
        })
    }

    fn step(&mut self) -> Result<FloatHistogram, Fault> {
        if self.head.read == 0 {
            let (layout, np, nn) = Layout::read(&mut self.head.r, 1)?;
            self.head.layout = layout;
            let r = &mut self.head.r;
            self.head.t = read_int(r)?;
            self.count = (read_uint(r)?, 0);
            self.zero = (read_uint(r)?, 0);
            self.sum = f64::from_bits(r.read(64)?);
            for (buckets, n) in [(&mut self.positive, np), (&mut self.negative, nn)] {
                buckets.reserve_exact(n);
                for _ in 0..n {
                    buckets.push((read_int(r)?, 0));
                }
            }
        } else {
            self.head.advance_time()?;
            let r = &mut self.head.r;
            for (value, delta) in [&mut self.count, &mut self.zero] {
                *delta = delta.wrapping_add(read_int(r)?);
                *value = value.wrapping_add_signed(*delta);
            }
            read_xor(r, &mut self.sum, &mut self.window)?;
            if is_stale(self.sum) {
                return Ok(stale(self.sum));
            }
            for (value, delta) in self.positive.iter_mut().chain(&mut self.negative) {
                *delta = delta.wrapping_add(read_int(r)?);
                *value = value.wrapping_add(*delta);
            }
        }
        if is_stale(self.sum) {
            return Ok(stale(self.sum));
        }
        let mut h = self.head.histogram(self.count.0 as f64, self.zero.0 as f64, self.sum);
        h.positive_buckets = running_sums(&self.positive);
        h.negative_buckets = running_sums(&self.negative);
        Ok(h)
    }
}

fn running_sums(buckets: &[(i64, i64)]) -> Vec<f64> {
    let mut sum = 0i64;
    buckets
        .iter()
        .map(|(difference, _)| {
            sum = sum.wrapping_add(*difference);
            sum as f64
        })
        .collect()
}

impl Iterator for HistogramIter {
    type Item = Result<(i64, FloatHistogram), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.head.failed || self.head.read == self.head.total {
            return None;
        }
        Some(match self.step() {
            Ok(h) => {
                self.head.read += 1;
                Ok((self.head.t, h))
            }
            Err(fault) => Err(self.head.error(fault)),
        })
    }
}

/// The samples of a chunk with float counts: time in milliseconds since the epoch, histogram.
#[derive(Debug)]
pub struct FloatHistogramIter {
    head: Head,
    count: (f64, Window),
    zero: (f64, Window),
    sum: (f64, Window),
    positive: Vec<(f64, Window)>,
    negative: Vec<(f64, Window)>,
}

impl FloatHistogramIter {
    /// Opens a chunk; fails if it has no head. Prefer [`super::decode`], which counts.
    pub fn new(data: Bytes) -> Result<Self, ChunkError> {
        let zero = (0.0, Window::default());
        Ok(Self {
            head: Head::new(Encoding::FloatHistogram, data)?,
            count: zero,
            zero,
            sum: zero,
            positive: Vec::new(),
            negative: Vec::new(),
        })
    }

    fn step(&mut self) -> Result<FloatHistogram, Fault> {
        if self.head.read == 0 {
            let (layout, np, nn) = Layout::read(&mut self.head.r, 64)?;
            self.head.layout = layout;
            let r = &mut self.head.r;
            self.head.t = read_int(r)?;
            for (value, _) in [&mut self.count, &mut self.zero, &mut self.sum] {
                *value = f64::from_bits(r.read(64)?);
            }
            for (buckets, n) in [(&mut self.positive, np), (&mut self.negative, nn)] {
                buckets.reserve_exact(n);
                for _ in 0..n {
                    buckets.push((f64::from_bits(r.read(64)?), Window::default()));
                }
            }
        } else {
            self.head.advance_time()?;
            let r = &mut self.head.r;
            for (value, window) in [&mut self.count, &mut self.zero, &mut self.sum] {
                read_xor(r, value, window)?;
            }
            if is_stale(self.sum.0) {
                return Ok(stale(self.sum.0));
            }
            for (value, window) in self.positive.iter_mut().chain(&mut self.negative) {
                read_xor(r, value, window)?;
            }
        }
        if is_stale(self.sum.0) {
            return Ok(stale(self.sum.0));
        }
        let mut h = self.head.histogram(self.count.0, self.zero.0, self.sum.0);
        h.positive_buckets = self.positive.iter().map(|(v, _)| *v).collect();
        h.negative_buckets = self.negative.iter().map(|(v, _)| *v).collect();
        Ok(h)
    }
}

impl Iterator for FloatHistogramIter {
    type Item = Result<(i64, FloatHistogram), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.head.failed || self.head.read == self.head.total {
            return None;
        }
        Some(match self.step() {
            Ok(h) => {
                self.head.read += 1;
                Ok((self.head.t, h))
            }
            Err(fault) => Err(self.head.error(fault)),
        })
    }
}

/// Builds a float histogram chunk. All its samples have one layout; with any other a new chunk begins.
#[derive(Debug)]
pub struct FloatHistogramEncoder {
    w: BitWriter,
    layout: Layout,
    gauge: bool,
    samples: u16,
    first: i64,
    t: i64,
    delta: i64,
    values: Vec<(f64, Option<Window>)>,
}

impl FloatHistogramEncoder {
    /// A chunk that begins with `h`. Its head says that nothing is known about a reset before it, unless `h` says more.
    pub fn new(t: i64, h: &FloatHistogram) -> Self {
        let flags = match h.reset_hint {
            ResetHint::Unknown => 0,
            ResetHint::NotReset => 0b0100_0000,
            ResetHint::Reset => 0b1000_0000,
            ResetHint::Gauge => 0b1100_0000,
        };
        let mut w = BitWriter::head(&[0, 1, flags]);
        let layout = Layout::of(h);
        layout.write(&mut w);
        write_int(&mut w, t);
        let values: Vec<_> = values(h).map(|v| (v, None)).collect();
        for (v, _) in &values {
            w.write(v.to_bits(), 64);
        }
        Self { w, layout, gauge: h.reset_hint == ResetHint::Gauge, samples: 1, first: t, t, delta: 0, values }
    }

    /// Appends a sample; false, and nothing is written, if it needs a new chunk: another layout, a reset, a full chunk.
    #[must_use]
    pub fn append(&mut self, t: i64, h: &FloatHistogram) -> bool {
        let gauge = h.reset_hint == ResetHint::Gauge;
        // Within a chunk of counters, no sample may be a reset: readers take that for granted.
        let reset = !gauge && (h.reset_hint == ResetHint::Reset || self.falls(h));
        let stale = is_stale(h.sum);
        let Some(samples) = self.samples.checked_add(1) else { return false };
        if !stale && (gauge != self.gauge || reset || !self.layout.same(h)) {
            return false;
        }
        let delta = t.wrapping_sub(self.t);
        write_int(&mut self.w, delta.wrapping_sub(self.delta));
        (self.t, self.delta, self.samples) = (t, delta, samples);
        // A stale sample has its three head values only; its buckets are not written.
        for ((previous, window), v) in self.values.iter_mut().zip(values(h)) {
            write_xor(&mut self.w, *previous, v, window);
            *previous = v;
        }
        self.w.set_count(samples);
        true
    }

    fn falls(&self, h: &FloatHistogram) -> bool {
        // The sum (third value) may fall without a reset.
        self.values.iter().zip(values(h)).enumerate().any(|(i, ((previous, _), v))| i != 2 && v < *previous)
    }

    /// Samples so far.
    pub fn count(&self) -> u16 {
        self.samples
    }

    /// Times of the first and the last sample, in milliseconds since the epoch.
    pub fn range(&self) -> (i64, i64) {
        (self.first, self.t)
    }

    /// The chunk's bytes.
    pub fn finish(self) -> Bytes {
        self.w.finish()
    }
}

/// All numbers of a sample in the order of the chunk.
fn values(h: &FloatHistogram) -> impl Iterator<Item = f64> + '_ {
    [h.count, h.zero_count, h.sum].into_iter().chain(h.positive_buckets.iter().chain(&h.negative_buckets).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(counts: &[f64], schema: i32) -> FloatHistogram {
        let custom = schema == CUSTOM_BUCKETS_SCHEMA;
        FloatHistogram {
            schema,
            zero_threshold: 2f64.powi(-128),
            zero_count: 1.0,
            count: 1.0 + counts.iter().sum::<f64>(),
            sum: counts.iter().sum::<f64>() * 0.7,
            positive_spans: vec![Span { offset: -3, length: counts.len() as u32 }],
            positive_buckets: counts.to_vec(),
            negative_spans: if custom { vec![] } else { vec![Span { offset: 2, length: 1 }] },
            negative_buckets: if custom { vec![] } else { vec![0.5] },
            custom_values: if custom { vec![0.1, 2.5, 1e9] } else { vec![] },
            ..FloatHistogram::default()
        }
    }

    fn decode(data: Bytes) -> Result<Vec<(i64, FloatHistogram)>, ChunkError> {
        FloatHistogramIter::new(data)?.collect()
    }

    proptest! {
        #[test]
        fn float_histograms_round_trip(
            schema in prop_oneof![-4i32..=8, Just(CUSTOM_BUCKETS_SCHEMA)],
            growth in prop::collection::vec(prop::collection::vec(0.0f64..100.0, 4), 1..50),
        ) {
            let mut counts = vec![0.0; 4];
            let samples: Vec<(i64, FloatHistogram)> = growth.iter().enumerate().map(|(i, g)| {
                counts.iter_mut().zip(g).for_each(|(c, g)| *c += g.floor());
                (i as i64 * 15_000 + 1_700_000_000_000, sample(&counts, schema))
            }).collect();
            let mut e = FloatHistogramEncoder::new(samples[0].0, &samples[0].1);
            for (t, h) in &samples[1..] {
                prop_assert!(e.append(*t, h));
            }
            let read = decode(e.finish()).unwrap();
            prop_assert_eq!(read.len(), samples.len());
            for (i, ((t, h), (rt, mut rh))) in samples.iter().zip(read).enumerate() {
                prop_assert_eq!(rh.reset_hint, if i == 0 { ResetHint::Unknown } else { ResetHint::NotReset });
                rh.reset_hint = ResetHint::Unknown;
                prop_assert_eq!((*t, h), (rt, &rh));
            }
        }
    }

    #[test]
    fn another_layout_or_a_reset_needs_a_new_chunk() {
        let mut e = FloatHistogramEncoder::new(0, &sample(&[3.0, 4.0], 3));
        assert!(!e.append(1, &sample(&[3.0, 4.0, 1.0], 3)), "more buckets");
        assert!(!e.append(1, &sample(&[3.0, 4.0], 2)), "another schema");
        assert!(!e.append(1, &sample(&[3.0, 3.0], 3)), "a bucket falls");
        assert!(e.append(1, &sample(&[3.0, 5.0], 3)));
        assert!(e.append(2, &stale(model::sample::stale_nan())));
        let read = decode(e.finish()).unwrap();
        assert_eq!(read.len(), 3);
        assert!(is_stale(read[2].1.sum) && read[2].1.positive_buckets.is_empty());
    }

    #[test]
    fn absurd_layouts_are_refused_before_memory_is_taken() {
        let mut w = BitWriter::head(&[0, 1, 0]);
        let span = Span { offset: 0, length: u32::MAX };
        Layout { schema: 3, positive: vec![span; 3], ..Layout::default() }.write(&mut w);
        let data = w.finish();
        for error in [decode(data.clone()).unwrap_err(), HistogramIter::new(data).unwrap().next().unwrap().unwrap_err()]
        {
            assert!(error.to_string().contains("more buckets than the chunk has room for"), "{error}");
        }
        let mut w = BitWriter::head(&[0, 1, 0]);
        Layout { schema: 20, ..Layout::default() }.write(&mut w);
        assert_eq!(decode(w.finish()).unwrap_err().kind, ErrorKind::Schema(20));
    }
}
