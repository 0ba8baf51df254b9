//! What is done to a plan before it runs. Each rewrite can be switched off, and none changes a value, an error or a
//! warning.

use super::{Binary, Grid, Kind, Node, Planned, RangeArg, Selector, Shared, slice};
use crate::exec::binary::scalar_operation;
use crate::exec::{EngineOptions, SelectHints, SelectRequest};
use crate::functions::math;
use crate::parse::{AggregateOp, BinaryOp, FunctionId, MatchCard, RangeMode, ValueType, VectorMatching};
use model::Matcher;
use model::labels::METRIC_NAME;
use std::collections::HashMap;

/// Applies the rewrites that are on, numbers the nodes and lists what is to be fetched.
pub(super) fn finish(
    mut root: Node,
    grid: Grid,
    mut uses: Vec<SelectRequest>,
    query: &str,
    options: &EngineOptions,
) -> Planned {
    let on = options.rewrites;
    if on.fold_constants {
        fold(&mut root);
    }
    if let (true, Some(dropped)) = (on.propagate_matchers, &options.dropped_labels) {
        propagate(&mut root, &mut uses, dropped);
    }
    if on.projection {
        project(&root, None, &mut uses);
    }
    if on.share_subtrees {
        share(&mut root, query);
    }
    let nodes = slice::mark(&mut root, options.delayed_name_removal, 0);
    let (selects, narrow) = fetches(&mut uses, on.merge_selects, options.dropped_labels.as_deref());
    Planned { root, grid, uses, narrow, selects, nodes }
}

/// Computes what consists of numbers only.
fn fold(node: &mut Node) {
    for child in node.children_mut() {
        fold(child);
    }
    if node.value_type != ValueType::Scalar {
        return;
    }
    let number = |n: &Node| match n.kind {
        Kind::Number(v) => Some(v),
        _ => None,
    };
    let value = match &node.kind {
        Kind::Invariant(n) | Kind::Plus(n) => number(n),
        Kind::Negate(n) => number(n).map(|v| -v),
        Kind::Binary(b) => match (number(&b.lhs), number(&b.rhs), scalar_operation(b.op)) {
            (Some(a), Some(b), Ok(f)) => Some(f(a, b)),
            _ => None,
        },
        Kind::Call(c) => match (c.func.id, c.args.as_slice()) {
            (FunctionId::MinOf, [a, b]) => number(a).zip(number(b)).map(|(a, b)| math::min(a, b)),
            (FunctionId::MaxOf, [a, b]) => number(a).zip(number(b)).map(|(a, b)| math::max(a, b)),
            _ => None,
        },
        _ => None,
    };
    if let Some(v) = value {
        node.kind = Kind::Number(v);
    }
}

/// Puts matchers of one bare selector of a binary operator on the other, if partners must agree on the label.
fn propagate(node: &mut Node, uses: &mut [SelectRequest], dropped: &[String]) {
    for child in node.children_mut() {
        propagate(child, uses, dropped);
    }
    let Kind::Binary(b) = &mut node.kind else { return };
    let Some(m) = b.matching.clone() else { return };
    let (to_left, to_right) = directions(b, &m);
    let (Kind::Instant(l), Kind::Instant(r)) = (&mut b.lhs.kind, &mut b.rhs.kind) else { return };
    if (l.mode, r.mode) != (RangeMode::Plain, RangeMode::Plain) {
        return; // Interpolation may have something to tell about series that have no partner.
    }
    // What the source takes off series can be asked of it, but not seen on what it gives.
    let in_key = |n: &str| {
        let named = m.labels.iter().any(|x| x == n);
        (if m.on { named } else { n != METRIC_NAME && !named }) && !dropped.iter().any(|d| d == n)
    };
    let (from_left, from_right) = (l.matchers.clone(), r.matchers.clone());
    let mut give = |from: &[Matcher], to: &mut Selector| {
        for x in from.iter().filter(|x| in_key(&x.name)) {
            if !to.matchers.iter().any(|y| same_matcher(x, y)) {
                to.matchers.push(x.clone());
                if let Some(u) = uses.get_mut(to.select) {
                    u.matchers.push(x.clone());
                }
            }
        }
    };
    if to_right {
        give(&from_left, r);
    }
    if to_left {
        give(&from_right, l);
    }
}

