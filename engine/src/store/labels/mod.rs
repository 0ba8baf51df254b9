//! Label names and values.
//!
//! Without matchers they come from the index-headers alone. With matchers the series that match are looked up by their
//! postings; of their entries only the symbols of names (or of one label's values) are collected, never the label sets. The
//! time of a request chooses blocks, not series.
//!
//! What blocks have told are sorted lists ([`Texts`]), counted while they grow and merged two and two.

mod scan;
mod texts;

pub use texts::Texts;

use super::blocks::Block;
use super::cache::Key;
use super::limits::Held;
use super::ranges::Budget;
use super::select::parts::Loaded;
use super::series::fault::Fault;
use super::series::missing::Lacks;
use super::series::open::{Found, Opener, average};
use super::series::spec::{Aggregates, Spec, Stats, Stop};
use super::series::{Chosen, Shared, Wanted, apart, choose_blocks};
use futures::{StreamExt as _, stream};
use model::{BlockId, MatchOp, Matcher};
use scan::Scan;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use texts::Collect;
use tonic::Status;
use tsdb::header::Reader;
use tsdb::index::{ASK_EVERY, INDEX_FILE, Postings, read_list};

/// Blocks that one request reads at the same time.
const CONCURRENT: usize = 16;
/// Bytes of entries that are read of one block at once.
const PART: u64 = 1 << 20;
/// How often a request is planned anew before it fails.
const ATTEMPTS: usize = 32;
/// Lists up to so many bytes are merged where they are; longer ones are work for the CPU.
const SMALL: usize = 32 << 10;

/// What a label call asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The label whose values are asked for; none: names are.
    pub label: Option<String>,
    /// Oldest and newest time in ms, both inclusive.
    pub range: (i64, i64),
    /// The matchers.
    pub matchers: Vec<Matcher>,
    /// Matchers on blocks, from the hints.
    pub block_matchers: Vec<Matcher>,
    /// Names to leave out.
    pub without: Vec<String>,
    /// Most names or values.
    pub limit: Option<usize>,
    /// The caller wants an error rather than an answer that lacks something.
    pub abort: bool,
}

/// The answer to a label call.
#[derive(Debug, Default)]
pub struct Answer {
    /// Names or values.
    pub found: Texts,
    /// The memory for them.
    pub held: Option<Held>,
    /// What is missing.
    pub warnings: Vec<String>,
    /// Blocks that were read.
    pub queried: BTreeSet<BlockId>,
}

/// What one label call works with.
struct Call {
    asked: Arc<Asked>,
    opener: Opener,
    spec: Arc<Spec>,
}

/// Answers a label call.
///
/// # Errors
/// When a limit is reached, or something is missing and the caller wants an error then.
pub async fn answer(shared: &Shared, asked: Asked, budget: Budget, used: super::limits::Used) -> Result<Answer, Fault> {
    let (mut lacks, mut excluded, mut answer) = (Lacks::default(), BTreeSet::new(), Answer::default());
    let hidden = asked.label.as_ref().is_some_and(|l| asked.without.contains(l));
    if hidden || asked.range.0 > asked.range.1 {
        return Ok(answer);
    }
    let stop = Stop::default();
    let _in_vain_after_this = stop.on_drop();
    let spec = Spec {
        min_t: asked.range.0,
        max_t: asked.range.1,
        without: Vec::new(),
        shard: None,
        skip_chunks: true,
        aggregates: Aggregates::default(),
        chunk_estimate: 0,
        after: None,
        stop,
        stats: Arc::<Stats>::default(),
    };
    let opener = Opener {
        cpu: shared.cpu.clone(),
        memory: shared.memory.clone(),
        budget: Arc::new(budget),
        used: Arc::new(used),
        series_estimate: shared.series_estimate,
    };
    let call = Arc::new(Call { asked: Arc::new(asked), opener, spec: Arc::new(spec) });
    let mut served = shared.set.snapshot();
    for _ in 0..ATTEMPTS {
        let asked = &call.asked;
        lacks.served(&served, asked.range, &asked.matchers, asked.abort);
        let wanted = Wanted {
            range: asked.range,
            max_resolution: None,
            matchers: &asked.matchers,
            block_matchers: &asked.block_matchers,
            excluded: &excluded,
        };
        let blocks = choose_blocks(&served, wanted);
        answer.queried.extend(blocks.iter().map(|(b, _)| b.id));
        let troubles = match call.all(blocks).await {
            Ok(found) => {
                (answer.found, answer.held) = found;
                answer.warnings.extend(lacks.take());
                answer.warnings.extend(lacks.rest());
                return match answer.warnings.first() {
                    Some(first) if call.asked.abort => Err(Status::aborted(first.clone()).into()),
                    _ => Ok(answer),
                };
            }
            Err(Fault::Blocks(troubles)) => troubles,
            Err(other) => return Err(other),
        };
        served = lacks.around(&shared.set, served, troubles, &mut excluded).await?;
        answer.warnings.extend(lacks.take());
    }
    Err(Status::aborted(format!("blocks changed under the request more than {ATTEMPTS} times: ask again")).into())
}

