//! Which parts of a query another querier may evaluate, and what the query becomes when it does.
//!
//! A part is an aggregation over something that treats each series by itself: where no series is in two stores, what the
//! stores' aggregates give together is what the aggregate of all series gives. `count by (x) (m)` becomes
//! `sum by (x) (PUSHED or count by (x) (m{not of those stores}))`.

use model::Matcher;
use promql::parse::{
    AggregateExpr, AggregateOp, BinaryExpr, BinaryOp, Call, Expr, FunctionId, Gate, MatchCard, MatrixSelector,
    RangeMode, VectorMatching, VectorSelector,
};

/// Labels that selectors of a rewritten query carry. No query that names one of them is rewritten.
pub(in crate::query) const RESERVED: [&str; 5] = [PUSHED, BY, QUERY, ELSEWHERE, PART];
/// The number of a part that is evaluated elsewhere: its answers are selected by it.
pub(super) const PUSHED: &str = "__pushed__";
/// For those who read the plan: by whom.
const BY: &str = "__pushed_to__";
/// For those who read the plan: what they are asked.
const QUERY: &str = "__pushed_query__";
/// The number of the part whose stores are not to be asked for series.
pub(super) const ELSEWHERE: &str = "__pushed_elsewhere__";
/// Tells the answers of several queriers apart.
pub(super) const PART: &str = "__pushed_part__";

/// Who gives the same bits as we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    /// Thanos, too.
    Anyone,
    /// Only who evaluates as we do: Thanos takes resets out of counters before its engine sees them, and Go computes some
    /// functions by other means.
    Ours,
}

/// Offers each part that may be evaluated elsewhere, and puts what `with` makes of it in its place. `close`: last bits of sums
/// may differ, which depend on the order of additions.
pub(super) fn replace(expr: &mut Expr, close: bool, with: &mut dyn FnMut(&AggregateExpr, Grade) -> Option<Expr>) {
    walk(expr, close, true, with);
}

/// `free`: whatever is above does not depend on the order of what it gets.
fn walk(expr: &mut Expr, close: bool, free: bool, with: &mut dyn FnMut(&AggregateExpr, Grade) -> Option<Expr>) {
    if let Expr::Aggregate(a) = expr
        && free
        && let Some(grade) = part(a, close)
        && let Some(new) = with(a, grade)
    {
        *expr = new;
        return;
    }
    match expr {
        Expr::Aggregate(a) => {
            use AggregateOp as Op;
            let free = free
                && match a.op {
                    Op::Min | Op::Max | Op::Count | Op::Group | Op::Quantile | Op::CountValues => true,
                    Op::Sum | Op::Avg | Op::Stddev | Op::Stdvar => close,
                    // Of equals the first is taken.
                    Op::Topk | Op::Bottomk | Op::Limitk | Op::LimitRatio => false,
                };
            walk(&mut a.expr, close, free, with);
        }
        Expr::Binary(b) => {
            walk(&mut b.lhs, close, free, with);
            walk(&mut b.rhs, close, free, with);
        }
        Expr::Unary(u) => walk(&mut u.expr, close, free, with),
        Expr::Paren(p) => walk(&mut p.expr, close, free, with),
        Expr::Call(c) => {
            use FunctionId as F;
            let free =
                free && !matches!(c.func.id, F::Sort | F::SortDesc | F::SortByLabel | F::SortByLabelDesc | F::Info);
            c.args.iter_mut().for_each(|arg| walk(arg, close, free, with));
        }
        // The inside of a subquery is evaluated at other times than the query.
        Expr::Subquery(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) | Expr::Matrix(_) => {}
    }
}

/// How answers of several queriers are put together; nothing where that gives something else.
fn joined(op: AggregateOp, close: bool) -> Option<AggregateOp> {
    use AggregateOp as Op;
    match op {
        Op::Min | Op::Max | Op::Group => Some(op),
        Op::Count => Some(Op::Sum),
        Op::Sum if close => Some(Op::Sum),
        _ => None,
    }
}

fn part(a: &AggregateExpr, close: bool) -> Option<Grade> {
    joined(a.op, close)?;
    // Names and metadata are dropped by rules of their own.
    let plain = a.param.is_none() && a.grouping.iter().all(|l| !l.starts_with("__"));
    plain.then(|| by_itself(&a.expr)).flatten()
}

