//! `series`, `labels`, `label/<name>/values`.

use super::error::ApiError;
use super::params::{MAX_TIME, MIN_TIME, Params};
use super::{Api, json, success};
use crate::query::fanout::{self, Detail, Failed, LabelCall, Select};
use crate::query::warning::{Warning, distinct};
use crate::storeapi::TRUNCATED;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use model::Matcher;
use promql::exec::QueryError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Selectors of one request that are looked up at the same time.
const AT_ONCE: usize = 4;

struct Wanted {
    timeout: Duration,
    selectors: Vec<Vec<Matcher>>,
    select: Select,
}

fn wanted(api: &Api, p: &Params) -> Result<Wanted, ApiError> {
    let limit = p.limit()?;
    let (start, end) = (p.time("start")?, p.time("end")?);
    let now = api.world.clock.now_ms();
    let (default_start, default_end) = match api.args.metadata_range.0 {
        0 => (MIN_TIME, MAX_TIME),
        range => (now.saturating_sub(range), now),
    };
    let (mint, maxt) = (start.unwrap_or(default_start), end.unwrap_or(default_end));
    if maxt < mint {
        return Err(super::params::invalid("end", "end timestamp must not be before start time"));
    }
    let only = Arc::new(p.store_match()?);
    let timeout = p.timeout(api.args.timeout.duration())?;
    let terms = api.evaluator.fanout().terms(api.partial(p)?, timeout, api.args.max_bytes);
    Ok(Wanted {
        timeout,
        selectors: p.selectors()?,
        select: Select {
            mint,
            maxt,
            matchers: Vec::new(),
            without: Vec::new(),
            skip_chunks: true,
            limit,
            // Labels of coarse data are labels, too.
            detail: Detail { max_resolution: i64::MAX, ..Detail::default() },
            only,
            exactly: None,
            bounds: Vec::new(),
            shard: None,
            terms,
        },
    })
}

/// Waits for a place among the metadata calls, and works; together no longer than the request may take.
pub(super) async fn gated<T>(
    api: &Api,
    timeout: Duration,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, ApiError> {
    let all = async {
        let _place = api.metadata_places.acquire().await.map_err(|_| QueryError::Canceled)?;
        Ok(work.await?)
    };
    tokio::time::timeout(timeout, all).await.unwrap_or_else(|_| Err(QueryError::Timeout.into()))
}

pub(super) async fn series(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    if p.all("match[]").is_empty() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let Wanted { timeout, selectors, mut select } = wanted(&api, &p)?;
    select.without = api.replica_labels(&p)?;
    let limit = select.limit;
    // One more than asked for shows that there is more.
    select.limit = limit.map(|l| l.saturating_add(1));
    let one = selectors.len() == 1;
    let fetches = selectors.into_iter().map(|matchers| {
        let (fanout, select) = (api.evaluator.fanout(), Select { matchers, ..select.clone() });
        async move {
            let mut stream = fanout.series(&select)?;
            let sets = fanout::collect_labels(&mut stream, &select.terms.budget).await?;
            Ok::<_, Failed>((sets, stream.take_warnings()))
        }
    });
    let fetched: Vec<_> = gated(&api, timeout, stream::iter(fetches).buffered(AT_ONCE).try_collect()).await?;
    let (mut sorted, mut warnings) = (Vec::new(), Vec::<Warning>::new());
    for (sets, said) in fetched {
        sorted.extend(sets);
        warnings.extend(said);
    }
    if !one {
        sorted.sort();
        sorted.dedup();
    }
    if let Some(limit) = limit
        && sorted.len() > limit
    {
        sorted.truncate(limit);
        warnings.push(TRUNCATED.to_owned().into());
    }
    let mut data = String::from("[");
    for (i, set) in sorted.iter().enumerate() {
        if i > 0 {
            data.push(',');
        }
        json::labels(&mut data, set);
    }
    data.push(']');
    Ok(success(&data, &distinct(warnings), &[]))
}

pub(super) async fn names(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let wanted = wanted(&api, &Params::read(request).await?)?;
    label_answer(&api, wanted, LabelCall::Names).await
}

pub(super) async fn values(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = unescape(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {}", model::labels::Quoted(&name))));
    }
    let wanted = wanted(&api, &Params::read(request).await?)?;
    label_answer(&api, wanted, LabelCall::Values(name)).await
}

async fn label_answer(api: &Api, wanted: Wanted, call: LabelCall) -> Result<Response, ApiError> {
    let Wanted { timeout, mut selectors, mut select } = wanted;
    let limit = select.limit;
    select.limit = limit.map(|l| l.saturating_add(1));
    if selectors.is_empty() {
        selectors.push(Vec::new());
    }
    let fetches = selectors.into_iter().map(|matchers| {
        let (fanout, call, select) = (api.evaluator.fanout(), &call, Select { matchers, ..select.clone() });
        async move { fanout.labels(call, &select).await }
    });
    let fetched: Vec<_> = gated(api, timeout, stream::iter(fetches).buffered(AT_ONCE).try_collect()).await?;
    let (mut found, mut warnings) = (BTreeSet::new(), Vec::new());
    for (some, said) in fetched {
        found.extend(some);
        warnings.extend(said);
    }
    let mut all: Vec<String> = found.into_iter().collect();
    if let Some(limit) = limit
        && all.len() > limit
    {
        all.truncate(limit);
        warnings.push(TRUNCATED.to_owned().into());
    }
    let mut data = String::from("[");
    for (i, s) in all.iter().enumerate() {
        if i > 0 {
            data.push(',');
        }
        json::string(&mut data, s);
    }
    data.push(']');
    Ok(success(&data, &distinct(warnings), &[]))
}

/// Undoes Prometheus's escaping of names in paths: `U__` before, `_` doubled, other characters as `_hex_`. What is not
/// escaped that way is taken as it is.
fn unescape(name: &str) -> String {
    let Some(escaped) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut out = String::new();
    let mut rest = escaped;
    while let Some(at) = rest.find('_') {
        out.push_str(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + 1..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let code = rest
            .split_once('_')
            .and_then(|(hex, after)| Some((u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)?, after)));
        let Some((c, after)) = code else { return name.to_owned() };
        out.push(c);
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn escaped_names_are_read() {
        for (escaped, name) in [
            ("job", "job"),
            ("U__http_2e_status", "http.status"),
            ("U__a__b", "a_b"),
            ("U__bad_zz", "U__bad_zz"),
            ("U___e9_", "é"),
        ] {
            assert_eq!(super::unescape(escaped), name, "{escaped}");
        }
    }
}
