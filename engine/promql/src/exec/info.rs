//! `info()`: adds labels of info metrics to the series they describe.

use super::QueryError;
use super::budget::Holder;
use super::column::{Column, SeriesColumn};
use super::eval::{Exec, Sink, unexpected};
use super::merge::Merged;
use super::select::{Form, Take, instant_column};
use crate::plan::{Grid, Kind, Node, info_names};
use hashbrown::HashMap;
use model::labels::{LabelsBuilder, METRIC_NAME};
use model::{Labels, Matcher};

/// The labels by which an info series says what it describes.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// An info series; its column holds the times of its samples.
struct Info {
    labels: Labels,
    times: Column,
}

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_info(
        &self,
        arg: &Node,
        selector: &Node,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let Kind::Instant(wanted) = &selector.kind else {
            return Err(unexpected("info() without a selector"));
        };
        let (names, data): (Vec<Matcher>, Vec<Matcher>) =
            wanted.matchers.iter().cloned().partition(|m| m.name == METRIC_NAME);
        let names = info_names(&names)?;
        let held = self.collect(arg, grid, Holder::Input)?;
        let is_info = |l: &Labels| names.iter().all(|m| m.matches(l.value(METRIC_NAME)));
        let wants: Vec<&Labels> = held.series.iter().map(|s| &s.labels).filter(|l| !is_info(l)).collect();
        let identified = |l: &Labels| {
            IDENTIFYING.iter().all(|id| {
                let mut values = wants.iter().map(|w| w.value(id)).filter(|v| !v.is_empty()).peekable();
                values.peek().is_none() || values.any(|v| v == l.value(id))
            })
        };
        let mut infos: Vec<Info> = Vec::new();
        if wants.iter().any(|w| IDENTIFYING.iter().any(|id| !w.value(id).is_empty())) {
            self.read(wanted, Form::WithStale, &mut |labels, samples| {
                if !identified(&labels) {
                    return Ok(());
                }
                let values = instant_column(samples, wanted, grid, self.options.lookback_ms, Take::Value);
                if values.has_histograms() {
                    return Err(QueryError::execution(format!(
                        "this should be an info metric, with float samples: {labels}"
                    )));
                }
                let times = instant_column(samples, wanted, grid, self.options.lookback_ms, Take::Time);
                if !times.is_empty() {
                    self.tally_values(&times, grid);
                    infos.push(Info { labels, times });
                }
                Ok(())
            })?;
        }
        // Info series by what they describe: (metric, identifying labels).
        let mut by_identity: HashMap<Labels, Vec<usize>> = HashMap::new();
        let mut metrics: Vec<&str> = infos.iter().filter_map(|i| i.labels.get(METRIC_NAME)).collect();
        metrics.sort_unstable();
        metrics.dedup();
        for (i, info) in infos.iter().enumerate() {
            by_identity.entry(identity(&info.labels, info.labels.value(METRIC_NAME))).or_default().push(i);
        }
        let mut merged = Merged::default();
        let mut newest: HashMap<&Labels, Option<usize>> = HashMap::new();
        for step in 0..grid.len {
            self.stop.check()?;
            let base: Vec<&SeriesColumn> = held.series.iter().filter(|s| s.column.point(step).is_some()).collect();
            if base.is_empty() {
                continue;
            }
            newest.clear();
            for (identity, members) in &by_identity {
                newest.insert(identity, newest_at(&infos, members, step)?);
            }
            for series in base {
                let mut labels = Some(series.labels.clone());
                if !is_info(&series.labels) {
                    let found: Vec<&Info> = metrics
                        .iter()
                        .filter_map(|m| newest.get(&identity(&series.labels, m)).copied().flatten())
                        .filter_map(|i| infos.get(i))
                        .collect();
                    labels = enrich(&series.labels, &found, &data)?;
                }
                if let (Some(labels), Some(point)) = (labels, series.column.point(step)) {
                    let slot = merged.slot(&labels, false, grid.len);
                    merged.put(slot, step, point)?;
                }
            }
        }
        drop(held);
        merged.finish().try_for_each(sink)
    }
}

fn identity(labels: &Labels, metric: &str) -> Labels {
    labels.keep(&IDENTIFYING).with(METRIC_NAME, metric)
}

/// The member with the newest sample at a step; two of one age contradict each other.
fn newest_at(infos: &[Info], members: &[usize], step: usize) -> Result<Option<usize>, QueryError> {
    let mut best: Option<(usize, f64)> = None;
    for i in members {
        let Some(info) = infos.get(*i) else { continue };
        let Some(at) = info.times.float(step) else { continue };
        match best {
            Some((b, t)) if t == at => {
                let existing = infos.get(b).map_or_else(Labels::empty, |i| i.labels.clone());
                let ms = (at * 1000.0).round();
                return Err(QueryError::execution(format!(
                    "found duplicate series for info metric: existing {existing} @ {ms}, new {} @ {ms}",
                    info.labels
                )));
            }
            Some((_, t)) if t > at => {}
            _ => best = Some((*i, at)),
        }
    }
    Ok(best.map(|(i, _)| i))
}

/// The labels with those of the info series; `None` if the series must go, since a wanted label can't be had.
fn enrich(labels: &Labels, found: &[&Info], data: &[Matcher]) -> Result<Option<Labels>, QueryError> {
    if found.is_empty() {
        return Ok(data.iter().all(Matcher::matches_empty).then(|| labels.clone()));
    }
    let mut added: Vec<(&str, &str)> = Vec::new();
    for info in found {
        for (name, value) in &info.labels {
            if name == METRIC_NAME || (!data.is_empty() && !data.iter().any(|m| m.name == name)) {
                continue;
            }
            match added.iter().find(|(n, _)| *n == name) {
                Some((_, v)) if *v != value => {
                    return Err(QueryError::execution(format!("conflicting label: {name}")));
                }
                Some(_) => {}
                None if labels.get(name).is_some() => {}
                None => added.push((name, value)),
            }
        }
    }
    let mut b = LabelsBuilder::from(labels);
    for (name, value) in added {
        b.set(name, value);
    }
    Ok(Some(b.build()))
}
