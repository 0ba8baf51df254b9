//! The metrics of our store gateway beside those of Thanos's, after the same requests: names, types, labels.

use super::common::matcher;
use super::gateway;
use proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use std::collections::{BTreeMap, BTreeSet};

/// What the store's dashboard, alerts and recording rules of Thanos's mixin read.
const MIXIN: [&str; 26] = [
    "grpc_server_handled",
    "grpc_server_handling_seconds",
    "grpc_server_started",
    "thanos_bucket_store_block_drop_failures",
    "thanos_bucket_store_block_drops",
    "thanos_bucket_store_block_load_failures",
    "thanos_bucket_store_block_loads",
    "thanos_bucket_store_sent_chunk_size_bytes",
    "thanos_bucket_store_series_blocks_queried",
    "thanos_bucket_store_series_data_fetched",
    "thanos_bucket_store_series_data_touched",
    "thanos_bucket_store_series_gate_duration_seconds",
    "thanos_bucket_store_series_gate_queries_duration_seconds",
    "thanos_bucket_store_series_get_all_duration_seconds",
    "thanos_bucket_store_series_merge_duration_seconds",
    "thanos_bucket_store_series_result_series",
    "thanos_objstore_bucket_operation_duration_seconds",
    "thanos_objstore_bucket_operation_failures",
    "thanos_objstore_bucket_operations",
    "thanos_store_index_cache_hits",
    "thanos_store_index_cache_items_added",
    "thanos_store_index_cache_items_evicted",
    "thanos_store_index_cache_requests",
    // Beside them, what people look at by hand.
    "thanos_blocks_meta_synced",
    "thanos_bucket_store_blocks_loaded",
    "thanos_status",
];

/// The mixin's alert reads this name, which Thanos's store does not have any more.
const STALE: &str = "thanos_bucket_store_series_gate_duration_seconds";

/// A store uploads nothing: ours has no time of it, Thanos's the year 1970.
const NEVER: &str = "thanos_objstore_bucket_last_successful_upload_time";

/// What Thanos's store has and ours has not, and why.
const ABSENT: [(&str, &str); 28] = [
    ("grpc_req_panics_recovered", "a panic ends its own request as Internal"),
    ("grpc_server_msg_received", "no dashboard reads it; messages of ours are smaller and more"),
    ("grpc_server_msg_sent", "no dashboard reads it; messages of ours are smaller and more"),
    ("thanos_blocks_meta_base_cache_busts", "metas are read by the catalogue or once per listing"),
    ("thanos_blocks_meta_base_syncs", "one fetcher, one count: thanos_blocks_meta_syncs_total"),
    ("thanos_blocks_meta_modified", "labels of metas are not changed: replica labels are left out per request"),
    ("thanos_bucket_store_block_load_duration_seconds", "a block is served as soon as its meta.json is known"),
    ("thanos_bucket_store_cached_postings_compressed_size_bytes", "postings are kept as they are"),
    ("thanos_bucket_store_cached_postings_compression_errors", "postings are kept as they are"),
    ("thanos_bucket_store_cached_postings_compression_time_seconds", "postings are kept as they are"),
    ("thanos_bucket_store_cached_postings_compressions", "postings are kept as they are"),
    ("thanos_bucket_store_cached_postings_original_size_bytes", "postings are kept as they are"),
    ("thanos_bucket_store_chunks_fetch_duration_seconds", "thanos_objstore_bucket_operation_duration_seconds tells it"),
    (
        "thanos_bucket_store_chunks_fetch_duration_sum_seconds",
        "thanos_objstore_bucket_operation_duration_seconds tells it",
    ),
    (
        "thanos_bucket_store_indexheader_download_duration_seconds",
        "thanos_objstore_bucket_operation_duration_seconds tells it",
    ),
    ("thanos_bucket_store_indexheader_lazy_load_duration_seconds", "in the duration of the request that loads it"),
    ("thanos_bucket_store_indexheader_lazy_unload_failed", "closing a mapping can't fail"),
    ("thanos_bucket_store_indexheader_load_duration_seconds", "in the duration of the request that loads it"),
    ("thanos_bucket_store_lazy_expanded_posting_series_overfetched_size_bytes", "not counted"),
    ("thanos_bucket_store_lazy_expanded_posting_size_bytes", "not counted"),
    (
        "thanos_bucket_store_postings_fetch_duration_seconds",
        "thanos_objstore_bucket_operation_duration_seconds tells it",
    ),
    (
        "thanos_bucket_store_postings_size_bytes",
        "thanos_bucket_store_series_data_size_fetched_bytes{data_type=\"postings\"} tells it",
    ),
    ("thanos_bucket_store_series_fetch_duration_seconds", "thanos_objstore_bucket_operation_duration_seconds tells it"),
    (
        "thanos_bucket_store_series_fetch_duration_sum_seconds",
        "thanos_objstore_bucket_operation_duration_seconds tells it",
    ),
    ("thanos_build_info", "panoptes_build_info: it is not Thanos that runs here"),
    ("thanos_consistency_delay_seconds", "a flag, not a measurement"),
    ("thanos_store_index_cache_fetch_duration_seconds", "what is fetched lies in memory"),
    ("thanos_store_index_cache_stored_data_size_bytes", "thanos_store_index_cache_items_size_bytes tells the sum"),
];

