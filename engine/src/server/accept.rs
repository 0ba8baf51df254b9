//! The accept loop of one port.

use super::{net, pace::Paced, tls::ServerTls};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use model::world::Entropy;
use prometheus_client::metrics::counter::Counter;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a client may take for its TLS handshake, or for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most bytes that the headers of a request may have over HTTP/2.
const MAX_HEADERS: u32 = 16 << 10;
/// Pause after a failed accept: it fails because something has run out, and trying at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Options {
    /// Speak HTTP/2 only (gRPC).
    pub(super) http2_only: bool,
    /// Close connections of this age, after their last answer.
    pub(super) max_age: Option<Duration>,
    /// Most connections at one time.
    pub(super) max_connections: usize,
    /// How long open requests may take at shutdown.
    pub(super) grace: Duration,
    /// Counts connections that send more control frames than they may.
    pub(super) paced: Counter,
}

/// Serves `router` on every connection until `shutdown`, then waits for open requests at most the grace period.
pub(super) async fn serve(
    listener: net::TcpListener,
    tls: Option<Arc<ServerTls>>,
    router: axum::Router,
    options: Options,
    entropy: Arc<dyn Entropy>,
    shutdown: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(options.max_connections));
    let (tasks, kill) = (TaskTracker::new(), CancellationToken::new());
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = net::accept(&listener) => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            router: router.clone(),
            http2_only: options.http2_only,
            // Spread over a tenth, so that clients that came together do not all come back together.
            age: options.max_age.map(|age| age + age.mul_f64(entropy.next_u64() as f64 / u64::MAX as f64 / 10.0)),
            close: shutdown.clone(),
            kill: kill.clone(),
            paced: options.paced.clone(),
        };
        let tls = tls.clone();
        tasks.spawn(async move {
            let _permit = permit;
            match tls {
                // The timer for the head of a request starts only with its first byte.
                None => match tokio::time::timeout(HANDSHAKE, stream.peek(&mut [0])).await {
                    Ok(Ok(_)) => connection.serve(stream).await,
                    Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
                    Err(_) => tracing::debug!("a connection was silent for {HANDSHAKE:?}"),
                },
                Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => connection.serve(stream).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake took longer than {HANDSHAKE:?}"),
                },
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(options.grace, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "open requests did not end within the grace period, closing them");
        kill.cancel();
        tasks.wait().await;
    }
}

struct Connection {
    router: axum::Router,
    http2_only: bool,
    age: Option<Duration>,
    close: CancellationToken,
    kill: CancellationToken,
    paced: Counter,
}

impl Connection {
    async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, io: I) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
        builder
            .http2()
            .timer(TokioTimer::new())
            // Finds peers that vanished without a word.
            .keep_alive_interval(Duration::from_secs(60))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_concurrent_streams(1024)
            .max_header_list_size(if model::protection::off("header-size") { 1 << 30 } else { MAX_HEADERS });
        if self.http2_only {
            builder = builder.http2_only();
        }
        let mut connection = pin!(
            builder.serve_connection(TokioIo::new(Paced::new(io, self.paced)), TowerToHyperService::new(self.router))
        );
        let mut closing = false;
        let age = async {
            match self.age {
                Some(age) => tokio::time::sleep(age).await,
                None => std::future::pending().await,
            }
        };
        let mut age = pin!(age);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.kill.cancelled() => return,
                () = self.close.cancelled(), if !closing => {}
                () = age.as_mut(), if !closing => {}
            }
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}
