//! The sidecar: the StoreAPI and the smaller services over one Prometheus, the reloader of its configuration and rules, the upload of its blocks.
//!
//! It keeps no data: a Series call becomes one remote read, whose chunks are passed on undecoded as they arrive.

mod apis;
mod order;
mod owned;
mod prometheus;
mod reload;
mod remote_read;
mod store;
mod upload;
mod watch;

#[doc(hidden)]
pub mod foreign;

use crate::server::point::Point;
use crate::server::{self, Context, Service};
use crate::storage::{Storage, part_name};
use crate::storeapi::Limits;
use anyhow::Context as _;
use apis::Apis;
use args::SidecarArgs;
use args::state::State;
use bucket::verify::Right;
use model::world::World;
use owned::Owned;
use prometheus::Prometheus;
use proto::thanos::info::info_server::InfoServer;
use proto::thanos::store_server::StoreServer;
use reload::Reloader;
use std::sync::Arc;
use store::SidecarStore;
use tokio_util::sync::CancellationToken;
use tsdb::disk::RealDisk;
use upload::Uploader;
#[cfg(test)]
pub(crate) use upload::simulated::Sidecar;
use watch::Watch;

/// Runs a sidecar until `shutdown`; with `--reloader.once` it writes the first configuration and returns.
pub async fn run(args: SidecarArgs, world: World, shutdown: CancellationToken) -> anyhow::Result<()> {
    if args.once.0 {
        return reload::once(&args);
    }
    let context = Context::new("sidecar", world);
    let prometheus = Prometheus::new(&args.prometheus_url)?;
    let min_time: Point = args.min_time.parse().map_err(anyhow::Error::msg).context("--min-time")?;
    let watch = Watch::new();
    let clock = Arc::clone(&context.world.clock);
    let store = SidecarStore::new(
        prometheus.clone(),
        watch.clone(),
        Owned::new(prometheus.clone(), Arc::clone(&clock)),
        Limits::new(args.limit_series, args.limit_samples, &context.metrics),
        move || min_time.at(clock.now_ms()),
    );
    let grpc = tonic::service::Routes::new(StoreServer::new(store.clone())).add_service(InfoServer::new(store));
    let grpc = Apis::new(prometheus.clone(), watch.clone()).serve(grpc);
    let storage = Storage::new(
        (&args.objstore_config, &args.objstore_config_file),
        &part_name("sidecar"),
        Right::PRODUCER,
        args.objstore_check_interval.duration(),
        &context,
    )?;
    let uploader = storage.as_ref().map(|storage| {
        Uploader::new(&args, prometheus.clone(), watch.clone(), storage.clone(), Arc::new(RealDisk), &context)
    });
    let bound = server::bind(&args.server).await?;

    // Whatever ends first ends the others: no half of a sidecar stays behind.
    let stop = shutdown.child_token();
    let reloader = Reloader::new(&args, prometheus.clone(), watch.clone(), &context)?;
    let progress = reloader.as_ref().map(|(_, progress)| progress.clone());
    if let Some((reloader, _)) = reloader {
        tokio::spawn(reloader.run(stop.clone()));
    }
    let (seen, bucket, upload) = (watch.clone(), storage.clone(), uploader.as_ref().map(Uploader::state));
    let state = move || {
        let seen = seen.seen();
        State {
            configuration: progress.as_ref().map(reload::Progress::get),
            prometheus: Some(args::state::Prometheus {
                up: seen.up,
                version: seen.version.clone(),
                external_labels: seen.external.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                min_time_ms: seen.lowest,
                error: seen.error.clone(),
            }),
            bucket: bucket.as_ref().map(Storage::state),
            upload: upload.as_ref().map(|state| state()),
            ..State::default()
        }
    };
    let service = Service { component: "sidecar", http: axum::Router::new(), grpc, state: Arc::new(state) };
    let watching = async {
        let outcome = watch.run(prometheus, &args, &context, stop.clone()).await;
        stop.cancel();
        outcome
    };
    let serving = async {
        let outcome = bound.serve(context.clone(), service, stop.clone()).await;
        stop.cancel();
        outcome
    };
    let uploading = async {
        if let (Some(storage), Some(uploader)) = (storage, uploader) {
            tokio::join!(storage.run(stop.clone()), uploader.run(stop.clone()));
        }
    };
    let (watched, served, ()) = tokio::join!(watching, serving, uploading);
    watched.and(served)
}
