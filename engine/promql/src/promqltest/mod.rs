//! The runner of Prometheus' test language: `load` data, `eval` queries, compare.
//!
//! A script is read and run against an [`Engine`]. Every evaluation is counted by itself, so that one failure doesn't
//! hide the next. As in Prometheus, an instant evaluation is repeated with its time pinned by `@` at other evaluation
//! times, and as the middle step of a range query.

mod compare;
mod histograms;
mod load;
mod pin;
mod script;

use crate::exec::memory::MemorySource;
use crate::exec::{EngineOptions, Plan, QueryError, QueryValue, Stop, Times};
use compare::Expected;
use model::sample::Value;
use model::{Labels, Matcher};
use script::{Command, Eval};

/// What a script runs against.
pub trait Engine {
    /// Forgets all samples.
    fn clear(&mut self);
    /// Stores a sample at `t` whose counting began at `start` (both milliseconds; 0 = unknown start).
    fn append(&mut self, labels: &Labels, t: i64, start: i64, value: Value);
    /// Runs a query.
    fn query(&self, text: &str, times: Times) -> Result<Answer, String>;
}

/// What a query gave.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The value.
    pub value: QueryValue,
    /// All warnings, as the API prints them.
    pub warnings: Vec<String>,
    /// All infos, as the API prints them.
    pub infos: Vec<String>,
}

/// This crate's evaluator over samples in memory.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    source: MemorySource,
    options: EngineOptions,
}

impl MemoryEngine {
    /// An empty one.
    pub fn new(options: EngineOptions) -> Self {
        Self { source: MemorySource::new(), options }
    }

    /// With the settings of Prometheus' own runner: everything experimental on, but no type and unit labels.
    pub fn conformance() -> Self {
        Self::new(EngineOptions {
            max_samples: 10_000,
            delayed_name_removal: true,
            start_timestamps: true,
            parser: crate::parse::Options::ALL,
            ..EngineOptions::default()
        })
    }
}

impl Engine for MemoryEngine {
    fn clear(&mut self) {
        self.source.clear();
    }

    fn append(&mut self, labels: &Labels, t: i64, start: i64, value: Value) {
        self.source.push_value(labels, t, start, value);
    }

    fn query(&self, text: &str, times: Times) -> Result<Answer, String> {
        let run = || -> Result<Answer, QueryError> {
            let result = Plan::new(text, times, &self.options)?.execute(&self.source, &Stop::new())?;
            let (warnings, infos) = result.annotations.strings(text, 0);
            Ok(Answer { value: result.value, warnings, infos })
        };
        run().map_err(|e| e.to_string())
    }
}

/// How a script went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Evaluations that gave what was expected.
    pub passed: usize,
    /// Those that did not, and script lines that could not be read.
    pub failed: Vec<Failure>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The line of the script, from 1.
    pub line: usize,
    /// The query, or the line that can't be read.
    pub query: String,
    /// What is wrong.
    pub message: String,
}

/// Runs a script.
pub fn run(script: &str, engine: &mut dyn Engine) -> Report {
    let mut report = Report::default();
    let commands = match script::parse(script) {
        Ok(commands) => commands,
        Err(failure) => {
            report.failed.push(failure);
            return report;
        }
    };
    engine.clear();
    for command in commands {
        match command {
            Command::Clear => engine.clear(),
            Command::Load(load) => {
                if let Err(message) = load.append(engine) {
                    report.failed.push(Failure { line: load.line, query: "load".to_owned(), message });
                }
            }
            Command::Eval(eval) => match check(&eval, engine) {
                Ok(()) => report.passed += 1,
                Err(message) => report.failed.push(Failure { line: eval.line, query: eval.query, message }),
            },
        }
    }
    report
}

fn check(eval: &Eval, engine: &dyn Engine) -> Result<(), String> {
    let Times::Instant(t) = eval.times else {
        return match answer(eval, engine, &eval.query, eval.times)? {
            Some(value) => compare::matrix_or_value(eval, &value),
            None => Ok(()),
        };
    };
    instant(eval, engine, &eval.query, t)?;
    let Some(pinned) = pin::pinned(&eval.query, t) else { return Ok(()) };
    let others =
        if t == 0 { vec![-1000, 0, 1000] } else { vec![t.saturating_mul(-10), 0, t / 5, t, t.saturating_mul(10)] };
    for other in others {
        instant(eval, engine, &pinned, other).map_err(|e| format!("as {pinned} at {other} ms: {e}"))?;
    }
    Ok(())
}

