//! The StoreAPI over HTTP/2: requests as everywhere, answers in frames that were made once. The memory that is counted for a
//! frame is counted until its last piece has been sent. Who reads nothing for a long time gets nothing more, and what waited for
//! him is let go: his connection holds one piece (a slice of a read, which lives as long).

use super::grpc::{Sent, StoreGateway};
use super::series::STALL;
use super::series::encode::{Frame, Room, TOGETHER};
use bytes::Bytes;
use futures::stream;
use futures::{StreamExt as _, TryStreamExt as _};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Body;
use parking_lot::Mutex;
use proto::bounded::{Bounded, BoundedCodec};
use proto::thanos::store_server::StoreServer;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::{Codec as _, Streaming};
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};

/// Largest request, in bytes: as of all our servers.
const REQUEST_MAX: usize = 4 << 20;

/// The StoreAPI as a gRPC service.
#[derive(Clone)]
pub struct Server {
    gateway: StoreGateway,
    rest: StoreServer<StoreGateway>,
}

impl Server {
    /// Of this gateway.
    pub fn new(gateway: StoreGateway) -> Self {
        Self { rest: StoreServer::new(gateway.clone()), gateway }
    }
}

impl NamedService for Server {
    const NAME: &'static str = "thanos.Store";
}

impl<B> Service<http::Request<B>> for Server
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let gateway = self.gateway.clone();
        match request.uri().path() {
            "/thanos.Store/Series" => Box::pin(async move {
                let frames = async { gateway.frames(&read(request).await?) };
                Ok(answer(frames.await))
            }),
            "/thanos.Store/LabelNames" => Box::pin(async move {
                let frame = async { gateway.names(read(request).await?).await };
                Ok(answer(frame.await.map(one)))
            }),
            "/thanos.Store/LabelValues" => Box::pin(async move {
                let frame = async { gateway.values(read(request).await?).await };
                Ok(answer(frame.await.map(one)))
            }),
            _ => self.rest.call(request),
        }
    }
}

fn one(frame: Frame) -> Sent {
    stream::iter([Ok(frame)]).boxed()
}

/// The message of a request.
async fn read<M, B>(request: http::Request<B>) -> Result<Request<M>, Status>
where
    M: Bounded + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let decoder = BoundedCodec::<M, M>::default().decoder();
    let message = Streaming::new_request(decoder, body, None, Some(REQUEST_MAX)).try_next().await?;
    let message = message.ok_or_else(|| Status::internal("the request has no message"))?;
    Ok(Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, message))
}

fn answer(frames: Result<Sent, Status>) -> http::Response<tonic::body::Body> {
    let frames = match frames {
        Ok(frames) => frames,
        Err(status) => return status.into_http(),
    };
    let mut response = http::Response::new(tonic::body::Body::new(Watched::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Longest piece that is handed to the connection as it is, in bytes: of a longer one it gets a copy, bit by bit, so that it
/// does not keep the whole.
const PIECE: usize = 2 * TOGETHER;

/// Frames, in pieces.
struct Frames {
    frames: Sent,
    /// What is left of a frame.
    pieces: std::vec::IntoIter<Bytes>,
    /// What is left of a long piece.
    rest: Bytes,
    room: Room,
}

impl Frames {
    /// The next piece; none at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if self.rest.is_empty()
                && let Some(piece) = self.pieces.find(|piece| !piece.is_empty())
            {
                self.rest = piece;
            }
            if self.rest.len() > PIECE {
                let copy = Bytes::copy_from_slice(&self.rest.split_to(TOGETHER));
                return Poll::Ready(Some(Ok(copy)));
            }
            if !self.rest.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
            }
            // Who asks for the next one has sent the last.
            self.room = None;
            match self.frames.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let (pieces, room) = frame.pieces();
                    (self.pieces, self.room) = (pieces.into_iter(), room);
                }
                Poll::Ready(other) => return Poll::Ready(other.map(|frame| frame.map(|_| Bytes::new()))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// What is known of a caller.
struct Caller {
    /// Nothing once he has read nothing for too long, and after the end.
    frames: Option<Frames>,
    /// When he asked last.
    asked: Instant,
    /// He waits for us.
    waits: bool,
}

/// Frames as a body, with gRPC's trailers behind them.
struct Watched {
    caller: Arc<Mutex<Caller>>,
    is_over: bool,
    _watch: AbortOnDropHandle<()>,
}

impl Watched {
    fn new(frames: Sent) -> Self {
        let frames = Frames { frames, pieces: Vec::new().into_iter(), rest: Bytes::new(), room: None };
        let caller = Arc::new(Mutex::new(Caller { frames: Some(frames), asked: Instant::now(), waits: false }));
        let watched = Arc::clone(&caller);
        let watch = async move {
            let mut until = Instant::now() + STALL;
            loop {
                tokio::time::sleep_until(until).await;
                let mut caller = watched.lock();
                let now = Instant::now();
                until = if caller.waits { now } else { caller.asked } + STALL;
                if until <= now {
                    caller.frames = None;
                    return;
                }
            }
        };
        Self { caller, is_over: false, _watch: AbortOnDropHandle::new(tokio::spawn(watch)) }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let status = {
            let mut caller = self.caller.lock();
            let polled = match &mut caller.frames {
                Some(frames) => frames.poll(cx),
                None => Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                    "the caller has read nothing for {STALL:?}"
                ))))),
            };
            (caller.asked, caller.waits) = (Instant::now(), polled.is_pending());
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => return Poll::Ready(Some(Ok(http_body::Frame::data(piece)))),
                Poll::Ready(Some(Err(status))) => status,
                Poll::Ready(None) => Status::ok(""),
            }
        };
        self.is_over = true;
        let mut trailers = HeaderMap::with_capacity(3);
        if let Err(status) = status.add_header(&mut trailers) {
            // A text that no header can hold.
            trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
        }
        Poll::Ready(Some(Ok(http_body::Frame::trailers(trailers))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use proto::thanos::LabelValuesResponse;
    use std::time::Duration;

    /// A long answer with memory, and how many hold that memory.
    fn long() -> (Watched, Arc<()>) {
        let memory = Arc::new(());
        let values = vec!["x".repeat(3 * PIECE)];
        let frame = Frame::of(&LabelValuesResponse { values, ..Default::default() }).with(Arc::clone(&memory));
        (Watched::new(one(frame)), memory)
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_for_long_holds_one_piece() {
        let (mut body, memory) = long();
        let mut piece = async || body.frame().await.unwrap().unwrap();
        let first = piece().await.into_data().unwrap();
        assert_eq!(first.len(), TOGETHER);
        // Slow is not dead.
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        piece().await.into_data().unwrap();
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&memory), 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&memory), 1, "it is held for a caller who reads nothing");
        let trailers = piece().await.into_trailers().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "4");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_us_is_not_given_up() {
        let later = stream::once(async {
            tokio::time::sleep(STALL * 3).await;
            Ok(Frame::of(&LabelValuesResponse::default()))
        });
        let mut body = Watched::new(later.boxed());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 5);
        assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap().get("grpc-status").unwrap(), "0");
    }

    #[tokio::test]
    async fn all_of_a_long_answer_comes_and_its_memory_goes_with_the_last_piece() {
        let (mut body, memory) = long();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            assert_eq!(Arc::strong_count(&memory), if frame.is_data() { 2 } else { 1 });
            bytes += frame.into_data().map_or(0, |piece| piece.len());
        }
        // The prefix, the field's key and its length, the value.
        assert_eq!(bytes, 5 + 1 + 3 + 3 * PIECE);
    }
}
