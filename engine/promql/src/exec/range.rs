//! Functions over range vectors: each series is decoded once, its windows slide over the decoded columns.

use super::QueryError;
use super::budget::Holder;
use super::column::{Bits, Column, ScalarColumn, SeriesColumn};
use super::dense;
use super::eval::{Exec, Sink, has_type_or_unit, unexpected};
use super::rows;
use super::select::Form;
use super::source::Samples;
use crate::functions::extended::Extended;
use crate::functions::label::absent_labels;
use crate::functions::over_time as over;
use crate::functions::rate::{self, extrapolated};
use crate::functions::window::{Falls, Notes, Value, Window};
use crate::parse::{FunctionId, RangeMode, Span};
use crate::plan::{Call, Grid, Kind, Node, RangeArg};
use model::Labels;
use model::labels::METRIC_NAME;

const COUNTER_SUFFIXES: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_range_call(
        &self,
        node: &Node,
        call: &Call,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut range = None;
        let mut params = Vec::new();
        for arg in &call.args {
            match &arg.kind {
                Kind::Range(r) => range = Some((r, arg)),
                _ => params.push((self.scalar(arg, grid)?, arg.span)),
            }
        }
        let (range, arg) = range.ok_or_else(|| unexpected("a range function without a range"))?;
        check_mode(call.func.id, range)?;
        if call.func.id == FunctionId::AbsentOverTime {
            return self.stream_absent_over_time(range, arg, grid, sink);
        }
        let id = call.func.id;
        let keeps_name = matches!(id, FunctionId::LastOverTime | FunctionId::FirstOverTime);
        let delayed = self.options.delayed_name_removal;
        // As in Prometheus notes are put on the first argument, and a subquery there has lost its position.
        let span = match call.args.first() {
            Some(Node { kind: Kind::Range(RangeArg::Subquery(_)), .. }) => Span::default(),
            first => first.map_or(node.span, |a| a.span),
        };
        let mut buffer = Vec::new();
        let mut falls = Falls::default();
        let counts = matches!(id, FunctionId::Rate | FunctionId::Increase) && range.mode() == RangeMode::Plain;
        let form = if counts { Form::Rows } else { Form::Plain };
        self.read_range(range, grid, form, &mut |head, samples| {
            if counts {
                falls.find(&samples.floats);
            }
            let usual = match id {
                FunctionId::MaxOverTime => dense::extremes::<true>(samples, range, grid),
                FunctionId::MinOverTime => dense::extremes::<false>(samples, range, grid),
                _ => rate_kind(id).and_then(|kind| dense::rates(samples, range, grid, kind, &falls)),
            };
            let usual = match usual {
                None => self.rates_of_rows(id, range, grid, samples)?,
                found => found,
            };
            let done = usual.is_some();
            let mut column = usual.unwrap_or_else(|| Column::empty(grid.len));
            if !call.rows {
                column.settle();
            }
            if let Some(kind) = extended_kind(id) {
                extended_column(range, grid, samples, kind, &mut column)?;
            } else if !done {
                let mut notes = self.notes.borrow_mut();
                let mut notes = Notes::new(&mut notes, &head.labels, span);
                self.each_window(range, grid, samples, &falls, |i, w| {
                    let value = match id {
                        FunctionId::QuantileOverTime => {
                            let (q, span) = params.first().ok_or_else(|| unexpected("no quantile"))?;
                            over::quantile_of(w, q.at(i), *span, &mut buffer, &mut notes)
                        }
                        FunctionId::PredictLinear => {
                            let (ahead, _) = params.first().ok_or_else(|| unexpected("no duration"))?;
                            over::predict(w, ahead.at(i), &mut notes)
                        }
                        FunctionId::DoubleExponentialSmoothing => {
                            let (smoothing, trend) = factors(&params, i)?;
                            over::smooth(w, smoothing, trend, &mut notes)
                        }
                        FunctionId::MadOverTime => over::median_deviation(w, &mut buffer, &mut notes),
                        _ => plain(id, w, &mut notes),
                    };
                    match value {
                        Some(Value::Float(v)) => column.set(i, v),
                        Some(Value::Histogram(h)) => column.set_histogram(i, h),
                        None => {}
                    }
                    Ok(())
                })?;
            }
            if column.is_empty() {
                return Ok(());
            }
            if matches!(id, FunctionId::Rate | FunctionId::Increase) && column.present.any() {
                self.note_non_counter(&head.labels, span);
            }
            let check = !delayed && (!arg.injective || has_type_or_unit(&head.labels));
            let mut series = SeriesColumn { labels: head.labels, drop_name: head.drop_name, column };
            if !keeps_name || series.drop_name {
                series = self.without_name(series);
            }
            if check {
                self.check_distinct(node.id, &series.labels)?;
            }
            sink(series)
        })
    }

    /// Of histograms that come as rows; where that can't be done they become histograms.
    fn rates_of_rows(
        &self,
        id: FunctionId,
        range: &RangeArg,
        grid: &Grid,
        samples: &mut Samples,
    ) -> Result<Option<Column>, QueryError> {
        if samples.table.is_empty() {
            return Ok(None);
        }
        self.budget.foresee(Holder::Samples, rows::expected(&samples.table, grid))?;
        let found = rate_kind(id).and_then(|kind| rows::rates(&samples.table, range, grid, kind));
        Ok(match found {
            Some(rates) => {
                let mut column = Column::empty(grid.len);
                column.rows = rates.map(Box::new);
                Some(column)
            }
            None => {
                samples.settle();
                None
            }
        })
    }

    /// A rate of something that does not look like a counter.
    fn note_non_counter(&self, labels: &Labels, span: Span) {
        let Some(name) = labels.get(METRIC_NAME).filter(|n| !n.is_empty()) else {
            return;
        };
        if self.options.type_and_unit_labels {
            let kind = labels.value("__type__");
            if kind != "counter" && kind != "histogram" {
                self.notes.borrow_mut().possible_non_counter_type(name, kind, span);
            }
        } else if !COUNTER_SUFFIXES.iter().any(|s| name.ends_with(s)) {
            self.notes.borrow_mut().possible_non_counter(name, span);
        }
    }

    fn stream_absent_over_time(
        &self,
        range: &RangeArg,
        arg: &Node,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut missing = Bits::all(grid.len);
        self.read_range(range, grid, Form::Plain, &mut |_, samples| {
            self.each_window(range, grid, samples, &Falls::default(), |i, _| {
                missing.clear(i);
                Ok(())
            })
        })?;
        if !missing.any() {
            return Ok(());
        }
        let labels = match &arg.kind {
            Kind::Range(RangeArg::Selector { selector, .. }) => absent_labels(&selector.matchers),
            _ => Labels::empty(),
        };
        let mut column = Column::constant(grid.len, 1.0);
        column.present = missing;
        sink(SeriesColumn { labels, drop_name: true, column })
    }
}

