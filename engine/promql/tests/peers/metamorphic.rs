//! Checks that need no other engine: two ways to ask the same must answer the same.

use crate::compare::{Answer, difference};
use crate::fuzz::Pair;
use promql::exec::{EngineOptions, Helpers, Plan, Rewrites, Stop, Times};
use promql::parse::parse_expr;

/// What is wrong with our answer, by itself.
pub(crate) fn check(pair: &Pair, query: &str, times: Times, answer: &Answer) -> Option<String> {
    let expr = parse_expr(query, &pair.options.parser).ok()?;
    let exact = |options: EngineOptions| {
        let result = Plan::new(query, times, &options).and_then(|p| p.execute(&pair.source, &Stop::new()));
        result.map(|r| format!("{:?} {:?}", r.value, r.annotations.strings(query, 0)))
    };
    let base = exact(pair.options.clone());
    if base != exact(EngineOptions { helpers: Helpers::new(3), ..pair.options.clone() }) {
        return Some("three helpers change the answer".to_owned());
    }
    if base != exact(EngineOptions { rewrites: Rewrites::NONE, ..pair.options.clone() }) {
        return Some(format!(
            "rewrites change the answer\n{base:?}\n{:?}",
            exact(EngineOptions { rewrites: Rewrites::NONE, ..pair.options.clone() })
        ));
    }
    let printed = expr.to_string();
    let again = pair.answer(&printed, times);
    if again.series != answer.series
        && difference(&again, answer).is_some_and(|d| !d.starts_with("annotations") && !d.starts_with("error"))
    {
        return Some(format!("its printed form answers otherwise: {printed}"));
    }
    split(pair, query, times, answer)
}

/// A range query is its steps, one by one. What knows the range, or all steps, is left out.
fn split(pair: &Pair, query: &str, times: Times, answer: &Answer) -> Option<String> {
    let Times::Range { start, end, step } = times else { return None };
    let knows = ["start()", "end()", "step()", "range()", "sort", "topk", "bottomk", "limit", "info"];
    if answer.error.is_some() || knows.iter().any(|w| query.contains(w)) {
        return None;
    }
    let middle = start + (end - start) / step / 2 * step;
    let parts = [Times::Range { start, end: middle, step }, Times::Range { start: middle + step, end, step }];
    let mut joined = Answer { kind: "matrix".to_owned(), ..Answer::default() };
    for part in parts {
        if matches!(part, Times::Range { start, end, .. } if start > end) {
            continue;
        }
        let a = pair.answer(query, part);
        if let Some(e) = a.error {
            return Some(format!("a part of the range fails: {e}"));
        }
        for (labels, points) in a.series {
            joined.series.entry(labels).or_default().extend(points);
        }
    }
    let whole = Answer { kind: "matrix".to_owned(), series: answer.series.clone(), ..Answer::default() };
    difference(&whole, &joined).map(|d| format!("split at {middle} it is another answer: {d}"))
}
