//! Regular expressions as Prometheus means them: RE2 syntax as Go's `regexp` reads it, anchored on both ends,
//! dot matches newline.
//!
//! The text goes through our own parser (`parse`), which accepts and refuses what Go does, with Go's error texts.
//! From the tree come two things: an automaton of `regex_automata`, and, where the expression allows, a short cut
//! (`fast`): a set of literal values, or literals with gaps between them (`foo.*bar`), which needs no automaton.
//!
//! Known differences, all deliberate: Unicode tables are of version 16 (Go: 15); `\p{Old_Italic}` and the other scripts
//! with two words in their name are accepted (Go 1.25 and later lost them); an expression whose automaton takes more
//! than 5 MiB, with more than 1000 open groups, or with many more pieces than real ones of its length, is an error.

mod class;
mod expand;
mod fast;
mod lex;
mod parse;
mod tree;

use fast::Fast;
use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_syntax::hir::{Hir, Look};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Largest automaton we build, in bytes (usual ones take a few thousand). It bounds the time, too: twice as much took up to
/// 80 ms of CPU (G43).
const AUTOMATON_LIMIT: usize = 5 << 20;

/// Bytes of an automaton times its groups: to find groups takes about as much, a place for each in each of its states.
const GROUPS_LIMIT: usize = 32 << 20;

/// Height of a tree up to which any thread's stack will do.
const SHALLOW: u32 = 100;

/// The stack for higher trees, in bytes: the parser allows a height of 1000.
const DEEP_STACK: usize = 32 << 20;

/// Why an expression was refused, in the words of Go's `regexp/syntax`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(pub String);

impl RegexError {
    /// Go's text: the reason and the part of the expression it is about.
    fn new(reason: &str, part: &str) -> Self {
        Self(format!("error parsing regexp: {reason}: `{part}`"))
    }
}

/// A compiled, fully anchored expression. Cloning is cheap.
#[derive(Clone)]
pub struct Regex(Arc<Inner>);

struct Inner {
    source: String,
    fast: Option<Fast>,
    /// What every matching value begins with; may be empty.
    prefix: String,
    /// Named groups in order, with their numbers.
    names: Vec<(String, usize)>,
    /// All groups.
    groups: usize,
    /// Tells whether a value matches and nothing of groups: there is none where a short cut does.
    automaton: Option<meta::Regex>,
    /// Finds groups; built when they are asked for, nothing if they take too much.
    finder: OnceLock<Option<meta::Regex>>,
}

impl Regex {
    /// Compiles `source`.
    ///
    /// # Errors
    /// What Go refuses, in Go's words; and `expression too large` if the automaton would take more than 5 MiB.
    pub fn new(source: &str) -> Result<Self, RegexError> {
        let parsed = parse::parse(source)?;
        let compiled = with_room(parsed.height, || Self::compile(source, parsed));
        compiled.unwrap_or_else(|| Err(RegexError::new("expression nests too deeply", source)))
    }

    fn compile(source: &str, parsed: parse::Parsed) -> Result<Self, RegexError> {
        let fast = if parsed.height <= SHALLOW { Fast::of(&parsed.tree, source.len()) } else { None };
        let automaton = match fast {
            Some(_) => None,
            None => {
                let built = build(&parsed.tree, Some(AUTOMATON_LIMIT), WhichCaptures::None);
                Some(built.ok_or_else(|| RegexError::new("expression too large", source))?)
            }
        };
        let (prefix, finder) = (parsed.tree.prefix(), OnceLock::new());
        let (names, groups) = (parsed.names, parsed.groups);
        Ok(Self(Arc::new(Inner { source: source.to_owned(), fast, prefix, names, groups, automaton, finder })))
    }

    /// True if the whole of `value` matches.
    pub fn is_match(&self, value: &str) -> bool {
        match &self.0.fast {
            Some(fast) => fast.is_match(value),
            None => self.0.automaton.as_ref().is_some_and(|a| a.is_match(value)),
        }
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    /// All values that match, sorted and without duplicates, if they are finite and few enough to be looked up one by one.
    pub fn set_matches(&self) -> Option<&[String]> {
        self.0.fast.as_ref()?.values()
    }

    /// What every matching value begins with, if anything: bounds a look-up in sorted values.
    pub fn prefix(&self) -> Option<&str> {
        Some(self.0.prefix.as_str()).filter(|p| !p.is_empty())
    }

    /// If `value` matches: `template` with `$1`, `${1}`, `$name`, `${name}` replaced by the groups, as Go's
    /// `Regexp.Expand` does it (`$$` is a dollar, an unknown or unmatched group is empty, `$1x` is the group `1x`).
    pub fn captures_expand(&self, value: &str, template: &str) -> Option<String> {
        if self.0.fast.as_ref().is_some_and(|f| !f.is_match(value)) {
            return None;
        }
        let automaton = self.finder()?;
        let mut groups = automaton.create_captures();
        automaton.captures(value, &mut groups);
        groups.is_match().then(|| {
            expand::expand(template, &self.0.names, |n| groups.get_group(n).and_then(|s| value.get(s.start..s.end)))
        })
    }

    /// Memory that the compiled expression holds now, bytes; what an automaton needs to run comes on top.
    pub fn held_bytes(&self) -> usize {
        let found = self.0.finder.get().and_then(Option::as_ref);
        let automaton =
            [&self.0.automaton, &found.cloned()].into_iter().flatten().map(meta::Regex::memory_usage).sum::<usize>();
        let texts = self.0.source.len() + self.0.prefix.len();
        size_of::<Inner>() + texts + automaton + self.0.fast.as_ref().map_or(0, Fast::held_bytes)
    }

    /// Whether groups can be asked for.
    ///
    /// # Errors
    /// If finding them would take too much memory.
    pub fn check_groups(&self) -> Result<(), RegexError> {
        let told = || RegexError::new("expression with too many groups for its size", &self.0.source);
        self.finder().map(drop).ok_or_else(told)
    }

    /// What finds groups. The parser bounds an expression with a short cut to a few million literal characters, far below
    /// what an automaton can number.
    fn finder(&self) -> Option<&meta::Regex> {
        let build = || {
            let limit = self.0.automaton.is_some().then_some(AUTOMATON_LIMIT);
            let parsed = parse::parse(&self.0.source).ok()?;
            let built = with_room(parsed.height, || build(&parsed.tree, limit, WhichCaptures::All))??;
            (built.memory_usage().saturating_mul(self.0.groups) <= GROUPS_LIMIT).then_some(built)
        };
        self.0.finder.get_or_init(build).as_ref()
    }
}

/// Walks a tree of this height by recursion, ours and that of `regex_automata`, on a stack that is deep enough.
fn with_room<T: Send>(height: u32, work: impl FnOnce() -> T + Send) -> Option<T> {
    if height <= SHALLOW {
        return Some(work());
    }
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, work).ok()?;
        worker.join().ok()
    })
}

/// The automaton of an anchored tree; nothing if it grows over the limit (bytes).
fn build(tree: &tree::Node, limit: Option<usize>, captures: WhichCaptures) -> Option<meta::Regex> {
    let anchored = Hir::concat(vec![Hir::look(Look::Start), tree.to_hir(), Hir::look(Look::End)]);
    let config = meta::Config::new().nfa_size_limit(limit).which_captures(captures);
    meta::Builder::new().configure(config).build_from_hir(&anchored).ok()
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.source)
    }
}

#[cfg(test)]
mod tests;
