//! Entries of series that are looked through for symbols: names, or the values of one label.

use crate::store::limits::Held;
use crate::store::select::parts::{Loaded, Parts};
use crate::store::series::spec::{Stop, passes};
use model::Matcher;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tsdb::header::Reader;
use tsdb::index::{INDEX_FILE, Series, SymbolMemory};

/// What a reference costs in a set, in bytes.
const REFERENCE: usize = 32;

/// A look through the entries of one block.
pub(super) struct Scan {
    /// Where symbols are looked up.
    pub(super) header: Arc<Reader>,
    /// Matchers that the postings did not answer.
    pub(super) lazy: Vec<Matcher>,
    /// The label whose values are collected; none: names are.
    pub(super) label: Option<String>,
    /// One series is enough.
    pub(super) first: bool,
    /// The series.
    pub(super) parts: Parts,
    /// References of names or values.
    pub(super) found: BTreeSet<u32>,
    /// What all this takes.
    pub(super) held: Held,
    memory: SymbolMemory,
}

impl Scan {
    /// Of these series.
    pub(super) fn new(
        header: Arc<Reader>,
        lazy: Vec<Matcher>,
        label: Option<String>,
        first: bool,
        parts: Parts,
        held: Held,
    ) -> Self {
        Self { header, lazy, label, first, parts, found: BTreeSet::new(), held, memory: SymbolMemory::default() }
    }

    /// Looks through a part; gives the places of entries that are longer than what was read of them.
    pub(super) fn part(
        &mut self,
        series: &Range<usize>,
        loaded: &Loaded,
        stop: &Stop,
    ) -> tsdb::Result<Vec<Range<u64>>> {
        let mut longer = Vec::new();
        for place in series.clone() {
            if place % 256 == 0 && stop.is_set() || self.is_enough() {
                break;
            }
            let Some(at) = self.parts.offset(place) else { break };
            longer.extend(self.entry(at, loaded, false)?);
        }
        Ok(longer)
    }

    /// True if the one series that is looked for was found.
    pub(super) fn is_enough(&self) -> bool {
        self.first && !self.found.is_empty()
    }

    /// Bytes that this takes.
    pub(super) fn size(&self) -> usize {
        self.parts.memory() + self.found.len() * REFERENCE
    }

    /// Looks into an entry; gives its place if it is longer than what was read of it, unless this was the `last` try.
    pub(super) fn entry(&mut self, at: u64, loaded: &Loaded, last: bool) -> tsdb::Result<Option<Range<u64>>> {
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
}
