//! From the syntax tree to the plan.

use super::duration::Extent;
use super::{Aggregate, Binary, Call, Grid, Kind, Node, Planned, RangeArg, Selector, Subquery};
use crate::exec::{EngineOptions, QueryError, SelectHints, SelectRequest, Times};
use crate::functions::extended::X_LOOKBACK_MS;
use crate::parse::{
    AggregateExpr, At, BinaryExpr, BinaryOp, DurationExpr, Expr, FunctionId, Gate, RangeMode, Sign, SubqueryExpr,
    ValueType, VectorSelector, function,
};
use model::labels::METRIC_NAME;
use model::{MatchOp, Matcher};

/// More steps than this are refused: a column of so many numbers has 128 MiB.
const MAX_STEPS: usize = 1 << 24;

/// The info metric that `info()` joins when it is not told otherwise.
const TARGET_INFO: &str = "target_info";

/// Plans `expr`.
pub(crate) fn build(query: &str, expr: &Expr, times: Times, options: &EngineOptions) -> Result<Planned, QueryError> {
    let (grid, step) = match times {
        Times::Instant(t) => (Grid::single(t), 0),
        Times::Range { step, .. } if step <= 0 => {
            return Err(QueryError::BadRequest(
                "zero or negative query resolution step widths are not accepted. Try a positive integer".to_owned(),
            ));
        }
        Times::Range { start, end, step } => (Grid::new(start, end, step), step),
    };
    if let Times::Range { .. } = times
        && !matches!(expr.value_type(), ValueType::Vector | ValueType::Scalar)
    {
        return Err(QueryError::BadRequest(format!(
            "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
            expr.value_type().documented()
        )));
    }
    check_steps(&grid)?;
    let (start, end) = match times {
        Times::Instant(t) => (t, t),
        Times::Range { start, end, .. } => (start, end),
    };
    let extent = Extent { step, range: end.saturating_sub(start) };
    let mut builder = Builder { options, start, end, extent, selects: Vec::new() };
    let root = builder
        .expr(expr, Context { grid, step_hint: step, func: "", grouping: None, stats: false, buckets: false })?;
    Ok(super::rewrite::finish(root.wrapped(), grid, builder.selects, query, options))
}

fn check_steps(grid: &Grid) -> Result<(), QueryError> {
    if grid.len > MAX_STEPS {
        let steps = grid.len;
        return Err(QueryError::execution(format!(
            "the query or a subquery has {steps} steps, more than the limit of {MAX_STEPS}: use a larger step"
        )));
    }
    Ok(())
}

struct Builder<'a> {
    options: &'a EngineOptions,
    start: i64,
    end: i64,
    extent: Extent,
    selects: Vec<SelectRequest>,
}

#[derive(Clone, Copy)]
struct Context<'a> {
    grid: Grid,
    /// The step that selects are told: of the innermost subquery, or of the query.
    step_hint: i64,
    /// The nearest function or aggregation.
    func: &'a str,
    /// `by` or `without` of the directly enclosing aggregation.
    grouping: Option<&'a AggregateExpr>,
    /// Below a function that needs count and sum of histograms only.
    stats: bool,
    /// Below something that needs the buckets of histograms.
    buckets: bool,
}

/// A node, and whether it depends on the step.
struct Built {
    node: Node,
    /// The same at every step.
    invariant: bool,
    /// Worth evaluating once and repeating (literals and range vectors are not).
    wrap: bool,
}

impl Built {
    fn wrapped(self) -> Node {
        if !self.wrap {
            return self.node;
        }
        let (span, value_type, injective) = (self.node.span, self.node.value_type, self.node.injective);
        Node { kind: Kind::Invariant(Box::new(self.node)), span, value_type, injective, id: 0, sliced: false }
    }
}

