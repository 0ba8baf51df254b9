//! The smaller services over all endpoints: asked, merged, told apart by link, without replicas. The same is served on, so
//! that a querier of queriers sees through.

pub(super) mod exemplars;
pub(super) mod metadata;
mod query;
pub(super) mod rules;
pub(super) mod statistics;
pub(super) mod targets;

use super::eval::Evaluator;
use super::fanout::{Failed, Fanout, Terms};
use super::store::Store;
use super::warning::Warning;
use crate::server::RECEIVE_MAX;
use crate::storeapi::request;
use args::QueryArgs;
use model::world::World;
use proto::thanos::LabelSet;
use proto::thanos::exemplars_server::ExemplarsServer;
use proto::thanos::metadata_server::MetadataServer;
use proto::thanos::query_server::QueryServer;
use proto::thanos::rules_server::RulesServer;
use proto::thanos::status_server::StatusServer;
use proto::thanos::targets_server::TargetsServer;
use std::sync::Arc;
use std::time::Duration;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The services.
#[derive(Clone)]
pub(super) struct Services {
    evaluator: Evaluator,
    args: Arc<QueryArgs>,
    world: World,
}

type Answers<A> = tokio_stream::Iter<std::vec::IntoIter<Result<A, Status>>>;

impl Services {
    pub(super) fn new(evaluator: Evaluator, args: Arc<QueryArgs>, world: World) -> Self {
        Self { evaluator, args, world }
    }

    /// Adds the services to others.
    pub(super) fn serve(self, routes: Routes) -> Routes {
        macro_rules! add {
            ($routes:expr, $($server:ident),*) => {
                $routes$(.add_service(
                    $server::new(self.clone())
                        .max_decoding_message_size(RECEIVE_MAX)
                        .max_encoding_message_size(usize::MAX)
                        .accept_compressed(Gzip),
                ))*
            };
        }
        add!(routes, RulesServer, TargetsServer, MetadataServer, ExemplarsServer, StatusServer, QueryServer)
    }

    fn fanout(&self) -> &Fanout {
        self.evaluator.fanout()
    }

    fn timeout<T>(&self, request: &Request<T>) -> Duration {
        let most = self.args.timeout.duration();
        request::deadline(request.metadata()).map_or(most, |asked| asked.min(most))
    }

    /// Gathers for a call, and sends what was found: `wrap` makes messages of data, `warn` of warnings.
    async fn pass<Q, T, A>(
        &self,
        request: Request<Q>,
        strategy: i32,
        gather: impl AsyncFnOnce(&Fanout, Q, &Terms) -> Result<(Vec<T>, Vec<Warning>), Failed>,
        wrap: impl Fn(T) -> A,
        warn: impl Fn(String) -> A,
    ) -> Result<Response<Answers<A>>, Status> {
        let timeout = self.timeout(&request);
        let terms = self.fanout().terms(!request::abort(false, strategy), timeout, self.args.max_bytes);
        let work = gather(self.fanout(), request.into_inner(), &terms);
        let (found, warnings) = match tokio::time::timeout(timeout, work).await {
            Ok(answer) => answer.map_err(|e| Status::aborted(e.0))?,
            Err(_) => return Err(Status::deadline_exceeded(format!("no answer within {timeout:?}"))),
        };
        let all: Vec<_> =
            warnings.into_iter().map(|w| warn(w.text)).chain(found.into_iter().map(&wrap)).map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(all)))
    }
}

/// True of labels that may come from this store: a link answers for its own cluster only.
fn of_its_cluster(store: &Store, labels: Option<&LabelSet>) -> bool {
    let Some(guard) = store.guard() else { return true };
    let named = |l: &&proto::thanos::Label| l.name.as_ref() == guard.name.as_bytes();
    let cluster = labels.and_then(|set| set.labels.iter().find(named));
    cluster.is_none_or(|l| l.value.as_ref() == guard.value.as_bytes())
}

/// Takes replica labels out, and sorts what is left by name.
fn strip(labels: &mut Option<LabelSet>, replica: &[String]) {
    if let Some(set) = labels {
        set.labels.retain(|l| !replica.iter().any(|r| r.as_bytes() == l.name.as_ref()));
        set.labels.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// A label set's pairs; none where the set is absent.
fn pairs(labels: Option<&LabelSet>) -> &[proto::thanos::Label] {
    labels.map_or(&[], |set| set.labels.as_slice())
}

/// A time in order: absent is earliest.
fn instant(time: Option<&proto::Timestamp>) -> (i64, i32) {
    time.map_or((i64::MIN, 0), |t| (t.seconds, t.nanos))
}