/// What a block has told, and the memory for it.
type Told = (Texts, Held);

/// Lists of blocks; of two that were made of as many, one is made.
#[derive(Default)]
struct Pile(Vec<(u32, Told)>);

impl Pile {
    async fn add(&mut self, call: &Call, mut told: Told) -> Result<(), Fault> {
        let mut rank = 0;
        while let Some((_, other)) = self.0.pop_if(|(of, _)| *of <= rank) {
            told = call.merged(other, told).await?;
            rank += 1;
        }
        self.0.push((rank, told));
        Ok(())
    }

    async fn finish(mut self, call: &Call) -> Result<(Texts, Option<Held>), Fault> {
        let Some((_, mut all)) = self.0.pop() else { return Ok(Default::default()) };
        while let Some((_, other)) = self.0.pop() {
            all = call.merged(other, all).await?;
        }
        Ok((all.0, Some(all.1)))
    }
}

impl Call {
    async fn all(self: &Arc<Self>, blocks: Vec<Chosen>) -> Result<(Texts, Option<Held>), Fault> {
        let (mut pile, mut troubles) = (Pile::default(), Vec::new());
        // Each goes on by itself while lists are merged here: what waits for its turn of the CPU or of the bucket must take it.
        let mut found = stream::iter(blocks.into_iter().map(|(block, matchers)| {
            let call = Arc::clone(self);
            apart(async move { call.block(block, matchers).await })
        }))
        .buffer_unordered(CONCURRENT);
        while let Some(one) = found.next().await {
            match one {
                Ok(told) => pile.add(self, told).await?,
                Err(Fault::Blocks(t)) => troubles.extend(t),
                Err(other) => return Err(other),
            }
        }
        if !troubles.is_empty() {
            return Err(Fault::Blocks(troubles));
        }
        let (all, held) = pile.finish(self).await?;
        Ok((all.first(self.limit()), held))
    }

    fn limit(&self) -> usize {
        self.asked.limit.unwrap_or(usize::MAX)
    }

    async fn merged(&self, (a, mut held): Told, (b, _other): Told) -> Result<Told, Fault> {
        if a.is_empty() || b.is_empty() || a.bytes().len() + b.bytes().len() <= SMALL {
            let texts = a.merge(&b, || Ok::<_, Fault>(()))?;
            held.set(texts.bytes().len())?;
            return Ok((texts, held));
        }
        let stop = self.spec.stop.clone();
        // Both, and what is made of them.
        held.set(a.bytes().len() * 2 + b.bytes().len())?;
        let texts = self.opener.cpu.run(move || a.merge(&b, || go_on(&stop))).await??;
        held.set(texts.bytes().len())?;
        Ok((texts, held))
    }

    /// What one block has.
    async fn block(&self, block: Arc<Block>, matchers: Arc<[Matcher]>) -> Result<Told, Fault> {
        let external = self.asked.label.as_ref().map(|l| block.external.get(l).map(str::to_owned));
        if matchers.is_empty() {
            if let Some(Some(value)) = external {
                return self.one(Some(&value));
            }
            return self.listed(&block).await;
        }
        let mut matchers = matchers.to_vec();
        if let (Some(label), Some(None)) = (&self.asked.label, &external) {
            // Only series that have the label are of interest. The text is empty, so it can't be wrong.
            matchers.extend(Matcher::new(MatchOp::NotEqual, label.as_str(), "").ok());
        }
        let matchers: Arc<[Matcher]> = matchers.into();
        let Some(found) = self.opener.find(&block, &matchers, &self.spec).await? else { return self.one(None) };
        match (&self.asked.label, external) {
            (Some(_), Some(Some(value))) => {
                // Is there a series at all that it would be on?
                let any = found.lazy.is_empty() || !self.scan(&block, found, None, true).await?.0.is_empty();
                self.one(any.then_some(&value))
            }
            (Some(label), _) => {
                let entries = average(&found.header).saturating_mul(found.refs.len() as u64);
                let lists = match found.lazy.is_empty() {
                    true => self.lists(&block, &found.header, label, entries).await?,
                    false => None,
                };
                match lists {
                    Some((lists, held)) => self.by_postings(&block, found, label, lists, held).await,
                    None => self.scan(&block, found, Some(label.clone()), false).await,
                }
            }
            (None, _) => self.scan(&block, found, None, false).await,
        }
    }

