//! A Series request, read and checked.

use super::wire::Shard;
use model::Matcher;
use proto::thanos::{Aggr, PartialResponseStrategy, SeriesRequest};
use std::time::Duration;
use tonic::Status;

/// Largest batch that is honoured, in series: a message stays below a megabyte anyway.
const MAX_BATCH: usize = 4096;
/// Most names that one request may list.
const MAX_NAMES: usize = 1000;
/// Most aggregates that one request may list: there are six.
const MAX_AGGREGATES: usize = 16;

/// What a Series request asks for.
#[derive(Clone, Debug)]
pub struct Select {
    /// Oldest sample, milliseconds since the epoch, inclusive.
    pub min_time: i64,
    /// Newest sample, milliseconds since the epoch, inclusive.
    pub max_time: i64,
    /// The matchers, as sent.
    pub matchers: Vec<Matcher>,
    /// Largest distance of samples that the caller takes, milliseconds; 0: as scraped only.
    pub max_resolution: i64,
    /// What the caller wants of downsampled data, as sent; raw data is sent as it is.
    pub aggregates: Vec<Aggr>,
    /// Labels only, no chunks.
    pub skip_chunks: bool,
    /// Labels to leave out before sorting.
    pub without: Vec<String>,
    /// Which series the caller wants, of those that match.
    pub shard: Option<Shard>,
    /// Most series to return; `None` is no limit.
    pub limit: Option<usize>,
    /// Most series in one message, at least 1.
    pub batch: usize,
    /// The caller wants an error rather than a warning.
    pub abort: bool,
}

impl Select {
    /// Reads a request; what is wrong with it is the caller's fault.
    pub fn read(r: &SeriesRequest) -> Result<Self, Status> {
        let matchers = matchers(&r.matchers)?;
        if r.without_replica_labels.len() > MAX_NAMES {
            return Err(Status::invalid_argument(format!("more than {MAX_NAMES} replica labels")));
        }
        let shard = match &r.shard_info {
            Some(s) if s.total_shards > 0 => Some(Shard::read(s)?),
            _ => None,
        };
        Ok(Self {
            min_time: r.min_time,
            max_time: r.max_time,
            matchers,
            max_resolution: r.max_resolution_window.max(0),
            aggregates: r.aggregates().take(MAX_AGGREGATES).collect(),
            skip_chunks: r.skip_chunks,
            without: r.without_replica_labels.clone(),
            shard,
            limit: limit(r.limit),
            batch: usize::try_from(r.response_batch_size).unwrap_or(0).clamp(1, MAX_BATCH),
            abort: abort(r.partial_response_disabled, r.partial_response_strategy),
        })
    }
}

/// The matchers of any request.
pub fn matchers(wire: &[proto::thanos::LabelMatcher]) -> Result<Vec<Matcher>, Status> {
    proto::matchers::decode(wire).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// A limit as sent: 0 (or less) is none.
pub fn limit(wire: i64) -> Option<usize> {
    usize::try_from(wire).ok().filter(|n| *n > 0)
}

/// Whether a request wants an error rather than a warning: both the old and the new way to say so count.
pub fn abort(disabled: bool, strategy: i32) -> bool {
    disabled || strategy == i32::from(PartialResponseStrategy::Abort)
}

/// The caller's deadline, which gRPC sends as up to eight digits and a unit.
pub fn deadline(metadata: &tonic::metadata::MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = number.parse().ok()?;
    match unit {
        "H" => n.checked_mul(3600).map(Duration::from_secs),
        "M" => n.checked_mul(60).map(Duration::from_secs),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::thanos::{LabelMatcher, ShardInfo};

    #[test]
    fn deadlines_have_units() {
        let of = |text: &str| {
            let mut map = tonic::metadata::MetadataMap::new();
            map.insert("grpc-timeout", text.parse().unwrap());
            deadline(&map)
        };
        assert_eq!(of("3S"), Some(Duration::from_secs(3)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        assert!(of("x").is_none() && of("3").is_none() && of("3y").is_none());
    }

    #[test]
    fn reads_defaults_and_refuses_nonsense() {
        let s = Select::read(&SeriesRequest::default()).unwrap();
        assert!(s.shard.is_none() && s.limit.is_none() && s.batch == 1 && !s.abort);
        let bad = SeriesRequest {
            matchers: vec![LabelMatcher { r#type: 2, name: "a".into(), value: "(".into() }],
            ..Default::default()
        };
        assert_eq!(Select::read(&bad).unwrap_err().code(), tonic::Code::InvalidArgument);
        let bad = SeriesRequest {
            shard_info: Some(ShardInfo { shard_index: 2, total_shards: 2, ..Default::default() }),
            ..Default::default()
        };
        assert!(Select::read(&bad).unwrap_err().message().contains("shard 2 of 2"));
        let abort = SeriesRequest { partial_response_strategy: 1, response_batch_size: 64, ..Default::default() };
        let s = Select::read(&abort).unwrap();
        assert!(s.abort && s.batch == 64);
    }
}
