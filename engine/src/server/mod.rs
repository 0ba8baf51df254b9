//! What every part serves in the same way: probes, metrics, `/-/state`, gRPC with reloaded TLS, an orderly end.

mod accept;
pub mod client;
pub(crate) mod expand;
pub mod grpc_metrics;
mod http;
pub mod memory;
pub mod metrics;
pub mod net;
mod pace;
pub(crate) mod point;
mod process;
pub mod ready;
pub mod snappy;
pub mod tls;

use anyhow::Context as _;
use args::ServerArgs;
use metrics::Metrics;
use model::world::World;
use ready::Readiness;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use http::StateFn;

/// Largest gRPC message that we accept as an answer, in bytes. Set it on every client: a store of Thanos may send a whole
/// batch as one message. Servers keep to tonic's defaults: requests of 4 MiB, not compressed but by Thanos's snappy, and
/// answers of any size.
pub const RECEIVE_MAX: usize = 64 << 20;
/// Size that the messages that we send stay below, in bytes, as far as one chunk fits.
pub const FRAME_MAX: usize = 1 << 20;
/// How often TLS files are compared with what is in use.
const TLS_POLL: Duration = Duration::from_secs(5);
/// Most connections at one time; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4096;

/// What every service is handed: the world, its metrics, its readiness.
#[derive(Clone)]
pub struct Context {
    /// Time and randomness.
    pub world: World,
    /// Where its metrics are registered.
    pub metrics: Metrics,
    /// Whether it serves.
    pub ready: Readiness,
}

impl Context {
    /// A context for the part `component` (`sidecar`, `query`), not ready yet.
    pub fn new(component: &'static str, world: World) -> Self {
        let ready = Readiness::default();
        let metrics = Metrics::new(component, ready.clone());
        Self { world, metrics, ready }
    }
}

/// What a part adds to the common server.
pub struct Service {
    /// Its name: `sidecar`, `query`.
    pub component: &'static str,
    /// Its HTTP routes, beside the common ones.
    pub http: axum::Router,
    /// Its gRPC services, beside the health service.
    pub grpc: tonic::service::Routes,
    /// Its state document; `format`, `component`, `version` and `ready` are filled in by the server.
    pub state: StateFn,
}

/// The listeners, before anything is served.
pub struct Bound {
    http: net::TcpListener,
    grpc: net::TcpListener,
    tls: Option<Arc<tls::ServerTls>>,
    options: Options,
}

struct Options {
    http_grace: Duration,
    grpc_grace: Duration,
    max_age: Duration,
}

/// Opens the listeners and reads the TLS files: everything about the addresses that can be wrong is wrong here.
pub async fn bind(args: &ServerArgs) -> anyhow::Result<Bound> {
    let tls = tls::ServerTls::from_args(args)?;
    Ok(Bound {
        http: listen("http-address", &args.http_address).await?,
        grpc: listen("grpc-address", &args.grpc_address).await?,
        tls,
        options: Options {
            http_grace: args.http_grace_period.duration(),
            grpc_grace: args.grpc_grace_period.duration(),
            max_age: args.grpc_max_connection_age.duration(),
        },
    })
}

/// What to try for an address: without a host, or with the IPv4 wildcard, every address of both families is meant, as in Go
/// programs; where there is no IPv6, IPv4 alone.
fn candidates(address: &str) -> Vec<String> {
    match address.strip_prefix("0.0.0.0:").or_else(|| address.strip_prefix(':')) {
        Some(port) if net::dual_stack() => vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")],
        Some(port) => vec![format!("0.0.0.0:{port}")],
        None => vec![address.to_owned()],
    }
}

async fn listen(flag: &str, address: &str) -> anyhow::Result<net::TcpListener> {
    let mut last = None;
    for candidate in candidates(address) {
        match net::bind(&candidate).await {
            Ok(listener) => return Ok(listener),
            // In use is in use, whatever the family.
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                last = Some(e);
                break;
            }
            Err(e) => last = Some(e),
        }
    }
    let error = last.unwrap_or_else(|| std::io::ErrorKind::InvalidInput.into());
    Err(error).with_context(|| format!("can't listen on {address} (--{flag})"))
}

impl Bound {
    /// Where HTTP is served.
    pub fn http_address(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Serves until `shutdown`; then says "not ready", stops accepting, and lets open requests finish within the grace
    /// periods.
    pub async fn serve(self, context: Context, service: Service, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { http, grpc, tls, options } = self;
        tracing::info!(
            http = %http.local_addr()?, grpc = %grpc.local_addr()?, tls = tls.is_some(), component = service.component,
            "listening"
        );
        let (health, health_service) = tonic_health::server::health_reporter();
        let grpc_metrics = grpc_metrics::GrpcMetrics::register(&context.metrics);
        let grpc_router = service.grpc.add_service(health_service).prepare().into_axum_router().layer(
            axum::middleware::from_fn_with_state(
                (grpc_metrics, Arc::clone(&context.world.clock)),
                grpc_metrics::observe,
            ),
        );
        let grpc_router = grpc_router.layer(axum::middleware::from_fn(snappy::accept));
        let http_router = http::router(&context, service.component, service.state).merge(service.http);

        let background = shutdown.child_token();
        let probe = context.ready.clone();
        let stop = background.clone();
        tokio::spawn(async move { probe.report_to(health, stop).await });
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).watch(TLS_POLL, context.metrics.clone(), background.clone()));
        }
        let stopping = context.ready.clone();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            stopping.close();
        });

        let paced = context.metrics.register(
            "panoptes_server_paced_connections",
            "Connections that were slowed down because they flooded us with HTTP/2 control frames",
            prometheus_client::metrics::counter::Counter::default(),
        );
        let entropy = &context.world.entropy;
        let http_done = accept::serve(
            http,
            None,
            http_router,
            accept::Options {
                http2_only: false,
                max_age: None,
                max_connections: MAX_CONNECTIONS,
                grace: options.http_grace,
                paced: paced.clone(),
            },
            Arc::clone(entropy),
            shutdown.clone(),
        );
        let grpc_done = accept::serve(
            grpc,
            tls,
            grpc_router,
            accept::Options {
                http2_only: true,
                max_age: Some(options.max_age).filter(|a| !a.is_zero()),
                max_connections: MAX_CONNECTIONS,
                grace: options.grpc_grace,
                paced,
            },
            Arc::clone(entropy),
            shutdown.clone(),
        );
        tokio::join!(http_done, grpc_done);
        Ok(())
    }
}
