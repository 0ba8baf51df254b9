//! gRPC channels to other parts: connect deadline, keep-alive, TLS with reloaded files, and errors that say what is wrong.

use super::{net, tls};
use args::state::{ErrorClass, Tls};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::ServerName;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, Uri};

/// How often an idle connection is probed. Thanos's servers refuse pings that come sooner than every 10 s.
const KEEP_ALIVE: Duration = Duration::from_secs(11);
/// How long the answer to a probe may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same as [`Target::window`] for a whole connection: all that HTTP/2 allows. With less, calls that nobody reads would
/// keep all others of the connection from going on; the windows of the single calls bound the memory.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Where and how to connect.
#[derive(Clone)]
pub struct Target {
    /// `host:port` to dial: normally `ip:port`.
    pub address: String,
    /// `host[:port]` that requests name as their authority; empty: the address.
    pub authority: String,
    /// TLS; `None` is plaintext.
    pub tls: Option<Arc<tls::ClientTls>>,
    /// Name that the server's certificate must carry; empty: the host of the authority.
    pub server_name: String,
    /// Deadline for TCP and TLS together.
    pub connect_timeout: Duration,
    /// Bytes that the server may send ahead on one call: a reader that stalls holds up no more than this.
    pub window: u32,
}

/// A connection could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// Which kind of failure.
    pub class: ErrorClass,
    /// What happened, in one sentence.
    pub message: String,
}

/// What is known of a channel's connections; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Link(Arc<Mutex<LinkState>>);

#[derive(Debug, Default)]
struct LinkState {
    tls: Option<Tls>,
    /// Why the last attempt to connect failed.
    error: Option<DialError>,
    /// Why the last connection broke. With TLS 1.3 a server refuses a client's certificate only after the client has seen
    /// the handshake succeed, and the HTTP library does not pass that on.
    broken: Option<DialError>,
}

impl Link {
    /// What the last TLS handshake showed; `None` for plaintext, or before the first connection.
    pub fn tls(&self) -> Option<Tls> {
        self.0.lock().tls.clone()
    }

    /// Why the last attempt to connect failed; `None` if it did not.
    pub fn error(&self) -> Option<DialError> {
        self.0.lock().error.clone()
    }

    /// The kind of failure behind a failed call over this channel, and what happened in one sentence.
    pub fn diagnose(&self, status: &tonic::Status) -> DialError {
        let broken = self.0.lock().broken.clone();
        match classify(status) {
            Some(class) => DialError { class, message: explain(status) },
            // The call itself only says that the connection is gone.
            None => match broken {
                Some(broken) if status.source().is_some() => broken,
                _ => DialError { class: classify_status(status), message: explain(status) },
            },
        }
    }

    fn broke(&self, error: &io::Error) {
        if let Some(class) = classify(error) {
            self.0.lock().broken = Some(DialError { class, message: error.to_string() });
        }
    }
}

/// Runs a call, and runs it once more if the server has certainly not seen it: because it was sent on a connection that the
/// server was just closing, as it does at a connection's age or at its own end.
pub async fn retrying<T, F: Future<Output = Result<T, tonic::Status>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, tonic::Status> {
    match call().await {
        Err(status) if unprocessed(&status) => call().await,
        outcome => outcome,
    }
}

fn unprocessed(status: &tonic::Status) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = status.source();
    while let Some(e) = next {
        if e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(h2) = e.downcast_ref::<h2::Error>() {
            let reason = h2.reason();
            return h2.is_remote()
                && (h2.is_go_away() && reason == Some(h2::Reason::NO_ERROR)
                    || reason == Some(h2::Reason::REFUSED_STREAM));
        }
        next = e.source();
    }
    false
}

