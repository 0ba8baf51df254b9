//! What follows an operand: ranges, subqueries, `offset`, `@`, `anchored`, `smoothed`; and duration expressions, which
//! occur only there.

use super::ast::*;
use super::error::ParseError;
use super::literal::{out_of_range, seconds_to_ms};
use super::parser::{Parsed, Parser, Rank, query_bound, sign};
use super::token::{Keyword, Kind, Preprocessor};

/// Where a duration stands, for the error about a word that is none: context and what is expected.
#[derive(Clone, Copy)]
struct Place(&'static str, &'static str);

const RANGE: Place = Place("subquery or range selector", "number, duration, step(), or range()");
const STEP: Place = Place("subquery selector", "number, duration, step(), range(), or \"]\"");
const OFFSET: Place = Place("offset", "number, duration, step(), or range()");

/// A selector's or subquery's parts that modifiers change.
struct Modifiers<'n> {
    offset_ms: &'n mut i64,
    offset_expr: &'n mut Option<Box<DurationExpr>>,
    at: &'n mut Option<At>,
    span: &'n mut Span,
}

impl Parser<'_> {
    /// Everything that may follow an operand.
    pub(super) fn suffixes(&mut self, mut expr: Expr, mut height: u32) -> Parsed<Expr> {
        loop {
            match self.peek()?.kind {
                Kind::LeftBracket => (expr, height) = self.range(expr, height)?,
                Kind::Keyword(Keyword::Offset) => self.offset(&mut expr)?,
                Kind::At => self.at(&mut expr)?,
                Kind::Keyword(Keyword::Anchored) => self.mode(&mut expr, RangeMode::Anchored)?,
                Kind::Keyword(Keyword::Smoothed) => self.mode(&mut expr, RangeMode::Smoothed)?,
                _ => return Ok((expr, height)),
            }
        }
    }

    /// `[5m]` or `[1h:5m]`
    fn range(&mut self, expr: Expr, height: u32) -> Parsed<Expr> {
        let open = self.take()?.span;
        let range = self.positive_duration(RANGE)?;
        if self.eat(Kind::Colon)?.is_none() {
            let Some(close) = self.eat(Kind::RightBracket)? else {
                return Err(self.unexpected("subquery or range", "\":\" or \"]\""));
            };
            let (range_ms, range_expr) = split(range);
            let blame = |p: &Self, message| Err(p.error(open.to(close.span), message));
            let Expr::Vector(selector) = expr else {
                return blame(self, "ranges only allowed for vector selectors");
            };
            if selector.offset_ms != 0 || selector.offset_expr.is_some() {
                return blame(self, "no offset modifiers allowed before range");
            }
            if selector.at.is_some() {
                return blame(self, "no @ modifiers allowed before range");
            }
            let span = selector.span.to(close.span);
            return Ok((Expr::Matrix(MatrixSelector { selector, range_ms, range_expr, span }), height));
        }
        let step = if self.peek()?.kind == Kind::RightBracket { None } else { Some(self.positive_duration(STEP)?) };
        let Some(close) = self.eat(Kind::RightBracket)? else {
            return Err(self.unexpected("subquery selector", "\"]\""));
        };
        let (range_ms, range_expr) = split(range);
        let (step_ms, step_expr) = step.map(split).unwrap_or_default();
        let span = expr.span().to(close.span);
        let node = SubqueryExpr {
            expr,
            range_ms,
            range_expr,
            step_ms,
            step_expr,
            offset_ms: 0,
            offset_expr: None,
            at: None,
            span,
        };
        Ok((Expr::Subquery(Box::new(node)), self.above::<SubqueryExpr>(height, span)?))
    }

    fn offset(&mut self, expr: &mut Expr) -> Result<(), ParseError> {
        self.take()?;
        let (duration, end) = self.offset_duration()?;
        let duration = self.check_known(duration)?;
        let before = expr.span();
        let Some(m) = modifiers(expr) else {
            return Err(self.error(
                before,
                "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
            ));
        };
        if *m.offset_ms != 0 || m.offset_expr.is_some() {
            return Err(self.error(before, "offset may not be set multiple times"));
        }
        (*m.offset_ms, *m.offset_expr) = split(duration);
        *m.span = m.span.to(end);
        Ok(())
    }

    fn at(&mut self, expr: &mut Expr) -> Result<(), ParseError> {
        self.take()?;
        let before = expr.span();
        let (at, end) = match query_bound(self.peek()?.kind) {
            Some(bound) => {
                self.take()?;
                let open = self.eat(Kind::LeftParen)?.is_some();
                match if open { self.eat(Kind::RightParen)? } else { None } {
                    Some(close) => (bound, close.span),
                    None => return Err(self.unexpected("@", "timestamp")),
                }
            }
            None => {
                let sign = sign(self.peek()?.kind);
                if sign.is_some() {
                    self.take()?;
                }
                if !matches!(self.peek()?.kind, Kind::Number | Kind::Duration) {
                    return Err(self.unexpected("@", "timestamp"));
                }
                let n = self.number()?;
                let seconds = if sign == Some(Sign::Minus) { -n.value } else { n.value };
                // The ends of 64 bits.
                if !(seconds < 9_223_372_036_854_775_808.0 && seconds > -9_223_372_036_854_775_808.0) {
                    let shown = match seconds {
                        f64::INFINITY => "+Inf".to_owned(),
                        f64::NEG_INFINITY => "-Inf".to_owned(),
                        s => format!("{s:.6}"),
                    };
                    return Err(self.error(before, format!("timestamp out of bounds for @ modifier: {shown}")));
                }
                (At::Timestamp((seconds * 1000.0).round() as i64), n.span)
            }
        };
        let Some(m) = modifiers(expr) else {
            return Err(self.error(
                before,
                "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery",
            ));
        };
        if m.at.is_some() {
            return Err(self.error(before, "@ <timestamp> may not be set multiple times"));
        }
        *m.at = Some(at);
        *m.span = m.span.to(end);
        Ok(())
    }

    fn mode(&mut self, expr: &mut Expr, mode: RangeMode) -> Result<(), ParseError> {
        self.take()?;
        let span = expr.span();
        let name = if mode == RangeMode::Anchored { "anchored" } else { "smoothed" };
        if !self.options.extended_range_selectors {
            return Err(self.error(span, format!("{name} modifier is experimental and not enabled")));
        }
        let selector = match expr {
            Expr::Vector(v) => v,
            Expr::Matrix(m) => &mut m.selector,
            Expr::Subquery(_) => {
                return Err(self.error(span, format!("{name} modifier is not supported for subqueries")));
            }
            _ => return Err(self.error(span, format!("{name} modifier not implemented"))),
        };
        if selector.mode != RangeMode::Plain && selector.mode != mode {
            return Err(self.error(span, "anchored and smoothed modifiers cannot be used together"));
        }
        selector.mode = mode;
        Ok(())
    }

    // Durations.

    /// A duration that must be positive, if that is known yet.
    fn positive_duration(&mut self, place: Place) -> Result<DurationExpr, ParseError> {
        let (duration, _) = self.duration(Rank::Add, place)?;
        if let DurationKind::Literal(n) = &duration.kind
            && n.value <= 0.0
        {
            return Err(self.error(n.span, "duration must be greater than 0"));
        }
        self.check_known(duration)
    }

    /// A number that is none is no duration either.
    fn check_known(&self, duration: DurationExpr) -> Result<DurationExpr, ParseError> {
        match &duration.kind {
            DurationKind::Literal(n) if n.value.is_nan() => Err(self.error(n.span, "duration out of range")),
            _ => Ok(duration),
        }
    }

    /// The duration behind `offset`: one operand, unless it begins with a parenthesis or with two signs. What follows
    /// a single operand belongs to the whole query: `x offset 5m + 1` adds 1. Gives also the end, behind parentheses.
    fn offset_duration(&mut self) -> Result<(DurationExpr, Span), ParseError> {
        let first = self.peek()?;
        let Some(sign) = sign(first.kind) else {
            let (duration, _) = match first.kind {
                Kind::LeftParen => self.duration(Rank::Add, OFFSET)?,
                _ => self.duration_operand(OFFSET)?,
            };
            return Ok((duration, self.last_span()));
        };
        self.take()?;
        let second = self.peek()?.kind;
        if super::parser::sign(second).is_some() {
            let (inner, _) = self.duration(Rank::Pow, OFFSET)?;
            let signed = self.signed(sign, first.span, inner)?;
            let (duration, _) = self.duration_rest(signed, 2, Rank::Add, OFFSET)?;
            return Ok((duration, self.last_span()));
        }
        let (inner, _) = self.duration_operand(OFFSET)?;
        let end = self.last_span();
        // A computed operand keeps even a plus here.
        let computed = !matches!(inner.kind, DurationKind::Literal(_)) && second != Kind::LeftParen;
        let duration = if computed {
            let span = first.span.to(inner.span);
            DurationExpr { kind: DurationKind::Unary(sign, Box::new(inner)), wrapped: false, span }
        } else {
            self.signed(sign, first.span, inner)?
        };
        Ok((duration, end))
    }

    /// A duration expression of operators of at least this rank.
    fn duration(&mut self, least: Rank, place: Place) -> Parsed<DurationExpr> {
        self.enter()?;
        let first = self.peek()?;
        let (lhs, height) = match sign(first.kind) {
            Some(sign) => {
                self.take()?;
                let (inner, height) = self.duration(Rank::Pow, place)?;
                let height = self.above::<DurationExpr>(height, inner.span)?;
                (self.signed(sign, first.span, inner)?, height)
            }
            None => self.duration_operand(place)?,
        };
        let found = self.duration_rest(lhs, height, least, place)?;
        self.leave();
        Ok(found)
    }

    /// The operators of at least this rank behind `lhs`, with their right operands.
    fn duration_rest(
        &mut self,
        mut lhs: DurationExpr,
        mut height: u32,
        least: Rank,
        place: Place,
    ) -> Parsed<DurationExpr> {
        use BinaryOp::{Add, Div, Mod, Mul, Pow, Sub};
        loop {
            let token = self.peek()?;
            let op = match token.kind {
                Kind::Operator(op @ (Add | Sub | Mul | Div | Mod | Pow)) if Rank::of(op) >= least => op,
                _ => return Ok((lhs, height)),
            };
            self.take()?;
            let (rhs, right_height) = self.duration(Rank::of(op).right(), place)?;
            self.need_duration_expressions(lhs.span)?;
            if let (Div | Mod, DurationKind::Literal(n)) = (op, &rhs.kind)
                && n.value == 0.0
            {
                let what = if op == Div { "division by zero" } else { "modulo by zero" };
                return Err(self.error(token.span, what));
            }
            let span = lhs.span.to(rhs.span);
            height = self.above::<[DurationExpr; 2]>(height.max(right_height), span)?;
            let kind = DurationKind::Binary(op, Box::new(lhs), Box::new(rhs));
            lhs = DurationExpr { kind, wrapped: false, span };
        }
    }

    fn duration_operand(&mut self, place: Place) -> Parsed<DurationExpr> {
        let token = self.peek()?;
        match token.kind {
            Kind::Number | Kind::Duration => {
                let n = self.number()?;
                // As in Prometheus NaN is within all bounds, so that what is wrong behind it is told.
                if out_of_range(n.value) && !n.value.is_nan() {
                    return Err(self.error(n.span, "duration out of range"));
                }
                Ok((literal(n), 1))
            }
            Kind::LeftParen => {
                self.take()?;
                let (mut inner, height) = self.duration(Rank::Add, place)?;
                self.expect_in(Kind::RightParen, place)?;
                self.need_duration_expressions(inner.span)?;
                // A literal is wrapped as `+literal`, so that the parentheses are printed again.
                if let DurationKind::Literal(_) = inner.kind {
                    let span = inner.span;
                    inner =
                        DurationExpr { kind: DurationKind::Unary(Sign::Plus, Box::new(inner)), wrapped: false, span };
                }
                self.charge::<DurationExpr>(0)?;
                inner.wrapped = true;
                Ok((inner, height + 1))
            }
            Kind::Preprocessor(word @ (Preprocessor::Step | Preprocessor::Range)) => {
                self.take()?;
                self.expect_in(Kind::LeftParen, place)?;
                let close = self.expect_in(Kind::RightParen, place)?;
                let span = token.span.to(close);
                self.need_duration_expressions(span)?;
                let kind = if word == Preprocessor::Step { DurationKind::Step } else { DurationKind::Range };
                Ok((DurationExpr { kind, wrapped: false, span }, 1))
            }
            Kind::Preprocessor(word @ (Preprocessor::MinOf | Preprocessor::MaxOf)) => {
                self.take()?;
                self.expect_in(Kind::LeftParen, place)?;
                let (a, height_a) = self.duration(Rank::Add, place)?;
                self.expect_in(Kind::Comma, place)?;
                let (b, height_b) = self.duration(Rank::Add, place)?;
                let span = token.span.to(self.expect_in(Kind::RightParen, place)?);
                self.need_duration_expressions(span)?;
                let kind = match word {
                    Preprocessor::MinOf => DurationKind::MinOf(Box::new(a), Box::new(b)),
                    _ => DurationKind::MaxOf(Box::new(a), Box::new(b)),
                };
                let height = self.above::<[DurationExpr; 2]>(height_a.max(height_b), span)?;
                Ok((DurationExpr { kind, wrapped: false, span }, height))
            }
            _ => Err(self.unexpected(place.0, place.1)),
        }
    }

    /// A sign before a duration: folded into a literal; a plus before anything else is dropped.
    fn signed(&self, sign: Sign, at: Span, inner: DurationExpr) -> Result<DurationExpr, ParseError> {
        let span = at.to(inner.span);
        match (inner.kind, sign) {
            (DurationKind::Literal(mut n), _) => {
                if sign == Sign::Minus {
                    n.value = -n.value;
                }
                n.span = span;
                Ok(literal(n))
            }
            (kind, Sign::Plus) => Ok(DurationExpr { kind, ..inner }),
            (kind, Sign::Minus) => {
                let inner = DurationExpr { kind, ..inner };
                Ok(DurationExpr { kind: DurationKind::Unary(sign, Box::new(inner)), wrapped: false, span })
            }
        }
    }

    fn expect_in(&mut self, kind: Kind, place: Place) -> Result<Span, ParseError> {
        match self.eat(kind)? {
            Some(token) => Ok(token.span),
            None => Err(self.unexpected(place.0, place.1)),
        }
    }

    fn need_duration_expressions(&self, span: Span) -> Result<(), ParseError> {
        if self.options.duration_expressions {
            return Ok(());
        }
        Err(self.error(span, "experimental duration expression is not enabled"))
    }
}

fn literal(n: NumberLiteral) -> DurationExpr {
    let span = n.span;
    DurationExpr { kind: DurationKind::Literal(n), wrapped: false, span }
}

/// A literal as milliseconds, anything else as an expression.
fn split(duration: DurationExpr) -> (i64, Option<Box<DurationExpr>>) {
    match &duration.kind {
        DurationKind::Literal(n) => (seconds_to_ms(n.value), None),
        _ => (0, Some(Box::new(duration))),
    }
}

fn modifiers(expr: &mut Expr) -> Option<Modifiers<'_>> {
    Some(match expr {
        Expr::Vector(v) => {
            Modifiers { offset_ms: &mut v.offset_ms, offset_expr: &mut v.offset_expr, at: &mut v.at, span: &mut v.span }
        }
        Expr::Matrix(m) => Modifiers {
            offset_ms: &mut m.selector.offset_ms,
            offset_expr: &mut m.selector.offset_expr,
            at: &mut m.selector.at,
            span: &mut m.span,
        },
        Expr::Subquery(s) => {
            Modifiers { offset_ms: &mut s.offset_ms, offset_expr: &mut s.offset_expr, at: &mut s.at, span: &mut s.span }
        }
        _ => return None,
    })
}
