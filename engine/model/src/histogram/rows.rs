//! Histograms as rows of numbers. Most histograms of a series have one layout, so what differs is a row of a table; an object
//! for each costs several times as much as reading it.

use super::buckets::{exponential_bound, indexes, push_index};
use super::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, ResetHint, Span};
use std::borrow::Cow;
use std::sync::Arc;

/// Numbers of a row before those of the buckets: all observations, those in the zero bucket, the sum.
pub const ROW_HEAD: usize = 3;

/// What the histograms of some rows share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// See [`FloatHistogram`].
    pub schema: i32,
    /// Width of the zero bucket on either side of zero.
    pub zero_threshold: f64,
    /// Spans of the positive buckets.
    pub positive_spans: Vec<Span>,
    /// Spans of the negative buckets.
    pub negative_spans: Vec<Span>,
    /// Upper bounds of custom buckets.
    pub custom_values: Vec<f64>,
}

/// Number of buckets in spans.
fn buckets(spans: &[Span]) -> usize {
    spans.iter().map(|s| s.length as usize).sum()
}

impl Layout {
    /// Numbers in a row: [`ROW_HEAD`], then positive and negative buckets, each ascending by index.
    pub fn width(&self) -> usize {
        ROW_HEAD + buckets(&self.positive_spans) + buckets(&self.negative_spans)
    }

    /// Words of eight bytes that spans, buckets and bounds of one histogram take.
    pub fn words(&self) -> usize {
        let Self { positive_spans, negative_spans, custom_values, .. } = self;
        self.width() - ROW_HEAD + positive_spans.len() + negative_spans.len() + custom_values.len()
    }

    /// The histogram of a row.
    pub fn histogram(&self, row: &[f64], reset_hint: ResetHint) -> FloatHistogram {
        let (head, counts) = row.split_at(ROW_HEAD.min(row.len()));
        let (positive, negative) = counts.split_at(buckets(&self.positive_spans).min(counts.len()));
        let number = |i: usize| head.get(i).copied().unwrap_or_default();
        FloatHistogram {
            reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            count: number(0),
            zero_count: number(1),
            sum: number(2),
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            positive_buckets: positive.to_vec(),
            negative_buckets: negative.to_vec(),
            custom_values: self.custom_values.clone(),
        }
    }

    /// True if rows of this layout can be added and subtracted number by number: no bucket lies within the zero bucket.
    pub fn is_plain(&self) -> bool {
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            return self.negative_spans.is_empty();
        }
        let apart = |spans: &[Span]| {
            indexes(spans).next().is_none_or(|i| exponential_bound(i, self.schema) > self.zero_threshold)
        };
        self.zero_threshold >= 0.0 && apart(&self.positive_spans) && apart(&self.negative_spans)
    }

    /// The layout with the buckets of both; `None` where resolution, zero bucket or bounds differ.
    pub fn union(&self, other: &Self) -> Option<Self> {
        let alike = self.schema == other.schema
            && self.zero_threshold == other.zero_threshold
            && self.custom_values == other.custom_values;
        alike.then(|| Self {
            positive_spans: union(&self.positive_spans, &other.positive_spans),
            negative_spans: union(&self.negative_spans, &other.negative_spans),
            ..self.clone()
        })
    }

    /// Where each number of a row stands in a row of `wide`, which has all buckets of this one.
    pub fn places_in(&self, wide: &Self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..ROW_HEAD).collect();
        let mut begin = ROW_HEAD;
        for (own, all) in [(&self.positive_spans, &wide.positive_spans), (&self.negative_spans, &wide.negative_spans)] {
            let mut rest = indexes(all).enumerate();
            places.extend(indexes(own).filter_map(|i| rest.find(|(_, j)| *j == i)).map(|(at, _)| begin + at));
            begin += buckets(all);
        }
        places
    }
}

fn union(a: &[Span], b: &[Span]) -> Vec<Span> {
    if a == b {
        return a.to_vec();
    }
    let (mut a, mut b) = (indexes(a).peekable(), indexes(b).peekable());
    let (mut spans, mut next) = (Vec::new(), 0);
    loop {
        let index = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => *x.min(y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => return spans,
        };
        a.next_if_eq(&index);
        b.next_if_eq(&index);
        push_index(&mut spans, &mut next, index);
    }
}

