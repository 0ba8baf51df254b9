//! From matchers to series: which postings lists to read, cheapest first, and what to do with them.
//!
//! The rules are those of Prometheus's `PostingsForMatchers`. A matcher that an absent label passes can't be answered by
//! adding lists: the lists of the values that fail are taken away instead. Planning looks at the table only, so that a
//! reader of a bucket can fetch all lists in few requests; evaluating looks at the lists only.

use super::postings::{Postings, intersect, intersect_sorted, subtract, subtract_sorted, union};
use super::table::PostingsTable;
use crate::error::Result;
use model::{MatchOp, Matcher};
use std::collections::BTreeMap;
use std::ops::Range;

/// Lists of one label name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The label name; empty for the list of all series.
    pub name: String,
    /// Where the lists lie; see [`super::ValueEntry::list`].
    pub lists: Vec<Range<u64>>,
    /// True: only series in one of the lists are kept. False: series in any of the lists are dropped.
    pub keep: bool,
}

impl Group {
    /// Bytes of its lists.
    pub fn bytes(&self) -> u64 {
        self.lists.iter().map(|l| l.end.saturating_sub(l.start)).fold(0, u64::saturating_add)
    }
}

/// After how many label values [`Plan::until`] asks.
pub const ASK_EVERY: usize = 1024;

/// What to read and how to combine it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Groups that keep, the smallest first, then groups that drop. If no series can match, there is none.
    pub groups: Vec<Group>,
}

impl Plan {
    /// Plans the look-up of series that pass all `matchers`; without matchers, of all series.
    ///
    /// # Errors
    /// When a label value in the table is not UTF-8.
    pub fn new(table: &PostingsTable, matchers: &[Matcher]) -> Result<Self> {
        Self::until(table, matchers, &mut || Ok(()))
    }

    /// As [`Plan::new`]; `go_on` is asked every [`ASK_EVERY`] values whether to go on: expressions may have to look at
    /// millions.
    ///
    /// # Errors
    /// As [`Plan::new`], and those of `go_on`.
    pub fn until(table: &PostingsTable, matchers: &[Matcher], go_on: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let mut names: BTreeMap<&str, Vec<&Matcher>> = BTreeMap::new();
        for m in matchers {
            names.entry(&m.name).or_default().push(m);
        }
        let (mut keeps, mut drops) = (Vec::new(), Vec::new());
        for (name, matchers) in names {
            if name.is_empty() {
                // No label has the empty name, so its value is always "absent".
                if matchers.iter().all(|m| m.matches_empty()) {
                    continue;
                }
                return Ok(Self::default());
            }
            let keep = !matchers.iter().all(|m| m.matches_empty());
            let lists = lists(table, name, &matchers, keep, go_on)?;
            let name = name.to_owned();
            match (keep, lists.is_empty()) {
                (true, true) => return Ok(Self::default()),
                (true, false) => keeps.push(Group { name, lists, keep }),
                (false, true) => {}
                (false, false) => drops.push(Group { name, lists, keep }),
            }
        }
        if keeps.is_empty() {
            let Some(all) = table.all() else { return Ok(Self::default()) };
            keeps.push(Group { name: String::new(), lists: vec![all], keep: true });
        }
        keeps.sort_by_key(Group::bytes);
        drops.sort_by_key(Group::bytes);
        keeps.append(&mut drops);
        Ok(Self { groups: keeps })
    }

    /// The series, ascending. `list` reads a list; it is asked group by group and not any more once nothing is left.
    ///
    /// # Errors
    /// Those of `list`.
    pub fn evaluate<'a>(&self, mut list: impl FnMut(&Range<u64>) -> Result<Postings<'a>>) -> Result<Vec<u32>> {
        let mut kept: Option<Vec<u32>> = None;
        for group in &self.groups {
            if kept.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            let lists = group.lists.iter().map(&mut list).collect::<Result<Vec<_>>>()?;
            match (&mut kept, group.keep, lists.as_slice()) {
                (None, true, lists) => kept = Some(union(lists)),
                (None, false, _) | (Some(_), _, []) => {}
                (Some(k), true, [one]) => intersect(k, *one),
                (Some(k), true, many) => intersect_sorted(k, &union(many)),
                (Some(k), false, [one]) => subtract(k, *one),
                // Taking lists away one by one walks `kept` once for each; joining them walks the lists once.
                (Some(k), false, many) => subtract_sorted(k, &union(many)),
            }
        }
        Ok(kept.unwrap_or_default())
    }
}

/// Lists of the values of `name` that pass all matchers (`keep`), or that fail one.
fn lists(
    table: &PostingsTable,
    name: &str,
    matchers: &[&Matcher],
    keep: bool,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Range<u64>>> {
    go_on()?;
    let passes = |value: &str| matchers.iter().all(|m| m.matches(value));
    if keep {
        // A matcher that names its values: only these are looked at.
        if let Some(values) = matchers.iter().find_map(|m| values_of(m)) {
            let mut values: Vec<&str> = values.into_iter().filter(|v| !v.is_empty() && passes(v)).collect();
            values.sort_unstable();
            values.dedup();
            return Ok(values.into_iter().filter_map(|v| table.find(name, v)).collect());
        }
    } else if let [only] = matchers
        && let Some(values) = excluded_by(only)
    {
        let mut values: Vec<&str> = values.into_iter().filter(|v| !v.is_empty()).collect();
        values.sort_unstable();
        values.dedup();
        return Ok(values.into_iter().filter_map(|v| table.find(name, v)).collect());
    }
    // A matcher that fixes how values begin: only these are looked at.
    let prefix = if keep {
        matchers.iter().filter(|m| m.op == MatchOp::Regex).filter_map(|m| m.regex()?.prefix()).max_by_key(|p| p.len())
    } else {
        None
    };
    let mut found = Vec::new();
    for (n, entry) in table.values_from(name, prefix.unwrap_or("")).enumerate() {
        let entry = entry?;
        if n % ASK_EVERY == ASK_EVERY - 1 {
            go_on()?;
        }
        if prefix.is_some_and(|p| !entry.value.starts_with(p)) {
            break;
        }
        if !entry.value.is_empty() && passes(entry.value) == keep {
            found.push(entry.list);
        }
    }
    Ok(found)
}

/// The only values that can pass, if the matcher names them.
fn values_of(m: &Matcher) -> Option<Vec<&str>> {
    match m.op {
        MatchOp::Equal => Some(vec![m.value.as_str()]),
        MatchOp::Regex => Some(m.regex()?.set_matches()?.iter().map(String::as_str).collect()),
        MatchOp::NotEqual | MatchOp::NotRegex => None,
    }
}

/// The only values that fail, if the matcher names them.
fn excluded_by(m: &Matcher) -> Option<Vec<&str>> {
    match m.op {
        MatchOp::NotEqual => Some(vec![m.value.as_str()]),
        MatchOp::NotRegex => Some(m.regex()?.set_matches()?.iter().map(String::as_str).collect()),
        MatchOp::Equal | MatchOp::Regex => None,
    }
}
