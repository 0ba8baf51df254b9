//! From a block and matchers to a cursor: index-header, postings, references.

use super::cursor::Cursor;
use super::fault::Fault;
use super::spec::{Spec, add};
use crate::store::blocks::Block;
use crate::store::cache::Key;
use crate::store::cpu::Cpu;
use crate::store::limits::{Held, Memory, Used};
use crate::store::ranges::Budget;
use crate::store::select::expand::{Costs, Expansion};
use crate::store::select::parts::Parts;
use bytes::{BufMut as _, Bytes, BytesMut};
use model::{Labels, Matcher};
use std::ops::Range;
use std::sync::Arc;
use tonic::Status;
use tsdb::header::Reader;
use tsdb::index::{INDEX_FILE, read_list};

/// Bytes of the frame of a postings list.
const LIST_FRAME: u64 = 12;
/// A postings group of more lists than this times the series that may match is checked on the series instead.
const MAX_LISTS_PER_SERIES: f64 = 100.0;
/// What an entry is expected to have at most, as a multiple of the average.
const ESTIMATE: u64 = 16;
/// What is read for an entry at least.
const ESTIMATE_MIN: u64 = 4 << 10;

/// What opening needs beside a block.
#[derive(Clone)]
pub struct Opener {
    /// Where the CPU's work goes.
    pub cpu: Cpu,
    /// What the process may hold.
    pub memory: Memory,
    /// What the request may read.
    pub budget: Arc<Budget>,
    /// What the request has used.
    pub used: Arc<Used>,
    /// Bytes that are read for an entry at most, where a block does not tell.
    pub series_estimate: u64,
}

/// The references of the series of a block that match, as far as its postings tell.
pub struct Found {
    /// The block's index-header.
    pub header: Arc<Reader>,
    /// References, ascending.
    pub refs: Vec<u32>,
    /// Matchers to be checked on the labels.
    pub lazy: Vec<Matcher>,
    /// What `refs` take.
    pub held: Held,
}