/// Runs an instant query, then as the middle of a range query.
fn instant(eval: &Eval, engine: &dyn Engine, query: &str, t: i64) -> Result<(), String> {
    let Some(value) = answer(eval, engine, query, Times::Instant(t))? else { return Ok(()) };
    compare::matrix_or_value(eval, &value)?;
    let plain = eval.expected_string.is_none() && eval.expected_grid.is_none();
    if !plain || eval.ordered || pin::depends_on_query_bounds(query) {
        return Ok(());
    }
    let times = Times::Range { start: t - 60_000, end: t + 60_000, step: 60_000 };
    let range = engine.query(query, times).map_err(|e| format!("in range mode: {e}"))?;
    let middle = compare::middle_of_range(&range.value, t, matches!(value, QueryValue::Scalar(..)))
        .map_err(|e| format!("in range mode: {e}"))?;
    compare::matrix_or_value(eval, &middle).map_err(|e| format!("in range mode: {e}"))
}

/// Runs a query and checks its failure and its annotations. `None` if it failed as it should.
fn answer(eval: &Eval, engine: &dyn Engine, query: &str, times: Times) -> Result<Option<QueryValue>, String> {
    match (engine.query(query, times), &eval.fail) {
        (Ok(_), Some(_)) => Err("expected an error, but got none".to_owned()),
        (Err(e), None) => Err(format!("error evaluating the query: {e}")),
        (Err(e), Some(expected)) if expected.matches(&e) => Ok(None),
        (Err(e), Some(expected)) => Err(format!("expected the error {expected}, but got: {e}")),
        (Ok(answer), None) => {
            eval.warnings.check("warning", &answer.warnings)?;
            eval.infos.check("info", &answer.infos)?;
            Ok(Some(answer.value))
        }
    }
}

/// A text that must occur: word for word, or by a regular expression that matches a part of it.
#[derive(Clone, Debug)]
enum Pattern {
    Any,
    Text(String),
    Regex(Box<Matcher>),
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(t) => t == text,
            Self::Regex(m) => m.matches(text),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("(any)"),
            Self::Text(t) => write!(f, "{t:?}"),
            Self::Regex(m) => write!(f, "matching {:?}", m.value),
        }
    }
}

/// What is expected of the annotations of one kind.
#[derive(Clone, Debug, Default)]
struct Annotated {
    /// Each must be found, and each found one must match one of them; no say if empty.
    wanted: Vec<Pattern>,
    /// There must be none.
    none: bool,
}

impl Annotated {
    fn check(&self, kind: &str, found: &[String]) -> Result<(), String> {
        if self.none && !found.is_empty() {
            return Err(format!("unexpected {kind}: {found:?}"));
        }
        if self.wanted.is_empty() {
            return Ok(());
        }
        if let Some(missing) = self.wanted.iter().find(|p| !found.iter().any(|f| p.matches(f))) {
            return Err(format!("expected the {kind} {missing}, but found {found:?}"));
        }
        match found.iter().find(|f| !self.wanted.iter().any(|p| p.matches(f))) {
            Some(surplus) => Err(format!("unexpected {kind}: {surplus:?}")),
            None => Ok(()),
        }
    }
}

