//! Test data: from series descriptions to samples, as Prometheus' storage would hand them back.

use super::Engine;
use super::histograms::{NativeBuilder, continues};
use crate::histogram::Accumulator;
use crate::parse::{SeriesItem, Sign};
use model::histogram::ResetHint;
use model::sample::Value;
use model::{FloatHistogram, Labels};
use std::collections::BTreeMap;
use std::sync::Arc;

/// More values than this in one series are a typing error.
const MAX_VALUES: u64 = 1_000_000;

/// A value of a series description; `None` is a gap.
pub(super) type Slot = Option<Wanted>;

/// A value, and whether its counter reset hint was written down.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) value: Value,
    pub(super) hint_set: bool,
}

/// The values of a series description, one for each time.
pub(super) fn expand(items: &[SeriesItem]) -> Result<Vec<Slot>, String> {
    let total = items.iter().map(SeriesItem::count).fold(0, u64::saturating_add);
    if total > MAX_VALUES {
        return Err(format!("{total} values in one series, at most {MAX_VALUES} are allowed"));
    }
    let mut values = Vec::new();
    for item in items {
        match item {
            SeriesItem::Gap { count } => values.extend((0..*count).map(|_| None)),
            SeriesItem::Floats { first, step, count } => {
                let mut v = *first;
                for _ in 0..*count {
                    values.push(Some(Wanted { value: Value::Float(v), hint_set: false }));
                    if *count > 1 {
                        v += step;
                    }
                }
            }
            SeriesItem::Histograms { first, step, count, hint_set } => {
                let mut h = Arc::new(first.as_ref().clone());
                for i in 0..*count {
                    if let (Some((sign, by)), true) = (step, i > 0) {
                        h = Arc::new(advanced(&h, *sign, by)?);
                    }
                    values.push(Some(Wanted { value: Value::Histogram(h.clone()), hint_set: *hint_set }));
                }
            }
        }
    }
    Ok(values)
}

fn advanced(h: &FloatHistogram, sign: Sign, by: &FloatHistogram) -> Result<FloatHistogram, String> {
    if h.schema > by.schema {
        return Err(format!("error combining histograms: cannot merge from schema {} to {}", by.schema, h.schema));
    }
    let mut sum = Accumulator::new(h);
    let done = match sign {
        Sign::Plus => sum.add(by),
        Sign::Minus => sum.sub(by),
    };
    match done {
        Ok(_) => Ok(sum.finish()),
        Err(_) => Err("error combining histograms with exponential and custom buckets".to_owned()),
    }
}

/// The data of one `load` command.
pub(super) struct Load {
    /// The line of the script, from 1.
    pub(super) line: usize,
    step_ms: i64,
    classic_to_custom: bool,
    series: BTreeMap<Labels, Vec<Stored>>,
}

/// A sample to store.
struct Stored {
    t: i64,
    start: i64,
    value: Value,
}

impl Load {
    pub(super) fn new(line: usize, step_ms: i64, classic_to_custom: bool) -> Self {
        Self { line, step_ms, classic_to_custom, series: BTreeMap::new() }
    }

    /// Adds a series. `starts` are start times relative to the samples; empty if there are none.
    pub(super) fn add(&mut self, labels: Labels, items: &[SeriesItem], starts: &[Option<i64>]) -> Result<(), String> {
        let values = expand(items)?;
        if !starts.is_empty() && starts.len() != values.len() {
            return Err(format!("{} start times for {} values of {labels}", starts.len(), values.len()));
        }
        let mut samples: Vec<Stored> = Vec::new();
        for (i, wanted) in values.into_iter().enumerate() {
            let t = self.step_ms * i as i64;
            let Some(wanted) = wanted else { continue };
            let start = starts.get(i).copied().flatten().map_or(0, |offset| t + offset);
            samples.push(Stored { t, start, value: wanted.value });
        }
        self.series.insert(labels, samples);
        Ok(())
    }

    /// Hands everything to the engine.
    pub(super) fn append(&self, engine: &mut dyn Engine) -> Result<(), String> {
        for (labels, samples) in &self.series {
            append_series(engine, labels, samples);
        }
        if self.classic_to_custom {
            for (labels, samples) in self.custom_histograms()? {
                append_series(engine, &labels, &samples);
            }
        }
        Ok(())
    }

    /// The classic histograms as native ones with custom bounds.
    fn custom_histograms(&self) -> Result<BTreeMap<Labels, Vec<Stored>>, String> {
        let mut builders: BTreeMap<Labels, BTreeMap<i64, NativeBuilder>> = BTreeMap::new();
        for (labels, samples) in &self.series {
            let name = labels.metric_name().unwrap_or("");
            let Some((base, part)) =
                ["_bucket", "_sum", "_count"].iter().find_map(|part| Some((name.strip_suffix(part)?, *part)))
            else {
                continue;
            };
            let bound = labels.value("le").parse::<f64>().ok().filter(|b| !b.is_nan());
            if part == "_bucket" && bound.is_none() {
                continue;
            }
            let builder = builders.entry(labels.without(&["le"]).with("__name__", base)).or_default();
            for sample in samples {
                let Value::Float(v) = sample.value else { continue };
                let at = builder.entry(sample.t).or_default();
                match (part, bound) {
                    ("_bucket", Some(bound)) => at.bucket(bound, v),
                    ("_sum", _) => at.sum(v),
                    _ => at.count(v),
                }
            }
        }
        let build = |(t, builder): (i64, NativeBuilder)| {
            Ok(Stored { t, start: 0, value: Value::Histogram(Arc::new(builder.build()?)) })
        };
        builders
            .into_iter()
            .map(|(labels, by_time)| Ok((labels, by_time.into_iter().map(build).collect::<Result<_, String>>()?)))
            .collect()
    }
}

/// Appends a series, with the reset hints that reading from a block gives: gauge stays gauge, a histogram that continues
/// its predecessor is "not a reset", any other is unknown.
fn append_series(engine: &mut dyn Engine, labels: &Labels, samples: &[Stored]) {
    let mut previous: Option<&FloatHistogram> = None;
    for sample in samples {
        let value = match &sample.value {
            Value::Float(v) => {
                previous = None;
                Value::Float(*v)
            }
            Value::Histogram(h) => {
                let hint = match h.reset_hint {
                    ResetHint::Gauge => ResetHint::Gauge,
                    _ if previous.is_some_and(|p| continues(h, p)) => ResetHint::NotReset,
                    _ => ResetHint::Unknown,
                };
                previous = Some(h);
                let mut stored = h.as_ref().clone();
                stored.reset_hint = hint;
                Value::Histogram(Arc::new(stored))
            }
        };
        engine.append(labels, sample.t, sample.start, value);
    }
}
