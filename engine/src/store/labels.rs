//! Label names and values.
//!
//! Without matchers they come from the index-headers alone. With matchers the series that match are looked up by their
//! postings; of their entries only the symbols of names (or of one label's values) are collected, never the label sets. The
//! time of a request chooses blocks, not series.

use super::blocks::Block;
use super::limits::Held;
use super::ranges::Budget;
use super::select::parts::Loaded;
use super::series::fault::Fault;
use super::series::missing::Lacks;
use super::series::open::{Found, Opener, average};
use super::series::spec::{Aggregates, Spec, Stats, Stop, passes};
use super::series::{Chosen, Shared, Wanted, choose_blocks};
use futures::{StreamExt as _, stream};
use model::{BlockId, MatchOp, Matcher};
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;
use tsdb::header::Reader;
use tsdb::index::{INDEX_FILE, Postings, Series, SymbolMemory, read_list};

/// Blocks that one request reads at the same time.
const CONCURRENT: usize = 16;
/// Bytes of entries that are read of one block at once.
const PART: u64 = 1 << 20;
/// How often a request is planned anew before it fails.
const ATTEMPTS: usize = 32;
/// What a string costs in a set, in bytes, beside its text.
const STRING: usize = 64;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Names or values, sorted.
    pub found: Vec<String>,
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
    let call = Call { asked: Arc::new(asked), opener, spec: Arc::new(spec) };
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
                answer.found = found;
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

impl Call {
    async fn all(&self, blocks: Vec<Chosen>) -> Result<Vec<String>, Fault> {
        let mut held = self.opener.memory.hold();
        let (mut all, mut bytes, mut troubles) = (BTreeSet::new(), 0, Vec::new());
        let mut found = stream::iter(blocks.into_iter().map(|(block, matchers)| self.block(block, matchers)))
            .buffer_unordered(CONCURRENT);
        while let Some(one) = found.next().await {
            match one {
                Ok(found) => {
                    for text in found {
                        let size = text.len() + STRING;
                        if all.insert(text) {
                            bytes += size;
                        }
                    }
                    held.set(bytes)?;
                }
                Err(Fault::Blocks(t)) => troubles.extend(t),
                Err(other) => return Err(other),
            }
        }
        if !troubles.is_empty() {
            return Err(Fault::Blocks(troubles));
        }
        let wanted = all.into_iter().filter(|n| self.asked.label.is_some() || !self.asked.without.contains(n));
        Ok(wanted.take(self.asked.limit.unwrap_or(usize::MAX)).collect())
    }

    /// What one block has.
    async fn block(&self, block: Arc<Block>, matchers: Arc<[Matcher]>) -> Result<Vec<String>, Fault> {
        let external = self.asked.label.as_ref().map(|l| block.external.get(l).map(str::to_owned));
        if matchers.is_empty() {
            if let Some(Some(value)) = external {
                return Ok(vec![value]);
            }
            let header = block.header().await.map_err(Fault::from_block(&block))?;
            let (call, of) = (Arc::clone(&self.asked), Arc::clone(&block));
            let listed = self.opener.cpu.run(move || listed(&header, &of, &call)).await?;
            return listed.map_err(Fault::from_block(&block));
        }
        let mut matchers = matchers.to_vec();
        if let (Some(label), Some(None)) = (&self.asked.label, &external) {
            // Only series that have the label are of interest. The text is empty, so it can't be wrong.
            matchers.extend(Matcher::new(MatchOp::NotEqual, label.as_str(), "").ok());
        }
        let matchers: Arc<[Matcher]> = matchers.into();
        let Some(found) = self.opener.find(&block, &matchers, &self.spec).await? else { return Ok(Vec::new()) };
        match (&self.asked.label, external) {
            (Some(_), Some(Some(value))) => {
                // Is there a series at all that it would be on?
                let any = found.lazy.is_empty() || !self.scan(&block, found, None, true).await?.is_empty();
                Ok(if any { vec![value] } else { Vec::new() })
            }
            (Some(label), _) => {
                let lists: Vec<_> = found.header.table().values(label).filter_map(Result::ok).map(|v| v.list).collect();
                let bytes: u64 = lists.iter().map(|l| l.end - l.start).sum();
                let entries = average(&found.header).saturating_mul(found.refs.len() as u64);
                match found.lazy.is_empty() && bytes < entries {
                    true => self.by_postings(&block, found, label).await,
                    false => self.scan(&block, found, Some(label.clone()), false).await,
                }
            }
            (None, _) => {
                let mut names = self.scan(&block, found, None, false).await?;
                if !names.is_empty() {
                    names.extend(block.external.iter().map(|(n, _)| n.to_owned()));
                }
                Ok(names)
            }
        }
    }