/// Whether matchers may go to the left and to the right side.
fn directions(b: &Binary, m: &VectorMatching) -> (bool, bool) {
    match b.op {
        BinaryOp::Or => (false, false),
        BinaryOp::And => (true, true),
        BinaryOp::Unless => (false, true),
        // Several series of one match group on the "one" side are an error even if they have no partner, so that none
        // may be hidden. Without `on` and `ignoring` a metric has one series per group.
        _ => {
            let one = if m.card == MatchCard::OneToMany { &b.lhs } else { &b.rhs };
            let fills = m.fill_left.is_some() || m.fill_right.is_some();
            let safe = !m.on && m.labels.is_empty() && one.injective && !fills;
            (safe, safe)
        }
    }
}

fn same_matcher(a: &Matcher, b: &Matcher) -> bool {
    a.name == b.name && a.op == b.op && a.value == b.value
}

/// Tells selects which labels matter above them; `need` is `None` for all.
fn project(node: &Node, need: Option<Vec<String>>, uses: &mut [SelectRequest]) {
    if let Some(s) = node.selector() {
        if let (Some(names), Some(u)) = (need, uses.get_mut(s.select)) {
            u.hints.projection = Some(names);
        }
        return;
    }
    match &node.kind {
        Kind::Aggregate(a) => {
            let keeps_series = matches!(
                a.op,
                AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio
            );
            let below = if keeps_series || a.without {
                None
            } else {
                // The name is in warnings.
                let mut names = a.grouping.clone();
                if !names.iter().any(|n| n == METRIC_NAME) {
                    names.push(METRIC_NAME.to_owned());
                }
                names.sort_unstable();
                Some(names)
            };
            project(&a.arg, below, uses);
            if let Some(p) = &a.param {
                project(p, None, uses);
            }
        }
        Kind::Call(c) => {
            let through = matches!(
                c.func.id,
                FunctionId::Rate
                    | FunctionId::Increase
                    | FunctionId::Delta
                    | FunctionId::Irate
                    | FunctionId::Idelta
                    | FunctionId::Resets
                    | FunctionId::Changes
                    | FunctionId::Deriv
                    | FunctionId::Abs
                    | FunctionId::Ceil
                    | FunctionId::Floor
                    | FunctionId::Round
            ) || c.func.name.ends_with("_over_time") && c.func.id != FunctionId::AbsentOverTime;
            for arg in &c.args {
                let below = if through && arg.value_type != ValueType::Scalar { need.clone() } else { None };
                project(arg, below, uses);
            }
        }
        Kind::Range(RangeArg::Subquery(s)) => project(&s.child, need, uses),
        Kind::Invariant(n) | Kind::Plus(n) | Kind::Negate(n) => project(n, need, uses),
        _ => {
            for child in node.children() {
                project(child, None, uses);
            }
        }
    }
}

/// Finds equal subtrees that are evaluated at the same times, and lets all but the first take the first one's values.
fn share(root: &mut Node, query: &str) {
    let mut seen: HashMap<(usize, String), (Node, usize)> = HashMap::new();
    let mut regions = 1;
    count(root, 0, &mut regions, query, &mut seen);
    seen.retain(|_, (_, n)| *n > 1);
    if seen.is_empty() {
        return;
    }
    let mut ids: HashMap<(usize, String), (usize, usize)> = HashMap::new();
    let mut next = 0;
    let mut regions = 1;
    replace(root, 0, &mut regions, query, &seen, &mut ids, &mut next);
}

