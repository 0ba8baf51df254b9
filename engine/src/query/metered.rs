//! A channel whose answers are let in message by message: the size that stands before each is read off the stream, and
//! the message itself is read only when its bytes are granted. Until then the store is held back by HTTP/2's window.

use super::buffers::{Call, Refused};
use crate::server::snappy::{self, Unpacked};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::transport::Channel;

/// A compression flag and four bytes of length stand before each message (gRPC over HTTP/2).
const PREFIX: usize = 5;

/// The channel, for one call.
#[derive(Clone)]
pub struct Metered {
    channel: Channel,
    call: Arc<Call>,
    snappy: bool,
}

impl Metered {
    /// The answer to what is sent over this is counted as `call`'s; with `snappy`, it is asked for in that form.
    pub fn new(channel: Channel, call: Arc<Call>, snappy: bool) -> Self {
        Self { channel, call, snappy }
    }
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl tower::Service<http::Request<tonic::body::Body>> for Metered {
    type Response = http::Response<MeteredBody>;
    type Error = tonic::transport::Error;
    type Future = Answering<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        if self.snappy {
            snappy::ask(request.headers_mut());
        }
        let (answer, call) = (self.channel.call(request), Arc::clone(&self.call));
        Box::pin(async move {
            let mut answer = answer.await?;
            // Their length is known before they are unpacked, so that they are counted as they will be.
            if snappy::taken(answer.headers_mut()) {
                answer = answer.map(|body| tonic::body::Body::new(Unpacked::new(body)));
            }
            Ok(answer.map(|inner| MeteredBody { inner, call, prefixes: Prefixes::default(), blocked: None }))
        })
    }
}

/// The body of an answer.
pub struct MeteredBody {
    inner: tonic::body::Body,
    call: Arc<Call>,
    prefixes: Prefixes,
    blocked: Option<Blocked>,
}

/// A piece that waits until the messages that begin in it are let in.
struct Blocked {
    data: Bytes,
    admission: Answering<(), Refused>,
    more: VecDeque<usize>,
}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        loop {
            if let Some(blocked) = &mut me.blocked {
                if let Err(refused) = ready!(blocked.admission.as_mut().poll(cx)) {
                    me.blocked = None;
                    return Poll::Ready(Some(Err(Status::resource_exhausted(refused.to_string()))));
                }
                if let Some(bytes) = blocked.more.pop_front() {
                    blocked.admission = Box::pin(Arc::clone(&me.call).admit(bytes));
                    continue;
                }
                let data = std::mem::take(&mut blocked.data);
                me.blocked = None;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let data = match ready!(Pin::new(&mut me.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            };
            let mut begun = me.prefixes.read(&data);
            while begun.front().is_some_and(|bytes| me.call.try_admit(*bytes)) {
                begun.pop_front();
            }
            let Some(first) = begun.pop_front() else { return Poll::Ready(Some(Ok(Frame::data(data)))) };
            let admission = Box::pin(Arc::clone(&me.call).admit(first));
            me.blocked = Some(Blocked { data, admission, more: begun });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.blocked.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Finds where messages begin, and how long they are.
#[derive(Default)]
struct Prefixes {
    prefix: [u8; PREFIX],
    have: usize,
    left: usize,
}

impl Prefixes {
    /// The lengths of the messages whose prefix ends in this piece.
    fn read(&mut self, mut data: &[u8]) -> VecDeque<usize> {
        let mut found = VecDeque::new();
        loop {
            let skip = self.left.min(data.len());
            self.left -= skip;
            data = data.get(skip..).unwrap_or_default();
            if data.is_empty() {
                return found;
            }
            let take = (PREFIX - self.have).min(data.len());
            let (now, rest) = data.split_at(take);
            for (to, from) in self.prefix.iter_mut().skip(self.have).zip(now) {
                *to = *from;
            }
            (self.have, data) = (self.have + take, rest);
            if self.have == PREFIX {
                let [_, a, b, c, d] = self.prefix;
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                (self.have, self.left) = (0, length);
                found.push_back(length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        let lengths = [3usize, 0, 300, 7, 70_000, 1];
        for n in lengths {
            stream.push(0);
            stream.extend(u32::try_from(n).unwrap().to_be_bytes());
            stream.extend(std::iter::repeat_n(9, n));
        }
        for piece in [1, 2, 4, 5, 6, 313, 16_384, stream.len()] {
            let mut prefixes = Prefixes::default();
            let found: Vec<usize> = stream.chunks(piece).flat_map(|c| prefixes.read(c)).collect();
            assert_eq!(found, lengths, "in pieces of {piece}");
        }
    }
}
