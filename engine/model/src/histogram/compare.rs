//! Equality and counter resets of histograms.

use super::Accumulator;
use super::buckets::{bound, expand, exponential_bound, target_index};
use super::{FloatHistogram, ResetHint, Span};
use std::iter::Peekable;

/// True if layout and counts are the same, bit by bit; empty spans don't matter.
pub fn equals(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    let bits = |x: f64, y: f64| x.to_bits() == y.to_bits();
    let side = |s1: &[Span], c1: &[f64], s2: &[Span], c2: &[f64]| {
        c1.len() == c2.len() && expand(s1, c1).zip(expand(s2, c2)).all(|((i, x), (j, y))| i == j && bits(x, y))
    };
    a.schema == b.schema
        && bits(a.count, b.count)
        && bits(a.sum, b.sum)
        && (!a.has_custom_buckets() || a.custom_values == b.custom_values)
        && a.zero_threshold == b.zero_threshold
        && bits(a.zero_count, b.zero_count)
        && side(&a.negative_spans, &a.negative_buckets, &b.negative_spans, &b.negative_buckets)
        && side(&a.positive_spans, &a.positive_buckets, &b.positive_spans, &b.positive_buckets)
}

/// True if a counter was reset between `previous` and `h`: the hint says so, or something has become smaller.
pub fn detect_reset(h: &FloatHistogram, previous: &FloatHistogram) -> bool {
    match h.reset_hint {
        ResetHint::Reset => return true,
        ResetHint::NotReset => return false,
        ResetHint::Unknown | ResetHint::Gauge => {}
    }
    if h.count < previous.count {
        return true;
    }
    if h.has_custom_buckets() {
        if !previous.has_custom_buckets() {
            return true;
        }
        if h.custom_values != previous.custom_values {
            return custom_reset(h, previous);
        }
    } else if previous.has_custom_buckets() {
        return true;
    }
    if h.schema > previous.schema || h.zero_threshold < previous.zero_threshold {
        return true;
    }
    let (threshold, zero_count) = Accumulator::zero_count_for(previous, h.zero_threshold);
    if threshold != h.zero_threshold || h.zero_count < zero_count {
        return true;
    }
    let fewer = |now: (&[Span], &[f64]), before: (&[Span], &[f64])| {
        let skip = |index: i32, schema: i32| {
            !h.has_custom_buckets() && h.zero_threshold != 0.0 && exponential_bound(index, schema) <= h.zero_threshold
        };
        let mut now = expand(now.0, now.1).filter(|(i, _)| !skip(*i, h.schema)).peekable();
        let before = Merged { rest: expand(before.0, before.1).peekable(), from: previous.schema, to: h.schema };
        for (index, count) in before.filter(|(i, _)| !skip(*i, h.schema)) {
            while now.next_if(|(i, _)| *i < index).is_some() {}
            let current = now.peek().filter(|(i, _)| *i == index).map(|(_, c)| *c);
            match current {
                Some(c) if c < count => return true,
                None if count != 0.0 => return true,
                _ => {}
            }
        }
        false
    };
    fewer((&h.positive_spans, &h.positive_buckets), (&previous.positive_spans, &previous.positive_buckets))
        || fewer((&h.negative_spans, &h.negative_buckets), (&previous.negative_spans, &previous.negative_buckets))
}

/// Buckets in a coarser schema.
struct Merged<I: Iterator<Item = (i32, f64)>> {
    rest: Peekable<I>,
    from: i32,
    to: i32,
}

impl<I: Iterator<Item = (i32, f64)>> Iterator for Merged<I> {
    type Item = (i32, f64);

    fn next(&mut self) -> Option<(i32, f64)> {
        let target = |i: i32, m: &Self| if m.from > m.to { target_index(i, m.from, m.to) } else { i };
        let (index, mut count) = self.rest.next()?;
        let index = target(index, self);
        while let Some((i, c)) = self.rest.peek().copied()
            && target(i, self) == index
        {
            count += c;
            self.rest.next();
        }
        Some((index, count))
    }
}

/// Compares histograms of differing custom bounds at the bounds that both have.
fn custom_reset(h: &FloatHistogram, previous: &FloatHistogram) -> bool {
    let common = h.custom_values.iter().filter(|b| previous.custom_values.contains(b)).copied();
    let mut now = CustomRollup::new(h);
    let mut before = CustomRollup::new(previous);
    common.chain(std::iter::once(f64::INFINITY)).any(|upper| now.up_to(upper) < before.up_to(upper))
}

/// Counts between successive bounds.
struct CustomRollup<'a> {
    rest: Peekable<Box<dyn Iterator<Item = (f64, f64)> + 'a>>,
}

impl<'a> CustomRollup<'a> {
    fn new(h: &'a FloatHistogram) -> Self {
        let buckets = expand(&h.positive_spans, &h.positive_buckets)
            .map(|(i, c)| (bound(i, h.schema, Some(&h.custom_values)), c));
        Self { rest: (Box::new(buckets) as Box<dyn Iterator<Item = (f64, f64)>>).peekable() }
    }

    /// The observations above the last bound asked for and not above `upper`.
    fn up_to(&mut self, upper: f64) -> f64 {
        let mut sum = 0.0;
        while let Some((_, c)) = self.rest.next_if(|(b, _)| *b <= upper) {
            sum += c;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(schema: i32, offset: i32, counts: &[f64]) -> FloatHistogram {
        FloatHistogram {
            schema,
            count: counts.iter().sum(),
            positive_spans: vec![Span { offset, length: counts.len() as u32 }],
            positive_buckets: counts.to_vec(),
            ..FloatHistogram::default()
        }
    }

    #[test]
    fn resets_are_seen_in_any_bucket() {
        assert!(!detect_reset(&h(0, 0, &[1.0, 2.0]), &h(0, 0, &[1.0, 1.0])));
        assert!(detect_reset(&h(0, 0, &[0.5, 5.0]), &h(0, 0, &[1.0, 1.0])));
        // A bucket that is gone.
        assert!(detect_reset(&h(0, 1, &[5.0]), &h(0, 0, &[1.0, 1.0])));
        // A finer predecessor is merged first.
        assert!(!detect_reset(&h(0, 1, &[3.0]), &h(1, 1, &[1.0, 2.0])));
        assert!(detect_reset(&h(1, 1, &[3.0, 3.0]), &h(0, 1, &[1.0])));
        let mut hinted = h(0, 0, &[0.5, 5.0]);
        hinted.reset_hint = ResetHint::NotReset;
        assert!(!detect_reset(&hinted, &h(0, 0, &[1.0, 1.0])));
    }

    #[test]
    fn empty_spans_do_not_matter() {
        let a = h(0, 2, &[1.0]);
        let mut b = a.clone();
        b.positive_spans = vec![Span { offset: 1, length: 0 }, Span { offset: 1, length: 1 }];
        assert!(equals(&a, &b));
        b.sum = 1.0;
        assert!(!equals(&a, &b));
    }
}
