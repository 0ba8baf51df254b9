//! What a query will do, and what it did: the plan as a tree, with measurements if it has run.

use super::QueryError;
use super::eval::Sink;
use crate::plan::{Kind, Node, Planned, RangeArg};
use model::Matcher;
use model::time::PromDuration;
use model::world::Clock;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A node of a plan, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What it does: `[aggregate] sum by (job)`.
    pub name: String,
    /// What it did; `None` if the query has not run, or the node was not evaluated as a vector.
    pub measured: Option<Measured>,
    /// What it works on.
    pub children: Vec<Explained>,
}

/// What a node did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Time in it and in the nodes below, of all threads together.
    pub time: Duration,
    /// Series that it gave.
    pub series: u64,
    /// Values in them, at all steps together.
    pub samples: u64,
    /// Times that a series was given to its group, or partners of a series were looked for: once per series, whatever the
    /// number of steps.
    pub matched: u64,
}

impl Explained {
    /// In the form of Thanos's `query_explain`: `name`, `children`; and its `analysis`: `executionTime`, `totalSamples`.
    pub fn json(&self) -> Value {
        let mut out = json!({ "name": self.name });
        let children: Vec<Value> = self.children.iter().map(Self::json).collect();
        if let Some(fields) = out.as_object_mut() {
            if let Some(m) = self.measured {
                fields.insert("executionTime".to_owned(), format!("{:?}", m.time).into());
                fields.insert("series".to_owned(), m.series.into());
                fields.insert("totalSamples".to_owned(), m.samples.into());
                if m.matched > 0 {
                    fields.insert("matched".to_owned(), m.matched.into());
                }
            }
            if !children.is_empty() {
                fields.insert("children".to_owned(), children.into());
            }
        }
        out
    }

    /// As an indented text, a line per node.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        let _ = write!(out, "{:1$}{2}", "", 2 * depth, self.name);
        if let Some(m) = self.measured {
            let _ = write!(out, "  ({} series, {} samples, {:?}", m.series, m.samples, m.time);
            if m.matched > 0 {
                let _ = write!(out, ", {} matched", m.matched);
            }
            out.push(')');
        }
        out.push('\n');
        for child in &self.children {
            child.write(out, depth + 1);
        }
    }
}

/// The tree of a plan.
pub(super) fn explain(planned: &Planned, meter: Option<&Meter<'_>>) -> Explained {
    node(planned, &planned.root, meter)
}

fn node(planned: &Planned, n: &Node, meter: Option<&Meter<'_>>) -> Explained {
    let mut name = describe(planned, n);
    if n.sliced {
        name.push_str(" (by slices)");
    }
    Explained {
        name,
        measured: meter.and_then(|m| m.of(n.id)),
        children: n.children().into_iter().map(|c| node(planned, c, meter)).collect(),
    }
}

fn describe(planned: &Planned, n: &Node) -> String {
    match &n.kind {
        Kind::Number(v) => format!("[number] {v}"),
        Kind::Text(s) => format!("[string] {s:?}"),
        Kind::Bytes(_) => "[string]".to_owned(),
        Kind::Instant(_) => format!("[select] {}", select(planned, n)),
        Kind::Range(RangeArg::Selector { range, .. }) => {
            format!("[window] {} over {}", PromDuration(*range), select(planned, n))
        }
        Kind::Range(RangeArg::Subquery(s)) => {
            format!("[subquery] {} every {}", PromDuration(s.range), PromDuration(s.step))
        }
        Kind::Invariant(_) => "[once]".to_owned(),
        Kind::Plus(_) => "[unary] +".to_owned(),
        Kind::Negate(_) => "[unary] -".to_owned(),
        Kind::Call(c) => format!("[function] {}", c.func.name),
        Kind::Aggregate(a) => {
            let by = match (a.without, a.grouping.is_empty()) {
                (false, true) => String::new(),
                (true, _) => format!(" without ({})", a.grouping.join(", ")),
                (false, false) => format!(" by ({})", a.grouping.join(", ")),
            };
            format!("[aggregate] {}{by}", a.op.as_str())
        }
        Kind::Binary(b) => match &b.matching {
            None => format!("[binary] {}", b.op),
            Some(m) => {
                let how = if m.on { "on" } else { "ignoring" };
                format!("[join] {} {how} ({})", b.op, m.labels.join(", "))
            }
        },
        Kind::Shared(s) => format!("[shared {}] {} more to come", s.id, s.left),
    }
}

fn select(planned: &Planned, n: &Node) -> String {
    let Some(s) = n.selector() else { return String::new() };
    let list = |all: &[Matcher]| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    let mut out = format!("{{{}}}", list(&s.matchers));
    if let Some(u) = planned.uses.get(s.select) {
        let _ = write!(out, " from select {} in [{}, {}]", u.id, u.mint, u.maxt);
        if let Some(p) = &u.hints.projection {
            let _ = write!(out, ", labels {}", p.join(", "));
        }
    }
    if let Some(narrow) = planned.narrow.get(s.select).filter(|n| !n.is_empty()) {
        let _ = write!(out, ", filtered by {{{}}}", list(narrow));
    }
    out
}

/// Measures the nodes of a running query.
pub(super) struct Meter<'c> {
    clock: &'c dyn Clock,
    nodes: Vec<NodeMeter>,
}

#[derive(Default)]
struct NodeMeter {
    used: AtomicU64,
    nanos: AtomicU64,
    series: AtomicU64,
    samples: AtomicU64,
    matched: AtomicU64,
}

impl<'c> Meter<'c> {
    pub(super) fn new(clock: &'c dyn Clock, nodes: usize) -> Self {
        Self { clock, nodes: (0..nodes).map(|_| NodeMeter::default()).collect() }
    }

    /// Runs a node: counts what it gives, and its time without what happens to its series further up.
    pub(super) fn measure(
        &self,
        id: usize,
        sink: &mut Sink<'_>,
        run: impl FnOnce(&mut Sink<'_>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let (mut series, mut samples, mut above) = (0u64, 0u64, Duration::ZERO);
        let begin = self.clock.elapsed();
        let result = run(&mut |s| {
            series += 1;
            samples += s.column.cost().samples;
            let given = self.clock.elapsed();
            let result = sink(s);
            above += self.clock.elapsed().saturating_sub(given);
            result
        });
        let time = self.clock.elapsed().saturating_sub(begin).saturating_sub(above);
        if let Some(n) = self.nodes.get(id) {
            n.used.fetch_add(1, Ordering::Relaxed);
            n.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            n.series.fetch_add(series, Ordering::Relaxed);
            n.samples.fetch_add(samples, Ordering::Relaxed);
        }
        result
    }

    /// Counts what [`Measured::matched`] tells.
    pub(super) fn matched(&self, id: usize, times: u64) {
        if let Some(n) = self.nodes.get(id) {
            n.matched.fetch_add(times, Ordering::Relaxed);
        }
    }

    fn of(&self, id: usize) -> Option<Measured> {
        let n = self.nodes.get(id).filter(|n| n.used.load(Ordering::Relaxed) > 0)?;
        Some(Measured {
            time: Duration::from_nanos(n.nanos.load(Ordering::Relaxed)),
            series: n.series.load(Ordering::Relaxed),
            samples: n.samples.load(Ordering::Relaxed),
            matched: n.matched.load(Ordering::Relaxed),
        })
    }
}
