//! Queriers behind this one are asked for their part of a query, and their answers looked at before they are believed.

use super::split::PART;
use super::{Asking, Push, Pushed, Slot};
use crate::query::buffers::Call;
use crate::query::eval::Settings;
use crate::query::fanout::{Fanout, Terms};
use crate::query::gather::method;
use crate::query::samples::Selected;
use crate::query::series::{Chunk, Series, Slot as Bytes};
use crate::query::store::Evaluates;
use crate::server::{RECEIVE_MAX, client};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use model::Labels;
use model::labels::METRIC_NAME;
use model::sample::{is_stale, stale_nan};
use promql::exec::Times;
use proto::prometheus::TimeSeries;
use proto::thanos::query_client::QueryClient;
use proto::thanos::{Precise, QueryRangeRequest, query_range_response};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tsdb::chunk::XorEncoder;

/// Of the time that a store may be silent, the part in which a querier must have answered: the rest is for asking it for series.
const PATIENCE: u32 = 3;
/// Series in one message.
const BATCH: i64 = 64;
/// Most samples in one chunk of what has come.
const CHUNK: usize = 1000;

/// An answer that is not used.
enum Refusal {
    /// The querier failed.
    Store(String),
    /// Its answer is not one that can be put together with others.
    Part(String),
}

/// The answers of one query on their way. Dropping it ends all calls.
pub(in crate::query) struct Coming(Vec<Mutex<JoinSet<Option<Selected>>>>);

impl Coming {
    /// Asks everybody.
    pub(in crate::query) fn begin(
        push: &Arc<Push>,
        pushed: &Arc<Pushed>,
        fanout: &Fanout,
        terms: &Terms,
        times: Times,
        settings: &Settings,
    ) -> Self {
        let ask = |at: usize| {
            let (push, pushed, fanout) = (Arc::clone(push), Arc::clone(pushed), fanout.clone());
            let calls = Calls { push, fanout, terms: terms.clone(), times, settings: settings.clone() };
            let mut task = JoinSet::new();
            task.spawn(async move { calls.slot(&pushed, at).await });
            Mutex::new(task)
        };
        Self((0..pushed.slots.len()).map(ask).collect())
    }

    /// The answers to one part, as series; nothing if they are refused. Can be taken once.
    pub(in crate::query) async fn take(&self, at: usize) -> Option<Selected> {
        let mut task = self.0.get(at)?.lock().await;
        task.join_next().await?.ok()?
    }
}

struct Calls {
    push: Arc<Push>,
    fanout: Fanout,
    terms: Terms,
    times: Times,
    settings: Settings,
}

impl Calls {
    /// The answers of all who are asked for a part.
    async fn slot(&self, pushed: &Pushed, at: usize) -> Option<Selected> {
        let slot = pushed.slots.get(at)?;
        let mut calls: FuturesUnordered<_> =
            slot.by.iter().enumerate().map(|(i, asking)| self.one(slot, i, asking)).collect();
        let mut all = Vec::new();
        while let Some((Asking { store, query, .. }, answer)) = calls.next().await {
            match answer {
                Ok(series) => all.extend(series),
                Err(refusal) => {
                    let (what, why) = match refusal {
                        Refusal::Store(why) => (store.name(), why),
                        Refusal::Part(why) => (query.clone(), why),
                    };
                    tracing::debug!(store = %store.name(), query, why, "series are asked for instead of an answer");
                    self.push.pause(what);
                    pushed.refused.store(true, Ordering::Relaxed);
                    return None;
                }
            }
        }
        all.sort_by(|a: &Series, b| a.labels.cmp(&b.labels));
        Some(Selected(Arc::new(all)))
    }

