//! The querier: PromQL over all stores, deduplicated; itself a store.

pub mod address;
pub mod admission;
mod answer;
pub mod api;
pub mod budget;
pub mod buffers;
mod call;
pub mod dedup;
pub mod downsampled;
pub mod endpoints;
pub mod eval;
pub mod fanout;
pub mod flow;
#[cfg(test)]
mod g23;
mod gather;
pub mod grpc;
mod hedge;
mod lifted;
pub mod merge;
pub mod metered;
pub mod metrics;
pub mod pairwise;
mod push;
mod retry;
pub mod samples;
pub mod series;
mod services;
mod shown;
pub mod store;
pub mod wanted;
pub mod warning;

use crate::server::{self, Context, RECEIVE_MAX, Service};
use crate::storeapi::Limits;
use address::{Dns, SystemDns};
use anyhow::Context as _;
use args::QueryArgs;
use args::state::State;
use endpoints::Endpoints;
use eval::Evaluator;
use fanout::Fanout;
use grpc::QueryStore;
use model::world::World;
use proto::info::info_server::InfoServer;
use proto::thanos::store_server::StoreServer;
use services::Services;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::Gzip;

/// How long the start waits for endpoints that do not answer.
const SETTLE: Duration = Duration::from_secs(30);

/// Runs a querier until `shutdown`.
pub async fn run(args: QueryArgs, world: World, shutdown: CancellationToken) -> anyhow::Result<()> {
    let dns = Arc::new(SystemDns::new().context("can't read the resolver's settings")?);
    run_with(args, world, dns, shutdown).await
}

/// The same with another way to look names up.
pub async fn run_with(
    args: QueryArgs,
    world: World,
    dns: Arc<dyn Dns>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let context = Context::new("query", world.clone());
    let loader = wanted::Loader::new(&args)?;
    let endpoints = Endpoints::new(&args, world.clone(), dns, &context.metrics);
    let fanout = Fanout::new(Arc::clone(&endpoints), world.clone(), &args, &context.metrics);
    let evaluator = Evaluator::new(&args, fanout.clone(), world.clone(), &context.metrics)?;
    context.metrics.register_collector(metrics::Connections(Arc::clone(&endpoints)));
    let limits = Limits::new(args.limit_series, args.limit_samples, &context.metrics);
    let store = QueryStore::new(fanout, limits, &args);
    let grpc = tonic::service::Routes::new(
        StoreServer::new(store.clone())
            .max_decoding_message_size(RECEIVE_MAX)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip),
    )
    .add_service(InfoServer::new(store).max_decoding_message_size(RECEIVE_MAX).accept_compressed(Gzip));
    let args = Arc::new(args);
    let grpc = Services::new(evaluator.clone(), Arc::clone(&args), world.clone()).serve(grpc);
    let bound = server::bind(&args.server).await?;

    let stop = shutdown.child_token();
    let follow = Arc::clone(&endpoints).follow(loader, args.sd_reload_interval.duration());
    let (following, settling) = (stop.clone(), stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = follow => {}
            () = following.cancelled() => {}
        }
    });
    let (watched, ready) = (Arc::clone(&endpoints), context.ready.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = watched.settled(SETTLE) => ready.ready(),
            () = settling.cancelled() => {}
        }
    });
    let shown = Arc::clone(&endpoints);
    let state = move || State { endpoints: Some(shown.state()), ..State::default() };
    let http = api::Api::router(args, evaluator, world, &context.metrics);
    let service = Service { component: "query", http, grpc, state: Arc::new(state) };
    let outcome = bound.serve(context, service, stop.clone()).await;
    stop.cancel();
    outcome
}

/// Names in a list whose entries may hold several, apart by commas.
fn split_list<'a>(list: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let all = list.into_iter().flat_map(|l| l.split(',')).map(str::trim);
    all.filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// The replica labels of the flags.
fn own_replica_labels(args: &QueryArgs) -> Vec<String> {
    split_list(args.replica_labels.iter().map(String::as_str))
}
