//! Sorted texts in one piece of memory, in the form in which they are sent: names and values are both field 1 of their
//! messages, so what was collected once is an answer, and millions of texts are no million allocations.

use crate::store::limits::{Held, Refused};
use bytes::{Buf as _, BufMut as _, Bytes};
use std::cmp::Ordering;

/// Field 1, with a length.
const KEY: u8 = 1 << 3 | 2;
/// By so many bytes at least memory grows.
const GROWTH: usize = 64 << 10;
/// How many texts are merged between two looks at whether anybody waits.
const LOOK_EVERY: usize = 1024;

/// Texts, ascending by their bytes, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts(Bytes);

impl Texts {
    /// One text.
    pub fn one(text: &str) -> Self {
        let mut bytes = Vec::with_capacity(text.len() + 11);
        put(&mut bytes, text.as_bytes());
        Self(bytes.into())
    }

    /// What [`Texts::bytes`] gave.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// As a part of a message: `repeated string` in field 1.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        Walk(&self.0).map(|(text, _)| text)
    }

    /// The first `limit` of them.
    #[must_use]
    pub fn first(&self, limit: usize) -> Self {
        let mut walk = Walk(&self.0);
        let taken = walk.by_ref().take(limit).count();
        if taken < limit {
            return self.clone();
        }
        Self(self.0.slice(..self.0.len() - walk.0.remaining()))
    }

    /// All texts of both; `go_on` is asked now and then whether to.
    ///
    /// # Errors
    /// Those of `go_on`.
    pub fn merge<E>(&self, other: &Self, mut go_on: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        // Blocks that follow each other mostly have the same values.
        if self.0 == other.0 || other.is_empty() {
            return Ok(self.clone());
        }
        if self.is_empty() {
            return Ok(other.clone());
        }
        let mut out = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut left, mut right) = (Walk(&self.0), Walk(&other.0));
        let (mut a, mut b) = (left.next(), right.next());
        let mut turn = 0usize;
        loop {
            turn += 1;
            if turn.is_multiple_of(LOOK_EVERY) {
                go_on()?;
            }
            let order = match (&a, &b) {
                (Some((x, _)), Some((y, _))) => x.cmp(y),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            if let Some((_, whole)) = if order == Ordering::Greater { b } else { a } {
                out.extend_from_slice(whole);
            }
            if order != Ordering::Greater {
                a = left.next();
            }
            if order != Ordering::Less {
                b = right.next();
            }
        }
        out.shrink_to_fit();
        Ok(Self(out.into()))
    }
}

/// Over texts: each, and its bytes with key and length.
struct Walk<'a>(&'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut length, mut at) = (0usize, 1usize);
        for shift in (0..64).step_by(7) {
            let byte = *self.0.get(at)?;
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let (whole, rest) = self.0.split_at_checked(at.checked_add(length)?)?;
                self.0 = rest;
                return Some((whole.get(at..)?, whole));
            }
        }
        None
    }
}

fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.push(KEY);
    let mut length = text.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.put_slice(text);
}

/// Collects texts, and counts the memory that they take.
#[derive(Debug)]
pub(super) struct Collect {
    bytes: Vec<u8>,
    /// Bytes of the last text.
    last: usize,
    is_sorted: bool,
    held: Held,
}

impl Collect {
    /// Nothing yet; `held` pays.
    pub(super) fn new(held: Held) -> Self {
        Self { bytes: Vec::new(), last: 0, is_sorted: true, held }
    }

    /// Adds a text. Those that come in order cost least; the empty one is none.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn push(&mut self, text: &str) -> Result<(), Refused> {
        if text.is_empty() {
            return Ok(());
        }
        let last = self.bytes.get(self.bytes.len() - self.last..).unwrap_or_default();
        match last.cmp(text.as_bytes()) {
            Ordering::Equal => return Ok(()),
            Ordering::Greater => self.is_sorted = false,
            Ordering::Less => {}
        }
        if self.bytes.capacity() - self.bytes.len() < text.len() + 11 {
            // Before it grows: what is there, and what it moves to.
            let more = self.bytes.capacity().max(text.len() + GROWTH);
            self.held.set(self.bytes.capacity() * 2 + more)?;
            self.bytes.reserve_exact(more);
        }
        put(&mut self.bytes, text.as_bytes());
        self.last = text.len();
        Ok(())
    }

    /// The texts, and the memory that they hold.
    ///
    /// # Errors
    /// When there is no memory to bring them into order.
    pub(super) fn finish(mut self) -> Result<(Texts, Held), Refused> {
        if !self.is_sorted {
            let count = Walk(&self.bytes).count();
            self.held.set(self.bytes.capacity() * 2 + count * size_of::<(&[u8], &[u8])>())?;
            let mut all: Vec<(&[u8], &[u8])> = Walk(&self.bytes).collect();
            all.sort_unstable();
            all.dedup();
            let mut sorted = Vec::with_capacity(self.bytes.len());
            all.iter().for_each(|(_, whole)| sorted.extend_from_slice(whole));
            self.bytes = sorted;
        }
        self.bytes.shrink_to_fit();
        self.held.set(self.bytes.len())?;
        Ok((Texts(self.bytes.into()), self.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::limits::Memory;
    use proptest::prelude::*;
    use prost::Message as _;
    use proto::thanos::LabelValuesResponse;
    use std::collections::BTreeSet;

    fn of<'a>(memory: &Memory, texts: impl IntoIterator<Item = &'a String>) -> Texts {
        let mut collect = Collect::new(memory.hold());
        texts.into_iter().for_each(|t| collect.push(t).unwrap());
        collect.finish().unwrap().0
    }

    fn read(texts: &Texts) -> Vec<String> {
        LabelValuesResponse::decode(texts.bytes().clone()).unwrap().values
    }

    proptest! {
        #[test]
        fn as_sets_do(
            a in prop::collection::vec("[a-cé]{0,4}|x{120,300}", 0..40), b in prop::collection::vec("[a-cé]{0,4}", 0..40), limit in 0usize..30,
        ) {
            let memory = Memory::new(1 << 30);
            let set = |v: &[String]| v.iter().filter(|t| !t.is_empty()).cloned().collect::<BTreeSet<_>>();
            let (x, y) = (of(&memory, &a), of(&memory, &set(&b)));
            prop_assert_eq!(read(&x), set(&a).into_iter().collect::<Vec<_>>());
            let both = x.merge(&y, || Ok::<_, ()>(())).unwrap();
            let want: Vec<String> = set(&a).union(&set(&b)).cloned().collect();
            prop_assert_eq!(read(&both), want.clone());
            prop_assert_eq!(both.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), want.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>());
            prop_assert_eq!(read(&both.first(limit)), want.into_iter().take(limit).collect::<Vec<_>>());
            prop_assert_eq!(memory.used(), 0);
        }
    }

    #[test]
    fn what_is_collected_is_counted_and_refused_in_time() {
        let memory = Memory::new(4 << 20);
        let mut collect = Collect::new(memory.hold());
        let full = (0..1_000_000).find_map(|n| collect.push(&format!("value-{n:09}")).err());
        assert!(matches!(full, Some(Refused::Memory(_))));
        assert!(memory.used() > 1 << 20, "{}", memory.used());
        drop(collect);
        assert_eq!(memory.used(), 0);
        assert!(of(&memory, []).merge(&Texts::one("a"), || Err(())).is_ok());
        let many: Vec<String> = (0..3000).map(|n| format!("{n:05}")).collect();
        assert_eq!(of(&memory, &many).merge(&Texts::one("a"), || Err(7)), Err(7));
    }
}