impl Opener {
    /// Finds the series of a block; none if there can't be any.
    pub async fn find(
        &self,
        block: &Arc<Block>,
        matchers: &Arc<[Matcher]>,
        spec: &Arc<Spec>,
    ) -> Result<Option<Found>, Fault> {
        let header = block.header().await.map_err(Fault::from_block(block))?;
        add(&spec.stats.blocks, 1u64);
        let key = Key::Expanded(block.edition(), text(matchers).into());
        let mut held = self.memory.hold();
        if let Some((refs, lazy)) = block.cache().get(&key).and_then(|kept| unpack(&kept, matchers)) {
            held.set(refs.len() * 4)?;
            return Ok((!refs.is_empty()).then_some(Found { header, refs, lazy, held }));
        }
        let expansion = {
            let (header, matchers, stop) = (Arc::clone(&header), Arc::clone(matchers), spec.stop.clone());
            let work = move || {
                let costs = Costs { series_bytes: average(&header), max_lists_per_series: MAX_LISTS_PER_SERIES };
                let mut go_on = || match stop.is_set() {
                    true => Err(tsdb::Error::refused(INDEX_FILE, "postings table", "nobody waits for the answer")),
                    false => Ok(()),
                };
                Expansion::new(header.table(), &matchers, costs, &mut go_on)
            };
            self.cpu.run(work).await?.map_err(Fault::from_block(block))?
        };
        if spec.stop.is_set() {
            return Err(Status::cancelled("nobody waits for the answer").into());
        }
        let stats = &spec.stats;
        if expansion.is_empty() {
            add(&stats.empty, 1u64);
            return Ok(None);
        }
        add(&stats.lazy_size, expansion.too_large);
        add(&stats.lazy_keys, expansion.too_many);
        add(&stats.lazy_blocks, u64::from(!expansion.lazy.is_empty()));
        let lists = expansion.lists();
        let bytes: u64 = lists.iter().map(|l| l.end - l.start).sum();
        held.set(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let parts = block.index(&lists, &self.budget).await.map_err(Fault::from_block(block))?;
        add(&stats.postings.touched, lists.len());
        add(&stats.postings.touched_bytes, bytes);
        stats.postings.fetched(lists.len(), bytes, crate::store::select::join(lists.iter().cloned(), u64::MAX).len());
        let work = move || {
            let list = |range: &Range<u64>| {
                let place = lists.binary_search_by_key(&(range.start, range.end), |l| (l.start, l.end)).ok();
                let bytes = place.and_then(|i| parts.get(i)).map_or(&[][..], AsRef::as_ref);
                read_list(INDEX_FILE, bytes, range.start)
            };
            let refs = expansion.evaluate(list);
            (refs, expansion.lazy)
        };
        let (refs, lazy) = self.cpu.run(work).await?;
        let refs = refs.map_err(Fault::from_block(block))?;
        held.set(refs.len() * 4)?;
        block.cache().insert(key, pack(&refs, &lazy));
        if refs.is_empty() {
            add(&stats.empty, 1u64);
            return Ok(None);
        }
        Ok(Some(Found { header, refs, lazy, held }))
    }

    /// Opens a block; none if no series can match. Parts of `part_bytes` are read of its entries.
    pub async fn open(
        &self,
        block: Arc<Block>,
        matchers: Arc<[Matcher]>,
        spec: Arc<Spec>,
        part_bytes: u64,
    ) -> Result<Option<Cursor>, Fault> {
        let Some(Found { header, refs, lazy, held }) = self.find(&block, &matchers, &spec).await? else {
            return Ok(None);
        };
        self.used.series(refs.len())?;
        let all = has_own(&header, &block.external, &spec.without);
        let parts = self.parts(&block, &header, refs, part_bytes);
        Ok(Some(Cursor::new(block, header, spec, lazy, parts, all, held)))
    }

    /// How the entries of these series are read.
    pub fn parts(&self, block: &Block, header: &Reader, refs: Vec<u32>, part_bytes: u64) -> Parts {
        let estimate = match block.series_max {
            0 => (average(header) * ESTIMATE).clamp(ESTIMATE_MIN, self.series_estimate.max(ESTIMATE_MIN)),
            n => u64::from(n) + 16,
        };
        Parts::new(refs, header.index_version(), header.series(), estimate, part_bytes)
    }
}

/// Bytes of an average series entry.
pub fn average(header: &Reader) -> u64 {
    let count = header.table().all().map_or(0, |l| (l.end - l.start).saturating_sub(LIST_FRAME) / 4);
    let section = header.series();
    (section.end - section.start).checked_div(count).unwrap_or(0)
}

/// True if series have labels of their own under a name that is set or removed, so that their order changes.
fn has_own(header: &Reader, external: &Labels, without: &[String]) -> bool {
    let changed = external.iter().map(|(n, _)| n).chain(without.iter().map(String::as_str));
    changed.into_iter().any(|name| !name.is_empty() && header.table().values(name).next().is_some())
}

/// A text that stands for matchers, whatever their order. Names and values may hold anything, so their lengths are told.
fn text(matchers: &[Matcher]) -> String {
    let one = |m: &Matcher| format!("{}:{}{}{}:{}", m.name.len(), m.name, m.op.as_str(), m.value.len(), m.value);
    let mut all: Vec<String> = matchers.iter().map(one).collect();
    all.sort_unstable();
    all.concat()
}

/// References and the names of lazy matchers, for the cache: how many names, each after its length, then references.
fn pack(refs: &[u32], lazy: &[Matcher]) -> Bytes {
    let names: std::collections::BTreeSet<&str> = lazy.iter().map(|m| m.name.as_str()).collect();
    let mut out = BytesMut::with_capacity(4 + names.iter().map(|n| 4 + n.len()).sum::<usize>() + refs.len() * 4);
    out.put_u32(names.len() as u32);
    for name in names {
        out.put_u32(name.len() as u32);
        out.put_slice(name.as_bytes());
    }
    refs.iter().for_each(|r| out.put_u32(*r));
    out.freeze()
}

fn unpack(kept: &[u8], matchers: &[Matcher]) -> Option<(Vec<u32>, Vec<Matcher>)> {
    let (count, mut rest) = kept.split_first_chunk::<4>()?;
    let mut lazy = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (name, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        lazy.extend(matchers.iter().filter(|m| m.name.as_bytes() == name).cloned());
        rest = tail;
    }
    Some((rest.as_chunks::<4>().0.iter().map(|r| u32::from_be_bytes(*r)).collect(), lazy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::MatchOp;

    #[test]
    fn what_is_kept_comes_back() {
        let m = |n: &str, op, v: &str| Matcher::new(op, n, v).unwrap();
        let matchers = [m("a", MatchOp::Equal, "1"), m("b", MatchOp::Regex, ".+"), m("b", MatchOp::NotEqual, "x")];
        let kept = pack(&[1, 5, u32::MAX], &matchers[1..]);
        let (refs, lazy) = unpack(&kept, &matchers).unwrap();
        assert_eq!((refs.as_slice(), lazy.as_slice()), (&[1, 5, u32::MAX][..], &matchers[1..]));
        assert_eq!(unpack(&pack(&[], &[]), &matchers), Some((vec![], vec![])));
        assert_eq!(unpack(&[0, 0, 0, 9, 1], &matchers), None);
        let mut turned = matchers.to_vec();
        turned.reverse();
        assert_eq!(text(&turned), text(&matchers));
        assert_ne!(text(&matchers[1..]), text(&matchers));
        // Values may hold whatever stands between.
        let one = [m("a", MatchOp::NotEqual, "x\u{1}b\u{0}=\u{0}y")];
        let two = [m("a", MatchOp::NotEqual, "x"), m("b", MatchOp::Equal, "y")];
        assert_ne!(text(&one), text(&two));
        assert_ne!(text(&[m("a", MatchOp::Equal, "b=1:c1:d")]), text(&[m("a=1:b", MatchOp::Equal, "c1:d")]));
    }
}
