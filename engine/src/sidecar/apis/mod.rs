//! The Rules, Targets, Metadata, Exemplars and Status services over one Prometheus: its HTTP API in other words, with the
//! external labels that it leaves out.

mod exemplars;
mod json;
mod metadata;
mod rules;
mod statistics;
mod targets;

use super::prometheus::{Answer, Prometheus};
use super::store::within;
use super::watch::{Seen, Watch};
use crate::server::FRAME_MAX;
use crate::storeapi::request;
use prost::Message;
use proto::thanos::exemplars_server::{Exemplars, ExemplarsServer};
use proto::thanos::metadata_server::{Metadata, MetadataServer};
use proto::thanos::rules_server::{Rules, RulesServer};
use proto::thanos::status_server::{Status as StatusService, StatusServer};
use proto::thanos::targets_server::{Targets, TargetsServer};
use proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, MetricMetadataRequest, MetricMetadataResponse, RulesRequest, RulesResponse,
    TargetsRequest, TargetsResponse, TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Answers that are held at one time; each may have as many bytes as Prometheus may answer with.
const CONCURRENT: usize = 4;

/// The services.
#[derive(Clone)]
pub(super) struct Apis(Arc<Inner>);

struct Inner {
    prometheus: Prometheus,
    watch: Watch,
    turns: Semaphore,
}

/// What one call is answered from.
struct Asked<'a> {
    prometheus: &'a Prometheus,
    seen: Arc<Seen>,
}

impl Apis {
    pub(super) fn new(prometheus: Prometheus, watch: Watch) -> Self {
        Self(Arc::new(Inner { prometheus, watch, turns: Semaphore::new(CONCURRENT) }))
    }

    /// Adds the services to others.
    pub(super) fn serve(self, routes: Routes) -> Routes {
        macro_rules! add {
            ($routes:expr, $($server:ident),*) => {
                $routes$(.add_service($server::new(self.clone())))*
            };
        }
        add!(routes, RulesServer, TargetsServer, MetadataServer, ExemplarsServer, StatusServer)
    }

    /// Answers one call within its deadline.
    async fn answer<Q, A>(
        &self,
        request: Request<Q>,
        work: impl AsyncFnOnce(Asked<'_>, Q) -> Result<Vec<A>, Status>,
    ) -> Result<Response<Answers<A>>, Status> {
        let deadline = request::deadline(request.metadata());
        let inner = &*self.0;
        let found = within(deadline, async {
            // The semaphore is never closed.
            let _turn = inner.turns.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
            let seen = inner.watch.usable()?;
            work(Asked { prometheus: &inner.prometheus, seen }, request.into_inner()).await
        });
        let found: Vec<_> = found.await?.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(found)))
    }
}

type Answers<A> = tokio_stream::Iter<std::vec::IntoIter<Result<A, Status>>>;

/// Cuts a list into parts of about a megabyte.
fn parts<T: Message>(all: Vec<T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = usize::MAX;
    for one in all {
        let size = one.encoded_len();
        match parts.last_mut() {
            Some(last) if bytes.saturating_add(size) <= FRAME_MAX => {
                bytes += size;
                last.push(one);
            }
            _ => {
                bytes = size;
                parts.push(vec![one]);
            }
        }
    }
    parts
}

/// The data of an answer, with its warnings as messages before it.
fn with_warnings<T, A>(answer: Answer<T>, warning: fn(String) -> A) -> (T, Vec<A>) {
    (answer.data, answer.warnings.into_iter().map(warning).collect())
}

#[tonic::async_trait]
impl Rules for Apis {
    type RulesStream = Answers<RulesResponse>;
    async fn rules(&self, r: Request<RulesRequest>) -> Result<Response<Self::RulesStream>, Status> {
        self.answer(r, rules::read).await
    }
}

#[tonic::async_trait]
impl Targets for Apis {
    type TargetsStream = Answers<TargetsResponse>;
    async fn targets(&self, r: Request<TargetsRequest>) -> Result<Response<Self::TargetsStream>, Status> {
        self.answer(r, targets::read).await
    }
}

#[tonic::async_trait]
impl Metadata for Apis {
    type MetricMetadataStream = Answers<MetricMetadataResponse>;
    async fn metric_metadata(
        &self,
        r: Request<MetricMetadataRequest>,
    ) -> Result<Response<Self::MetricMetadataStream>, Status> {
        self.answer(r, metadata::read).await
    }
}

#[tonic::async_trait]
impl Exemplars for Apis {
    type ExemplarsStream = Answers<ExemplarsResponse>;
    async fn exemplars(&self, r: Request<ExemplarsRequest>) -> Result<Response<Self::ExemplarsStream>, Status> {
        self.answer(r, exemplars::read).await
    }
}

#[tonic::async_trait]
impl StatusService for Apis {
    type TSDBStatisticsStream = Answers<TsdbStatisticsResponse>;
    async fn tsdb_statistics(
        &self,
        r: Request<TsdbStatisticsRequest>,
    ) -> Result<Response<Self::TSDBStatisticsStream>, Status> {
        self.answer(r, statistics::read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::thanos::Statistic;

    #[test]
    fn long_answers_are_cut() {
        let one = Statistic { name: "n".repeat(400_000), value: 1 };
        let sizes: Vec<usize> = parts(vec![one; 5]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert!(parts::<Statistic>(Vec::new()).is_empty());
    }
}
