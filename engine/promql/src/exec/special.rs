//! Functions that look at more than values: times of samples, absence, order, labels.

use super::QueryError;
use super::budget::Holder;
use super::column::{Bits, Column, SeriesColumn};
use super::eval::{Exec, Sink, lossy_text, text};
use super::select::{Form, Take, instant_column};
use crate::functions::label::{Replace, absent_labels, check_join, invalid_name, join};
use crate::functions::math::nan_first;
use crate::functions::sort::natural;
use crate::parse::FunctionId;
use crate::plan::{Grid, Kind, Node};
use model::Labels;
use model::labels::METRIC_NAME;
use std::borrow::Cow;
use std::cmp::Ordering;

impl Exec<'_> {
    /// `timestamp` and `start_timestamp`: of a bare selector the sample's own time, otherwise the evaluation time.
    #[inline(never)]
    pub(super) fn stream_timestamp(
        &self,
        arg: &Node,
        start: bool,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let Kind::Instant(selector) = &arg.kind else {
            if start {
                // Only a selector's samples have start times; the argument is evaluated for its errors.
                return self.stream(arg, grid, &mut |_| Ok(()));
            }
            return self.renamed(arg, grid, sink, &mut |column| {
                column.present = column.occupied();
                column.histograms = None;
                for (i, v) in column.floats.iter_mut().enumerate() {
                    *v = grid.time(i) as f64 / 1000.0;
                }
            });
        };
        if start && !self.options.start_timestamps {
            return Ok(());
        }
        // As in Prometheus `@` makes this function forget the offset.
        let mut selector = selector.clone();
        if selector.at.is_some() {
            selector.offset = 0;
        }
        let take = if start { Take::Start } else { Take::Time };
        let mut merged = self.gather();
        self.read(&selector, Form::WithStale, &mut |labels, samples| {
            let column = instant_column(samples, &selector, grid, self.options.lookback_ms, take);
            if column.is_empty() {
                return Ok(());
            }
            self.tally_values(&column, grid);
            let series = self.without_name(SeriesColumn { labels, drop_name: false, column });
            if arg.injective { sink(series) } else { merged.add(series) }
        })?;
        merged.pass(sink)
    }

    /// `absent`: 1 where there is nothing.
    #[inline(never)]
    pub(super) fn stream_absent(&self, arg: &Node, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let mut missing = Bits::all(grid.len);
        self.stream(arg, grid, &mut |series| {
            missing.and_not(&series.column.occupied());
            Ok(())
        })?;
        if !missing.any() {
            return Ok(());
        }
        let labels = match &arg.kind {
            Kind::Instant(s) => absent_labels(&s.matchers),
            _ => Labels::empty(),
        };
        let mut column = Column::constant(grid.len, 1.0);
        column.present = missing;
        sink(SeriesColumn { labels, drop_name: false, column })
    }

    /// `sort` and its variants, which matter in instant queries only.
    #[inline(never)]
    pub(super) fn stream_sorted(
        &self,
        node: &Node,
        id: FunctionId,
        arg: &Node,
        labels: &[Node],
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let by_value = matches!(id, FunctionId::Sort | FunctionId::SortDesc);
        let descending = matches!(id, FunctionId::SortDesc | FunctionId::SortByLabelDesc);
        let names: Vec<&str> = labels.iter().map(text).collect::<Result<_, _>>()?;
        let mut held = self.collect(arg, grid, Holder::Input)?;
        if grid.spread {
            self.notes.borrow_mut().sort_in_range_query(node.span);
        }
        let mut all = held.take();
        if by_value {
            for series in &mut all {
                series.column.histograms = None;
            }
            all.retain(|s| !s.column.is_empty());
            if grid.is_single() {
                let value = |s: &SeriesColumn| s.column.float(0).unwrap_or(f64::NAN);
                all.sort_by(|a, b| {
                    let (a, b) = (value(a), value(b));
                    // NaN stays at the end in both directions.
                    match (a.is_nan(), b.is_nan()) {
                        (false, false) if descending => nan_first(b, a),
                        (false, false) => nan_first(a, b),
                        (a, b) => a.cmp(&b),
                    }
                });
            }
        } else if grid.is_single() {
            all.sort_by(|a, b| {
                let by_label = names.iter().map(|n| natural(a.labels.value(n), b.labels.value(n)));
                let order = by_label.fold(Ordering::Equal, Ordering::then).then_with(|| a.labels.cmp(&b.labels));
                if descending { order.reverse() } else { order }
            });
        }
        all.into_iter().try_for_each(sink)
    }

    /// `label_replace` and `label_join`.
    #[inline(never)]
    pub(super) fn stream_relabelled(
        &self,
        id: FunctionId,
        arg: &Node,
        texts: &[Node],
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        // Bytes that are no text can be written, but name no label.
        let is_text = |i: usize| !matches!(texts.get(i).map(|t| &t.kind), Some(Kind::Bytes(_)));
        let read: Vec<Cow<'_, str>> = texts.iter().map(lossy_text).collect::<Result<_, _>>()?;
        let read: Vec<&str> = read.iter().map(AsRef::as_ref).collect();
        let (Some(target), Some(second)) = (read.first().copied(), read.get(1).copied()) else {
            return Err(super::eval::unexpected("a label function without labels"));
        };
        let replace = match (id, read.as_slice()) {
            (FunctionId::LabelReplace, [_, _, source, regex]) => {
                let replace = Replace::new(target, second, source, regex)?;
                if !is_text(0) {
                    return Err(invalid_name("destination", "label_replace", target));
                }
                Some(replace)
            }
            _ => None,
        };
        if replace.is_none()
            && let Some(i) = (2..read.len()).chain([0]).find(|i| !is_text(*i))
        {
            let role = if i == 0 { "destination" } else { "source" };
            return Err(invalid_name(role, "label_join", read.get(i).copied().unwrap_or_default()));
        }
        let sources = read.get(2..).unwrap_or_default();
        if replace.is_none() {
            check_join(target, sources)?;
        }
        let mut merged = self.gather();
        self.stream(arg, grid, &mut |mut series| {
            let labels = match &replace {
                Some(r) => r.apply(&series.labels)?,
                None => Some(join(&series.labels, target, second, sources)?),
            };
            if let Some(labels) = labels {
                series.labels = labels;
                if target == METRIC_NAME {
                    // Whoever writes a name wants it.
                    series.drop_name = false;
                }
            }
            merged.add(series)
        })?;
        merged.pass(sink)
    }
}