    fn one(&self, text: Option<&String>) -> Result<Told, Fault> {
        let texts = text.filter(|t| !t.is_empty()).map_or_else(Texts::default, |t| Texts::one(t));
        let mut held = self.opener.memory.hold();
        held.set(texts.bytes().len())?;
        Ok((texts, held))
    }

    /// What an index-header alone tells.
    async fn listed(&self, block: &Arc<Block>) -> Result<Told, Fault> {
        let mut held = self.opener.memory.hold();
        let key = self.asked.label.as_ref().map(|l| Key::Values(block.edition(), l.as_str().into()));
        if let Some(kept) = key.as_ref().and_then(|key| block.cache().get(key)) {
            held.set(kept.len())?;
            return Ok((Texts::from_bytes(kept), held));
        }
        let header = block.header().await.map_err(Fault::from_block(block))?;
        let (of, asked, stop, limit) =
            (Arc::clone(block), Arc::clone(&self.asked), self.spec.stop.clone(), self.limit());
        let work = move || {
            let mut out = Collect::new(held);
            match &asked.label {
                Some(label) => {
                    let mut values = 0;
                    for (n, value) in header.table().values(label).enumerate() {
                        let value = value.map_err(Fault::from_block(&of))?.value;
                        if n % ASK_EVERY == 0 {
                            go_on(&stop)?;
                        }
                        if values >= limit {
                            break;
                        }
                        values += usize::from(!value.is_empty());
                        out.push(value)?;
                    }
                }
                None => {
                    let mut is_empty = true;
                    for (n, name) in header.table().names().enumerate() {
                        if n % ASK_EVERY == 0 {
                            go_on(&stop)?;
                        }
                        is_empty = false;
                        name_to(&mut out, &asked, name.map_err(Fault::from_block(&of))?)?;
                    }
                    // Without a single series there is nothing that the external labels could be on.
                    if !is_empty {
                        external_to(&mut out, &asked, &of)?;
                    }
                }
            }
            Ok::<_, Fault>(out.finish()?)
        };
        let told = self.opener.cpu.run(work).await??;
        if let Some(key) = key.filter(|_| self.asked.limit.is_none()) {
            block.cache().insert(key, told.0.bytes().clone());
        }
        Ok(told)
    }

    /// The lists of a label's values, and the memory for them; none if they have more than `most` bytes.
    async fn lists(
        &self,
        block: &Arc<Block>,
        header: &Arc<Reader>,
        label: &str,
        most: u64,
    ) -> Result<Option<(Vec<Range<u64>>, Held)>, Fault> {
        let (of, header, label, stop) =
            (Arc::clone(block), Arc::clone(header), label.to_owned(), self.spec.stop.clone());
        let mut held = self.opener.memory.hold();
        let work = move || {
            let (mut lists, mut bytes) = (Vec::new(), 0u64);
            for (n, value) in header.table().values(&label).enumerate() {
                let list = value.map_err(Fault::from_block(&of))?.list;
                bytes = bytes.saturating_add(list.end - list.start);
                if bytes >= most {
                    return Ok::<_, Fault>(None);
                }
                if n % ASK_EVERY == 0 {
                    go_on(&stop)?;
                    // Twice: it may grow just then.
                    held.set((lists.len() + ASK_EVERY) * 2 * size_of::<Range<u64>>())?;
                }
                lists.push(list);
            }
            Ok(Some((lists, held)))
        };
        self.opener.cpu.run(work).await?
    }

