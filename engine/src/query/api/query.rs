//! `query`, `query_range`, their plans, `format_query`, `parse_query`.

use super::error::ApiError;
use super::params::{Params, invalid};
use super::{Api, PIECE, end, json, reply, success};
use crate::query::eval::{Answer, Settings};
use crate::query::warning::Warning;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use promql::exec::{QueryValue, StepSamples, Times};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Most warnings and infos of PromQL in one answer.
const ANNOTATIONS: usize = 10;
/// How long a client may take for one piece of its answer.
const STALLED: Duration = Duration::from_secs(60);
/// Most points per series of a range query.
const MAX_POINTS: i64 = 11_000;
/// The step that a range query gets if it names none: its range in this many parts.
const DEFAULT_PARTS: i64 = 250;

pub(super) async fn instant(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let limit = p.limit()?;
    let t = p.time("time")?.unwrap_or_else(|| api.world.clock.now_ms());
    let times = Times::Instant(t);
    let settings = settings(&api, &p, times)?;
    run(&api, &p, times, settings, limit).await
}

pub(super) async fn explain_instant(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let t = p.time("time")?.unwrap_or_else(|| api.world.clock.now_ms());
    explain(&api, &p, Times::Instant(t))
}

pub(super) async fn range(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let limit = p.limit()?;
    let times = range_of(&api, &p)?;
    let settings = settings(&api, &p, times)?;
    run(&api, &p, times, settings, limit).await
}

pub(super) async fn explain_range(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let times = range_of(&api, &p)?;
    explain(&api, &p, times)
}

/// Thanos's endpoint: the plan as a tree. There is one engine, so that any name of one will do.
fn explain(api: &Api, p: &Params, times: Times) -> Result<Response, ApiError> {
    let plan = api.evaluator.plan(p.get("query").unwrap_or_default(), times, &settings(api, p, times)?)?;
    Ok(success(&plan.explain().json().to_string(), &[], &[]))
}

/// The times of a range query, checked as Prometheus checks them.
fn range_of(api: &Api, p: &Params) -> Result<Times, ApiError> {
    let needed = |name: &str| {
        let none =
            || invalid(name, &format!("invalid time value for '{name}': cannot parse \"\" to a valid timestamp"));
        p.time(name)?.ok_or_else(none)
    };
    let (start, end) = (needed("start")?, needed("end")?);
    if end < start {
        return Err(invalid("end", "end timestamp must not be before start time"));
    }
    let length = end.saturating_sub(start);
    let step = match p.duration("step")? {
        Some(step) => step,
        None => (length / 1000 / DEFAULT_PARTS * 1000).max(api.args.default_step.0),
    };
    if step <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(invalid("step", text));
    }
    if length / step > MAX_POINTS {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    Ok(Times::Range { start, end, step })
}

fn settings(api: &Api, p: &Params, times: Times) -> Result<Settings, ApiError> {
    if let Some(engine) = p.get("engine").filter(|e| !matches!(*e, "prometheus" | "thanos")) {
        return Err(ApiError::bad_data(format!("'{engine}' bad engine")));
    }
    Ok(Settings {
        timeout: p.timeout(api.args.timeout.duration())?,
        partial: api.partial(p)?,
        replica_labels: api.replica_labels(p)?,
        lookback_ms: p.duration("lookback_delta")?.filter(|l| *l > 0).unwrap_or(api.args.lookback_delta.0),
        // As in Thanos, everything else is no.
        analyze: matches!(p.get("analyze"), Some("true" | "1")),
        count_samples: p.get("stats").is_some(),
        max_resolution_ms: max_resolution(api, p, times)?,
        only: Arc::new(p.store_match()?),
        shard: p.shard()?.map(Arc::new),
        within: None,
    })
}

/// How coarse the data may be, milliseconds: a fifth of the step if that is left to us.
fn max_resolution(api: &Api, p: &Params, times: Times) -> Result<i64, ApiError> {
    let auto = match times {
        Times::Range { step, .. } => step / 5,
        Times::Instant(_) => api.args.instant_max_resolution.0,
    };
    match p.get("max_source_resolution") {
        None => Ok(if api.args.auto_downsampling.0 { auto } else { 0 }),
        Some("auto") => Ok(auto),
        Some(_) => match p.duration("max_source_resolution")?.unwrap_or(0) {
            r if r < 0 => {
                let text = "negative 'max_source_resolution' is not accepted. Try a positive integer";
                Err(ApiError::bad_data(text))
            }
            r => Ok(r),
        },
    }
}

