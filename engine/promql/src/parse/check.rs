//! The type check, with Prometheus' texts. It also finishes the tree: matching is removed where no two vectors meet,
//! and set operators become many-to-many.

use super::ast::*;
use super::error::ParseError;
use super::functions::FunctionId;
use super::text::quote;
use super::value_type::ValueType;

/// Checks a tree that came from `input`.
pub(super) fn check(input: &str, expr: &mut Expr) -> Result<ValueType, ParseError> {
    Checker { input }.expr(expr)
}

struct Checker<'a> {
    input: &'a str,
}

impl Checker<'_> {
    fn fail<T>(&self, span: Span, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.input, span, message))
    }

    fn expr(&self, expr: &mut Expr) -> Result<ValueType, ParseError> {
        match expr {
            Expr::Number(_) | Expr::String(_) => {}
            Expr::Vector(v) => self.selector(v, v.span)?,
            Expr::Matrix(m) => self.selector(&m.selector, m.selector.span)?,
            Expr::Subquery(s) => {
                let t = self.expr(&mut s.expr)?;
                if t != ValueType::Vector {
                    // Prometheus names the internal type here.
                    return self.fail(s.span, format!("subquery is only allowed on instant vector, got {t} instead"));
                }
            }
            Expr::Aggregate(a) => self.aggregate(a)?,
            Expr::Binary(b) => self.binary(b)?,
            Expr::Unary(u) => {
                let t = self.expr(&mut u.expr)?;
                if !matches!(t, ValueType::Scalar | ValueType::Vector) {
                    return self.fail(
                        u.span,
                        format!(
                            "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                            quote(t.documented())
                        ),
                    );
                }
            }
            Expr::Paren(p) => {
                self.expr(&mut p.expr)?;
            }
            Expr::Call(c) => self.call(c)?,
        }
        Ok(expr.value_type())
    }

    fn expect(&self, expr: &mut Expr, want: ValueType, context: &str) -> Result<(), ParseError> {
        let got = self.expr(expr)?;
        if got == want {
            return Ok(());
        }
        self.fail(expr.span(), format!("expected type {} in {context}, got {}", want.documented(), got.documented()))
    }

    fn selector(&self, v: &VectorSelector, span: Span) -> Result<(), ParseError> {
        if !v.name.is_empty() {
            // The last matcher is that of the name outside the braces.
            let inside = v.matchers.split_last().map(|(_, inside)| inside).unwrap_or_default();
            if let Some(m) = inside.iter().find(|m| m.name == "__name__") {
                return self.fail(
                    span,
                    format!("metric name must not be set twice: {} or {}", quote(&v.name), quote(&m.value)),
                );
            }
            return Ok(());
        }
        if !v.may_match_all && v.matchers.iter().all(|m| m.matches_empty()) {
            return self.fail(span, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }

    fn aggregate(&self, a: &mut AggregateExpr) -> Result<(), ParseError> {
        self.expect(&mut a.expr, ValueType::Vector, "aggregation expression")?;
        let want = if a.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
        match &mut a.param {
            Some(param) => self.expect(param, want, "aggregation parameter"),
            None => Ok(()),
        }
    }

    fn binary(&self, b: &mut BinaryExpr) -> Result<(), ParseError> {
        let (lt, rt) = (self.expr(&mut b.lhs)?, self.expr(&mut b.rhs)?);
        let scalars = (lt == ValueType::Scalar, rt == ValueType::Scalar);
        if b.return_bool && !b.op.is_comparison() {
            return self.fail(self.operator_span(b), "bool modifier can only be used on comparison operators");
        }
        if b.op.is_comparison() && !b.return_bool && scalars == (true, true) {
            return self.fail(self.operator_span(b), "comparisons between scalars must use BOOL modifier");
        }
        if let Some(m) = &mut b.matching {
            if b.op.is_set() && m.card == MatchCard::OneToOne {
                m.card = MatchCard::ManyToMany;
            }
            if m.on
                && let Some(both) = m.labels.iter().find(|l| m.include.contains(l))
            {
                let message = format!("label {} must not occur in ON and GROUP clause at once", quote(both));
                return self.fail(self.operator_span(b), message);
            }
        }
        for (t, side) in [(lt, &b.lhs), (rt, &b.rhs)] {
            if !matches!(t, ValueType::Scalar | ValueType::Vector) {
                return self.fail(side.span(), "binary expression must contain only scalar and instant vector types");
            }
        }
        if let Some(m) = &b.matching {
            let filled = m.fill_left.is_some() || m.fill_right.is_some();
            if (lt, rt) != (ValueType::Vector, ValueType::Vector) {
                if !m.labels.is_empty() {
                    return self.fail(b.span, "vector matching only allowed between instant vectors");
                }
                if filled {
                    return self.fail(b.span, "filling in missing series only allowed between instant vectors");
                }
                b.matching = None;
            } else if b.op.is_set() {
                if m.card != MatchCard::ManyToMany {
                    return self.fail(b.span, format!("no grouping allowed for {} operation", quote(b.op.as_str())));
                }
                if filled {
                    return self.fail(b.span, "filling in missing series not allowed for set operators");
                }
            }
        }
        if b.op.is_set() && (scalars.0 || scalars.1) {
            let op = quote(b.op.as_str());
            return self.fail(b.span, format!("set operator {op} not allowed in binary scalar expression"));
        }
        Ok(())
    }

    /// Where the operator and its modifiers stand: between the operands.
    fn operator_span(&self, b: &BinaryExpr) -> Span {
        let (start, end) = (b.lhs.span().end, b.rhs.span().start);
        let between = self.input.get(start as usize..end as usize).unwrap_or("");
        let blank = [' ', '\t', '\n', '\r'];
        let trimmed = between.trim_start_matches(blank);
        let start = start + (between.len() - trimmed.len()) as u32;
        Span::new(start, start + trimmed.trim_end_matches(blank).len() as u32)
    }

    fn call(&self, c: &mut Call) -> Result<(), ParseError> {
        let (types, variadic, name) = (c.func.arg_types, c.func.variadic, quote(c.func.name));
        let (want, got) = (types.len(), c.args.len());
        let problem = if variadic == 0 {
            (want != got).then(|| format!("expected {want} argument(s)"))
        } else {
            let least = want.saturating_sub(1);
            let most = usize::try_from(variadic).ok().map(|v| least + v);
            match most {
                _ if got < least => Some(format!("expected at least {least} argument(s)")),
                Some(most) if got > most => Some(format!("expected at most {most} argument(s)")),
                _ => None,
            }
        };
        if let Some(problem) = problem {
            return self.fail(c.span, format!("{problem} in call to {name}, got {got}"));
        }
        if c.func.id == FunctionId::Info
            && let Some(labels) = c.args.get_mut(1)
        {
            self.info_labels(labels, c.span, &name)?;
        }
        let mut wanted = types.iter().chain(std::iter::repeat(types.last().unwrap_or(&ValueType::Scalar)));
        for arg in &mut c.args {
            let want = *wanted.next().unwrap_or(&ValueType::Scalar);
            self.expect(arg, want, &format!("call to function {name}"))?;
        }
        Ok(())
    }

    /// The second argument of `info()`: matchers without a name outside the braces, which may match everything.
    fn info_labels(&self, arg: &mut Expr, call: Span, name: &str) -> Result<(), ParseError> {
        let got = arg.value_type();
        if got != ValueType::Vector {
            let (want, got) = (ValueType::Vector.documented(), got.documented());
            return self.fail(call, format!("expected type {want} in call to function {name}, got {got}"));
        }
        match arg {
            Expr::Vector(v) if v.name.is_empty() => {
                v.may_match_all = true;
                Ok(())
            }
            Expr::Vector(v) => self.fail(v.span, "expected label selectors only, got vector selector instead"),
            other => self.fail(other.span(), "expected label selectors only"),
        }
    }
}
