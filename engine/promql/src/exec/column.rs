//! Values by columns: one series is one column over all steps of the evaluation.

use super::budget::Cost;
use super::rows::Rows;
use model::sample::is_stale;
use model::{FloatHistogram, Labels};
use smallvec::SmallVec;
use std::sync::Arc;

/// A set of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(SmallVec<[u64; 2]>);

impl Bits {
    /// No step of `len`.
    pub(crate) fn none(len: usize) -> Self {
        Self(SmallVec::from_elem(0, len.div_ceil(64)))
    }

    /// All steps of `len`.
    pub(crate) fn all(len: usize) -> Self {
        let mut bits = Self(SmallVec::from_elem(u64::MAX, len.div_ceil(64)));
        if !len.is_multiple_of(64)
            && let Some(last) = bits.0.last_mut()
        {
            *last = (1u64 << (len % 64)) - 1;
        }
        bits
    }

    /// True if all of `len` steps are in it.
    pub(crate) fn is_all(&self, len: usize) -> bool {
        self.count() == len
    }

    pub(crate) fn get(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    pub(crate) fn set(&mut self, i: usize) {
        if let Some(w) = self.0.get_mut(i / 64) {
            *w |= 1 << (i % 64);
        }
    }

    pub(crate) fn clear(&mut self, i: usize) {
        if let Some(w) = self.0.get_mut(i / 64) {
            *w &= !(1 << (i % 64));
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(|w| *w != 0)
    }

    pub(crate) fn or(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }

    pub(crate) fn and(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= b;
        }
    }

    pub(crate) fn and_not(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= !b;
        }
    }

    pub(crate) fn intersects(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// The members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, w)| {
            let mut rest = *w;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

/// The values of one series at all steps: at each step a float, a histogram or nothing.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// As long as the grid; meaningful where `present` says so.
    pub(crate) floats: Vec<f64>,
    /// Steps with a float.
    pub(crate) present: Bits,
    /// Histograms by step, if there is any; never at a step of `present`.
    pub(crate) histograms: Option<Vec<Option<Arc<FloatHistogram>>>>,
    /// Histograms as rows, instead of `histograms`: only where the plan says that they are understood
    /// ([`crate::plan::Call::rows`]).
    pub(crate) rows: Option<Box<Rows>>,
}

/// A value at one step, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

impl Point<'_> {
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Float(v) => is_stale(*v),
            Self::Histogram(h) => is_stale(h.sum),
        }
    }
}

impl Column {
    /// No value at any of `len` steps.
    pub(crate) fn empty(len: usize) -> Self {
        Self { floats: vec![0.0; len], present: Bits::none(len), histograms: None, rows: None }
    }

    /// `v` at each of `len` steps.
    pub(crate) fn constant(len: usize, v: f64) -> Self {
        Self { floats: vec![v; len], present: Bits::all(len), histograms: None, rows: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.floats.len()
    }

    pub(crate) fn set(&mut self, i: usize, v: f64) {
        if let Some(f) = self.floats.get_mut(i) {
            *f = v;
            self.present.set(i);
        }
    }

    pub(crate) fn set_histogram(&mut self, i: usize, h: Arc<FloatHistogram>) {
        let len = self.floats.len();
        if let Some(slot) = self.histograms.get_or_insert_with(|| vec![None; len]).get_mut(i) {
            *slot = Some(h);
        }
    }

    pub(crate) fn float(&self, i: usize) -> Option<f64> {
        if self.present.get(i) { self.floats.get(i).copied() } else { None }
    }

    pub(crate) fn histogram(&self, i: usize) -> Option<&Arc<FloatHistogram>> {
        self.histograms.as_ref()?.get(i)?.as_ref()
    }

    pub(crate) fn point(&self, i: usize) -> Option<Point<'_>> {
        match self.float(i) {
            Some(v) => Some(Point::Float(v)),
            None => self.histogram(i).map(Point::Histogram),
        }
    }

    /// Takes over the value that `other` has at step `i`.
    pub(crate) fn copy_point(&mut self, i: usize, other: &Column) {
        match other.point(i) {
            Some(Point::Float(v)) => self.set(i, v),
            Some(Point::Histogram(h)) => self.set_histogram(i, h.clone()),
            None => {}
        }
    }

    /// Steps with a value of either kind.
    pub(crate) fn occupied(&self) -> Bits {
        let mut bits = self.present.clone();
        if let Some(h) = &self.histograms {
            for (i, _) in h.iter().enumerate().filter(|(_, h)| h.is_some()) {
                bits.set(i);
            }
        }
        bits
    }