    /// Values of a label by its lists: those that share a series with what was found.
    async fn by_postings(&self, block: &Arc<Block>, found: Found, label: &str) -> Result<Vec<String>, Fault> {
        let Found { header, refs, mut held, .. } = found;
        let (values, lists): (Vec<String>, Vec<_>) =
            header.table().values(label).filter_map(Result::ok).map(|v| (v.value.to_owned(), v.list)).unzip();
        let bytes: u64 = lists.iter().map(|l| l.end - l.start).sum();
        held.set(refs.len() * 4 + usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let parts = block.index(&lists, &self.opener.budget).await.map_err(Fault::from_block(block))?;
        let limit = self.asked.limit.unwrap_or(usize::MAX);
        let work = move || {
            let mut out = Vec::new();
            for ((value, list), bytes) in values.into_iter().zip(lists).zip(parts) {
                if out.len() >= limit {
                    break;
                }
                if !value.is_empty() && shares(&refs, read_list(INDEX_FILE, &bytes, list.start)?) {
                    out.push(value);
                }
            }
            Ok::<_, tsdb::Error>(out)
        };
        self.opener.cpu.run(work).await?.map_err(Fault::from_block(block))
    }

    /// Names of the series that were found (`label` none), or values of a label; with `first`, of one series only.
    async fn scan(
        &self,
        block: &Arc<Block>,
        found: Found,
        label: Option<String>,
        first: bool,
    ) -> Result<Vec<String>, Fault> {
        let Found { header, refs, lazy, held } = found;
        let parts = self.opener.parts(block, &header, refs, PART);
        let mut scan =
            Scan { header, lazy, label, found: BTreeSet::new(), memory: SymbolMemory::default(), held, parts, first };
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
            if scan.first && !scan.found.is_empty() {
                break;
            }
            let held = scan.parts.memory() + scan.found.len() * 32;
            scan.held.set(held)?;
        }
        scan.texts().map_err(Fault::from_block(block))
    }
}

/// Entries that are looked through for symbols.
struct Scan {
    header: Arc<Reader>,
    lazy: Vec<Matcher>,
    label: Option<String>,
    /// References of names or values.
    found: BTreeSet<u32>,
    memory: SymbolMemory,
    held: Held,
    parts: super::select::parts::Parts,
    first: bool,
}

impl Scan {
    /// Looks through a part; gives the places of entries that are longer than what was read of them.
    fn part(
        &mut self,
        series: &std::ops::Range<usize>,
        loaded: &Loaded,
        stop: &Stop,
    ) -> tsdb::Result<Vec<std::ops::Range<u64>>> {
        let mut longer = Vec::new();
        for place in series.clone() {
            if place % 256 == 0 && stop.is_set() || self.first && !self.found.is_empty() {
                break;
            }
            let Some(at) = self.parts.offset(place) else { break };
            longer.extend(self.entry(at, loaded, false)?);
        }
        Ok(longer)
    }

    fn entry(&mut self, at: u64, loaded: &Loaded, last: bool) -> tsdb::Result<Option<std::ops::Range<u64>>> {
        let bytes = loaded.view(at);
        let mut entry = Series::default();
        if let Err(error) = entry.read(INDEX_FILE, bytes, at) {
            let longer = self.parts.whole(at, bytes).filter(|w| w.end - at > bytes.len() as u64 && !last);
            return longer.map(Some).ok_or(error);
        }
        let symbols = self.header.symbols();
        if !self.lazy.is_empty() {
            let mut pairs = Vec::with_capacity(entry.symbols.len().min(256));
            for (name, value) in &entry.symbols {
                let name = symbols.remembered(*name, &mut self.memory)?;
                pairs.push((name, symbols.remembered(*value, &mut self.memory)?));
            }
            if !passes(&pairs, &self.lazy) {
                return Ok(None);
            }
        }
        match &self.label {
            None => self.found.extend(entry.symbols.iter().map(|(name, _)| *name)),
            Some(label) => {
                for (name, value) in &entry.symbols {
                    if symbols.remembered(*name, &mut self.memory)? == label {
                        self.found.insert(*value);
                    }
                }
            }
        }
        Ok(None)
    }

    fn texts(&self) -> tsdb::Result<Vec<String>> {
        self.found.iter().map(|r| self.header.symbols().lookup(*r).map(str::to_owned)).collect()
    }
}

/// What an index-header alone tells.
fn listed(header: &Reader, block: &Block, asked: &Asked) -> tsdb::Result<Vec<String>> {
    let limit = asked.limit.unwrap_or(usize::MAX);
    match &asked.label {
        Some(label) => {
            let values = header.table().values(label).filter(|v| !v.as_ref().is_ok_and(|v| v.value.is_empty()));
            values.take(limit).map(|v| Ok(v?.value.to_owned())).collect()
        }
        None => {
            let mut names: Vec<String> =
                header.table().names().map(|n| n.map(str::to_owned)).collect::<tsdb::Result<_>>()?;
            // Without a single series there is nothing that the external labels could be on.
            if !names.is_empty() {
                names.extend(block.external.iter().map(|(n, _)| n.to_owned()));
            }
            Ok(names)
        }
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