async fn run(
    api: &Api,
    p: &Params,
    times: Times,
    settings: Settings,
    limit: Option<usize>,
) -> Result<Response, ApiError> {
    let query = p.get("query").unwrap_or_default().to_owned();
    let mut answer = api.evaluator.run(&query, times, &settings).await?;
    let (promql, infos) = answer.result.annotations.strings(&query, ANNOTATIONS);
    // What is missing comes first and is never cut away.
    let mut warnings = std::mem::take(&mut answer.missing);
    warnings.extend(promql.into_iter().map(Warning::from));
    if let Some(limit) = limit
        && truncate(&mut answer.result.value, limit)
    {
        warnings.push("results truncated due to limit".to_owned().into());
    }
    let by_step = p.get("stats") == Some("all") && api.evaluator.options().per_step_stats;
    let mut more = if p.get("stats").is_some() { stats(&answer, by_step) } else { String::new() };
    if let Some(analysis) = &answer.analysis {
        let _ = write!(more, ",\"analysis\":{}", analysis.json());
    }
    Ok(stream(answer, more, warnings, infos))
}

fn truncate(value: &mut QueryValue, limit: usize) -> bool {
    let (len, cut) = match value {
        QueryValue::Vector(v) => (v.len(), limit),
        QueryValue::Matrix(m) => (m.len(), limit),
        _ => return false,
    };
    match value {
        QueryValue::Vector(v) => v.truncate(cut),
        QueryValue::Matrix(m) => m.truncate(cut),
        _ => {}
    }
    len > limit
}

/// Writes the answer on a CPU thread while it is sent, a few pieces ahead of the reader.
fn stream(answer: Answer, more: String, warnings: Vec<Warning>, infos: Vec<String>) -> Response {
    let (to, from) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(4);
    let said = warnings.clone();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        // Room for the series that fills it, too: growing copies all of it.
        let room = || Vec::with_capacity(PIECE + PIECE / 2);
        let mut piece = room();
        piece.extend_from_slice(b"{\"status\":\"success\",\"data\":");
        // A client that stops reading must not hold its place for ever.
        let send = |piece: &mut Vec<u8>| {
            let piece = Bytes::from(std::mem::replace(piece, room()));
            let sent = runtime.block_on(async { tokio::time::timeout(STALLED, to.send(Ok(piece))).await });
            matches!(sent, Ok(Ok(())))
        };
        let whole = json::value(&mut piece, &answer.result.value, |p| p.len() < PIECE || send(p));
        if !whole {
            return; // The client has gone, or does not read.
        }
        let mut tail = more;
        tail.push('}');
        end(&mut tail, &warnings, &infos);
        piece.extend_from_slice(tail.as_bytes());
        send(&mut piece);
    });
    reply(Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(from)), &said)
}

/// What a query took, in Prometheus's form; counts `by_step` as its feature `promql-per-step-stats` adds them.
fn stats(answer: &Answer, by_step: bool) -> String {
    let (t, s) = (&answer.timings, &answer.result.stats);
    let mut out = String::new();
    let whole = t.queue + t.preparation + t.evaluation;
    let seconds = [
        ("evalTotalTime", t.preparation + t.evaluation),
        ("queryPreparationTime", t.preparation),
        ("innerEvalTime", t.evaluation),
        ("execQueueTime", t.queue),
        ("execTotalTime", whole),
    ];
    out.push_str(",\"stats\":{\"timings\":{\"resultSortTime\":0");
    for (name, time) in seconds {
        let _ = write!(out, ",\"{name}\":{}", time.as_secs_f64());
    }
    out.push_str("},\"samples\":{");
    let none = StepSamples::default();
    let steps = s.steps.as_ref().unwrap_or(&none);
    for (name, counts) in [("totalQueryableSamples", &steps.queryable), ("samplesRead", &steps.read)] {
        if by_step && !counts.is_empty() {
            let _ = write!(out, "\"{name}PerStep\":[");
            for (i, (t, n)) in steps.by_time(counts).enumerate() {
                let comma = if i == 0 { "" } else { "," };
                let _ = write!(out, "{comma}[{},{n}]", t as f64 / 1000.0);
            }
            out.push_str("],");
        }
        let _ = write!(out, "\"{name}\":{},", counts.iter().sum::<u64>());
    }
    let _ = write!(out, "\"peakSamples\":{},\"seriesRead\":{}}}}}", s.peak_samples, s.series_read);
    out
}

pub(super) async fn format(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let expr = parsed(&api, &Params::read(request).await?)?;
    let mut data = String::new();
    json::html_string(&mut data, &promql::parse::prettify(&expr));
    Ok(success(&data, &[], &[]))
}

pub(super) async fn parse(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let expr = parsed(&api, &Params::read(request).await?)?;
    Ok(success(&promql::parse::json::ast_json(&expr).to_string(), &[], &[]))
}

fn parsed(api: &Api, p: &Params) -> Result<promql::parse::Expr, ApiError> {
    let text = p.get("query").unwrap_or_default();
    promql::parse::parse_expr(text, &api.evaluator.options().parser).map_err(|e| invalid("query", &e.to_string()))
}
