//! Info alone.

use super::blocks::Set;
use crate::server::{Context, RECEIVE_MAX};
use proto::thanos::info::info_server::{Info, InfoServer};
use proto::thanos::info::{InfoRequest, InfoResponse, StoreInfo, TsdbInfo};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Request, Response, Status};

struct Service<F> {
    set: Set,
    window: F,
    ready: crate::server::ready::Readiness,
}

pub(super) fn services<F>(set: Set, window: F, context: &Context) -> tonic::service::Routes
where
    F: Fn() -> (i64, i64) + Send + Sync + 'static,
{
    let service = Service { set, window, ready: context.ready.clone() };
    tonic::service::Routes::new(InfoServer::new(service).max_decoding_message_size(RECEIVE_MAX).accept_compressed(Gzip))
}

fn labels(l: &model::Labels) -> proto::thanos::LabelSet {
    let labels = l.iter().map(|(n, v)| proto::thanos::Label { name: n.to_owned().into(), value: v.to_owned().into() });
    proto::thanos::LabelSet { labels: labels.collect() }
}

#[tonic::async_trait]
impl<F: Fn() -> (i64, i64) + Send + Sync + 'static> Info for Service<F> {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let served = self.set.snapshot();
        let (from, to) = (self.window)();
        let clamp = |t: i64| t.clamp(from, to);
        let (min_time, max_time) = served.range().unwrap_or((i64::MAX, i64::MIN));
        let store = self.ready.is_ready().then(|| StoreInfo {
            min_time: clamp(min_time),
            max_time: clamp(max_time),
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: served
                .tsdbs()
                .into_iter()
                .map(|t| TsdbInfo {
                    labels: Some(labels(&t.external)),
                    min_time: clamp(t.min_t),
                    max_time: clamp(t.max_t),
                })
                .collect(),
            ..StoreInfo::default()
        });
        let label_sets = served.groups.iter().map(|g| labels(&g.external)).collect();
        Ok(Response::new(InfoResponse {
            label_sets,
            component_type: "store".to_owned(),
            store,
            ..InfoResponse::default()
        }))
    }
}
