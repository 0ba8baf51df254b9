//! Makes a difference small: parts of the query instead of the whole, one time instead of many.

use crate::fuzz::Pair;
use promql::exec::{Plan, Samples, Source as _, Times};
use promql::parse::{Expr, parse_expr};

/// The smallest query and times found that still differ, and how.
pub(crate) fn shrink(pair: &Pair, query: &str, times: Times, what: String) -> (String, Times, String) {
    let mut found = (query.to_owned(), times, what);
    for _ in 0..20 {
        let Some(smaller) = candidates(pair, &found.0)
            .into_iter()
            .filter(|c| c.len() < found.0.len())
            .find_map(|c| pair.differ(&c, found.1).map(|d| (c, found.1, d)))
        else {
            break;
        };
        found = smaller;
    }
    if let Times::Range { start, end, step } = found.1 {
        for i in 0..=(end - start) / step {
            let when = Times::Instant(start + i * step);
            if let Some(d) = pair.differ(&found.0, when) {
                return (found.0, when, d);
            }
        }
    }
    found
}

/// The series that a query reads, as far as they fit on a page.
pub(crate) fn show_data(pair: &Pair, query: &str, times: Times) -> String {
    let Ok(plan) = Plan::new(query, times, &pair.options) else { return String::new() };
    let mut out = String::new();
    for request in plan.selects() {
        let mut set = pair.source.select(request).unwrap();
        while let Some(entry) = set.next_series().unwrap() {
            let mut samples = Samples::default();
            entry.data.decode(&mut samples).unwrap();
            out.push_str(&format!("  {}", entry.labels));
            for (t, v) in samples.times.iter().zip(&samples.floats) {
                out.push_str(&format!(" {t}:{v}"));
            }
            for (t, h) in &samples.histograms {
                out.push_str(&format!("\n    {t}: {h:?}"));
            }
            out.push('\n');
        }
    }
    out.chars().take(60_000).collect()
}

fn candidates(pair: &Pair, query: &str) -> Vec<String> {
    let Ok(expr) = parse_expr(query, &pair.options.parser) else { return Vec::new() };
    let mut all = Vec::new();
    below(&expr, &mut all);
    // The smallest first.
    all.sort_by_key(String::len);
    all
}

fn below(expr: &Expr, out: &mut Vec<String>) {
    let children: Vec<&Expr> = match expr {
        Expr::Aggregate(a) => std::iter::once(&a.expr).chain(&a.param).collect(),
        Expr::Binary(b) => vec![&b.lhs, &b.rhs],
        Expr::Unary(u) => vec![&u.expr],
        Expr::Call(c) => c.args.iter().collect(),
        Expr::Paren(p) => vec![&p.expr],
        Expr::Subquery(s) => vec![&s.expr],
        _ => Vec::new(),
    };
    for child in children {
        out.push(child.to_string());
        below(child, out);
    }
}