/// The histograms of a series, ascending by time. Those of equal layout that follow each other are a run.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Milliseconds since the epoch.
    pub times: Vec<i64>,
    /// The rows whose [`ResetHint`] is unknown, ascending; all others are known to be no resets.
    pub unknown: Vec<usize>,
    runs: Vec<Run>,
    values: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Run {
    layout: Arc<Layout>,
    width: usize,
    /// Its first row.
    row: usize,
    /// Where its numbers begin.
    value: usize,
}

impl Table {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Numbers in all rows.
    pub fn numbers(&self) -> usize {
        self.values.len()
    }

    /// Rows and the words of eight bytes that spans, buckets and bounds of their histograms would take.
    pub fn words(&self) -> (usize, usize) {
        let words = self.runs().map(|(run, end)| (end - run.row) * run.layout.words()).sum();
        (self.times.len(), words)
    }

    /// The time of each row, and the words of eight bytes that its histogram would take beside its fixed part.
    pub fn sizes(&self) -> impl Iterator<Item = (i64, usize)> {
        let words = self.runs().flat_map(|(run, end)| (run.row..end).map(|_| run.layout.words()));
        self.times.iter().copied().zip(words)
    }

    /// The runs, each with the row behind its last.
    fn runs(&self) -> impl Iterator<Item = (&Run, usize)> {
        let ends = self.runs.iter().skip(1).map(|r| r.row).chain(std::iter::once(self.times.len()));
        self.runs.iter().zip(ends)
    }

    /// The rows of a run, of which `end` is behind the last.
    fn rows(&self, run: &Run, end: usize) -> impl Iterator<Item = &[f64]> {
        self.values.get(run.value..).unwrap_or_default().chunks_exact(run.width.max(1)).take(end - run.row)
    }

    /// Drops all rows, keeps the memory.
    pub fn clear(&mut self) {
        self.times.clear();
        self.unknown.clear();
        self.runs.clear();
        self.values.clear();
    }

    /// What is appended next has this layout. Gives the width of its rows.
    pub fn begin(&mut self, layout: Layout) -> usize {
        let width = layout.width();
        if self.runs.last().is_none_or(|r| *r.layout != layout) {
            self.runs.push(Run { layout: Arc::new(layout), width, row: self.times.len(), value: self.values.len() });
        }
        width
    }

    /// Where the numbers of the next row go, one behind the other; [`Table::keep`] makes them one.
    pub fn open(&mut self) -> &mut Vec<f64> {
        &mut self.values
    }

    /// The numbers that were appended are the row of this time.
    pub fn keep(&mut self, t: i64, hint: ResetHint) {
        if hint == ResetHint::Unknown {
            self.unknown.push(self.times.len());
        }
        self.times.push(t);
    }