/// Something that treats each series of one selector by itself.
fn by_itself(expr: &Expr) -> Option<Grade> {
    match expr {
        Expr::Vector(v) => selector(v).then_some(Grade::Anyone),
        Expr::Paren(p) => by_itself(&p.expr),
        Expr::Unary(u) => by_itself(&u.expr),
        Expr::Binary(b) => {
            let vector = match (is_number(&b.lhs), is_number(&b.rhs)) {
                (true, false) => &b.rhs,
                (false, true) => &b.lhs,
                _ => return None,
            };
            let own = match b.op {
                BinaryOp::Pow | BinaryOp::Atan2 => Grade::Ours,
                op if op.is_set() => return None,
                _ => Grade::Anyone,
            };
            by_itself(vector).map(|g| g.max(own))
        }
        Expr::Call(c) => call(c),
        _ => None,
    }
}

fn call(c: &Call) -> Option<Grade> {
    use FunctionId as F;
    if c.func.gate != Gate::Stable {
        return None;
    }
    let mut others = c.args.iter().filter(|a| !is_number(a));
    let (one, None) = (others.next()?, others.next()) else { return None };
    if let Expr::Matrix(m) = one.unparen() {
        let own = match c.func.id {
            F::MinOverTime | F::MaxOverTime | F::SumOverTime | F::AvgOverTime | F::CountOverTime | F::LastOverTime => {
                Grade::Anyone
            }
            F::PresentOverTime | F::Changes | F::Delta | F::Idelta => Grade::Anyone,
            F::Rate | F::Increase | F::Irate | F::Resets | F::Deriv | F::PredictLinear => Grade::Ours,
            F::StddevOverTime | F::StdvarOverTime | F::QuantileOverTime => Grade::Ours,
            _ => return None,
        };
        return range(m).then_some(own);
    }
    let own = match c.func.id {
        F::Abs | F::Ceil | F::Floor | F::Round | F::Sgn | F::Sqrt | F::Clamp | F::ClampMin | F::ClampMax => {
            Grade::Anyone
        }
        F::Exp | F::Ln | F::Log2 | F::Log10 => Grade::Ours,
        _ => return None,
    };
    by_itself(one).map(|g| g.max(own))
}

fn is_number(expr: &Expr) -> bool {
    match expr.unparen() {
        Expr::Number(_) => true,
        Expr::Unary(u) => is_number(&u.expr),
        _ => false,
    }
}

/// A selector whose times are those of the query.
fn selector(v: &VectorSelector) -> bool {
    v.at.is_none() && v.offset_expr.is_none() && v.mode == RangeMode::Plain && !v.may_match_all
}

fn range(m: &MatrixSelector) -> bool {
    m.range_expr.is_none() && selector(&m.selector)
}

/// Calls `f` with all selectors.
pub(super) fn selectors(expr: &mut Expr, f: &mut dyn FnMut(&mut VectorSelector)) {
    match expr {
        Expr::Vector(v) => f(v),
        Expr::Matrix(m) => f(&mut m.selector),
        Expr::Subquery(s) => selectors(&mut s.expr, f),
        Expr::Aggregate(a) => {
            selectors(&mut a.expr, f);
            a.param.iter_mut().for_each(|p| selectors(p, f));
        }
        Expr::Binary(b) => {
            selectors(&mut b.lhs, f);
            selectors(&mut b.rhs, f);
        }
        Expr::Unary(u) => selectors(&mut u.expr, f),
        Expr::Paren(p) => selectors(&mut p.expr, f),
        Expr::Call(c) => c.args.iter_mut().for_each(|a| selectors(a, f)),
        Expr::Number(_) | Expr::String(_) => {}
    }
}

/// The text of a part for a querier whose answer is to be of these series only.
pub(super) fn text(part: &AggregateExpr, guard: Option<&Matcher>) -> String {
    let mut expr = Expr::Aggregate(Box::new(part.clone()));
    if let Some(guard) = guard {
        selectors(&mut expr, &mut |v| {
            if !v.matchers.contains(guard) {
                v.matchers.push(guard.clone());
            }
        });
    }
    expr.to_string()
}

