//! What a Series request asks for, read and checked.

use super::Asked;
use super::spec::Aggregates;
use crate::storeapi::{Select, request};
use prost::Message as _;
use proto::hints::SeriesRequestHints;
use proto::thanos::SeriesRequest;
use tonic::Status;

/// The hints of a Series request.
const SERIES_HINTS: &str = "type.googleapis.com/hintspb.SeriesRequestHints";

/// What the hints of a request ask for.
#[derive(Debug, Default)]
pub struct Hints {
    /// There were hints: the answer tells which blocks were read.
    pub asked: bool,
    /// The answer tells what was done, too.
    pub stats: bool,
}

/// Reads a request, its time clamped to what this store serves (ms, both inclusive).
///
/// # Errors
/// `InvalidArgument`: what is wrong with it is the caller's fault.
pub fn read(r: &SeriesRequest, (min_t, max_t): (i64, i64)) -> Result<(Asked, Hints), Status> {
    let select = Select::read(r)?;
    // Thanos's store answers a request without matchers, or with matchers on external labels only, as if it had nothing: a
    // hole that nobody is told of. Nobody but a mistaken client asks without any (queriers refuse it, as sidecars do), so that
    // is refused here, too. `{cluster="a"}` is good PromQL, and a querier passes it on: all series of these blocks are the
    // answer, as much as the limits allow.
    if select.matchers.is_empty() {
        return Err(Status::invalid_argument("no matchers specified: give at least one"));
    }
    let (mut hints, mut block_matchers) = (Hints::default(), Vec::new());
    if let Some(any) = r.hints.as_ref().filter(|any| any.type_url == SERIES_HINTS) {
        let asked = SeriesRequestHints::decode(&*any.value)
            .map_err(|e| Status::invalid_argument(format!("the hints of the request can't be read: {e}")))?;
        block_matchers = request::matchers(&asked.block_matchers)?;
        hints = Hints { asked: true, stats: asked.enable_query_stats };
    }
    let asked = Asked {
        range: (select.min_time.max(min_t), select.max_time.min(max_t)),
        matchers: select.matchers,
        block_matchers,
        max_resolution: r.max_resolution_window,
        aggregates: Aggregates::read(&r.aggregates),
        skip_chunks: select.skip_chunks,
        without: select.without,
        shard: select.shard,
        limit: select.limit,
        batch: select.batch,
        abort: select.abort,
    };
    Ok((asked, hints))
}
