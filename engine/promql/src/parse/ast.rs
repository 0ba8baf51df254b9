//! The syntax tree. Every node knows the byte range of the query it came from, because error texts and
//! annotations name a position.

use super::functions::Function;
use super::value_type::ValueType;
use model::Matcher;
use std::fmt;

/// A half-open range of byte offsets in the query.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset behind the last byte.
    pub end: u32,
}

impl Span {
    /// The range `start..end`.
    pub fn new(start: u32, end: u32) -> Self {
        Self { start, end }
    }

    /// From the start of `self` to the end of `last`.
    pub fn to(self, last: Span) -> Self {
        Self { start: self.start, end: last.end }
    }

    /// `LINE:COL` (both from 1, columns in bytes) of the start, as Prometheus prints positions.
    pub fn position(self, query: &str) -> String {
        if query.is_empty() {
            return "unknown position".to_owned();
        }
        let Some(before) = query.as_bytes().get(..self.start as usize) else {
            return "invalid position".to_owned();
        };
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        format!("{line}:{column}")
    }
}

/// An expression.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// `1.5`, `0x1f`, `5m`
    Number(NumberLiteral),
    /// `"text"`
    String(StringLiteral),
    /// `metric{label="value"}`
    Vector(VectorSelector),
    /// `metric[5m]`
    Matrix(MatrixSelector),
    /// `expr[1h:5m]`
    Subquery(Box<SubqueryExpr>),
    /// `sum by (a) (expr)`
    Aggregate(Box<AggregateExpr>),
    /// `a + on (x) b`
    Binary(Box<BinaryExpr>),
    /// `-expr`
    Unary(Box<UnaryExpr>),
    /// `(expr)`
    Paren(Box<ParenExpr>),
    /// `rate(expr)`
    Call(Call),
}

/// A number.
#[derive(Clone, PartialEq, Debug)]
pub struct NumberLiteral {
    /// The value; seconds if it was written as a duration.
    pub value: f64,
    /// True if it was written as a duration (`5m`), so that it is printed as one.
    pub duration: bool,
    /// Where it stands, with a folded-in sign.
    pub span: Span,
}

/// A string.
#[derive(Clone, PartialEq, Debug)]
pub struct StringLiteral {
    /// The text; bytes that are not UTF-8 (`"\xff"`) are replaced by U+FFFD.
    pub value: String,
    /// The exact bytes, if they are not UTF-8.
    pub raw: Option<Vec<u8>>,
    /// Where it stands, with quotes.
    pub span: Span,
}

/// The `@` modifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// A fixed time, milliseconds since 1970.
    Timestamp(i64),
    /// `start()`: the first evaluation time of the query.
    Start,
    /// `end()`: the last evaluation time of the query.
    End,
}

/// How a selector treats the edges of its window (gate: extended range selectors).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RangeMode {
    /// Only what lies in the window, left-open.
    #[default]
    Plain,
    /// `anchored`: the last sample at or before the window's start takes part.
    Anchored,
    /// `smoothed`: values at both edges are interpolated.
    Smoothed,
}

/// An instant vector selector.
#[derive(Clone, PartialEq, Debug)]
pub struct VectorSelector {
    /// The name written outside the braces; empty if none.
    pub name: String,
    /// All conditions, in the order of the text; the name outside the braces comes last as `__name__="name"`.
    pub matchers: Vec<Matcher>,
    /// `offset`, milliseconds, if it is a literal; else 0.
    pub offset_ms: i64,
    /// `offset`, if it is an expression.
    pub offset_expr: Option<Box<DurationExpr>>,
    /// The `@` modifier.
    pub at: Option<At>,
    /// `anchored` or `smoothed`.
    pub mode: RangeMode,
    /// True if no matcher needs to refuse the empty string: the second argument of `info()`.
    pub may_match_all: bool,
    /// Where it stands, with modifiers, but without the range.
    pub span: Span,
}

impl VectorSelector {
    /// A selector without modifiers, that must refuse the empty string somewhere.
    pub fn plain(name: String, matchers: Vec<Matcher>, span: Span) -> Self {
        Self {
            name,
            matchers,
            offset_ms: 0,
            offset_expr: None,
            at: None,
            mode: RangeMode::Plain,
            may_match_all: false,
            span,
        }
    }
}

/// A range vector selector.
#[derive(Clone, PartialEq, Debug)]
pub struct MatrixSelector {
    /// What is selected. Offset and `@` behind the brackets are kept here.
    pub selector: VectorSelector,
    /// The window, milliseconds, if it is a literal; else 0.
    pub range_ms: i64,
    /// The window, if it is an expression.
    pub range_expr: Option<Box<DurationExpr>>,
    /// Where it stands, with modifiers.
    pub span: Span,
}