/// A channel that connects when it is first used, and again when the connection is lost.
pub fn channel(target: Target) -> Result<(Channel, Link), DialError> {
    let invalid = |what: &str, e: &dyn std::fmt::Display| DialError {
        class: ErrorClass::Dns,
        message: format!("{what} is not an address: {e}"),
    };
    let authority = if target.authority.is_empty() { &target.address } else { &target.authority };
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    let origin: Uri = format!("{scheme}://{authority}").parse().map_err(|e| invalid(authority, &e))?;
    // The scheme that tonic dials is always http: TLS is done by the connector below.
    let endpoint = Endpoint::from_shared(format!("http://{}", target.address))
        .map_err(|e| invalid(&target.address, &e))?
        .origin(origin.clone())
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(target.window)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let name = if target.server_name.is_empty() { origin.host().unwrap_or_default() } else { &target.server_name };
    let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(|e| invalid(name, &e))?;
    let link = Link::default();
    let dialer = Arc::new(Dialer { target, name, link: link.clone() });
    let connector = tower::service_fn(move |_: Uri| {
        let dialer = Arc::clone(&dialer);
        async move { dialer.dial().await }
    });
    Ok((endpoint.connect_with_connector_lazy(connector), link))
}

struct Dialer {
    target: Target,
    name: ServerName<'static>,
    link: Link,
}

impl Dialer {
    async fn dial(&self) -> Result<TokioIo<Watched>, DialError> {
        let outcome = match tokio::time::timeout(self.target.connect_timeout, self.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError {
                class: ErrorClass::Timeout,
                message: format!("no connection to {} within {:?}", self.target.address, self.target.connect_timeout),
            }),
        };
        let mut state = self.link.0.lock();
        match outcome {
            Ok((stream, tls)) => {
                *state = LinkState { tls, ..LinkState::default() };
                Ok(TokioIo::new(Watched { stream, link: self.link.clone(), answered: false }))
            }
            Err(error) => {
                state.error = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<(Box<dyn Stream>, Option<Tls>), DialError> {
        let address = &self.target.address;
        let stream = net::connect(address).await.map_err(|e| {
            let class = if e.kind() == io::ErrorKind::TimedOut { ErrorClass::Timeout } else { ErrorClass::Connect };
            DialError { class, message: format!("can't connect to {address}: {e}") }
        })?;
        let Some(tls) = &self.target.tls else { return Ok((Box::new(stream), None)) };
        // A new connection uses the files as they are now: a renewed certificate needs no restart and no timer.
        let fresh = Arc::clone(tls);
        let read = tokio::task::spawn_blocking(move || (fresh.reload(), fresh.own_not_after_ms())).await;
        let (reloaded, client_not_after_ms) = match read {
            Ok(read) => read,
            Err(error) => {
                let message = format!("TLS files can't be read again: {error}");
                return Err(DialError { class: ErrorClass::TlsHandshake, message });
            }
        };
        match reloaded {
            Ok(true) => tracing::info!(address, "changed TLS files are in use"),
            Ok(false) => {}
            Err(error) => tracing::warn!(address, %error, "changed TLS files can't be used, the old ones stay"),
        }
        let connector = tokio_rustls::TlsConnector::from(tls.config());
        let stream = connector.connect(self.name.clone(), stream).await.map_err(|e| {
            let class = classify(&e).unwrap_or(ErrorClass::TlsHandshake);
            DialError { class, message: format!("TLS handshake with {address}: {e}") }
        })?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|c| c.first());
        let seen = Tls {
            protocol: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "1.2".to_owned(),
                Some(rustls::ProtocolVersion::TLSv1_3) => "1.3".to_owned(),
                other => format!("{other:?}"),
            },
            peer_subject: certificate.and_then(tls::subject).unwrap_or_default(),
            server_not_after_ms: certificate.and_then(tls::not_after_ms),
            client_not_after_ms,
        };
        if session.alpn_protocol().is_some_and(|p| p != b"h2") {
            let message = format!("{address} does not speak HTTP/2");
            return Err(DialError { class: ErrorClass::NotHttp2, message });
        }
        Ok((Box::new(stream), Some(seen)))
    }
}

/// What a connection is made of.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that remembers why it broke.
struct Watched {
    stream: Box<dyn Stream>,
    link: Link,
    /// Whether the peer has said anything yet.
    answered: bool,
}

impl Watched {
    /// What the first bytes of the peer say of it.
    fn heard(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() && !std::mem::replace(&mut self.answered, true) && bytes.starts_with(b"HTTP/1") {
            let message = "the peer answers in HTTP/1".to_owned();
            self.link.0.lock().broken = Some(DialError { class: ErrorClass::NotHttp2, message });
        }
    }

