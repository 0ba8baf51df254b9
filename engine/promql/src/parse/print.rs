//! The tree as text, as Prometheus' `String()` prints it. What it prints parses to the same tree.

use super::ast::*;
use super::text::{quote, quote_bytes};
use model::MatchOp;
use model::labels::is_legacy_name;
use model::number::{format_f, format_g};
use model::time::PromDuration;
use std::fmt::{self, Display, Formatter, Write};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::String(s) => s.fmt(f),
            Self::Vector(v) => v.fmt(f),
            Self::Matrix(m) => m.fmt(f),
            Self::Subquery(s) => write!(f, "{}{}", s.expr, SubquerySuffix(s)),
            Self::Aggregate(a) => {
                write!(f, "{}(", AggregateHead(a))?;
                if let Some(param) = &a.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", a.expr)
            }
            Self::Binary(b) => write!(f, "{} {}{} {}", b.lhs, b.op, OperatorModifiers(b), b.rhs),
            Self::Unary(u) => write!(f, "{}{}", u.op.as_str(), u.expr),
            Self::Paren(p) => write!(f, "({})", p.expr),
            Self::Call(c) => {
                write!(f, "{}(", c.func.name)?;
                for (i, arg) in c.args.iter().enumerate() {
                    write!(f, "{}{arg}", if i == 0 { "" } else { ", " })?;
                }
                f.write_char(')')
            }
        }
    }
}

impl Display for NumberLiteral {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.duration {
            return f.write_str(&format_f(self.value));
        }
        // Through whole nanoseconds, as in Prometheus.
        PromDuration((self.value * 1e9) as i64 / 1_000_000).fmt(f)
    }
}

impl Display for StringLiteral {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&quote_bytes(self.raw.as_deref().unwrap_or(self.value.as_bytes())))
    }
}

impl VectorSelector {
    /// The name and the matchers, without modifiers.
    fn fmt_matchers(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let is_name = |m: &&model::Matcher| {
            m.name == "__name__" && m.op == MatchOp::Equal && m.value == self.name && !m.value.is_empty()
        };
        let mut conditions: Vec<String> = self
            .matchers
            .iter()
            .filter(|m| !is_name(m))
            .map(|m| format!("{}{}{}", Label(&m.name), m.op.as_str(), quote(&m.value)))
            .collect();
        conditions.sort();
        if !conditions.is_empty() {
            write!(f, "{{{}}}", conditions.join(","))?;
        }
        Ok(())
    }

    fn mode_str(&self) -> &'static str {
        match self.mode {
            RangeMode::Plain => "",
            RangeMode::Anchored => " anchored",
            RangeMode::Smoothed => " smoothed",
        }
    }
}

impl Display for VectorSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt_matchers(f)?;
        fmt_at(f, self.at)?;
        f.write_str(self.mode_str())?;
        fmt_offset(f, self.offset_ms, self.offset_expr.as_deref())
    }
}

impl Display for MatrixSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.selector.fmt_matchers(f)?;
        write!(f, "[{}]{}", Window(self.range_ms, self.range_expr.as_deref()), self.selector.mode_str())?;
        fmt_at(f, self.selector.at)?;
        fmt_offset(f, self.selector.offset_ms, self.selector.offset_expr.as_deref())
    }
}

fn fmt_at(f: &mut Formatter<'_>, at: Option<At>) -> fmt::Result {
    match at {
        None => Ok(()),
        Some(At::Timestamp(ms)) => write!(f, " @ {:.3}", ms as f64 / 1000.0),
        Some(At::Start) => f.write_str(" @ start()"),
        Some(At::End) => f.write_str(" @ end()"),
    }
}

fn fmt_offset(f: &mut Formatter<'_>, ms: i64, expr: Option<&DurationExpr>) -> fmt::Result {
    match expr {
        Some(expr) => write!(f, " offset {expr}"),
        None if ms != 0 => write!(f, " offset {}", PromDuration(ms)),
        None => Ok(()),
    }
}

/// A literal or computed duration.
struct Window<'a>(i64, Option<&'a DurationExpr>);

impl Display for Window<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(expr) => expr.fmt(f),
            None => PromDuration(self.0).fmt(f),
        }
    }
}

/// `[range:step] @ time offset duration`
pub(super) struct SubquerySuffix<'a>(pub(super) &'a SubqueryExpr);

impl Display for SubquerySuffix<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0;
        write!(f, "[{}:", Window(s.range_ms, s.range_expr.as_deref()))?;
        if s.step_ms != 0 || s.step_expr.is_some() {
            Window(s.step_ms, s.step_expr.as_deref()).fmt(f)?;
        }
        f.write_char(']')?;
        fmt_at(f, s.at)?;
        fmt_offset(f, s.offset_ms, s.offset_expr.as_deref())
    }
}

/// `sum by (a) `, or only `sum`.
pub(super) struct AggregateHead<'a>(pub(super) &'a AggregateExpr);

impl Display for AggregateHead<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let a = self.0;
        f.write_str(a.op.as_str())?;
        if a.without || !a.grouping.is_empty() {
            write!(f, " {} {} ", if a.without { "without" } else { "by" }, LabelList(&a.grouping))?;
        }
        Ok(())
    }
}

/// What stands between a binary operator and its right operand, with a blank in front.
pub(super) struct OperatorModifiers<'a>(pub(super) &'a BinaryExpr);

impl Display for OperatorModifiers<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.return_bool {
            f.write_str(" bool")?;
        }
        let Some(m) = &self.0.matching else { return Ok(()) };
        let group = match m.card {
            MatchCard::ManyToOne => Some("group_left"),
            MatchCard::OneToMany => Some("group_right"),
            MatchCard::OneToOne | MatchCard::ManyToMany => None,
        };
        if !m.labels.is_empty() || m.on || group.is_some() {
            write!(f, " {} {}", if m.on { "on" } else { "ignoring" }, LabelList(&m.labels))?;
        }
        if let Some(group) = group {
            write!(f, " {group} {}", LabelList(&m.include))?;
        }
        match (m.fill_left, m.fill_right) {
            (Some(l), Some(r)) if l == r => write!(f, " fill ({})", format_g(l)),
            (l, r) => {
                if let Some(l) = l {
                    write!(f, " fill_left ({})", format_g(l))?;
                }
                if let Some(r) = r {
                    write!(f, " fill_right ({})", format_g(r))?;
                }
                Ok(())
            }
        }
    }
}

/// `(a, "b c")`
struct LabelList<'a>(&'a [String]);

impl Display for LabelList<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('(')?;
        for (i, name) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, Label(name))?;
        }
        f.write_char(')')
    }
}

/// A label name, quoted if it needs to be.
struct Label<'a>(&'a str);

impl Display for Label<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if is_legacy_name(self.0) { f.write_str(self.0) } else { f.write_str(&quote(self.0)) }
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.wrapped {
            f.write_char('(')?;
        }
        match &self.kind {
            DurationKind::Literal(n) => n.fmt(f)?,
            DurationKind::Step => f.write_str("step()")?,
            DurationKind::Range => f.write_str("range()")?,
            DurationKind::Unary(Sign::Plus, e) => e.fmt(f)?,
            DurationKind::Unary(Sign::Minus, e) => write!(f, "-{e}")?,
            DurationKind::Binary(op, l, r) => write!(f, "{l} {op} {r}")?,
            DurationKind::MinOf(l, r) => write!(f, "min_of({l}, {r})")?,
            DurationKind::MaxOf(l, r) => write!(f, "max_of({l}, {r})")?,
        }
        if self.wrapped {
            f.write_char(')')?;
        }
        Ok(())
    }
}