/// A subquery.
#[derive(Clone, PartialEq, Debug)]
pub struct SubqueryExpr {
    /// What is evaluated at each inner step.
    pub expr: Expr,
    /// The window, milliseconds, if it is a literal; else 0.
    pub range_ms: i64,
    /// The window, if it is an expression.
    pub range_expr: Option<Box<DurationExpr>>,
    /// The inner step, milliseconds, if it is a literal; 0 means the engine's default (or `step_expr`).
    pub step_ms: i64,
    /// The inner step, if it is an expression.
    pub step_expr: Option<Box<DurationExpr>>,
    /// `offset`, milliseconds, if it is a literal; else 0.
    pub offset_ms: i64,
    /// `offset`, if it is an expression.
    pub offset_expr: Option<Box<DurationExpr>>,
    /// The `@` modifier.
    pub at: Option<At>,
    /// Where it stands, with modifiers.
    pub span: Span,
}

/// An aggregation.
#[derive(Clone, PartialEq, Debug)]
pub struct AggregateExpr {
    /// Which one.
    pub op: AggregateOp,
    /// What is aggregated.
    pub expr: Expr,
    /// The first argument of `topk` and friends.
    pub param: Option<Expr>,
    /// The labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// True for `without`.
    pub without: bool,
    /// Where it stands.
    pub span: Span,
}

/// A binary operation.
#[derive(Clone, PartialEq, Debug)]
pub struct BinaryExpr {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Expr,
    /// Right operand.
    pub rhs: Expr,
    /// How series find their partners; `None` unless both sides are vectors.
    pub matching: Option<VectorMatching>,
    /// `bool`: a comparison gives 0 or 1 instead of filtering.
    pub return_bool: bool,
    /// Where it stands.
    pub span: Span,
}

/// A signed expression. A sign before a number literal is folded into the literal.
#[derive(Clone, PartialEq, Debug)]
pub struct UnaryExpr {
    /// The sign.
    pub op: Sign,
    /// The operand.
    pub expr: Expr,
    /// Where it stands.
    pub span: Span,
}

/// An expression in parentheses.
#[derive(Clone, PartialEq, Debug)]
pub struct ParenExpr {
    /// What is inside.
    pub expr: Expr,
    /// Where it stands, with parentheses.
    pub span: Span,
}

/// A function call.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// The function's signature.
    pub func: &'static Function,
    /// The arguments.
    pub args: Vec<Expr>,
    /// Where it stands.
    pub span: Span,
}

/// A sign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sign {
    /// `+`
    Plus,
    /// `-`
    Minus,
}

impl Sign {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plus => "+",
            Self::Minus => "-",
        }
    }
}

/// A duration that is computed when the query's step and range are known, as in `x[step() * 2]`.
#[derive(Clone, PartialEq, Debug)]
pub struct DurationExpr {
    /// What it is.
    pub kind: DurationKind,
    /// True if it stands in parentheses.
    pub wrapped: bool,
    /// Where it stands; the start of a wrapped one is that of its content, as in Prometheus.
    pub span: Span,
}

/// The kinds of computed durations. All values are seconds.
#[derive(Clone, PartialEq, Debug)]
pub enum DurationKind {
    /// A number or a duration literal.
    Literal(NumberLiteral),
    /// `step()`: the step of the query, seconds; 0 in an instant query.
    Step,
    /// `range()`: end minus start of the query, seconds; 0 in an instant query.
    Range,
    /// A sign; a literal in parentheses is kept as `+literal`.
    Unary(Sign, Box<DurationExpr>),
    /// `+ - * / % ^`
    Binary(BinaryOp, Box<DurationExpr>, Box<DurationExpr>),
    /// `min_of(a, b)`
    MinOf(Box<DurationExpr>, Box<DurationExpr>),
    /// `max_of(a, b)`
    MaxOf(Box<DurationExpr>, Box<DurationExpr>),
}