/// Tenants are not told apart: whoever can ask a store may read all of its bucket.
const TENANT: &str = "tenant";

/// Type and names of labels of each metric, by name; names of counters without `_total`, as OpenMetrics has them.
async fn metrics(http: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = reqwest::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
    let mut all: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let base = |name: &str| name.strip_suffix("_total").unwrap_or(name).to_owned();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            all.insert(base(name), (kind.to_owned(), BTreeSet::new()));
        }
        if line.starts_with('#') {
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(end);
        let name = base(name);
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = of_histogram.filter(|n| all.contains_key(*n)).unwrap_or(&name).to_owned();
        let Some((_, labels)) = all.get_mut(&name) else { panic!("{line}: of no type") };
        let pairs = rest.strip_prefix('{').and_then(|r| r.rsplit_once('}')).map_or("", |(pairs, _)| pairs);
        let names = pairs.split("\",").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned());
        labels.extend(names.filter(|name| name != "le"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_types_and_labels_of_thanos() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, peer) = gateway::both(dir.path()).await;
    for address in [ours.grpc.clone(), peer.grpc_address()] {
        let mut client = gateway::client(&address).await;
        // Twice: the second time the caches have it. A matcher that none passes, and a request that is refused.
        for value in ["up", "up", "no_such_metric", ""] {
            let request = SeriesRequest {
                min_time: 0,
                max_time: i64::MAX,
                matchers: vec![matcher(0, "__name__", value)].into_iter().filter(|m| !m.value.is_empty()).collect(),
                ..Default::default()
            };
            if let Ok(stream) = client.series(request).await {
                let mut stream = stream.into_inner();
                while let Ok(Some(_)) = stream.message().await {}
            }
        }
        let all = (0, i64::MAX);
        client.label_names(LabelNamesRequest { start: all.0, end: all.1, ..Default::default() }).await.unwrap();
        let label = "__name__".to_owned();
        client
            .label_values(LabelValuesRequest { label, start: all.0, end: all.1, ..Default::default() })
            .await
            .unwrap();
    }
    let (own, theirs) = (metrics(&ours.http).await, metrics(&peer.url()).await);
    let absent: BTreeMap<&str, &str> = ABSENT.into_iter().collect();
    let mut wrong = Vec::new();
    for (name, (kind, labels)) in &theirs {
        if !["thanos_", "grpc_"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let labels: BTreeSet<&String> = labels.iter().filter(|label| *label != TENANT).collect();
        match (own.get(name), absent.get(name.as_str())) {
            (None, Some(_)) => {}
            (None, None) => wrong.push(format!("{name} is missing: a {kind} by {labels:?}")),
            (Some(_), Some(why)) => wrong.push(format!("{name} is there, and said to be absent ({why})")),
            (Some((own, by)), None) => {
                let lacks = name != NEVER && labels.iter().any(|label| !by.contains(*label));
                if own != kind || lacks {
                    wrong.push(format!("{name} is a {own} by {by:?}, Thanos's a {kind} by {labels:?}"));
                }
            }
        }
    }
    for name in MIXIN {
        if absent.contains_key(name) || !own.contains_key(name) {
            wrong.push(format!("{name} is read by Thanos's mixin, and absent"));
        }
        if !theirs.contains_key(name) && name != STALE {
            wrong.push(format!("{name} is not what Thanos's store has"));
        }
    }
    let unknown = ABSENT.iter().filter(|(name, _)| !theirs.contains_key(*name));
    wrong.extend(unknown.map(|(name, _)| format!("{name} is no metric of Thanos's store")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