/// The factors of `double_exponential_smoothing`.
fn factors(params: &[(ScalarColumn, Span)], i: usize) -> Result<(f64, f64), QueryError> {
    let [(smoothing, _), (trend, _)] = params else {
        return Err(unexpected("two factors"));
    };
    let (smoothing, trend) = (smoothing.at(i), trend.at(i));
    for (name, short, v) in [("smoothing", "sf", smoothing), ("trend", "tf", trend)] {
        if v <= 0.0 || v >= 1.0 {
            return Err(QueryError::execution(format!(
                "invalid {name} factor. Expected: 0 < {short} < 1, got: {v:.6}"
            )));
        }
    }
    Ok((smoothing, trend))
}

/// Which of the family `rate`, `increase` and `delta` are.
fn rate_kind(id: FunctionId) -> Option<rate::Kind> {
    let kind = |counter, per_second| Some(rate::Kind { counter, per_second });
    match id {
        FunctionId::Rate => kind(true, true),
        FunctionId::Increase => kind(true, false),
        FunctionId::Delta => kind(false, false),
        _ => None,
    }
}

/// Which of the family `xrate`, `xincrease` and `xdelta` are.
fn extended_kind(id: FunctionId) -> Option<rate::Kind> {
    let kind = |counter, per_second| Some(rate::Kind { counter, per_second });
    match id {
        FunctionId::Xrate => kind(true, true),
        FunctionId::Xincrease => kind(true, false),
        FunctionId::Xdelta => kind(false, false),
        _ => None,
    }
}

fn extended_column(
    range: &RangeArg,
    grid: &Grid,
    samples: &Samples,
    kind: rate::Kind,
    column: &mut Column,
) -> Result<(), QueryError> {
    if !samples.histograms.is_empty() {
        // Thanos's words.
        return Err(QueryError::execution("native histograms are not supported in extended range functions"));
    }
    let mut windows = Extended::new(samples, kind, range.range());
    for i in 0..grid.len {
        if let Some(v) = windows.at(range.reference(grid.time(i))) {
            column.set(i, v);
        }
    }
    Ok(())
}

