//! Merging streams of series.

use super::Series;
use super::heap::Heap;
use crate::chunk::Chunk;
use model::Labels;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// A series and its chunks, by the stream that they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The labels; those of the streams are equal, and only one of them is kept.
    pub labels: Labels,
    /// Each stream's number and chunks, at least one; where they come from more than one, see [`super::join`].
    pub parts: Vec<(usize, Vec<Chunk>)>,
}

/// What a [`Merge`] says when it is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Feed it the next series of this stream.
    Need(usize),
    /// The next series.
    Ready(Group),
    /// All streams have ended.
    Done,
}

/// A stream that does not give its series in the order of their labels, each once. The series was left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream {stream}: series {labels} does not come behind {before}; the block must be rewritten or left out")]
pub struct OutOfOrder {
    /// The stream's number.
    pub stream: usize,
    /// The series that was left out.
    pub labels: Labels,
    /// The one before it.
    pub before: Labels,
}

struct Head {
    stream: usize,
    series: Series,
}

type Before = fn(&Head, &Head) -> bool;

/// Merges streams of series. Ask it with [`Merge::step`]; it holds one series of each stream.
pub struct Merge {
    heap: Heap<Head, Before>,
    /// Streams whose next series is not known yet, in the order of asking.
    hungry: VecDeque<usize>,
    /// The last labels of each stream.
    last: Vec<Option<Labels>>,
}

impl Merge {
    /// A merge of so many streams.
    pub fn new(streams: usize) -> Self {
        let before: Before = |a, b| a.series.labels < b.series.labels;
        Self { heap: Heap::new(before), hungry: (0..streams).collect(), last: vec![None; streams] }
    }

    /// What comes next.
    pub fn step(&mut self) -> Step {
        if let Some(stream) = self.hungry.front() {
            return Step::Need(*stream);
        }
        let Some(Head { stream, series }) = self.heap.pop() else { return Step::Done };
        let mut group = Group { labels: series.labels, parts: vec![(stream, series.chunks)] };
        self.hungry.push_back(stream);
        while self.heap.peek().is_some_and(|head| head.series.labels == group.labels)
            && let Some(Head { stream, series }) = self.heap.pop()
        {
            self.hungry.push_back(stream);
            group.parts.push((stream, series.chunks));
        }
        for (stream, _) in &group.parts {
            if let Some(last) = self.last.get_mut(*stream) {
                // One allocation for all who have this series.
                *last = Some(group.labels.clone());
            }
        }
        Step::Ready(group)
    }

    /// Feeds the stream that [`Step::Need`] named: its next series, or `None` if it has ended.
    ///
    /// # Errors
    /// [`OutOfOrder`]; the series is left out, and the stream is asked for again.
    pub fn feed(&mut self, series: Option<Series>) -> Result<(), OutOfOrder> {
        let Some(stream) = self.hungry.front().copied() else { return Ok(()) };
        if let Some(series) = series {
            if let Some(Some(before)) = self.last.get(stream)
                && before.cmp(&series.labels) != Ordering::Less
            {
                return Err(OutOfOrder { stream, labels: series.labels, before: before.clone() });
            }
            self.heap.push(Head { stream, series });
        }
        self.hungry.pop_front();
        Ok(())
    }
}

/// Drives a [`Merge`] from iterators. Errors of a stream come out with its number, and its further series follow.
pub struct Merged<I> {
    streams: Vec<I>,
    merge: Merge,
}

impl<I> Merged<I> {
    /// The merge of these streams.
    pub fn new(streams: Vec<I>) -> Self {
        let merge = Merge::new(streams.len());
        Self { streams, merge }
    }
}

impl<I, E> Iterator for Merged<I>
where
    I: Iterator<Item = Result<Series, E>>,
    E: From<OutOfOrder>,
{
    /// A series, or the number of a stream and its error.
    type Item = Result<Group, (usize, E)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stream = match self.merge.step() {
                Step::Done => return None,
                Step::Ready(group) => return Some(Ok(group)),
                Step::Need(stream) => stream,
            };
            let fed = match self.streams.get_mut(stream).and_then(Iterator::next).transpose() {
                Ok(series) => self.merge.feed(series).map_err(E::from),
                Err(e) => Err(e),
            };
            if let Err(e) = fed {
                return Some(Err((stream, e)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Encoding;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn series(name: u8, stream: usize) -> Series {
        let chunk = Chunk {
            encoding: Encoding::Xor,
            min_t: stream as i64,
            max_t: stream as i64,
            samples: 0,
            data: Bytes::new(),
        };
        Series { labels: Labels::from_pairs([("n", format!("{name:03}"))]), chunks: vec![chunk] }
    }

    proptest! {
        #[test]
        fn every_series_comes_once_in_order(streams in prop::collection::vec(prop::collection::btree_set(0u8..20, 0..15), 0..6)) {
            let mut want = BTreeMap::<Labels, Vec<usize>>::new();
            for (i, names) in streams.iter().enumerate() {
                for n in names {
                    want.entry(series(*n, i).labels).or_default().push(i);
                }
            }
            let iterators = streams.iter().enumerate().map(|(i, names)| names.iter().map(move |n| Ok::<_, OutOfOrder>(series(*n, i))));
            let got: Vec<_> = Merged::new(iterators.collect()).map(|g| {
                let g = g.unwrap();
                for (stream, chunks) in &g.parts {
                    assert_eq!(chunks[0].min_t, *stream as i64);
                }
                let mut from: Vec<_> = g.parts.iter().map(|p| p.0).collect();
                from.sort_unstable();
                (g.labels, from)
            }).collect();
            prop_assert_eq!(got, want.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stream_out_of_order_loses_that_series_only() {
        let first = [series(1, 0), series(3, 0), series(2, 0), series(3, 0), series(4, 0)].map(Ok::<_, OutOfOrder>);
        let second = [series(2, 1), series(4, 1)].map(Ok);
        let (ok, failed): (Vec<_>, Vec<_>) =
            Merged::new(vec![first.iter().cloned(), second.iter().cloned()]).partition(Result::is_ok);
        let names: Vec<_> = ok.into_iter().map(|g| g.unwrap().labels.value("n").to_owned()).collect();
        assert_eq!(names, ["001", "002", "003", "004"]);
        let failed: Vec<_> = failed.into_iter().map(|e| e.unwrap_err()).collect();
        assert_eq!(failed.iter().map(|(s, e)| (*s, e.labels.value("n"))).collect::<Vec<_>>(), [(0, "002"), (0, "003")]);
        assert!(failed[0].1.to_string().contains("stream 0: series"), "{}", failed[0].1);
    }
}
