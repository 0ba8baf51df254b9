//! Our store gateway beside Thanos's, over one bucket: raw, 5-minute and hour blocks with native histograms, two replicas, an
//! old writer. The same requests, the same answers; and the same queries through both queriers.

use super::common::{matcher, until};
use super::querier::{self, Querier};
use args::StoreArgs;
use model::Labels;
use model::world::World;
use proto::info::InfoRequest;
use proto::info::info_client::InfoClient;
use proto::thanos::store_client::StoreClient;
use proto::thanos::{
    AggrChunk, LabelMatcher, LabelNamesRequest, LabelValuesRequest, Series, SeriesRequest, ShardInfo, series_response,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::thanos::Thanos;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

const EQ: i32 = 0;
const NEQ: i32 = 1;
const RE: i32 = 2;
const NRE: i32 = 3;
/// The time range of the newer blocks, in ms.
const FROM: i64 = 1_699_999_999_997;
const TO: i64 = 1_700_004_485_004;

/// A store gateway in this process; it ends when dropped.
pub struct Gateway {
    pub http: String,
    pub grpc: String,
    stop: CancellationToken,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Gateway {
    pub async fn start(bucket: &Path, data: &Path, change: impl FnOnce(&mut StoreArgs)) -> Self {
        let (http, grpc) = (testkit::ports::free().unwrap(), testkit::ports::free().unwrap());
        let mut args = StoreArgs {
            objstore_config: format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display()),
            data_dir: data.display().to_string(),
            ..StoreArgs::default()
        };
        args.server.http_address = format!("127.0.0.1:{http}");
        args.server.grpc_address = format!("127.0.0.1:{grpc}");
        change(&mut args);
        let stop = CancellationToken::new();
        tokio::spawn(engine::store::run(args, World::real(), stop.clone()));
        let me = Self { http: format!("http://127.0.0.1:{http}"), grpc: format!("127.0.0.1:{grpc}"), stop };
        let ready = format!("{}/-/ready", me.http);
        until("the store gateway to be ready", async || {
            reqwest::get(&ready).await.is_ok_and(|r| r.status().is_success())
        })
        .await;
        me
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a block of the test data into the bucket, under this id and with these labels if some are given.
fn put(bucket: &Path, name: &str, changed: Option<(&str, Value)>) {
    let data = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tsdb/testdata/blocks")).join(name);
    let block = fs::read_dir(data).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    let mut meta: Value = serde_json::from_slice(&fs::read(block.join("meta.json")).unwrap()).unwrap();
    if let Some((id, labels)) = changed {
        meta["ulid"] = json!(id);
        meta["compaction"]["sources"] = json!([id]);
        meta["thanos"] = json!({"labels": labels, "downsample": {"resolution": 0}, "source": "sidecar"});
    }
    let to = bucket.join(meta["ulid"].as_str().unwrap());
    copy(&block, &to);
    fs::write(to.join("meta.json"), serde_json::to_vec(&meta).unwrap()).unwrap();
}

fn bucket(dir: &Path) -> PathBuf {
    let bucket = dir.join("bucket");
    for name in ["prometheus-3.14", "thanos-5m", "thanos-1h"] {
        put(&bucket, name, None);
    }
    put(&bucket, "prometheus-3.14", Some(("01M82BTHEDETCZG07V9EZN2C96", json!({"cluster": "eu", "replica": "b"}))));
    put(&bucket, "prometheus-2.37", Some(("01M82BTHBMF7Z4A31CJP0RF511", json!({"cluster": "us", "replica": "a"}))));
    bucket
}

/// Our store and Thanos's over one bucket.
pub async fn both(dir: &Path) -> (Gateway, Thanos) {
    let bucket = bucket(dir);
    let ours = Gateway::start(&bucket, &dir.join("ours"), |_| {}).await;
    let config = format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display());
    let peer = Thanos::start("store", &[config, format!("--data-dir={}", dir.join("peer").display())]).unwrap();
    (ours, peer)
}

pub async fn client(address: &str) -> StoreClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    StoreClient::new(channel).max_decoding_message_size(64 << 20)
}

/// What of a chunk counts: hashes are for whoever wants them.
fn plain(mut chunk: AggrChunk) -> AggrChunk {
    let slots = [&mut chunk.raw, &mut chunk.count, &mut chunk.sum, &mut chunk.min, &mut chunk.max, &mut chunk.counter];
    slots.into_iter().flatten().for_each(|c| c.hash = 0);
    chunk
}

/// The answer to a Series request: label sets in order, each with all its chunks.
async fn series(
    client: &mut StoreClient<Channel>,
    request: &SeriesRequest,
) -> Result<(Vec<(Labels, Vec<AggrChunk>)>, Vec<String>), Status> {
    let mut stream = client.series(request.clone()).await?.into_inner();
    let (mut out, mut warnings): (Vec<(Labels, Vec<AggrChunk>)>, _) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await? {
        let series: Vec<Series> = match message.result.unwrap() {
            series_response::Result::Series(s) => vec![s],
            series_response::Result::Batch(b) => b.series,
            series_response::Result::Warning(w) => {
                warnings.push(w);
                continue;
            }
            series_response::Result::Hints(_) => continue,
        };
        for s in series {
            let labels = proto::labels::decode(&s.labels).unwrap();
            let chunks = s.chunks.into_iter().map(plain);
            match out.last_mut() {
                Some((l, all)) if *l == labels => all.extend(chunks),
                _ => out.push((labels, chunks.collect())),
            }
        }
    }
    // Chunks of equal begin may come in any order.
    for (_, chunks) in &mut out {
        assert!(chunks.windows(2).all(|w| w[0].min_time <= w[1].min_time));
        chunks.sort_by_key(|c| (c.min_time, c.max_time, c.raw.as_ref().map(|r| r.data.clone())));
    }
    Ok((out, warnings))
}

/// The names of metrics in the bucket, and of the labels of series.
async fn words(client: &mut StoreClient<Channel>) -> (Vec<String>, Vec<String>) {
    let names = LabelNamesRequest { start: i64::MIN, end: i64::MAX, ..Default::default() };
    let names = client.label_names(names).await.unwrap().into_inner().names;
    let metrics = LabelValuesRequest { label: "__name__".into(), start: i64::MIN, end: i64::MAX, ..Default::default() };
    let metrics = client.label_values(metrics).await.unwrap().into_inner().values;
    let own = names.into_iter().filter(|n| !["__name__", "cluster", "replica"].contains(&n.as_str())).collect();
    (metrics, own)
}

fn matchers(metrics: &[String], own: &[String]) -> Vec<Vec<LabelMatcher>> {
    let first = &metrics[0];
    let (some, last) = (&own[0], &own[own.len() - 1]);
    let prefix: String = first.chars().take(3).collect();
    vec![
        vec![matcher(EQ, "__name__", first)],
        vec![matcher(NEQ, "__name__", first)],
        vec![matcher(RE, "__name__", ".+")],
        vec![matcher(RE, "__name__", &format!("{prefix}.*"))],
        vec![matcher(RE, "__name__", &metrics.join("|"))],
        vec![matcher(NRE, "__name__", &format!("{first}|nothing")), matcher(RE, some, ".+")],
        vec![matcher(RE, "__name__", ".+"), matcher(EQ, some, "")],
        vec![matcher(RE, "__name__", ".+"), matcher(NEQ, last, "")],
        vec![matcher(RE, "__name__", ".+"), matcher(RE, last, ".*[13579]")],
        vec![matcher(RE, "__name__", ".+"), matcher(NRE, last, ".*[0-4]")],
        vec![matcher(RE, "__name__", "(?i:.*E.*)"), matcher(EQ, "cluster", "eu")],
        vec![matcher(RE, "__name__", ".+"), matcher(RE, "cluster", "us|ap")],
        vec![matcher(RE, "__name__", ".+"), matcher(NEQ, "replica", "a")],
        vec![matcher(RE, "__name__", ".+"), matcher(EQ, "nowhere", "x")],
        vec![matcher(EQ, "__name__", "nothing")],
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_the_answers_that_thanos_gives() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ours, peer) = both(dir.path()).await;
    let (mut a, mut b) = (client(&ours.grpc).await, client(&peer.grpc_address()).await);
    let (metrics, own) = words(&mut b).await;
    assert_eq!(words(&mut a).await, (metrics.clone(), own.clone()));

    let middle = (FROM + TO) / 2;
    let ranges = [(FROM, TO), (middle, middle + 60_000), (0, FROM - 1), (TO, i64::MAX), (i64::MIN, i64::MAX)];
    // COUNT, SUM, COUNTER: what every downsampled series has; MIN, MAX: floats only, else Thanos fails; RAW; none.
    let aggregates: [&[i32]; 5] = [&[1, 2], &[5], &[0], &[], &[3, 4]];
    let without: [&[&str]; 3] = [&[], &["replica"], &["replica", own[0].as_str()]];
    let (mut compared, mut refused) = (0, 0);
    for matchers in matchers(&metrics, &own) {
        for (min_time, max_time) in ranges {
            for max_resolution_window in [0, 300_000, 3_600_000] {
                for aggregates in aggregates {
                    for without in without {
                        // Not the whole product: each pair of values meets in some request.
                        compared += 1;
                        if compared % 3 != 0 {
                            continue;
                        }
                        let shard = (compared % 2 == 0).then(|| ShardInfo {
                            shard_index: compared % 3 % 2,
                            total_shards: 2,
                            by: compared % 4 == 0,
                            labels: vec![own[own.len() - 1].clone()],
                        });
                        let request = SeriesRequest {
                            min_time,
                            max_time,
                            matchers: matchers.clone(),
                            max_resolution_window,
                            aggregates: aggregates.to_vec(),
                            skip_chunks: compared % 7 == 0,
                            shard_info: shard,
                            without_replica_labels: without.iter().map(|w| (*w).to_owned()).collect(),
                            response_batch_size: compared % 5 * 16,
                            ..Default::default()
                        };
                        let got = series(&mut a, &request).await.unwrap_or_else(|e| panic!("{e}: {request:?}"));
                        assert_eq!(got.1, Vec::<String>::new(), "{request:?}");
                        match series(&mut b, &request).await {
                            Ok(want) => assert_eq!(got.0, want.0, "{request:?}"),
                            // A histogram has no minimum.
                            Err(e) if aggregates == [3, 4] => {
                                assert!(e.message().contains("aggregate"), "{e}");
                                refused += 1;
                            }
                            Err(e) => panic!("{e}: {request:?}"),
                        }
                    }
                }
            }
        }
    }
    assert!(compared > 3000 && refused < compared / 10, "{compared} {refused}");

    for matchers in matchers(&metrics, &own) {
        for label in ["__name__", "cluster", own[0].as_str(), own[own.len() - 1].as_str()] {
            let request = LabelValuesRequest {
                label: label.to_owned(),
                start: FROM,
                end: TO,
                matchers: matchers.clone(),
                ..Default::default()
            };
            let got = a.label_values(request.clone()).await.unwrap().into_inner();
            let want = b.label_values(request.clone()).await.unwrap().into_inner();
            assert_eq!(got.values, want.values, "{request:?}");
        }
        let request = LabelNamesRequest { start: FROM, end: TO, matchers, ..Default::default() };
        let got = a.label_names(request.clone()).await.unwrap().into_inner();
        let want = b.label_names(request.clone()).await.unwrap().into_inner();
        assert_eq!(got.names, want.names, "{request:?}");
    }

    let info = async |address: &str| {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        InfoClient::new(channel).info(InfoRequest {}).await.unwrap().into_inner()
    };
    let (got, want) = (info(&ours.grpc).await, info(&peer.grpc_address()).await);
    let sets = |i: &proto::info::InfoResponse| {
        i.label_sets.iter().map(|s| proto::labels::decode_any_order(&s.labels).unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!((sets(&got), got.component_type.as_str()), (sets(&want), "store"));
    let (got, want) = (got.store.unwrap(), want.store.unwrap());
    assert_eq!((got.min_time, got.max_time), (want.min_time, want.max_time));
    assert_eq!(got.tsdb_infos.len(), want.tsdb_infos.len());
    assert!(got.supports_sharding && got.supports_without_replica_labels);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_the_same_through_any_pair_of_querier_and_store() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ours, peer) = both(dir.path()).await;
    let (metrics, _) = words(&mut client(&ours.grpc).await).await;
    let queriers = [
        Thanos::query(std::slice::from_ref(&ours.grpc), &["replica"]).unwrap(),
        Thanos::query(&[peer.grpc_address()], &["replica"]).unwrap(),
    ];
    let own = [
        Querier::start(querier::args(std::slice::from_ref(&ours.grpc))).await,
        Querier::start(querier::args(&[peer.grpc_address()])).await,
    ];
    let urls: Vec<String> = queriers.iter().map(Thanos::url).chain(own.iter().map(|q| q.http.clone())).collect();
    let all = metrics.join("|");
    for expression in [
        format!("count({{__name__=~\"{all}\"}})"),
        format!("sum by (cluster) (count_over_time({{__name__=~\"{all}\", cluster=\"eu\"}}[10m]))"),
        format!("{{__name__=~\"{all}\"}}"),
    ] {
        for resolution in ["0s", "5m", "1h"] {
            let mut answers = Vec::new();
            for url in &urls {
                let path = format!(
                    "/api/v1/query_range?query={}&start=1700000600&end=1700004200&step=300&max_source_resolution={resolution}",
                    testkit::http::encode(&expression)
                );
                let text = reqwest::get(format!("{url}{path}")).await.unwrap().text().await.unwrap();
                let mut answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["status"], "success", "{url} {expression}: {answer}");
                assert!(answer["warnings"].is_null(), "{url} {expression}: {}", answer["warnings"]);
                let result = answer["data"]["result"].as_array_mut().unwrap();
                result.sort_by_key(|r| r["metric"].to_string());
                answers.push(std::mem::take(result));
            }
            assert!(!answers[0].is_empty(), "{expression} {resolution}");
            assert_eq!(answers[0], answers[1], "Thanos over ours and over its own: {expression} {resolution}");
            assert_eq!(answers[2], answers[3], "our querier over both: {expression} {resolution}");
        }
    }
    // Neither kind of caller is taken for a flood.
    let metrics = reqwest::get(format!("{}/metrics", ours.http)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("panoptes_server_paced_connections_total 0\n"), "{metrics}");
}