/// The functions without parameters.
fn plain(id: FunctionId, w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    match id {
        FunctionId::Rate | FunctionId::Increase | FunctionId::Delta => extrapolated(w, rate_kind(id)?, notes),
        FunctionId::Irate => rate::instant(w, true, notes),
        FunctionId::Idelta => rate::instant(w, false, notes),
        FunctionId::SumOverTime => over::sum(w, notes),
        FunctionId::AvgOverTime => over::avg(w, notes),
        FunctionId::MinOverTime => over::min(w, notes),
        FunctionId::MaxOverTime => over::max(w, notes),
        FunctionId::TsOfMinOverTime => over::ts_of_min(w, notes),
        FunctionId::TsOfMaxOverTime => over::ts_of_max(w, notes),
        FunctionId::TsOfFirstOverTime => over::ts_of_first(w),
        FunctionId::TsOfLastOverTime => over::ts_of_last(w),
        FunctionId::CountOverTime => Some(over::count(w)),
        FunctionId::FirstOverTime => over::first(w),
        FunctionId::LastOverTime => over::last(w),
        FunctionId::PresentOverTime => Some(Value::Float(1.0)),
        FunctionId::StdvarOverTime => over::variance(w, notes).map(Value::Float),
        FunctionId::StddevOverTime => over::variance(w, notes).map(|v| Value::Float(v.sqrt())),
        FunctionId::Deriv => over::deriv(w, notes),
        FunctionId::Changes => over::changes(w),
        FunctionId::Resets => over::resets(w),
        _ => None,
    }
}

/// `anchored` and `smoothed` give windows that not every function understands.
fn check_mode(id: FunctionId, range: &RangeArg) -> Result<(), QueryError> {
    const SMOOTHED: &[FunctionId] = &[FunctionId::Delta, FunctionId::Increase, FunctionId::Rate];
    const ANCHORED: &[FunctionId] =
        &[FunctionId::Changes, FunctionId::Delta, FunctionId::Increase, FunctionId::Rate, FunctionId::Resets];
    let (mode, allowed) = match range.mode() {
        RangeMode::Plain => return Ok(()),
        RangeMode::Anchored => ("anchored", ANCHORED),
        RangeMode::Smoothed => ("smoothed", SMOOTHED),
    };
    if allowed.contains(&id) {
        return Ok(());
    }
    let name = |id: &FunctionId| crate::parse::functions::FUNCTIONS.iter().find(|f| f.id == *id).map_or("", |f| f.name);
    let list: Vec<&str> = allowed.iter().map(name).collect();
    Err(QueryError::execution(format!(
        "{mode} modifier can only be used with: {} - not with {}",
        list.join(", "),
        name(&id)
    )))
}

/// The floats of a window that is itself the answer; `anchored` and `smoothed` put values at both edges.
pub(super) fn raw_floats(w: &Window<'_>) -> Result<Vec<(i64, f64)>, QueryError> {
    let points = |from: usize, to: usize| {
        let times = w.times.get(from..to).unwrap_or_default().iter().copied();
        times.zip(w.floats.get(from..to).unwrap_or_default().iter().copied())
    };
    let mode = match w.mode {
        RangeMode::Plain => return Ok(points(0, w.floats.len()).collect()),
        RangeMode::Anchored => "anchored",
        RangeMode::Smoothed => "smoothed",
    };
    if !w.histograms.is_empty() {
        return Err(QueryError::execution(format!("{mode} modifier is not supported with histograms")));
    }
    let time = |i: usize| w.times.get(i).copied().unwrap_or(i64::MAX);
    let Some((first, last)) = rate::extended_bounds(time, w.floats.len(), w) else {
        return Ok(Vec::new());
    };
    let Some((left, right)) = rate::edges(w, first, last, false) else {
        return Ok(Vec::new());
    };
    let from = if time(first) <= w.start { first + 1 } else { first };
    let to = if time(last) >= w.end { last } else { last + 1 };
    let inner = points(from, to.max(from));
    Ok(std::iter::once((w.start, left)).chain(inner).chain(std::iter::once((w.end, right))).collect())
}