    async fn one<'s>(
        &self,
        slot: &Slot,
        number: usize,
        asking: &'s Asking,
    ) -> (&'s Asking, Result<Vec<Series>, Refusal>) {
        self.push.asked.inc();
        let counted = self.fanout.count(method("thanos.Query", "QueryRange"));
        let patience = self.fanout.deadlines(&self.terms, &asking.store).frame / PATIENCE;
        let call = self.answer(slot, number, asking, patience);
        let (code, answer) = match tokio::time::timeout(patience, call).await {
            Ok(answer) => (if answer.is_ok() { Code::Ok } else { Code::Aborted }, answer),
            Err(_) => (Code::DeadlineExceeded, Err(Refusal::Store(format!("no answer within {patience:?}")))),
        };
        counted.ended(code);
        (asking, answer)
    }

    async fn answer(
        &self,
        slot: &Slot,
        number: usize,
        asking: &Asking,
        patience: Duration,
    ) -> Result<Vec<Series>, Refusal> {
        let store = &asking.store;
        let memory = Call::needed(&self.terms.buffers);
        let body = self.request(asking, patience);
        let call = client::retrying(|| {
            let mut client = QueryClient::new(store.channel(&memory)).max_decoding_message_size(RECEIVE_MAX);
            let request = store.request(body.clone(), patience);
            async move { client.query_range(request).await }
        });
        let failed = |status: Status| match status.code() {
            // It does not read what we have written, or it is too much for it.
            Code::InvalidArgument | Code::ResourceExhausted => Refusal::Part(store.explain(&status)),
            _ => Refusal::Store(store.explain(&status)),
        };
        let mut stream = call.await.map_err(failed)?.into_inner();
        let grid = Grid::of(self.times);
        let sets = store.truth().info.map(|i| i.label_sets.clone()).unwrap_or_default();
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        loop {
            memory.need();
            let Some(message) = stream.message().await.map_err(failed)? else { return Ok(all) };
            let _held = memory.received();
            use query_range_response::Result as R;
            let found = match message.result {
                Some(R::Timeseries(series)) => vec![series],
                Some(R::TimeseriesBatch(batch)) => batch.series,
                Some(R::Stats(_)) | None => continue,
                // Something is missing, or to be told with the positions of our query.
                Some(R::Warnings(w)) if w.starts_with("PromQL ") => return Err(Refusal::Part(w)),
                Some(R::Warnings(w)) => return Err(Refusal::Store(w)),
            };
            for series in found {
                let labels = proto::labels::decode(&series.labels)
                    .map_err(|e| Refusal::Store(format!("it sent a bad series: {e}")))?;
                if !series.histograms.is_empty() {
                    return Err(Refusal::Part(format!("{labels} has histograms")));
                }
                if !slot.may_be(&labels, &sets) || !seen.insert(labels.clone()) {
                    return Err(Refusal::Store(format!("it sent {labels}, which can't be part of its answer")));
                }
                let chunks = grid.chunks(&series, number).map_err(|why| Refusal::Store(format!("{labels}: {why}")))?;
                let series = Series { labels: labels.with(PART, &number.to_string()), chunks };
                self.terms.budget.take(series.cost()).map_err(|e| Refusal::Part(e.0))?;
                all.push(series);
            }
        }
    }

    fn request(&self, Asking { store, query, advertised, .. }: &Asking, patience: Duration) -> QueryRangeRequest {
        let Grid { start, step, end, .. } = Grid::of(self.times);
        let seconds = |ms: i64| ms.div_euclid(1000);
        let settings = &self.settings;
        let like_us = matches!(store.truth().info.and_then(|i| i.evaluates.clone()), Some(Evaluates::Like(_)));
        QueryRangeRequest {
            query: query.clone(),
            start_time_seconds: seconds(start),
            end_time_seconds: seconds(end),
            interval_seconds: seconds(step).max(1),
            timeout_seconds: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX).max(1),
            max_resolution_seconds: seconds(settings.max_resolution_ms),
            replica_labels: settings.replica_labels.clone(),
            enable_dedup: !settings.replica_labels.is_empty(),
            // All of it, or none.
            enable_partial_response: false,
            lookback_delta_seconds: seconds(settings.lookback_ms),
            response_batch_size: BATCH,
            precise: like_us.then_some(Precise {
                start_ms: start,
                end_ms: end,
                step_ms: step,
                lookback_delta_ms: settings.lookback_ms,
                max_resolution_ms: settings.max_resolution_ms,
                advertised: *advertised,
            }),
            ..QueryRangeRequest::default()
        }
    }
}

impl Slot {
    /// True if an answer may have these labels: those that it groups by, of series under one of these sets.
    fn may_be(&self, labels: &Labels, sets: &[Labels]) -> bool {
        let in_group = |name: &str| self.grouping.iter().any(|g| g == name) != self.without && name != METRIC_NAME;
        let agrees = |set: &Labels| labels.iter().all(|(n, v)| set.get(n).is_none_or(|own| own == v));
        labels.iter().all(|(n, _)| in_group(n)) && sets.iter().any(agrees)
    }
}

/// The times of an evaluation, milliseconds.
#[derive(Clone, Copy)]
struct Grid {
    start: i64,
    end: i64,
    step: i64,
}

impl Grid {
    fn of(times: Times) -> Self {
        match times {
            Times::Instant(t) => Self { start: t, end: t, step: 1000 },
            Times::Range { start, end, step } => Self { start, end, step },
        }
    }

