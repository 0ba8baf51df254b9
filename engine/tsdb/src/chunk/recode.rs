//! Cutting a run of samples into chunks, as Prometheus does when it merges or rewrites series (0.314, `storage/series.go`).

use super::error::EncodeError;
use super::histogram::{Appended, Count, HistogramEncoder};
use super::{Encoding, Exact, SAMPLES_PER_CHUNK, Value, XorEncoder, xor2::Xor2Encoder};
use bytes::Bytes;
use model::histogram::FloatHistogram;

/// A finished chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its format.
    pub encoding: Encoding,
    /// Time of the first sample, milliseconds since the epoch.
    pub min_t: i64,
    /// Time of the last sample.
    pub max_t: i64,
    /// Number of samples.
    pub samples: u16,
    /// Its bytes.
    pub data: Bytes,
}

#[derive(Debug)]
enum Open {
    Xor(XorEncoder),
    Xor2(Xor2Encoder),
    Histogram(Box<HistogramEncoder<u64>>),
    FloatHistogram(Box<HistogramEncoder<f64>>),
}

impl Open {
    fn finish(&self) -> Chunk {
        let (encoding, (min_t, max_t), samples, data) = match self {
            Self::Xor(e) => (Encoding::Xor, e.range(), e.count(), e.bytes()),
            Self::Xor2(e) => (Encoding::Xor2, e.range(), e.count(), e.bytes()),
            Self::Histogram(e) => (e.encoding(), e.range(), e.count(), e.bytes()),
            Self::FloatHistogram(e) => (e.encoding(), e.range(), e.count(), e.bytes()),
        };
        Chunk { encoding, min_t, max_t, samples, data }
    }
}

/// Takes samples in the order of their times and gives chunks of at most [`SAMPLES_PER_CHUNK`] samples of one kind.
#[derive(Debug, Default)]
pub struct Recoder {
    /// Whether floats without a start time become XOR2 too; with one they always do.
    xor2: bool,
    done: Vec<Chunk>,
    open: Option<Open>,
    /// Samples since the last cut.
    since: usize,
}

impl Recoder {
    /// Floats become XOR chunks, or with `xor2` XOR2 chunks.
    pub fn new(xor2: bool) -> Self {
        Self { xor2, ..Self::default() }
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// [`EncodeError::Buckets`]; the sample is left out then.
    pub fn push(&mut self, sample: &Exact) -> Result<(), EncodeError> {
        let Exact { st, t, v } = sample;
        let (st, t, with_st) = (*st, *t, *st != 0);
        let room = self.since < SAMPLES_PER_CHUNK;
        match (v, &mut self.open) {
            // A chunk of floats goes on, even if others of that series are encoded differently by now.
            (Value::Float(v), Some(Open::Xor(e))) if room && !with_st => e.append(t, *v)?,
            (Value::Float(v), Some(Open::Xor2(e))) if room => e.append(st, t, *v)?,
            (Value::Float(v), _) if with_st || self.xor2 => {
                let mut e = Xor2Encoder::default();
                e.append(st, t, *v)?;
                self.begin(Open::Xor2(e));
            }
            (Value::Float(v), _) => {
                let mut e = XorEncoder::default();
                e.append(t, *v)?;
                self.begin(Open::Xor(e));
            }
            (Value::Histogram(h), Some(Open::Histogram(e))) if room && goes_on(e, with_st) => {
                if let Appended::Cut(old) = e.append(st, t, h)? {
                    self.done.push(Open::Histogram(old).finish());
                    self.since = 0;
                }
            }
            (Value::Histogram(h), _) => {
                let e = HistogramEncoder::new(with_st, st, t, h, None)?;
                self.begin(Open::Histogram(Box::new(e)));
            }
            (Value::FloatHistogram(h), Some(Open::FloatHistogram(e))) if room && goes_on(e, with_st) => {
                if let Appended::Cut(old) = e.append(st, t, h)? {
                    self.done.push(Open::FloatHistogram(old).finish());
                    self.since = 0;
                }
            }
            (Value::FloatHistogram(h), _) => {
                let e = HistogramEncoder::new(with_st, st, t, h, None)?;
                self.begin(Open::FloatHistogram(Box::new(e)));
            }
        }
        self.since += 1;
        Ok(())
    }

    /// Takes a float without start time.
    pub fn push_float(&mut self, t: i64, v: f64) -> Result<(), EncodeError> {
        self.push(&Exact { st: 0, t, v: Value::Float(v) })
    }

    /// Takes a float histogram without start time.
    pub fn push_histogram(&mut self, t: i64, h: FloatHistogram) -> Result<(), EncodeError> {
        self.push(&Exact { st: 0, t, v: Value::FloatHistogram(h) })
    }

    fn begin(&mut self, next: Open) {
        if let Some(old) = self.open.replace(next) {
            self.done.push(old.finish());
        }
        self.since = 0;
    }

    /// Chunks that are complete; those that come later will not overlap them.
    pub fn take(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.done)
    }

    /// All remaining chunks.
    pub fn finish(mut self) -> Vec<Chunk> {
        self.done.extend(self.open.as_ref().map(Open::finish));
        self.done
    }
}

/// Whether a chunk of histograms keeps start times just as the next sample wants it.
fn goes_on<V: Count>(e: &HistogramEncoder<V>, with_st: bool) -> bool {
    e.keeps_start_times() == with_st
}