macro_rules! keyword_enum {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As written in a query.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

keyword_enum! {
    /// The aggregations.
    AggregateOp {
        Sum = "sum", Avg = "avg", Count = "count", Min = "min", Max = "max", Group = "group",
        Stddev = "stddev", Stdvar = "stdvar", Topk = "topk", Bottomk = "bottomk",
        CountValues = "count_values", Quantile = "quantile", Limitk = "limitk", LimitRatio = "limit_ratio",
    }
}

impl AggregateOp {
    /// True if a parameter stands before the vector.
    pub fn has_param(self) -> bool {
        matches!(
            self,
            Self::Topk | Self::Bottomk | Self::CountValues | Self::Quantile | Self::Limitk | Self::LimitRatio
        )
    }

    /// True if it needs the gate of experimental functions.
    pub fn is_experimental(self) -> bool {
        matches!(self, Self::Limitk | Self::LimitRatio)
    }
}

keyword_enum! {
    /// The binary operators.
    BinaryOp {
        Add = "+", Sub = "-", Mul = "*", Div = "/", Mod = "%", Pow = "^", Atan2 = "atan2",
        Eq = "==", Ne = "!=", Gt = ">", Lt = "<", Ge = ">=", Le = "<=",
        And = "and", Or = "or", Unless = "unless",
        TrimUpper = "</", TrimLower = ">/",
    }
}

impl BinaryOp {
    /// `== != > < >= <=`
    pub fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Gt | Self::Lt | Self::Ge | Self::Le)
    }

    /// `and or unless`
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

/// How many series of each side may share a matching key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MatchCard {
    /// One on each side.
    OneToOne,
    /// `group_left`: many on the left.
    ManyToOne,
    /// `group_right`: many on the right.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

impl MatchCard {
    /// The name in the AST JSON and in error texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneToOne => "one-to-one",
            Self::ManyToOne => "many-to-one",
            Self::OneToMany => "one-to-many",
            Self::ManyToMany => "many-to-many",
        }
    }
}

/// How series of two vectors find their partners.
#[derive(Clone, PartialEq, Debug)]
pub struct VectorMatching {
    /// How many on which side.
    pub card: MatchCard,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// True for `on`; false for `ignoring` and for neither.
    pub on: bool,
    /// The labels of `group_left` or `group_right`, copied from the side of the one.
    pub include: Vec<String>,
    /// `fill` or `fill_left`: the value of a missing left partner.
    pub fill_left: Option<f64>,
    /// `fill` or `fill_right`: the value of a missing right partner.
    pub fill_right: Option<f64>,
}

impl Expr {
    /// Where it stands in the query.
    pub fn span(&self) -> Span {
        match self {
            Self::Number(n) => n.span,
            Self::String(n) => n.span,
            Self::Vector(n) => n.span,
            Self::Matrix(n) => n.span,
            Self::Subquery(n) => n.span,
            Self::Aggregate(n) => n.span,
            Self::Binary(n) => n.span,
            Self::Unary(n) => n.span,
            Self::Paren(n) => n.span,
            Self::Call(n) => n.span,
        }
    }

    /// The type of its value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Number(_) => ValueType::Scalar,
            Self::String(_) => ValueType::String,
            Self::Vector(_) | Self::Aggregate(_) => ValueType::Vector,
            Self::Matrix(_) | Self::Subquery(_) => ValueType::Matrix,
            Self::Binary(n) => {
                if n.lhs.value_type() == ValueType::Scalar && n.rhs.value_type() == ValueType::Scalar {
                    ValueType::Scalar
                } else {
                    ValueType::Vector
                }
            }
            Self::Unary(n) => n.expr.value_type(),
            Self::Paren(n) => n.expr.value_type(),
            Self::Call(n) => n.func.return_type,
        }
    }

    /// The direct sub-expressions, in Prometheus' order (an aggregation's vector before its parameter).
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Self::Number(_) | Self::String(_) | Self::Vector(_) | Self::Matrix(_) => Vec::new(),
            Self::Subquery(n) => vec![&n.expr],
            Self::Aggregate(n) => std::iter::once(&n.expr).chain(n.param.as_ref()).collect(),
            Self::Binary(n) => vec![&n.lhs, &n.rhs],
            Self::Unary(n) => vec![&n.expr],
            Self::Paren(n) => vec![&n.expr],
            Self::Call(n) => n.args.iter().collect(),
        }
    }

    /// Calls `f` on this node and everything below it, parents first.
    pub fn walk<'a>(&'a self, f: &mut impl FnMut(&'a Expr)) {
        f(self);
        for child in self.children() {
            child.walk(f);
        }
    }

    /// The matchers of every selector, in the order of the tree.
    pub fn selectors(&self) -> Vec<&[Matcher]> {
        let mut found = Vec::new();
        self.walk(&mut |e| match e {
            Self::Vector(v) => found.push(v.matchers.as_slice()),
            Self::Matrix(m) => found.push(m.selector.matchers.as_slice()),
            _ => {}
        });
        found
    }

    /// The expression inside any number of parentheses.
    pub fn unparen(&self) -> &Expr {
        let mut e = self;
        while let Self::Paren(p) = e {
            e = &p.expr;
        }
        e
    }
}