fn text_of(node: &Node, query: &str) -> String {
    query.get(node.span.start as usize..node.span.end as usize).unwrap_or_default().to_owned()
}

/// Worth keeping: reads something and does more than selecting.
fn is_worthwhile(node: &Node) -> bool {
    node.value_type == ValueType::Vector
        && !matches!(node.kind, Kind::Instant(_) | Kind::Range(_) | Kind::Plus(_) | Kind::Invariant(_))
        && node.first_selector().is_some()
}

/// A region is a set of nodes that are evaluated at the same times: the whole query, or the inside of one subquery,
/// or what is evaluated only once.
fn region_below(node: &Node, region: usize, regions: &mut usize) -> usize {
    if matches!(node.kind, Kind::Range(RangeArg::Subquery(_)) | Kind::Invariant(_)) {
        *regions += 1;
        return *regions;
    }
    region
}

fn count(
    node: &Node,
    region: usize,
    regions: &mut usize,
    query: &str,
    seen: &mut HashMap<(usize, String), (Node, usize)>,
) {
    if is_worthwhile(node) {
        let known = seen.entry((region, text_of(node, query))).or_insert_with(|| (node.clone(), 0));
        if equal(&known.0, node) {
            known.1 += 1;
            if known.1 > 1 {
                return; // What is below goes with it.
            }
        }
    }
    let below = region_below(node, region, regions);
    for child in node.children() {
        count(child, below, regions, query, seen);
    }
}

fn replace(
    node: &mut Node,
    region: usize,
    regions: &mut usize,
    query: &str,
    seen: &HashMap<(usize, String), (Node, usize)>,
    ids: &mut HashMap<(usize, String), (usize, usize)>,
    next: &mut usize,
) {
    let key = (region, text_of(node, query));
    let shared = is_worthwhile(node) && seen.get(&key).is_some_and(|(first, _)| equal(first, node));
    let mut first = true;
    if shared {
        let uses = seen.get(&key).map_or(1, |s| s.1);
        let fresh = *next;
        let (id, done) = ids.entry(key).or_insert_with(|| (fresh, 0));
        if *id == fresh {
            *next += 1;
        }
        first = *done == 0;
        *done += 1;
        let (span, value_type, injective) = (node.span, node.value_type, node.injective);
        let placeholder = Node { kind: Kind::Number(0.0), span, value_type, injective, id: 0, sliced: false };
        let inner = std::mem::replace(node, placeholder);
        node.kind = Kind::Shared(Box::new(Shared { id: *id, left: uses.saturating_sub(*done), node: inner }));
    }
    // Counting has gone below the first of equals only.
    if !first {
        return;
    }
    let inside = match &mut node.kind {
        Kind::Shared(s) => &mut s.node,
        _ => node,
    };
    let below = region_below(inside, region, regions);
    for child in inside.children_mut() {
        replace(child, below, regions, query, seen, ids, next);
    }
}

/// True if both give the same when evaluated at the same times.
fn equal(a: &Node, b: &Node) -> bool {
    let same_selector = |a: &Selector, b: &Selector| {
        (a.at, a.offset, a.mode, a.stats) == (b.at, b.offset, b.mode, b.stats)
            && a.matchers.len() == b.matchers.len()
            && a.matchers.iter().zip(&b.matchers).all(|(a, b)| same_matcher(a, b))
    };
    let same = match (&a.kind, &b.kind) {
        (Kind::Number(a), Kind::Number(b)) => a.to_bits() == b.to_bits(),
        (Kind::Text(a), Kind::Text(b)) => a == b,
        (Kind::Bytes(a), Kind::Bytes(b)) => a == b,
        (Kind::Instant(a), Kind::Instant(b)) => same_selector(a, b),
        (
            Kind::Range(RangeArg::Selector { selector: a, range: ra }),
            Kind::Range(RangeArg::Selector { selector: b, range: rb }),
        ) => ra == rb && same_selector(a, b),
        (Kind::Range(RangeArg::Subquery(a)), Kind::Range(RangeArg::Subquery(b))) => {
            (a.range, a.step, a.offset, a.at) == (b.range, b.step, b.offset, b.at)
        }
        (Kind::Invariant(_), Kind::Invariant(_))
        | (Kind::Plus(_), Kind::Plus(_))
        | (Kind::Negate(_), Kind::Negate(_)) => true,
        (Kind::Call(a), Kind::Call(b)) => a.func.id == b.func.id,
        (Kind::Aggregate(a), Kind::Aggregate(b)) => (a.op, a.without, &a.grouping) == (b.op, b.without, &b.grouping),
        (Kind::Binary(a), Kind::Binary(b)) => {
            (a.op, a.return_bool) == (b.op, b.return_bool) && a.matching == b.matching
        }
        _ => false,
    };
    let (below_a, below_b) = (a.children(), b.children());
    same && below_a.len() == below_b.len() && below_a.iter().zip(below_b).all(|(a, b)| equal(a, b))
}