impl<'a> Builder<'a> {
    fn expr(&mut self, expr: &'a Expr, cx: Context<'a>) -> Result<Built, QueryError> {
        let expr = expr.unparen();
        match expr {
            Expr::Number(n) => Ok(self.constant(expr, Kind::Number(n.value))),
            Expr::String(s) => {
                let kind = s.raw.as_ref().map_or_else(|| Kind::Text(s.value.clone()), |raw| Kind::Bytes(raw.clone()));
                Ok(self.constant(expr, kind))
            }
            Expr::Vector(v) => self.instant(expr, v, cx),
            Expr::Matrix(m) => {
                let range = self.duration(m.range_ms, m.range_expr.as_deref(), false)?;
                let selector = self.selector(&m.selector, range, cx)?;
                let (invariant, injective) = (selector.at.is_some(), has_single_name(&selector.matchers));
                let kind = Kind::Range(RangeArg::Selector { selector, range });
                Ok(Built { node: node(expr, kind, injective), invariant, wrap: false })
            }
            Expr::Subquery(s) => self.subquery(expr, s, cx),
            Expr::Aggregate(a) => self.aggregate(expr, a, cx),
            Expr::Binary(b) => self.binary(expr, b, cx),
            Expr::Unary(u) => {
                let child = self.expr(&u.expr, cx)?;
                let injective = child.node.injective;
                let kind = match u.op {
                    Sign::Plus => Kind::Plus(Box::new(child.node)),
                    Sign::Minus => Kind::Negate(Box::new(child.node)),
                };
                Ok(Built { node: node(expr, kind, injective), invariant: child.invariant, wrap: child.wrap })
            }
            Expr::Call(c) => self.call(expr, c, cx),
            // `unparen` has taken them off.
            Expr::Paren(p) => self.expr(&p.expr, cx),
        }
    }

    fn constant(&self, expr: &Expr, kind: Kind) -> Built {
        Built { node: node(expr, kind, true), invariant: true, wrap: false }
    }

    fn duration(&self, literal: i64, expr: Option<&DurationExpr>, negative: bool) -> Result<i64, QueryError> {
        expr.map_or(Ok(literal), |e| self.extent.resolve(e, negative))
    }

    fn at(&self, at: Option<At>) -> Option<i64> {
        at.map(|at| match at {
            At::Timestamp(t) => t,
            At::Start => self.start,
            At::End => self.end,
        })
    }

    fn instant(&mut self, expr: &Expr, v: &'a VectorSelector, cx: Context<'a>) -> Result<Built, QueryError> {
        let selector = self.selector(v, 0, cx)?;
        let (pinned, injective) = (selector.at.is_some(), has_single_name(&selector.matchers));
        Ok(Built { node: node(expr, Kind::Instant(selector), injective), invariant: pinned, wrap: pinned })
    }

    /// Plans a selector and its select; `range` is 0 for an instant selector.
    fn selector(&mut self, v: &'a VectorSelector, range: i64, cx: Context<'a>) -> Result<Selector, QueryError> {
        let selector = Selector {
            select: self.selects.len(),
            matchers: v.matchers.clone(),
            at: self.at(v.at),
            offset: self.duration(v.offset_ms, v.offset_expr.as_deref(), true)?,
            mode: v.mode,
            stats: cx.stats && !cx.buckets,
        };
        let lookback = self.options.lookback_ms;
        let (back, ahead) = match (range, v.mode) {
            (0, RangeMode::Smoothed) => (lookback, lookback),
            (0, _) => (lookback, 0),
            (_, RangeMode::Plain) if is_extended(cx.func) => (range.saturating_add(X_LOOKBACK_MS), 0),
            (_, RangeMode::Plain) => (range, 0),
            (_, RangeMode::Anchored) => (range.saturating_add(lookback), 0),
            (_, RangeMode::Smoothed) => (range.saturating_add(lookback), lookback),
        };
        // Windows are open on the left.
        let mint = selector.reference(cx.grid.start).saturating_sub(back).saturating_add(1);
        let maxt = selector.reference(cx.grid.end()).saturating_add(ahead);
        let grouping = cx.grouping.map(|a| a.grouping.clone()).unwrap_or_default();
        self.selects.push(SelectRequest {
            id: selector.select,
            matchers: v.matchers.clone(),
            mint,
            maxt,
            hints: SelectHints {
                step_ms: cx.step_hint,
                range_ms: range,
                func: cx.func.to_owned(),
                grouping,
                by: cx.grouping.is_some_and(|a| !a.without),
                projection: None,
            },
        });
        Ok(selector)
    }

