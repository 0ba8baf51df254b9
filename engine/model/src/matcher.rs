//! Label matchers: `name op value`, as in a selector.

use crate::labels::{Labels, Quoted, is_legacy_name};
use crate::regex::{Regex, RegexError};
use std::fmt;
use std::sync::Arc;

/// How a matcher compares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored on both ends
    Regex,
    /// `!~`, anchored on both ends
    NotRegex,
}

impl MatchOp {
    /// The operator as written in PromQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// What the compiled expressions of one query or request may hold together, bytes: a usual one holds a few thousand.
pub const MOST_COMPILED: usize = 24 << 20;

/// The regular expressions of one query or request, counted.
#[derive(Default)]
pub struct Compiled(usize);

impl Compiled {
    /// Counts one more matcher.
    ///
    /// # Errors
    /// When they hold more than [`MOST_COMPILED`] together.
    pub fn add(&mut self, matcher: &Matcher) -> Result<(), RegexError> {
        self.0 = self.0.saturating_add(matcher.regex().map_or(0, Regex::held_bytes));
        if self.0 <= MOST_COMPILED || crate::protection::off("query-automata") {
            return Ok(());
        }
        let most = MOST_COMPILED >> 20;
        Err(RegexError(format!(
            "the regular expressions take more than {most} MiB together: use fewer, or simpler ones"
        )))
    }
}

/// One condition on one label. An absent label has the empty value.
#[derive(Clone)]
pub struct Matcher {
    /// The label's name.
    pub name: String,
    /// The comparison.
    pub op: MatchOp,
    /// The literal or the regular expression, as written.
    pub value: String,
    regex: Option<Arc<Regex>>,
}

impl Matcher {
    /// A matcher; fails if `op` is a regular expression that RE2 would refuse, with RE2's text.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, RegexError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(Arc::new(Regex::new(&value)?)),
        };
        Ok(Self { name: name.into(), op, value, regex })
    }

    /// `name="value"`, which can't fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// True if a label of this value passes.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => self.value == value,
            (MatchOp::NotEqual, _) => self.value != value,
            (MatchOp::Regex, Some(r)) => r.is_match(value),
            (MatchOp::NotRegex, Some(r)) => !r.is_match(value),
            // Unreachable by construction; refusing is the safe side.
            (MatchOp::Regex | MatchOp::NotRegex, None) => false,
        }
    }

    /// True if the label set passes; an absent label counts as the empty value.
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.value(&self.name))
    }

    /// True if an absent (or empty) label passes: such a matcher can't narrow a look-up on its own.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The compiled expression of a regular-expression matcher.
    pub fn regex(&self) -> Option<&Regex> {
        self.regex.as_deref()
    }
}

impl PartialEq for Matcher {
    fn eq(&self, o: &Self) -> bool {
        self.name == o.name && self.op == o.op && self.value == o.value
    }
}

impl Eq for Matcher {}

impl std::hash::Hash for Matcher {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        self.name.hash(h);
        self.op.hash(h);
        self.value.hash(h);
    }
}

/// `name="value"`, quoted as Prometheus prints it.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_legacy_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            write!(f, "{}", Quoted(&self.name))?;
        }
        write!(f, "{}{}", self.op.as_str(), Quoted(&self.value))
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
