//! The typed logical plan: the syntax tree with all times resolved, parentheses gone, constant parts marked and
//! every select listed.

mod build;
mod duration;
mod rewrite;
mod slice;

pub(crate) use build::{build, info_names};

use crate::exec::SelectRequest;
use crate::parse::{AggregateOp, BinaryOp, Function, RangeMode, Span, ValueType, VectorMatching};
use model::Matcher;

/// The times of an evaluation: `start + i * step` for `i` in `0..len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// First time, milliseconds.
    pub(crate) start: i64,
    /// Distance, milliseconds, at least 1.
    pub(crate) step: i64,
    /// Number of times; 0 if there is nothing to evaluate.
    pub(crate) len: usize,
    /// True if the end that was asked for is not the start, even if no second time fits in.
    pub(crate) spread: bool,
}

impl Grid {
    /// A single time.
    pub(crate) fn single(t: i64) -> Self {
        Self { start: t, step: 1, len: 1, spread: false }
    }

    /// From `start` to at most `end`.
    pub(crate) fn new(start: i64, end: i64, step: i64) -> Self {
        let step = step.max(1);
        let len = if end < start { 0 } else { (end.saturating_sub(start) / step).saturating_add(1) };
        Self { start, step, len: usize::try_from(len).unwrap_or(usize::MAX), spread: start != end }
    }

    /// The time of step `i`.
    pub(crate) fn time(&self, i: usize) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(i as i64))
    }

    /// The last time.
    pub(crate) fn end(&self) -> i64 {
        self.time(self.len.saturating_sub(1))
    }

    pub(crate) fn is_single(&self) -> bool {
        self.len == 1
    }
}

/// A planned expression.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Where it stands in the text (without parentheses around it).
    pub(crate) span: Span,
    pub(crate) value_type: ValueType,
    /// True if its series differ in more than the metadata labels, so that dropping the name can't make two equal.
    pub(crate) injective: bool,
    /// Its number in the order of the text, for measurements.
    pub(crate) id: usize,
    /// It reads one select and treats each series by itself, so that parts of the select can be evaluated apart.
    pub(crate) sliced: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Number(f64),
    Text(String),
    /// A text that is not UTF-8.
    Bytes(Vec<u8>),
    Instant(Selector),
    /// A range vector: the argument of a range function, or the whole of an instant query.
    Range(RangeArg),
    /// Does not depend on the step: evaluated once, repeated.
    Invariant(Box<Node>),
    /// Does nothing, but is neither a bare selector nor stands where its operand does.
    Plus(Box<Node>),
    Negate(Box<Node>),
    Call(Box<Call>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    /// Occurs more than once with equal values: evaluated once and kept, if memory allows.
    Shared(Box<Shared>),
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Which of the plan's shared subtrees.
    pub(crate) id: usize,
    /// Uses of it that follow this one.
    pub(crate) left: usize,
    pub(crate) node: Node,
}

/// A select and how it is laid over the grid.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    /// Index into the plan's uses of selects.
    pub(crate) select: usize,
    /// What it matches.
    pub(crate) matchers: Vec<Matcher>,
    /// `@`: the time that replaces the evaluation time.
    pub(crate) at: Option<i64>,
    /// Milliseconds.
    pub(crate) offset: i64,
    pub(crate) mode: RangeMode,
    /// Count and sum of histograms are enough.
    pub(crate) stats: bool,
}

impl Selector {
    /// The time that is looked at when evaluating at `t`.
    pub(crate) fn reference(&self, t: i64) -> i64 {
        self.at.unwrap_or(t).saturating_sub(self.offset)
    }
}

/// What a range function works on.
#[derive(Clone, Debug)]
pub(crate) enum RangeArg {
    Selector {
        selector: Selector,
        /// Width of the window, milliseconds.
        range: i64,
    },
    Subquery(Box<Subquery>),
}

#[derive(Clone, Debug)]
pub(crate) struct Subquery {
    pub(crate) child: Node,
    /// Width of the window, milliseconds.
    pub(crate) range: i64,
    /// Milliseconds, at least 1.
    pub(crate) step: i64,
    pub(crate) offset: i64,
    pub(crate) at: Option<i64>,
}