    fn subquery(&mut self, expr: &Expr, s: &'a SubqueryExpr, cx: Context<'a>) -> Result<Built, QueryError> {
        let offset = self.duration(s.offset_ms, s.offset_expr.as_deref(), true)?;
        let step = match self.duration(s.step_ms, s.step_expr.as_deref(), false)? {
            0 => self.options.default_subquery_step_ms,
            step => step,
        };
        let range = self.duration(s.range_ms, s.range_expr.as_deref(), false)?;
        let at = self.at(s.at);
        // The child is planned last, but its grid is needed to plan it.
        let placeholder = Node {
            kind: Kind::Number(0.0),
            span: s.span,
            value_type: ValueType::Vector,
            injective: true,
            id: 0,
            sliced: false,
        };
        let mut subquery = Subquery { child: placeholder, range, step: step.max(1), offset, at };
        let grid = subquery.grid(&cx.grid);
        check_steps(&grid)?;
        let child = self.expr(&s.expr, Context { grid, step_hint: step, grouping: None, buckets: true, ..cx })?;
        let injective = child.node.injective;
        // A constant child is evaluated once, whether or not the subquery itself is pinned.
        let wrap = child.wrap && child.invariant;
        subquery.child = Built { wrap, ..child }.wrapped();
        let kind = Kind::Range(RangeArg::Subquery(Box::new(subquery)));
        Ok(Built { node: node(expr, kind, injective), invariant: at.is_some(), wrap: false })
    }

    fn aggregate(&mut self, expr: &Expr, a: &'a AggregateExpr, cx: Context<'a>) -> Result<Built, QueryError> {
        let inner = Context { func: a.op.as_str(), grouping: Some(a), ..cx };
        let arg = self.expr(&a.expr, inner)?;
        let param = match &a.param {
            Some(p) => Some(self.expr(p, Context { grouping: None, ..inner })?),
            None => None,
        };
        let mut grouping = a.grouping.clone();
        grouping.sort_unstable();
        grouping.dedup();
        let keeps_series = !matches!(
            a.op,
            crate::parse::AggregateOp::Topk
                | crate::parse::AggregateOp::Bottomk
                | crate::parse::AggregateOp::Limitk
                | crate::parse::AggregateOp::LimitRatio
        );
        let by_name = !a.without && grouping.iter().any(|g| g.starts_with("__"));
        let injective = if keeps_series { !by_name } else { arg.node.injective };
        // As in Prometheus the parameter does not count.
        let (invariant, wrap) = (arg.invariant, arg.wrap);
        let node_kind = Kind::Aggregate(Box::new(Aggregate {
            op: a.op,
            arg: arg.node,
            param: param.map(|p| p.node),
            grouping,
            without: a.without,
        }));
        Ok(Built { node: node(expr, node_kind, injective), invariant, wrap })
    }

    fn binary(&mut self, expr: &Expr, b: &'a BinaryExpr, cx: Context<'a>) -> Result<Built, QueryError> {
        let trims = matches!(b.op, BinaryOp::TrimLower | BinaryOp::TrimUpper);
        let cx = Context { func: "", grouping: None, buckets: cx.buckets || trims, ..cx };
        let lhs = self.expr(&b.lhs, cx)?;
        let rhs = self.expr(&b.rhs, cx)?;
        let invariant = lhs.invariant && rhs.invariant;
        let (lhs, rhs) = if invariant { (lhs.node, rhs.node) } else { (lhs.wrapped(), rhs.wrapped()) };
        let scalars = (lhs.value_type == ValueType::Scalar, rhs.value_type == ValueType::Scalar);
        if scalars == (true, true) && trims {
            return Err(QueryError::execution(format!("operator \"{}\" not allowed for Scalar operations", b.op)));
        }
        let drops_name = !(b.op.is_comparison() || trims);
        let injective = match (b.op, scalars) {
            (_, (true, true)) => true,
            (_, (true, false)) => rhs.injective || drops_name,
            (_, (false, true)) => lhs.injective || drops_name,
            (BinaryOp::And | BinaryOp::Unless, _) => lhs.injective,
            (BinaryOp::Or, _) => false,
            _ => drops_name || b.return_bool,
        };
        let kind = Kind::Binary(Box::new(Binary {
            op: b.op,
            lhs,
            rhs,
            matching: b.matching.clone(),
            return_bool: b.return_bool,
        }));
        Ok(Built { node: node(expr, kind, injective), invariant, wrap: invariant })
    }

