//! The streaming k-way merge: series streams sorted by labels in, one such stream out, equal label sets joined.
//!
//! Plain structure, fed by a driver: [`Merge::step`] says which input it must hear from, or gives the next series.
//! It holds one series per input, so memory does not grow with the length of the streams.

use super::series::{Series, drop_duplicates};
use model::Labels;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What [`Merge::step`] wants or gives.
#[derive(Debug)]
pub enum Step {
    /// Feed or close this input, then step again.
    Need(usize),
    /// The next series of the merged stream.
    Series(Series),
    /// All inputs are closed and everything was given out.
    Done,
}

/// An input whose series were not sorted by labels: nothing that it sends can be trusted to be complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("series out of order: {next} came after {previous}")]
pub struct OutOfOrder {
    /// The series before.
    pub previous: Labels,
    /// The one that should not have followed.
    pub next: Labels,
}

#[derive(Default)]
struct Input {
    head: Option<Series>,
    last: Option<Labels>,
}

/// The merge. With `join`, series of equal labels become one, identical chunks are kept once; without (label calls,
/// where chunks are absent), they are joined just the same, since equal labels are then equal altogether.
pub struct Merge {
    inputs: Vec<Input>,
    /// Open inputs without a head. Nothing can be given out before each has one or is closed.
    hungry: Vec<usize>,
    heap: BinaryHeap<Reverse<(Labels, usize)>>,
    joining: Option<Series>,
}

impl Merge {
    /// A merge of `inputs` streams, numbered from 0.
    pub fn new(inputs: usize) -> Self {
        Self {
            inputs: (0..inputs).map(|_| Input::default()).collect(),
            hungry: (0..inputs).rev().collect(),
            heap: BinaryHeap::with_capacity(inputs),
            joining: None,
        }
    }

    /// Gives the next series of an input. Refused if it is out of order; the driver then closes the input.
    pub fn feed(&mut self, input: usize, series: Series) -> Result<(), OutOfOrder> {
        let Some(i) = self.inputs.get_mut(input) else { return Ok(()) };
        if let Some(last) = &i.last
            && *last > series.labels
        {
            return Err(OutOfOrder { previous: last.clone(), next: series.labels });
        }
        i.last = Some(series.labels.clone());
        self.hungry.retain(|h| *h != input);
        self.heap.push(Reverse((series.labels.clone(), input)));
        i.head = Some(series);
        Ok(())
    }

    /// Says that an input has ended, for whatever reason.
    pub fn close(&mut self, input: usize) {
        self.hungry.retain(|h| *h != input);
    }

    /// The next thing to do.
    pub fn step(&mut self) -> Step {
        loop {
            if let Some(h) = self.hungry.last() {
                return Step::Need(*h);
            }
            let Some(Reverse((labels, input))) = self.heap.pop() else {
                return match self.finish() {
                    Some(s) => Step::Series(s),
                    None => Step::Done,
                };
            };
            let Some(series) = self.inputs.get_mut(input).and_then(|i| i.head.take()) else { continue };
            self.hungry.push(input);
            match &mut self.joining {
                Some(j) if j.labels == labels => j.chunks.extend(series.chunks),
                _ => {
                    let done = self.finish();
                    self.joining = Some(series);
                    if let Some(s) = done {
                        return Step::Series(s);
                    }
                }
            }
        }
    }

    fn finish(&mut self) -> Option<Series> {
        let mut s = self.joining.take()?;
        drop_duplicates(&mut s.chunks);
        Some(s)
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::chunk;
    use super::*;
    use proptest::prelude::*;

    fn series(name: u32, source: u32, min: i64) -> Series {
        let labels = Labels::from_pairs([("n", format!("{name:04}"))]);
        Series { labels, chunks: vec![chunk(source, min, 1, 2, min.unsigned_abs() + 1)] }
    }

    fn drive(mut streams: Vec<std::vec::IntoIter<Series>>) -> Vec<Series> {
        let mut m = Merge::new(streams.len());
        let mut out = Vec::new();
        loop {
            match m.step() {
                Step::Need(i) => match streams[i].next() {
                    Some(s) => m.feed(i, s).unwrap(),
                    None => m.close(i),
                },
                Step::Series(s) => out.push(s),
                Step::Done => return out,
            }
        }
    }

    #[test]
    fn joins_equal_labels_also_within_one_input() {
        let a = vec![series(1, 0, 0), series(1, 0, 10), series(3, 0, 0)];
        let b = vec![series(1, 1, 0), series(1, 1, 20), series(2, 1, 0)];
        let out = drive(vec![a.into_iter(), b.into_iter(), Vec::new().into_iter()]);
        let shape: Vec<(&str, usize)> = out.iter().map(|s| (s.labels.value("n"), s.chunks.len())).collect();
        assert_eq!(shape, [("0001", 3), ("0002", 1), ("0003", 1)]);
    }

    #[test]
    fn refuses_an_unsorted_input_and_goes_on_without_it() {
        let mut m = Merge::new(2);
        m.feed(0, series(5, 0, 0)).unwrap();
        m.feed(1, series(4, 1, 0)).unwrap();
        assert!(matches!(m.step(), Step::Need(1)));
        let e = m.feed(1, series(3, 1, 0)).unwrap_err();
        assert_eq!(e.to_string(), r#"series out of order: {n="0003"} came after {n="0004"}"#);
        m.close(1);
        assert!(matches!(m.step(), Step::Series(s) if s.labels.value("n") == "0004"));
        assert!(matches!(m.step(), Step::Need(0)));
        m.close(0);
        assert!(matches!(m.step(), Step::Series(s) if s.labels.value("n") == "0005"));
        assert!(matches!(m.step(), Step::Done));
    }

    proptest! {
        #[test]
        fn equals_the_sorted_union(mut names in proptest::collection::vec(proptest::collection::vec(0u32..50, 0..40), 0..6)) {
            let mut expect: Vec<u32> = names.iter().flatten().copied().collect();
            expect.sort_unstable();
            expect.dedup();
            let streams = names.iter_mut().enumerate().map(|(i, n)| {
                n.sort_unstable();
                n.iter().map(|n| series(*n, i as u32, i as i64)).collect::<Vec<_>>().into_iter()
            }).collect();
            let out = drive(streams);
            let got: Vec<u32> = out.iter().map(|s| s.labels.value("n").parse().unwrap()).collect();
            prop_assert_eq!(got, expect);
        }
    }
}