    /// Steps with a histogram and their histograms.
    pub(crate) fn iter_histograms(&self) -> impl Iterator<Item = (usize, &Arc<FloatHistogram>)> {
        self.histograms.iter().flatten().enumerate().filter_map(|(i, h)| h.as_ref().map(|h| (i, h)))
    }

    /// True if there is no value at all.
    pub(crate) fn is_empty(&self) -> bool {
        !self.present.any() && self.rows.is_none() && self.iter_histograms().next().is_none()
    }

    /// True if there is any histogram.
    pub(crate) fn has_histograms(&self) -> bool {
        self.iter_histograms().next().is_some()
    }

    /// Keeps the values at the steps of `keep` only.
    pub(crate) fn retain(&mut self, keep: &Bits) {
        self.present.and(keep);
        if let Some(h) = &mut self.histograms {
            for (i, slot) in h.iter_mut().enumerate() {
                if !keep.get(i) {
                    *slot = None;
                }
            }
        }
    }

    /// What holding it costs.
    pub(super) fn cost(&self) -> Cost {
        let slots = self.floats.capacity() as u64 * 8 + self.present.0.len() as u64 * 8;
        let mut cost = Cost { samples: self.present.count() as u64, bytes: SERIES_BYTES + slots };
        if let Some(h) = &self.histograms {
            cost.bytes += h.len() as u64 * 8;
        }
        for (_, h) in self.iter_histograms() {
            cost += histogram_cost(h);
        }
        if let Some(rows) = &self.rows {
            cost += rows.cost();
        }
        cost
    }

    /// Turns rows into histograms.
    pub(crate) fn settle(&mut self) {
        if let Some(rows) = self.rows.take() {
            rows.iter().for_each(|(i, h)| self.set_histogram(i, h.into()));
        }
    }
}

/// What a series takes beside its values, roughly: labels, vectors, bookkeeping.
const SERIES_BYTES: u64 = 256;

/// A histogram counts as many samples as its size has 16-byte units.
pub(super) fn histogram_cost(h: &FloatHistogram) -> Cost {
    let words = h.positive_spans.len()
        + h.negative_spans.len()
        + h.positive_buckets.len()
        + h.negative_buckets.len()
        + h.custom_values.len();
    histograms_cost(1, words)
}

/// The same of so many, of which spans, buckets and bounds take so many words of eight bytes together. Those in rows count no
/// less: limits do not depend on how a query is answered.
pub(super) fn histograms_cost(count: usize, words: usize) -> Cost {
    let bytes = 176 * count as u64 + 8 * words as u64;
    Cost { samples: bytes / 16, bytes }
}

/// A series in flight.
#[derive(Clone, Debug)]
pub(crate) struct SeriesColumn {
    pub(crate) labels: Labels,
    /// The name shall be dropped at the end of the query (delayed name removal).
    pub(crate) drop_name: bool,
    pub(crate) column: Column,
}

impl SeriesColumn {
    /// What holding it costs, its labels included.
    pub(super) fn cost(&self) -> Cost {
        let mut cost = self.column.cost();
        cost.bytes += self.labels.packed_len() as u64;
        cost
    }
}

/// A number per step.
#[derive(Clone, Debug)]
pub(crate) enum ScalarColumn {
    Constant(f64),
    Steps(Vec<f64>),
}

impl ScalarColumn {
    pub(crate) fn at(&self, i: usize) -> f64 {
        match self {
            Self::Constant(v) => *v,
            Self::Steps(v) => v.get(i).copied().unwrap_or(f64::NAN),
        }
    }

    /// The value at the only step, for as many steps as asked.
    pub(crate) fn first(&self) -> f64 {
        self.at(0)
    }

    /// `f` of each value.
    pub(crate) fn map(self, f: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::Constant(v) => Self::Constant(f(v)),
            Self::Steps(v) => Self::Steps(v.into_iter().map(f).collect()),
        }
    }

    /// `f` of both values at each step.
    pub(crate) fn zip(&self, other: &Self, len: usize, f: impl Fn(f64, f64) -> f64) -> Self {
        match (self, other) {
            (Self::Constant(a), Self::Constant(b)) => Self::Constant(f(*a, *b)),
            _ => Self::Steps((0..len).map(|i| f(self.at(i), other.at(i))).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_know_their_members() {
        let mut b = Bits::none(130);
        for i in [0, 63, 64, 129] {
            b.set(i);
        }
        assert_eq!(b.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(b.count(), 4);
        b.clear(64);
        assert!(!b.get(64));
        let all = Bits::all(130);
        assert_eq!(all.count(), 130);
        let mut rest = all;
        rest.and_not(&b);
        assert_eq!(rest.count(), 127);
        assert!(!rest.intersects(&b));
    }
}