    fn call(&mut self, expr: &Expr, c: &'a crate::parse::Call, cx: Context<'a>) -> Result<Built, QueryError> {
        if c.func.gate == Gate::Extended && c.args.iter().any(|a| matches!(a.unparen(), Expr::Subquery(_))) {
            // Thanos has no answer either.
            return Err(QueryError::execution(format!(
                "{}() works on range selectors, not on subqueries",
                c.func.name
            )));
        }
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let folded = match c.func.id {
            FunctionId::Start => Some(seconds(self.start)),
            FunctionId::End => Some(seconds(self.end)),
            FunctionId::Range => Some(seconds(self.extent.range)),
            FunctionId::Step if self.start == self.end => Some(0.0),
            FunctionId::Step => Some(seconds(self.extent.step)),
            FunctionId::Pi => Some(std::f64::consts::PI),
            _ => None,
        };
        if let Some(v) = folded {
            return Ok(self.constant(expr, Kind::Number(v)));
        }
        let mut inner = Context { func: c.func.name, grouping: None, ..cx };
        match c.func.id {
            FunctionId::HistogramCount | FunctionId::HistogramSum | FunctionId::HistogramAvg => inner.stats = true,
            FunctionId::HistogramQuantile | FunctionId::HistogramQuantiles | FunctionId::HistogramFraction => {
                inner.buckets = true;
            }
            _ => {}
        }
        if c.func.id == FunctionId::Info {
            return self.info(expr, c, inner);
        }
        let mut args = Vec::with_capacity(c.args.len());
        for arg in &c.args {
            args.push(self.expr(arg, inner)?);
        }
        let all_invariant = args.iter().all(|a| a.invariant);
        let pinned_timestamp = c.func.id == FunctionId::Timestamp
            && args.iter().all(|a| a.invariant && matches!(a.node.kind, Kind::Instant(_)));
        let invariant = (all_invariant && !depends_on_time(c.func.id)) || pinned_timestamp;
        let injective = match c.func.id {
            FunctionId::LabelReplace | FunctionId::LabelJoin => false,
            FunctionId::LastOverTime
            | FunctionId::FirstOverTime
            | FunctionId::Sort
            | FunctionId::SortDesc
            | FunctionId::SortByLabel
            | FunctionId::SortByLabelDesc => args.iter().all(|a| a.node.injective),
            _ => true,
        };
        let args = args.into_iter().map(|a| if invariant { a.node } else { a.wrapped() }).collect();
        let kind = Kind::Call(Box::new(Call { func: c.func, args, rows: false }));
        Ok(Built { node: node(expr, kind, injective), invariant, wrap: invariant })
    }

