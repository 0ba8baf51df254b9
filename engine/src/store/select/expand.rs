//! Which postings lists to read for a block, and which matchers to check on the series instead.
//!
//! A list costs its bytes; what it saves is the entries of series that another list has let through. Where that is less, the
//! list is not read, and its matchers are checked on the labels of the entries.

use model::Matcher;
use std::ops::Range;
use tsdb::index::{Group, Plan, Postings, PostingsTable};

/// Of the series that pass one group, the part that is expected to pass the next one, too.
const PASS: f64 = 0.5;
/// Bytes of a list's frame: length, count, checksum.
const FRAME: u64 = 12;

/// What reading costs in this block.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Bytes of an average series entry. 0: all lists are read.
    pub series_bytes: u64,
    /// A group of more lists than this times the series that may match is not read; 0: no such rule.
    pub max_lists_per_series: f64,
}

/// What to read of the postings of one block.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    plan: Plan,
    /// To be checked on the labels of the series.
    pub lazy: Vec<Matcher>,
    /// How many groups are not read because they are larger than what they save.
    pub too_large: u64,
    /// How many groups are not read because they have too many lists.
    pub too_many: u64,
}

impl Expansion {
    /// Decides; `go_on` is asked now and then whether to.
    ///
    /// # Errors
    /// When the table is damaged, and those of `go_on`.
    pub fn new(
        table: &PostingsTable,
        matchers: &[Matcher],
        costs: Costs,
        go_on: &mut dyn FnMut() -> tsdb::Result<()>,
    ) -> tsdb::Result<Self> {
        let plan = Plan::until(table, matchers, go_on)?;
        let mut out = Self::default();
        // The first group keeps, and is the smallest that does.
        let mut left = plan.groups.first().map_or(0.0, |g| series(g) as f64);
        for (i, group) in plan.groups.into_iter().enumerate() {
            let too_many = costs.max_lists_per_series > 0.0
                && group.lists.len() as f64 > costs.max_lists_per_series * left.max(1.0);
            let saves = left * costs.series_bytes as f64 * (1.0 - PASS);
            let too_large = costs.series_bytes > 0 && group.bytes() as f64 > saves;
            if i > 0 && (too_many || too_large) {
                out.too_many += u64::from(too_many);
                out.too_large += u64::from(!too_many);
                out.lazy.extend(matchers.iter().filter(|m| m.name == group.name).cloned());
                continue;
            }
            if i > 0 {
                left *= PASS;
            }
            out.plan.groups.push(group);
        }
        Ok(out)
    }

    /// True if no series can match.
    pub fn is_empty(&self) -> bool {
        self.plan.groups.is_empty()
    }

    /// The lists to read, sorted, each once.
    pub fn lists(&self) -> Vec<Range<u64>> {
        let mut lists: Vec<_> = self.plan.groups.iter().flat_map(|g| g.lists.iter().cloned()).collect();
        lists.sort_by_key(|l| (l.start, l.end));
        lists.dedup();
        lists
    }

    /// The series that the lists let through, ascending.
    ///
    /// # Errors
    /// Those of `list`.
    pub fn evaluate<'a>(&self, list: impl FnMut(&Range<u64>) -> tsdb::Result<Postings<'a>>) -> tsdb::Result<Vec<u32>> {
        self.plan.evaluate(list)
    }
}

/// How many references the lists of a group hold.
fn series(group: &Group) -> u64 {
    group.lists.iter().map(|l| l.end.saturating_sub(l.start).saturating_sub(FRAME) / 4).fold(0, u64::saturating_add)
}
