//! The StoreAPI over HTTP/2: requests as everywhere, answers in frames that were made once. What the frame of a label call holds
//! is held until it has been sent, and so is the memory that is counted for it; of Series a few frames wait here, uncounted.

use super::grpc::{Sent, StoreGateway};
use super::series::encode::Frame;
use bytes::Bytes;
use futures::stream;
use futures::{StreamExt as _, TryStreamExt as _};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Body;
use proto::bounded::{Bounded, BoundedCodec};
use proto::thanos::store_server::StoreServer;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
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
    let mut response =
        http::Response::new(tonic::body::Body::new(Frames { frames, pieces: Vec::new().into_iter(), is_over: false }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Frames as a body, with gRPC's trailers behind them.
struct Frames {
    frames: Sent,
    /// What is left of a frame.
    pieces: std::vec::IntoIter<Bytes>,
    is_over: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(piece) = self.pieces.find(|piece| !piece.is_empty()) {
                return Poll::Ready(Some(Ok(http_body::Frame::data(piece))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let status = match ready!(self.frames.poll_next_unpin(cx)) {
                Some(Ok(frame)) => {
                    self.pieces = frame.pieces().into_iter();
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.is_over = true;
            let mut trailers = HeaderMap::with_capacity(3);
            if let Err(status) = status.add_header(&mut trailers) {
                // A text that no header can hold.
                trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
            }
            return Poll::Ready(Some(Ok(http_body::Frame::trailers(trailers))));
        }
    }
}
