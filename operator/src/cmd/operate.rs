//! Runs the operator: its own HTTP endpoints, the election, and while it leads the controllers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use kube::{Client, Config};
use model::world::World;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::RunArgs;
use crate::controllers::{self, Context, Metrics};
use crate::leader::{Candidate, Timing};
use crate::observe::{Defaults, pod_address};

/// Name of the Lease.
const LEASE: &str = "panoptes-operator";

/// Runs until `stop`.
pub(super) async fn operate(args: RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let config = Config::infer().await.context("no Kubernetes cluster: neither in a pod nor with a kubeconfig")?;
    let client = Client::try_from(config).context("the Kubernetes client can't be made")?;
    let world = World::real();

    let candidate = Candidate::new(
        client.clone(),
        &args.leader_election_namespace,
        LEASE,
        &args.identity,
        Timing::default(),
        world.clone(),
    );
    let defaults =
        Defaults { engine_image: args.image.clone(), operator_version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut context = Context::new(client, candidate.fence(), world, defaults, Arc::new(pod_address), &args.identity);
    context.namespaces = args.namespaces;
    let context = Arc::new(context);

    let listener = tokio::net::TcpListener::bind(args.http_address)
        .await
        .with_context(|| format!("--http-address={}: the address can't be listened on", args.http_address))?;
    tracing::info!(address = %args.http_address, image = args.image, "operator starts");
    let server = serve(listener, context.metrics.clone(), stop.clone());

    let election = candidate.run(stop.clone(), || {
        let context = context.clone();
        async move {
            let _leading = Leading::begin(&context.metrics);
            controllers::run(context.clone()).await;
        }
    });
    tokio::select! {
        served = server => served.context("the HTTP server ended")?,
        () = election => {}
    }
    tracing::info!("operator ends");
    Ok(())
}

/// Shows in the metrics for as long as it exists.
struct Leading(Arc<Metrics>);

impl Leading {
    fn begin(metrics: &Arc<Metrics>) -> Self {
        metrics.leading.set(1);
        Self(metrics.clone())
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.leading.set(0);
        self.0.namespaces.set(0);
    }
}

/// A standby is as healthy and ready as a leader: readiness says that the process answers, the Lease says who works.
async fn serve(
    listener: tokio::net::TcpListener,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let version: Family<Vec<(String, String)>, Gauge> = Family::default();
    version.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("panoptes_build_info", "Version of this binary", version);
    let memory = Gauge::<i64>::default();
    registry.register("process_resident_memory_bytes", "Resident memory of this process", memory.clone());
    let state = Arc::new(Pages { registry, memory });
    let router = Router::new()
        .route("/-/healthy", get(|| async { "healthy\n" }))
        .route("/-/ready", get(|| async { "ready\n" }))
        .route("/metrics", get(page))
        .with_state(state);
    let end = async move {
        stop.cancelled().await;
        // The election hands the lease back meanwhile; probes are answered until then.
        tokio::time::sleep(Duration::from_secs(4)).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(end).await?;
    Ok(())
}

struct Pages {
    registry: Registry,
    memory: Gauge<i64>,
}

async fn page(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    if let Some(bytes) = resident().await {
        pages.memory.set(bytes);
    }
    let mut text = String::new();
    match encode(&mut text, &pages.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}

async fn resident() -> Option<i64> {
    let status = tokio::fs::read_to_string("/proc/self/status").await.ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}
