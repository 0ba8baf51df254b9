//! The same query with its time pinned by `@`.

use crate::parse::{At, Expr, FunctionId, Options, parse_expr};

/// The query with `@ t` on every outermost selector and subquery that has no fixed time yet. `None` if its value
/// depends on the evaluation time nevertheless.
pub(super) fn pinned(query: &str, t: i64) -> Option<String> {
    let mut expr = parse_expr(query, &Options::ALL).ok()?;
    let mut unsafe_call = false;
    expr.walk(&mut |e| {
        if let Expr::Call(c) = e {
            unsafe_call |= depends_on_time(c.func.id);
        }
    });
    if unsafe_call {
        return None;
    }
    pin(&mut expr, t);
    Some(expr.to_string())
}

fn pin(expr: &mut Expr, t: i64) {
    let at = match expr {
        Expr::Vector(v) => &mut v.at,
        Expr::Matrix(m) => &mut m.selector.at,
        // What is inside is evaluated at times that the subquery pins.
        Expr::Subquery(s) => &mut s.at,
        Expr::Aggregate(a) => {
            pin(&mut a.expr, t);
            return a.param.iter_mut().for_each(|p| pin(p, t));
        }
        Expr::Binary(b) => {
            pin(&mut b.lhs, t);
            return pin(&mut b.rhs, t);
        }
        Expr::Unary(u) => return pin(&mut u.expr, t),
        Expr::Paren(p) => return pin(&mut p.expr, t),
        Expr::Call(c) => return c.args.iter_mut().for_each(|a| pin(a, t)),
        Expr::Number(_) | Expr::String(_) => return,
    };
    if !matches!(at, Some(At::Timestamp(_))) {
        *at = Some(At::Timestamp(t));
    }
}

fn depends_on_time(id: FunctionId) -> bool {
    use FunctionId as F;
    matches!(
        id,
        F::DaysInMonth
            | F::DayOfMonth
            | F::DayOfWeek
            | F::DayOfYear
            | F::End
            | F::Hour
            | F::Minute
            | F::Month
            | F::Year
            | F::PredictLinear
            | F::Range
            | F::Start
            | F::Step
            | F::Time
            | F::Timestamp
    )
}

/// True if the query asks for its own bounds, which differ between an instant and a range query.
pub(super) fn depends_on_query_bounds(query: &str) -> bool {
    ["start()", "end()", "range()", "step()"].iter().any(|call| query.contains(call))
}