impl Subquery {
    /// The inner times that all windows of `outer` together need: multiples of the step.
    pub(crate) fn grid(&self, outer: &Grid) -> Grid {
        let first = self.at.unwrap_or(outer.start).saturating_sub(self.offset).saturating_sub(self.range);
        let last = self.at.unwrap_or(outer.end()).saturating_sub(self.offset);
        // The window is open on the left.
        let start = first.div_euclid(self.step).saturating_add(1).saturating_mul(self.step);
        Grid::new(start, last, self.step)
    }
}

impl RangeArg {
    pub(crate) fn range(&self) -> i64 {
        match self {
            Self::Selector { range, .. } => *range,
            Self::Subquery(s) => s.range,
        }
    }

    /// The end of the window when evaluating at `t`.
    pub(crate) fn reference(&self, t: i64) -> i64 {
        match self {
            Self::Selector { selector, .. } => selector.reference(t),
            Self::Subquery(s) => s.at.unwrap_or(t).saturating_sub(s.offset),
        }
    }

    pub(crate) fn mode(&self) -> RangeMode {
        match self {
            Self::Selector { selector, .. } => selector.mode,
            Self::Subquery(_) => RangeMode::Plain,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) func: &'static Function,
    /// For `info()` always two: the second is the selector of the info series.
    pub(crate) args: Vec<Node>,
    /// Whoever takes its series understands histograms as rows.
    pub(crate) rows: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    pub(crate) op: AggregateOp,
    pub(crate) arg: Node,
    pub(crate) param: Option<Node>,
    /// Sorted, without repetition.
    pub(crate) grouping: Vec<String>,
    pub(crate) without: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) op: BinaryOp,
    pub(crate) lhs: Node,
    pub(crate) rhs: Node,
    pub(crate) matching: Option<VectorMatching>,
    pub(crate) return_bool: bool,
}

/// A planned query.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) root: Node,
    pub(crate) grid: Grid,
    /// What each selector asks for; `id` is that of the select which answers it.
    pub(crate) uses: Vec<SelectRequest>,
    /// For each use the conditions that its select does not know.
    pub(crate) narrow: Vec<Vec<Matcher>>,
    /// What is fetched.
    pub(crate) selects: Vec<SelectRequest>,
    /// Number of nodes.
    pub(crate) nodes: usize,
}

impl Node {
    /// The nodes directly below, in the order of the text.
    pub(crate) fn children(&self) -> Vec<&Node> {
        match &self.kind {
            Kind::Number(_) | Kind::Text(_) | Kind::Bytes(_) | Kind::Instant(_) => Vec::new(),
            Kind::Range(RangeArg::Selector { .. }) => Vec::new(),
            Kind::Range(RangeArg::Subquery(s)) => vec![&s.child],
            Kind::Invariant(n) | Kind::Plus(n) | Kind::Negate(n) => vec![n],
            Kind::Call(c) => c.args.iter().collect(),
            Kind::Aggregate(a) => a.param.iter().chain(std::iter::once(&a.arg)).collect(),
            Kind::Binary(b) => vec![&b.lhs, &b.rhs],
            Kind::Shared(s) => vec![&s.node],
        }
    }

    /// The nodes directly below, to be changed.
    pub(crate) fn children_mut(&mut self) -> Vec<&mut Node> {
        match &mut self.kind {
            Kind::Number(_) | Kind::Text(_) | Kind::Bytes(_) | Kind::Instant(_) => Vec::new(),
            Kind::Range(RangeArg::Selector { .. }) => Vec::new(),
            Kind::Range(RangeArg::Subquery(s)) => vec![&mut s.child],
            Kind::Invariant(n) | Kind::Plus(n) | Kind::Negate(n) => vec![n],
            Kind::Call(c) => c.args.iter_mut().collect(),
            Kind::Aggregate(a) => a.param.iter_mut().chain(std::iter::once(&mut a.arg)).collect(),
            Kind::Binary(b) => vec![&mut b.lhs, &mut b.rhs],
            Kind::Shared(s) => vec![&mut s.node],
        }
    }

    /// The selector that this node itself is.
    pub(crate) fn selector(&self) -> Option<&Selector> {
        match &self.kind {
            Kind::Instant(s) | Kind::Range(RangeArg::Selector { selector: s, .. }) => Some(s),
            _ => None,
        }
    }

    /// The first selector in this subtree, in the order of the text.
    pub(crate) fn first_selector(&self) -> Option<&Selector> {
        self.selector().or_else(|| self.children().into_iter().find_map(Node::first_selector))
    }
}