/// What is to be fetched for the uses, whose ids are set; and for each use what remains to be filtered.
fn fetches(
    uses: &mut [SelectRequest],
    merge: bool,
    dropped: Option<&[String]>,
) -> (Vec<SelectRequest>, Vec<Vec<Matcher>>) {
    let mut selects: Vec<SelectRequest> = Vec::new();
    // A label that the source takes off can't be filtered by afterwards.
    let may_filter = |m: &Matcher| dropped.is_some_and(|d| !d.contains(&m.name));
    let within = |broad: &[Matcher], narrow: &[Matcher]| {
        broad.iter().all(|b| narrow.iter().any(|n| same_matcher(b, n)))
            && narrow.iter().all(|n| may_filter(n) || broad.iter().any(|b| same_matcher(b, n)))
    };
    let overlap = |a: &SelectRequest, b: &SelectRequest| a.mint <= b.maxt && b.mint <= a.maxt;
    for u in uses.iter_mut() {
        let found = selects.iter().position(|s| {
            merge && overlap(s, u) && (within(&s.matchers, &u.matchers) || within(&u.matchers, &s.matchers))
        });
        match found.and_then(|i| Some((i, selects.get_mut(i)?))) {
            Some((i, s)) => {
                if within(&u.matchers, &s.matchers) {
                    s.matchers.clone_from(&u.matchers);
                }
                (s.mint, s.maxt) = (s.mint.min(u.mint), s.maxt.max(u.maxt));
                s.hints = common(&s.hints, &u.hints);
                u.id = i;
            }
            None => {
                let id = selects.len();
                selects.push(SelectRequest { id, ..u.clone() });
                u.id = id;
            }
        }
    }
    let narrow = uses.iter().map(|u| {
        let known = selects.get(u.id).map_or(&[][..], |s| &s.matchers);
        u.matchers.iter().filter(|m| !known.iter().any(|k| same_matcher(k, m))).cloned().collect()
    });
    let narrow = narrow.collect();
    (selects, narrow)
}

/// Hints that hold for both.
fn common(a: &SelectHints, b: &SelectHints) -> SelectHints {
    if a == b {
        return a.clone();
    }
    let same_group = a.func == b.func && a.grouping == b.grouping && a.by == b.by;
    SelectHints {
        step_ms: if a.step_ms == b.step_ms { a.step_ms } else { 0 },
        range_ms: a.range_ms.max(b.range_ms),
        func: if a.func == b.func { a.func.clone() } else { String::new() },
        grouping: if same_group { a.grouping.clone() } else { Vec::new() },
        by: same_group && a.by,
        projection: match (&a.projection, &b.projection) {
            (Some(a), Some(b)) => {
                let mut all: Vec<String> = a.iter().chain(b).cloned().collect();
                all.sort_unstable();
                all.dedup();
                Some(all)
            }
            _ => None,
        },
    }
}