impl Eval {
    fn expected(&self, labels: &Labels) -> Option<&Expected> {
        self.series.get(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Series, VectorSample};
    use std::cell::RefCell;

    /// Answers every query with the same answer, and remembers what it was asked and given.
    struct Parrot {
        answer: Result<Answer, String>,
        asked: RefCell<Vec<String>>,
        samples: Vec<(String, i64, i64, Value)>,
    }

    impl Engine for Parrot {
        fn clear(&mut self) {
            self.samples.clear();
        }

        fn append(&mut self, labels: &Labels, t: i64, start: i64, value: Value) {
            self.samples.push((labels.to_string(), t, start, value));
        }

        fn query(&self, text: &str, times: Times) -> Result<Answer, String> {
            self.asked.borrow_mut().push(format!("{text} {times:?}"));
            let mut answer = self.answer.clone()?;
            if let (QueryValue::Vector(v), Times::Range { start, step, .. }) = (&answer.value, times) {
                let series = |s: &VectorSample| match &s.value {
                    Value::Float(f) => {
                        Series { labels: s.labels.clone(), floats: vec![(start + step, *f)], histograms: vec![] }
                    }
                    Value::Histogram(h) => {
                        Series { labels: s.labels.clone(), floats: vec![], histograms: vec![(start + step, h.clone())] }
                    }
                };
                answer.value = QueryValue::Matrix(v.iter().map(series).collect::<Vec<_>>().into());
            }
            Ok(answer)
        }
    }

    fn vector(samples: &[(&str, f64)]) -> Answer {
        let sample = |(labels, v): &(&str, f64)| VectorSample {
            labels: crate::parse::parse_metric(labels).unwrap(),
            t: 0,
            value: Value::Float(*v),
        };
        Answer {
            value: QueryValue::Vector(samples.iter().map(sample).collect()),
            warnings: Vec::new(),
            infos: Vec::new(),
        }
    }

    fn parrot(answer: Result<Answer, String>) -> Parrot {
        Parrot { answer, asked: RefCell::default(), samples: Vec::new() }
    }

    fn failures(script: &str, answer: Result<Answer, String>) -> Vec<String> {
        run(script, &mut parrot(answer)).failed.into_iter().map(|f| f.message).collect()
    }

    #[test]
    fn loads_samples_with_start_times_and_reset_hints() {
        let mut engine = parrot(Ok(vector(&[])));
        let report = run(
            "# comment\nload 30s\n  a@st -5s _ -10s\n  a 1 _ 2\n  b{x=\"y\"} {{count:1}}+{{count:1}}x1 {{}} {{counter_reset_hint:gauge}}\n\n",
            &mut engine,
        );
        assert_eq!(report, Report::default());
        let hints: Vec<String> = engine
            .samples
            .iter()
            .map(|(labels, t, start, value)| match value {
                Value::Float(v) => format!("{labels} {t} {start} {v}"),
                Value::Histogram(h) => format!("{labels} {t} {start} {:?} {}", h.reset_hint, h.count),
            })
            .collect();
        assert_eq!(
            hints,
            [
                r#"{__name__="a"} 0 -5000 1"#,
                r#"{__name__="a"} 60000 50000 2"#,
                r#"{__name__="b", x="y"} 0 0 Unknown 1"#,
                r#"{__name__="b", x="y"} 30000 0 NotReset 2"#,
                r#"{__name__="b", x="y"} 60000 0 Unknown 0"#,
                r#"{__name__="b", x="y"} 90000 0 Gauge 0"#,
            ]
        );
    }

    #[test]
    fn builds_custom_buckets_from_classic_ones() {
        let mut engine = parrot(Ok(vector(&[])));
        let script = "load_with_nhcb 1m\n h_bucket{le=\"1\"} 2\n h_bucket{le=\"+Inf\"} 5\n h_bucket{le=\"x\"} 9\n h_sum 7\n h_count 5\n";
        assert_eq!(run(script, &mut engine).failed, []);
        let built: Vec<_> = engine.samples.iter().filter(|(l, ..)| l == r#"{__name__="h"}"#).collect();
        let [(_, 0, 0, Value::Histogram(h))] = built.as_slice() else { panic!("{built:?}") };
        assert!(h.has_custom_buckets());
        assert_eq!((h.count, h.sum, &h.custom_values, &h.positive_buckets), (5.0, 7.0, &vec![1.0], &vec![2.0, 3.0]));
        let mut engine = parrot(Ok(vector(&[])));
        let bad = "load_with_nhcb 1m\n h_bucket{le=\"1\"} 2\n h_bucket{le=\"2\"} 1\n";
        assert!(run(bad, &mut engine).failed[0].message.contains("not cumulative"));
    }

    #[test]
    fn instant_queries_are_repeated_pinned_and_in_a_range() {
        let mut engine = parrot(Ok(vector(&[("a", 1.0)])));
        let report = run("eval instant at 50s a\n  a 1\n", &mut engine);
        assert_eq!((report.passed, report.failed), (1, vec![]));
        let asked = engine.asked.borrow();
        assert_eq!(asked.len(), 12);
        assert_eq!(asked[0], "a Instant(50000)");
        assert_eq!(asked[1], "a Range { start: -10000, end: 110000, step: 60000 }");
        assert_eq!(asked[2], "a @ 50.000 Instant(-500000)");
        drop(asked);
        let mut engine = parrot(Ok(vector(&[("a", 1.0)])));
        run("eval instant at 50s a + time()\n  a 1\n", &mut engine);
        assert_eq!(engine.asked.borrow().len(), 2, "time() depends on when it is asked");
    }

    #[test]
    fn differences_are_found() {
        let one = || Ok(vector(&[("a", 1.0)]));
        assert!(failures("eval instant at 1m a\n a 1.0000001", one()).is_empty());
        assert!(failures("eval instant at 1m a\n a 1.00001", one())[0].contains("expected"));
        assert!(failures("eval instant at 1m a\n a 1\n b 1", one())[0].contains("not found"));
        assert!(failures("eval instant at 1m a\n", one())[0].contains("unexpected series"));
        assert!(failures("eval instant at 1m a\n 1", one())[0].contains("scalar"));
        assert!(failures("eval instant at 1m a\n a {{}}", one())[0].contains("expected the histogram"));
        assert!(
            failures("eval instant at 1m a\n expect ordered\n b 2\n a 1", Ok(vector(&[("a", 1.0), ("b", 2.0)])))[0]
                .contains("position")
        );
        assert!(failures("eval instant at 1m 1 +\n", one())[0].contains("unexpected end of input"));
        assert!(failures("boo\n", one())[0].contains("invalid command"));
    }

    #[test]
    fn failures_and_annotations() {
        let error = || Err("it broke".to_owned());
        assert!(failures("eval instant at 1m a\n expect fail\n", error()).is_empty());
        assert!(failures("eval_fail instant at 1m a\n expected_fail_message it broke\n", error()).is_empty());
        assert!(failures("eval_fail instant at 1m a\n expected_fail_regexp b.*e\n", error()).is_empty());
        assert!(failures("eval instant at 1m a\n expect fail msg: it broke\n", error()).is_empty());
        assert!(failures("eval instant at 1m a\n expect fail msg: it broke!\n", error())[0].contains("it broke"));
        assert!(failures("eval instant at 1m a\n", error())[0].contains("it broke"));
        assert!(failures("eval instant at 1m a\n expect fail\n", Ok(vector(&[])))[0].contains("expected an error"));
        let warned = || Ok(Answer { warnings: vec!["w (1:1)".to_owned()], ..vector(&[]) });
        assert!(failures("eval_warn instant at 1m a\n", warned()).is_empty());
        assert!(failures("eval instant at 1m a\n expect warn msg: w (1:1)\n expect no_info\n", warned()).is_empty());
        assert!(failures("eval instant at 1m a\n expect warn regex: ^w\n", warned()).is_empty());
        assert!(failures("eval instant at 1m a\n expect no_warn\n", warned())[0].contains("unexpected warning"));
        assert!(failures("eval instant at 1m a\n expect info\n", warned())[0].contains("expected the info"));
        assert!(failures("eval instant at 1m a\n expect warn msg: x\n", warned())[0].contains("expected the warning"));
    }

    #[test]
    fn ranges_and_grids() {
        let matrix = |floats: Vec<(i64, f64)>| {
            let series = Series { labels: crate::parse::parse_metric("a").unwrap(), floats, histograms: vec![] };
            Ok(Answer { value: QueryValue::Matrix(vec![series].into()), ..vector(&[]) })
        };
        let script = "eval range from 0 to 2m step 1m a\n a 1 _ 3\n";
        assert!(failures(script, matrix(vec![(0, 1.0), (120_000, 3.0)])).is_empty());
        assert!(failures(script, matrix(vec![(0, 1.0), (60_000, 3.0)]))[0].contains("60000"));
        assert!(failures(script, matrix(vec![(0, 1.0)]))[0].contains("points"));
        let grid = "eval instant at 1m a[1m]\n expect range vector from 10s to 1m step 50s\n a 1 2\n";
        assert!(failures(grid, matrix(vec![(10_000, 1.0), (60_000, 2.0)])).is_empty());
        assert!(failures("eval instant at 1m a\n a 1 2\n", matrix(vec![]))[0].contains("multiple values"));
        let text = Ok(Answer { value: QueryValue::String(0, "x".to_owned()), ..vector(&[]) });
        assert!(failures("eval instant at 1m \"x\"\n expect string \"x\"\n", text.clone()).is_empty());
        assert!(failures("eval instant at 1m \"x\"\n expect string `y`\n", text)[0].contains("expected"));
        let scalar = Ok(Answer { value: QueryValue::Scalar(0, 2.0), ..vector(&[]) });
        assert!(failures("eval range from 0 to 1m step 1m 2\n 2\n", scalar).is_empty());
    }
}