    /// The histograms with their times.
    pub fn histograms(&self) -> impl Iterator<Item = (i64, FloatHistogram)> + '_ {
        let mut unknown = self.unknown.iter().peekable();
        self.runs().flat_map(|(run, end)| (run.row..end).map(move |row| (run, row))).filter_map(move |(run, row)| {
            let hint = match unknown.next_if_eq(&&row) {
                Some(_) => ResetHint::Unknown,
                None => ResetHint::NotReset,
            };
            let from = run.value + (row - run.row) * run.width;
            let numbers = self.values.get(from..from + run.width)?;
            Some((*self.times.get(row)?, run.layout.histogram(numbers, hint)))
        })
    }

    /// All rows in one layout, or `None` if there is none for all, or only one that is much wider than most. A bucket that a
    /// run lacks is empty there.
    pub fn joined(&self) -> Option<(Arc<Layout>, Cow<'_, [f64]>)> {
        let (first, more) = self.runs.split_first()?;
        if more.is_empty() {
            return Some((Arc::clone(&first.layout), Cow::Borrowed(&self.values)));
        }
        // Who has fewer buckets than before, or less than nothing in one, is not only wider.
        let odd = |row: &[f64]| row.iter().enumerate().any(|(i, v)| *v < 0.0 && i >= ROW_HEAD || v.is_nan());
        if self.runs().any(|(run, end)| self.rows(run, end).any(odd)) {
            return None;
        }
        let widest = self.runs.iter().map(|r| r.width).max().unwrap_or(0);
        let mut wide = Layout::clone(&first.layout);
        for run in more {
            wide = wide.union(&run.layout)?;
            if wide.width() > 2 * widest + 64 {
                return None;
            }
        }
        let width = wide.width();
        // Few rows that are wide would make all others so.
        let all = width.checked_mul(self.times.len()).filter(|n| *n <= 4 * self.values.len())?;
        let mut values = vec![0.0; all];
        let mut rows = values.chunks_exact_mut(width);
        for (run, end) in self.runs() {
            let places = run.layout.places_in(&wide);
            for (from, to) in self.rows(run, end).zip(&mut rows) {
                for (v, at) in from.iter().zip(&places) {
                    if let Some(slot) = to.get_mut(*at) {
                        *slot = *v;
                    }
                }
            }
        }
        Some((Arc::new(wide), Cow::Owned(values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(offset: i32, length: u32) -> Layout {
        Layout { schema: 1, positive_spans: vec![Span { offset, length }], ..Layout::default() }
    }

    #[test]
    fn rows_of_several_layouts_become_those_of_one() {
        let mut table = Table::default();
        for (t, layout, row) in [
            (10, layout(2, 2), vec![3.0, 0.0, 1.5, 1.0, 2.0]),
            (20, layout(2, 2), vec![4.0, 0.0, -1.5, 1.0, 3.0]),
            // Sums may be negative in any row.
            (30, layout(1, 3), vec![9.0, 0.0, -2.5, 4.0, 1.0, 4.0]),
        ] {
            let (width, alone) = (table.begin(layout.clone()), layout.histogram(&row, ResetHint::Unknown));
            assert_eq!((width, alone.positive_buckets.len()), (row.len(), row.len() - ROW_HEAD));
            table.open().extend(&row);
            table.keep(t, if t == 20 { ResetHint::NotReset } else { ResetHint::Unknown });
        }
        assert_eq!((table.len(), table.unknown.clone()), (3, vec![0, 2]));
        let all: Vec<_> = table.histograms().map(|(t, h)| (t, h.reset_hint, h.positive_buckets)).collect();
        assert_eq!(all[1], (20, ResetHint::NotReset, vec![1.0, 3.0]));
        assert_eq!(all[2], (30, ResetHint::Unknown, vec![4.0, 1.0, 4.0]));
        let (wide, values) = table.joined().unwrap();
        assert_eq!(wide.positive_spans, [Span { offset: 1, length: 3 }]);
        assert_eq!(&values[..6], [3.0, 0.0, 1.5, 0.0, 1.0, 2.0]);
        assert_eq!(&values[12..], [9.0, 0.0, -2.5, 4.0, 1.0, 4.0]);
        // Buckets below nothing are not only moved.
        let mut below = table.clone();
        below.open()[9] = -1.0;
        assert!(below.joined().is_none());
        // Nothing joins resolutions.
        table.begin(Layout { schema: 2, ..layout(1, 1) });
        table.open().extend([1.0; 4]);
        table.keep(40, ResetHint::Unknown);
        assert!(table.joined().is_none());
    }

    #[test]
    fn a_bucket_within_the_zero_bucket_is_not_plain() {
        assert!(layout(1, 2).is_plain());
        assert!(!Layout { zero_threshold: 2.0, ..layout(1, 2) }.is_plain());
        let both = Layout { negative_spans: vec![Span { offset: 0, length: 1 }], ..layout(1, 2) };
        let wide = both.union(&layout(5, 1)).unwrap();
        assert_eq!(layout(5, 1).places_in(&wide), [0, 1, 2, 5]);
        assert_eq!(both.places_in(&wide), [0, 1, 2, 3, 4, 6]);
    }
}