/// What stands in the place of `part`, number `number`, that these queriers are asked.
pub(super) fn replacement(part: &AggregateExpr, number: usize, query: &str, by: &str) -> Expr {
    let span = part.span;
    let number = number.to_string();
    let matchers = vec![Matcher::equal(PUSHED, &*number), Matcher::equal(BY, by), Matcher::equal(QUERY, query)];
    let pushed = VectorSelector::plain(String::new(), matchers, span);
    let mut rest = part.clone();
    selectors(&mut rest.expr, &mut |v| v.matchers.push(Matcher::equal(ELSEWHERE, &*number)));
    let matching = VectorMatching {
        card: MatchCard::ManyToMany,
        labels: Vec::new(),
        on: false,
        include: Vec::new(),
        fill_left: None,
        fill_right: None,
    };
    let both = BinaryExpr {
        op: BinaryOp::Or,
        lhs: Expr::Vector(pushed),
        rhs: Expr::Aggregate(Box::new(rest)),
        matching: Some(matching),
        return_bool: false,
        span,
    };
    let mut grouping = part.grouping.clone();
    if part.without {
        grouping.push(PART.to_owned());
    }
    // Any part has a way to be put together.
    let op = joined(part.op, true).unwrap_or(part.op);
    let expr = Expr::Binary(Box::new(both));
    Expr::Aggregate(Box::new(AggregateExpr { op, expr, param: None, grouping, without: part.without, span }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use promql::parse::{Options, parse_expr};

    /// The parts of a query, as text.
    fn parts(query: &str, close: bool) -> Vec<(String, Grade)> {
        let options = Options { experimental_functions: true, duration_expressions: true, ..Options::default() };
        let mut expr = parse_expr(query, &options).unwrap();
        let mut found = Vec::new();
        replace(&mut expr, close, &mut |a, grade| {
            found.push((text(a, None), grade));
            None
        });
        found
    }

    #[test]
    fn what_treats_series_by_themselves_may_be_evaluated_elsewhere() {
        for (query, grade) in [
            ("count by (job) (up)", Grade::Anyone),
            ("min without (pod) (m{a=\"b\"} offset 5m)", Grade::Anyone),
            ("max(max_over_time(m[5m]) * 2 > 1)", Grade::Anyone),
            ("group(-clamp(abs(m), 0, -1))", Grade::Anyone),
            ("max by (a) (rate(m_total[5m]))", Grade::Ours),
            ("max by (a) (quantile_over_time(0.5, m[5m]))", Grade::Ours),
            ("count(m ^ 2)", Grade::Ours),
        ] {
            assert_eq!(parts(query, false), [(query.to_owned(), grade)], "{query}");
        }
        let both = parts("histogram_quantile(0.9, max by (le) (rate(b[5m]))) / on () count(up)", false);
        assert_eq!(both.len(), 2, "{both:?}");
        assert_eq!(parts("max(count by (a) (m))", false).len(), 1);
    }

    #[test]
    fn sums_are_only_where_last_bits_may_differ() {
        assert_eq!(parts("sum by (a) (rate(m[5m]))", false), []);
        assert_eq!(parts("sum by (a) (rate(m[5m]))", true).len(), 1);
        // What is above adds in the order of what it gets.
        assert_eq!(parts("sum(max by (a) (m))", false), []);
        assert_eq!(parts("sum(max by (a) (m))", true).len(), 1);
    }

    #[test]
    fn all_else_stays_here() {
        for query in [
            "up",
            "topk(3, m)",
            "quantile(0.5, m)",
            "stddev(m)",
            "count_values(\"v\", m)",
            "limitk(2, m)",
            "avg(m)",
            // Of equals the first is taken.
            "topk(3, count by (a) (m))",
            "sort(count by (a) (m))",
            // Partners may be in another store.
            "count(m * on (a) n)",
            "count(m and n)",
            "count(label_replace(m, \"a\", \"b\", \"\", \"\"))",
            "count(absent_over_time(m[5m]))",
            "count(histogram_quantile(0.9, m))",
            "count by (__name__) (m)",
            // Other times than the query's.
            "count(m @ end())",
            "count(m @ 5)",
            "max_over_time(count(m)[5m:1m])",
            "count(max_over_time(m[5m:1m]))",
            "count(max_over_time(m[step()]))",
            "count(vector(1))",
            "count(timestamp(m))",
            "count(m + time())",
        ] {
            assert_eq!(parts(query, false), [], "{query}");
        }
    }

    #[test]
    fn the_rest_is_asked_of_other_stores() {
        let parse = |q: &str| parse_expr(q, &Options::default()).unwrap();
        let Expr::Aggregate(a) = parse("count without (a) (rate(m{x=\"y\"}[5m]))") else { panic!() };
        assert_eq!(
            text(&a, Some(&Matcher::equal("cluster", "b"))),
            "count without (a) (rate(m{cluster=\"b\",x=\"y\"}[5m]))"
        );
        assert_eq!(
            replacement(&a, 3, "q", "s").to_string(),
            "sum without (a, __pushed_part__) ({__pushed__=\"3\",__pushed_query__=\"q\",__pushed_to__=\"s\"} or \
             count without (a) (rate(m{__pushed_elsewhere__=\"3\",x=\"y\"}[5m])))"
        );
    }
}