    /// Values of a label by its lists: those that share a series with what was found.
    async fn by_postings(
        &self,
        block: &Arc<Block>,
        found: Found,
        label: &str,
        lists: Vec<Range<u64>>,
        of_lists: Held,
    ) -> Result<Told, Fault> {
        let Found { header, refs, mut held, .. } = found;
        let bytes: u64 = lists.iter().map(|l| l.end - l.start).sum();
        held.set(refs.len() * 4 + usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let parts = block.index(&lists, &self.opener.budget).await.map_err(Fault::from_block(block))?;
        let (of, label, stop, limit) = (Arc::clone(block), label.to_owned(), self.spec.stop.clone(), self.limit());
        let mut out = Collect::new(self.opener.memory.hold());
        let work = move || {
            let mut values = 0;
            for (n, (value, bytes)) in header.table().values(&label).zip(parts).enumerate() {
                let value = value.map_err(Fault::from_block(&of))?;
                if n % ASK_EVERY == 0 {
                    go_on(&stop)?;
                }
                if values >= limit {
                    break;
                }
                let list = read_list(INDEX_FILE, &bytes, value.list.start).map_err(Fault::from_block(&of))?;
                if !value.value.is_empty() && shares(&refs, list) {
                    values += 1;
                    out.push(value.value)?;
                }
            }
            drop((of_lists, held));
            Ok::<_, Fault>(out.finish()?)
        };
        self.opener.cpu.run(work).await?
    }

    /// Names of the series that were found (`label` none), or values of a label; with `first`, of one series only.
    async fn scan(&self, block: &Arc<Block>, found: Found, label: Option<String>, first: bool) -> Result<Told, Fault> {
        let Found { header, refs, lazy, held } = found;
        let parts = self.opener.parts(block, &header, refs, PART);
        let mut scan = Scan::new(header, lazy, label, first, parts, held);
        while let Some(part) = scan.parts.ask() {
            let bytes = block.index(&part.ranges, &self.opener.budget).await.map_err(Fault::from_block(block))?;
            let loaded = Loaded::new(&part.ranges, bytes);
            let stop = self.spec.stop.clone();
            let (back, outcome) = self
                .opener
                .cpu
                .run(move || {
                    let outcome = scan.part(&part.series, &loaded, &stop);
                    (scan, outcome)
                })
                .await?;
            scan = back;
            for range in outcome.map_err(Fault::from_block(block))? {
                let ranges = std::slice::from_ref(&range);
                let bytes = block.index(ranges, &self.opener.budget).await.map_err(Fault::from_block(block))?;
                let loaded = Loaded::new(ranges, bytes);
                scan.entry(range.start, &loaded, true).map_err(Fault::from_block(block))?;
            }
            if scan.is_enough() {
                break;
            }
            let size = scan.size();
            scan.held.set(size)?;
        }
        go_on(&self.spec.stop)?;
        let (of, asked, mut out) =
            (Arc::clone(block), Arc::clone(&self.asked), Collect::new(self.opener.memory.hold()));
        let work = move || {
            let Scan { header, found, held: _held, .. } = scan;
            let is_empty = found.is_empty();
            for reference in found {
                let text = header.symbols().lookup(reference).map_err(Fault::from_block(&of))?;
                match asked.label {
                    Some(_) => out.push(text)?,
                    None => name_to(&mut out, &asked, text)?,
                }
            }
            if asked.label.is_none() && !is_empty {
                external_to(&mut out, &asked, &of)?;
            }
            Ok::<_, Fault>(out.finish()?)
        };
        self.opener.cpu.run(work).await?
    }
}

fn name_to(out: &mut Collect, asked: &Asked, name: &str) -> Result<(), Fault> {
    if !asked.without.iter().any(|w| w == name) {
        out.push(name)?;
    }
    Ok(())
}

fn external_to(out: &mut Collect, asked: &Asked, block: &Block) -> Result<(), Fault> {
    block.external.iter().try_for_each(|(name, _)| name_to(out, asked, name))
}

/// An error once nobody waits for the answer any more.
fn go_on(stop: &Stop) -> Result<(), Fault> {
    match stop.is_set() {
        true => Err(Status::cancelled("nobody waits for the answer").into()),
        false => Ok(()),
    }
}

/// True if some reference is in both.
fn shares(refs: &[u32], list: Postings<'_>) -> bool {
    let mut rest = refs;
    list.iter().any(|r| {
        rest = rest.get(rest.partition_point(|x| *x < r)..).unwrap_or_default();
        rest.first() == Some(&r)
    })
}
