//! The best k values of a group at one step. Of equal values those stay that Prometheus keeps: it holds them in a binary
//! heap (Go's `container/heap`) with the worst on top, which a better value replaces, so that which of several equals is on
//! top depends on how they were moved. Hence the moves are the same here.

use std::cmp::Ordering;

/// A value that may be among the best, and the number of its series.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) value: f64,
    pub(super) series: usize,
}

/// What became of an offered value.
#[derive(Debug, PartialEq)]
pub(super) enum Offered {
    /// It is not among the best.
    Refused,
    /// It has a place of its own.
    Added,
    /// It has the place of this series.
    Replaced(usize),
}

/// The best values so far, the worst of them first; NaN is worse than anything.
#[derive(Default)]
pub(super) struct Best(Vec<Candidate>);

impl Best {
    /// Offers a value; at most `k` stay, the `greatest` or the least ones.
    pub(super) fn offer(&mut self, new: Candidate, k: usize, greatest: bool) -> Offered {
        if self.0.len() < k {
            self.0.push(new);
            self.up(self.0.len() - 1, greatest);
            return Offered::Added;
        }
        let Some(worst) = self.0.first_mut() else { return Offered::Refused };
        let better = if greatest { worst.value < new.value } else { worst.value > new.value };
        if !better && (!worst.value.is_nan() || new.value.is_nan()) {
            return Offered::Refused;
        }
        let out = std::mem::replace(worst, new).series;
        self.down(greatest);
        Offered::Replaced(out)
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.0.iter()
    }

    /// The best first.
    pub(super) fn into_sorted(mut self, greatest: bool) -> Vec<Candidate> {
        self.0.sort_by(|a, b| match (a.value.is_nan(), b.value.is_nan()) {
            (false, false) if greatest => b.value.partial_cmp(&a.value).unwrap_or(Ordering::Equal),
            (false, false) => a.value.partial_cmp(&b.value).unwrap_or(Ordering::Equal),
            (a, b) => a.cmp(&b),
        });
        self.0
    }

    /// True if the value at `a` is worse than that at `b`, or NaN.
    fn worse(&self, a: usize, b: usize, greatest: bool) -> bool {
        match (self.0.get(a), self.0.get(b)) {
            (Some(a), Some(b)) if greatest => a.value.is_nan() || a.value < b.value,
            (Some(a), Some(b)) => a.value.is_nan() || a.value > b.value,
            _ => false,
        }
    }

    fn up(&mut self, mut at: usize, greatest: bool) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.worse(at, parent, greatest) {
                return;
            }
            self.0.swap(at, parent);
            at = parent;
        }
    }

    fn down(&mut self, greatest: bool) {
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.worse(right, left, greatest) { right } else { left };
            if !self.worse(child, at, greatest) {
                return;
            }
            self.0.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(values: &[f64], k: usize, greatest: bool) -> Vec<usize> {
        let mut best = Best::default();
        for (series, value) in values.iter().enumerate() {
            best.offer(Candidate { value: *value, series }, k, greatest);
        }
        best.into_sorted(greatest).iter().map(|c| c.series).collect()
    }

    /// What a Go program with `container/heap` and `sort.Sort` gives for the same values.
    #[test]
    fn of_equals_those_stay_that_prometheus_keeps() {
        assert_eq!(best(&[30.0, 0.0, 0.0, 0.5], 3, true), [0, 3, 2]);
        assert_eq!(best(&[1.0, 1.0, 1.0], 2, true), [0, 1]);
        assert_eq!(best(&[f64::NAN, 2.0, 2.0, 3.0], 2, true), [3, 1]);
        assert_eq!(best(&[f64::NAN, 2.0, f64::NAN], 3, true)[0], 1);
        assert_eq!(best(&[5.0, 1.0, 5.0, 4.0], 3, false), [1, 3, 2]);
    }

    #[test]
    fn the_best_are_those_of_a_sort() {
        let values: Vec<f64> = (0..200u32).map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 20)).collect();
        let mut sorted = values.clone();
        for (greatest, k) in [(true, 7), (false, 7), (true, 199), (true, 300), (true, 0)] {
            sorted.sort_by(|a, b| if greatest { b.total_cmp(a) } else { a.total_cmp(b) });
            let got: Vec<f64> = best(&values, k, greatest).into_iter().map(|i| values[i]).collect();
            assert_eq!(got, sorted[..k.min(200)]);
        }
    }
}