    /// `info()` selects twice: its argument, and the info series that may belong to it. As in Prometheus it is evaluated
    /// once if its arguments do not depend on the step, even though the info series do.
    fn info(&mut self, expr: &Expr, c: &'a crate::parse::Call, cx: Context<'a>) -> Result<Built, QueryError> {
        let mut args = Vec::new();
        let mut base = None;
        let (matchers, mut invariant): (&[Matcher], _) = match c.args.get(1).map(Expr::unparen) {
            Some(Expr::Vector(v)) => (&v.matchers, v.at.is_some()),
            Some(_) => return Err(QueryError::execution("expected label selectors only")),
            None => (&[], true),
        };
        if let Some(first) = c.args.first() {
            let built = self.expr(first, cx)?;
            base = reference(&built.node);
            invariant &= built.invariant;
            args.push(if invariant { built.node } else { built.wrapped() });
        }
        let id = self.selects.len();
        let (at, offset) = base.unwrap_or((None, 0));
        let selector =
            Selector { select: id, matchers: matchers.to_vec(), at, offset, mode: RangeMode::Plain, stats: false };
        let lookback = self.options.lookback_ms;
        let mint = selector.reference(cx.grid.start).saturating_sub(lookback).saturating_add(1);
        let maxt = selector.reference(cx.grid.end());
        let (names, data): (Vec<_>, Vec<_>) = matchers.iter().cloned().partition(|m| m.name == METRIC_NAME);
        let mut all = data.clone();
        all.extend(info_names(&names)?);
        self.selects.push(SelectRequest {
            id,
            matchers: all,
            mint,
            maxt,
            hints: SelectHints { step_ms: cx.step_hint, func: "info".to_owned(), ..SelectHints::default() },
        });
        let span = c.args.get(1).map_or(c.span, Expr::span);
        let (value_type, injective) = (ValueType::Vector, false);
        args.push(Node { kind: Kind::Instant(selector), span, value_type, injective, id: 0, sliced: false });
        let kind = Kind::Call(Box::new(Call { func: c.func, args, rows: false }));
        Ok(Built { node: node(expr, kind, false), invariant, wrap: invariant })
    }
}

/// The conditions on the names of info metrics: those that were given, and a default if none says what is wanted.
pub(crate) fn info_names(given: &[Matcher]) -> Result<Vec<Matcher>, QueryError> {
    if given.iter().any(|m| matches!(m.op, MatchOp::Equal | MatchOp::Regex)) {
        return Ok(given.to_vec());
    }
    if given.is_empty() {
        return Ok(vec![Matcher::equal(METRIC_NAME, TARGET_INFO)]);
    }
    let any = Matcher::new(MatchOp::Regex, METRIC_NAME, ".+_info").map_err(|e| QueryError::execution(e.to_string()))?;
    Ok(std::iter::once(any).chain(given.iter().cloned()).collect())
}

/// True for `xrate` and its like, which look at the sample before the window.
fn is_extended(func: &str) -> bool {
    function(func).is_some_and(|f| f.gate == Gate::Extended)
}

/// As of when the first selector below is read: `@` and offset, those of subqueries around it included.
fn reference(node: &Node) -> Option<(Option<i64>, i64)> {
    match &node.kind {
        Kind::Number(_) | Kind::Text(_) | Kind::Bytes(_) => None,
        Kind::Shared(s) => reference(&s.node),
        Kind::Instant(s) | Kind::Range(RangeArg::Selector { selector: s, .. }) => Some((s.at, s.offset)),
        Kind::Range(RangeArg::Subquery(s)) => reference(&s.child).map(|(at, offset)| match at {
            Some(_) => (at, offset),
            None => (s.at, offset.saturating_add(s.offset)),
        }),
        Kind::Invariant(n) | Kind::Plus(n) | Kind::Negate(n) => reference(n),
        Kind::Call(c) => c.args.iter().find_map(reference),
        Kind::Aggregate(a) => reference(&a.arg).or_else(|| a.param.as_ref().and_then(reference)),
        Kind::Binary(b) => reference(&b.lhs).or_else(|| reference(&b.rhs)),
    }
}

fn node(expr: &Expr, kind: Kind, injective: bool) -> Node {
    Node { kind, span: expr.span(), value_type: expr.value_type(), injective, id: 0, sliced: false }
}

/// True if all matching series have one name.
fn has_single_name(matchers: &[Matcher]) -> bool {
    matchers.iter().any(|m| m.name == METRIC_NAME && m.op == MatchOp::Equal && !m.value.is_empty())
}

/// True if the function's value differs between steps even if its arguments don't.
fn depends_on_time(id: FunctionId) -> bool {
    matches!(
        id,
        FunctionId::DaysInMonth
            | FunctionId::DayOfMonth
            | FunctionId::DayOfWeek
            | FunctionId::DayOfYear
            | FunctionId::Hour
            | FunctionId::Minute
            | FunctionId::Month
            | FunctionId::Year
            | FunctionId::PredictLinear
            | FunctionId::Time
            | FunctionId::Timestamp
    )
}
