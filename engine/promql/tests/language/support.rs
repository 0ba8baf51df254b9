//! A small laboratory: series in memory, queries as text, answers as text.

use model::Labels;
use model::number::format_g;
use model::sample::Value;
use promql::exec::memory::MemorySource;
use promql::exec::{EngineOptions, Plan, QueryError, QueryResult, QueryValue, Stop, Times};
use promql::parse::{Options, parse_metric};

#[derive(Default)]
pub(crate) struct Lab {
    pub(crate) source: MemorySource,
    pub(crate) options: EngineOptions,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let parser = Options::ALL;
        Self { source: MemorySource::new(), options: EngineOptions { parser, ..EngineOptions::default() } }
    }

    /// `values` every `step` seconds from 0; NaN with the stale bits is a marker.
    pub(crate) fn load(mut self, step: i64, series: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let labels = parse_metric(series).unwrap();
        for (i, v) in values.into_iter().enumerate() {
            self.source.push(&labels, i as i64 * step * 1000, v);
        }
        self
    }

    pub(crate) fn run(&self, query: &str, times: Times) -> Result<QueryResult, QueryError> {
        Plan::new(query, times, &self.options)?.execute(&self.source, &Stop::new())
    }

    /// The answer at `t` seconds, a line per series.
    pub(crate) fn at(&self, t: i64, query: &str) -> Vec<String> {
        let result = self.run(query, Times::Instant(t * 1000)).unwrap_or_else(|e| panic!("{query}: {e}"));
        lines(&result.value)
    }

    /// The answer from `start` to `end` every `step` seconds, a line per series.
    pub(crate) fn over(&self, start: i64, end: i64, step: i64, query: &str) -> Vec<String> {
        let times = Times::Range { start: start * 1000, end: end * 1000, step: step * 1000 };
        let result = self.run(query, times).unwrap_or_else(|e| panic!("{query}: {e}"));
        lines(&result.value)
    }

    pub(crate) fn error(&self, t: i64, query: &str) -> String {
        self.run(query, Times::Instant(t * 1000)).expect_err(query).to_string()
    }

    /// Warnings and infos of the answer at `t` seconds.
    pub(crate) fn notes(&self, t: i64, query: &str) -> Vec<String> {
        let result = self.run(query, Times::Instant(t * 1000)).unwrap_or_else(|e| panic!("{query}: {e}"));
        let (mut warnings, infos) = result.annotations.strings(query, 10);
        warnings.extend(infos);
        warnings
    }
}

fn lines(value: &QueryValue) -> Vec<String> {
    match value {
        QueryValue::Scalar(_, v) => vec![format_g(*v)],
        QueryValue::String(_, s) => vec![s.clone()],
        QueryValue::Vector(all) => all
            .iter()
            .map(|s| match &s.value {
                Value::Float(v) => format!("{} {}", show(&s.labels), format_g(*v)),
                Value::Histogram(h) => format!("{} count {} sum {}", show(&s.labels), h.count, h.sum),
            })
            .collect(),
        QueryValue::Matrix(all) => all
            .iter()
            .map(|s| {
                let points: Vec<_> = s.floats.iter().map(|(t, v)| format!("{}@{}", format_g(*v), t / 1000)).collect();
                format!("{} {}", show(&s.labels), points.join(" "))
            })
            .collect(),
    }
}

fn show(labels: &Labels) -> String {
    let name = labels.metric_name().unwrap_or("");
    let rest = labels.without(&["__name__"]);
    if rest.is_empty() && !name.is_empty() { name.to_owned() } else { format!("{name}{rest}") }
}