    /// The values of a series as samples, with markers where there is none: nothing may be looked back at.
    fn chunks(&self, series: &TimeSeries, number: usize) -> Result<Vec<Chunk>, String> {
        let mut samples = Vec::with_capacity(series.samples.len());
        let mut next = self.start;
        for s in &series.samples {
            let (t, v) = (s.timestamp, s.value);
            if t < next || t > self.end || (t - self.start) % self.step != 0 || is_stale(v) {
                return Err(format!("it sent {v} at {t}, which is not in its answer"));
            }
            // Behind a gap the first marker says all.
            if t > next && !samples.is_empty() {
                samples.push((next, stale_nan()));
            }
            samples.push((t, v));
            next = t.saturating_add(self.step);
        }
        if !samples.is_empty() && next <= self.end {
            samples.push((next, stale_nan()));
        }
        let chunk = |samples: &[(i64, f64)]| {
            let mut e = XorEncoder::default();
            samples.iter().try_for_each(|(t, v)| e.append(*t, *v)).map_err(|e| e.to_string())?;
            let (min_time, max_time) = e.range();
            let raw = Some(Bytes { encoding: 0, data: e.bytes(), hash: 0 });
            Ok(Chunk { min_time, max_time, raw, aggregates: None, source: u32::try_from(number).unwrap_or(u32::MAX) })
        };
        samples.chunks(CHUNK).map(chunk).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bound;
    use super::*;
    use proto::prometheus::Sample;

    fn series(samples: &[(i64, f64)]) -> TimeSeries {
        let samples =
            samples.iter().map(|(timestamp, value)| Sample { timestamp: *timestamp, value: *value }).collect();
        TimeSeries { samples, ..TimeSeries::default() }
    }

    fn decoded(chunks: Vec<Chunk>) -> Vec<(i64, Option<f64>)> {
        let mut out = promql::exec::Samples::default();
        let reading = crate::query::samples::Reading {
            mint: i64::MIN,
            maxt: i64::MAX,
            view: crate::query::downsampled::View::Average,
            dedup: args::DedupFunc::Fill,
        };
        crate::query::samples::read(&Series { labels: Labels::empty(), chunks }, reading, &mut out).unwrap();
        out.times.into_iter().zip(out.floats).map(|(t, v)| (t, (!is_stale(v)).then_some(v))).collect()
    }

    #[test]
    fn what_is_not_in_an_answer_is_not_looked_back_at() {
        let grid = Grid { start: 100, end: 205, step: 10 };
        let chunks = grid.chunks(&series(&[(110, 1.0), (120, -0.0), (170, f64::NAN)]), 0).unwrap();
        let got = decoded(chunks);
        let times: Vec<_> = got.iter().map(|(t, v)| (*t, v.is_some())).collect();
        assert_eq!(times, [(110, true), (120, true), (130, false), (170, true), (180, false)]);
        assert!(got[1].1.unwrap().is_sign_negative() && got[3].1.unwrap().is_nan());
        assert!(grid.chunks(&series(&[]), 0).unwrap().is_empty());
        let long = Grid { start: 0, end: 10_999, step: 1 };
        let all: Vec<_> = (0..11_000).map(|t| (t, t as f64)).collect();
        assert_eq!(decoded(long.chunks(&series(&all), 0).unwrap()).len(), 11_000);
    }

    #[test]
    fn times_that_nobody_asked_for_are_refused() {
        let grid = Grid { start: 100, end: 205, step: 10 };
        for wrong in
            [&[(105, 1.0)][..], &[(90, 1.0)], &[(210, 1.0)], &[(120, 1.0), (120, 1.0)], &[(120, 1.0), (110, 1.0)]]
        {
            assert!(grid.chunks(&series(wrong), 0).is_err(), "{wrong:?}");
        }
        assert!(grid.chunks(&series(&[(100, stale_nan())]), 0).is_err());
    }

    #[test]
    fn labels_that_nobody_asked_for_are_refused() {
        let set = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        let sets = [set(&[("cluster", "b"), ("replica", "0")])];
        let rest = Arc::default();
        let apart = Bound::apart(std::iter::empty(), &[], &Arc::default());
        let grouping = vec!["cluster".to_owned(), "job".to_owned()];
        let by = Slot { by: vec![], rest, grouping, without: false, apart };
        assert!(by.may_be(&set(&[("cluster", "b"), ("job", "x")]), &sets) && by.may_be(&Labels::empty(), &sets));
        assert!(!by.may_be(&set(&[("cluster", "c")]), &sets), "it is of another cluster");
        assert!(!by.may_be(&set(&[("pod", "p")]), &sets));
        let without = Slot { without: true, ..by };
        assert!(without.may_be(&set(&[("pod", "p")]), &sets) && !without.may_be(&set(&[("job", "x")]), &sets));
        assert!(!without.may_be(&set(&[("__name__", "m")]), &sets));
    }
}