    /// A peer that refuses us says why and closes. If we still write then, the write fails first and nobody would read
    /// the reason: an answer in another protocol, or a TLS alert. So look at what is left to read.
    fn last_words(&mut self, cx: &mut task::Context<'_>, error: &io::Error) {
        self.link.broke(error);
        let mut space = [0; 1024];
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
            Poll::Ready(Err(e)) => self.link.broke(&e),
            Poll::Ready(Ok(())) => self.heard(buf.filled()),
            Poll::Pending => {}
        }
    }

    fn wrote<T>(&mut self, cx: &mut task::Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(e)) = &polled {
            self.last_words(cx, e);
        }
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Err(e)) => self.link.broke(e),
            Poll::Ready(Ok(())) => self.heard(buf.filled().get(before..).unwrap_or_default()),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The kind of failure behind a failed call, as far as the call itself shows it; [`Link::diagnose`] knows more.
pub fn classify_status(status: &tonic::Status) -> ErrorClass {
    use tonic::Code;
    if let Some(class) = classify(status) {
        return class;
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => ErrorClass::Unauthorized,
        Code::DeadlineExceeded => ErrorClass::Timeout,
        // tonic's own deadline ends this way.
        Code::Cancelled if status.message().contains("Timeout expired") => ErrorClass::Timeout,
        Code::Unavailable => ErrorClass::Connect,
        _ => ErrorClass::Protocol,
    }
}

/// What happened, from the outermost message to the innermost cause, without repeating what a message already says.
pub fn explain(status: &tonic::Status) -> String {
    let mut text = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A status' source prints the same words again in its own form.
        if !more.is_empty() && !text.contains(&more) && !error.is::<tonic::Status>() {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The kind of failure, if the chain of causes shows one.
fn classify(error: &(dyn Error + 'static)) -> Option<ErrorClass> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(dial) = e.downcast_ref::<DialError>() {
            return Some(dial.class);
        }
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(classify_tls(tls));
        }
        if let Some(io) = e.downcast_ref::<io::Error>() {
            // An I/O error that carries another one does not show it as its source.
            if let Some(inner) = io.get_ref().and_then(|inner| classify(inner)) {
                return Some(inner);
            }
            match io.kind() {
                io::ErrorKind::TimedOut => return Some(ErrorClass::Timeout),
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => {
                    return Some(ErrorClass::Connect);
                }
                _ => {}
            }
        }
        if let Some(h2) = e.downcast_ref::<h2::Error>() {
            use h2::Reason;
            if let Some(inner) = h2.get_io().and_then(|io| classify(io)) {
                return Some(inner);
            }
            // What a server makes us say that answers in another protocol; or what it says to us in so many words.
            let other = [Reason::PROTOCOL_ERROR, Reason::FRAME_SIZE_ERROR, Reason::HTTP_1_1_REQUIRED];
            if h2.reason().is_some_and(|r| other.contains(&r)) {
                return Some(ErrorClass::NotHttp2);
            }
        }
        next = e.source();
    }
    None
}

fn classify_tls(error: &rustls::Error) -> ErrorClass {
    match error {
        rustls::Error::InvalidCertificate(e) => match e {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => ErrorClass::CertificateExpired,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => ErrorClass::UnknownCa,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ErrorClass::WrongServerName
            }
            _ => ErrorClass::TlsHandshake,
        },
        // The far side did not like what we showed: our certificate, or that we have none.
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError,
        ) => ErrorClass::ClientCertificate,
        _ => ErrorClass::TlsHandshake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// Such a server made a call fail with "broken pipe" and nothing else, whenever it was faster than our second write.
    #[tokio::test]
    async fn the_reason_is_read_even_where_a_write_fails_first() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(peer);
        let link = Link::default();
        let mut watched = Watched { stream: Box::new(stream), link: link.clone(), answered: false };
        // Nothing reads; the first write is answered by a reset, a later one fails.
        while watched.write_all(b"PRI * HTTP/2.0").await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(link.0.lock().broken.as_ref().map(|b| b.class), Some(ErrorClass::NotHttp2));
    }
}
