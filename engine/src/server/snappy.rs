//! Snappy on gRPC, as Thanos's parts send it to each other (`--grpc-compression=snappy`): each message is a snappy stream
//! (snappy's framing format). The gRPC library does not know it, so messages are unpacked before it sees them.
//!
//! How long a message is unpacked stands in the heads of its pieces: one that would be too long is refused before anything is
//! unpacked, and the rest is unpacked piece by piece (64 KiB) as it is read.

use super::RECEIVE_MAX;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;

/// Its name in headers.
pub const NAME: &str = "snappy";
/// The header that says how messages are packed.
pub const ENCODING: &str = "grpc-encoding";
/// A flag and four bytes of length stand before each message.
const PREFIX: usize = 5;
/// What one piece may hold, by the format.
const PIECE: usize = 1 << 16;
/// A piece begins with its kind, its length, and the checksum of what is in it.
const PIECE_HEAD: usize = 4;
const CHECKSUM: usize = 4;

/// Takes the header off; true if it named snappy.
pub fn taken(headers: &mut HeaderMap) -> bool {
    let named = headers.get(ENCODING).is_some_and(|v| v == NAME);
    if named {
        headers.remove(ENCODING);
    }
    named
}

/// Says that our messages may be packed with snappy (none is), so that a Go server packs its answer.
pub fn ask(headers: &mut HeaderMap) {
    for name in [ENCODING, "grpc-accept-encoding"] {
        headers.insert(name, HeaderValue::from_static(NAME));
    }
}

/// Lets a server take packed requests. Who packs its request gets a packed answer, as from a Go server.
pub(super) async fn accept(mut request: Request, next: Next) -> Response {
    let packs = taken(request.headers_mut());
    if packs {
        request = request.map(|body| axum::body::Body::new(Unpacked::new(tonic::body::Body::new(body))));
    }
    let mut response = next.run(request).await;
    if packs && !response.headers().contains_key(ENCODING) {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static(NAME));
        response = response.map(|body| axum::body::Body::new(Packed::new(body)));
    }
    response
}

/// A body whose messages are packed.
struct Packed {
    inner: axum::body::Body,
    read: BytesMut,
}

impl Packed {
    /// Over a body of gRPC messages, none of them packed.
    fn new(inner: axum::body::Body) -> Self {
        Self { inner, read: BytesMut::new() }
    }

    /// The next message, if it has arrived whole. One that packing does not make smaller stays as it is.
    fn step(&mut self) -> Result<Option<Bytes>, Status> {
        let Some([flag, length @ ..]) = self.read.get(..PREFIX).and_then(|p| <[u8; PREFIX]>::try_from(p).ok()) else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if self.read.len() - PREFIX < length {
            return Ok(None);
        }
        let message = self.read.split_to(PREFIX + length).freeze();
        let mut packed = snap::write::FrameEncoder::new(vec![1, 0, 0, 0, 0]);
        let written = std::io::Write::write_all(&mut packed, message.get(PREFIX..).unwrap_or_default());
        let packed = written.and_then(|()| packed.into_inner().map_err(|e| e.into_error()));
        let mut packed = packed.map_err(|e| Status::internal(format!("an answer can't be packed: {e}")))?;
        let Ok(short) = u32::try_from(packed.len().saturating_sub(PREFIX)) else { return Ok(Some(message)) };
        if flag != 0 || packed.len() >= message.len() {
            return Ok(Some(message));
        }
        if let Some(place) = packed.get_mut(1..PREFIX) {
            place.copy_from_slice(&short.to_be_bytes());
        }
        Ok(Some(packed.into()))
    }
}

impl Body for Packed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        loop {
            match me.step() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(Pin::new(&mut me.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => me.read.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(e)) => return Poll::Ready(Some(Err(Status::internal(e.to_string())))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// A body whose messages are unpacked.
pub struct Unpacked {
    inner: tonic::body::Body,
    read: BytesMut,
    state: State,
}

enum State {
    /// Between messages.
    Prefix,
    /// In a message that is not packed: so many bytes are left.
    Plain(usize),
    /// A packed message of so many bytes is to be read whole.
    Packed(usize),
    /// What is left of a packed message.
    Unpacking(Bytes),
}

impl Unpacked {
    /// Over a body of gRPC messages.
    pub fn new(inner: tonic::body::Body) -> Self {
        Self { inner, read: BytesMut::new(), state: State::Prefix }
    }

    /// The next bytes, as far as enough was read.
    fn step(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match &mut self.state {
                State::Prefix => {
                    let Some(prefix) = self.read.get(..PREFIX) else { return Ok(None) };
                    let (packed, mut length) = (prefix.first() == Some(&1), prefix.get(1..).unwrap_or_default());
                    let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
                    if length > RECEIVE_MAX {
                        return Err(too_long(length));
                    }
                    if packed {
                        self.read.advance(PREFIX);
                        self.state = State::Packed(length);
                    } else {
                        self.state = State::Plain(length);
                        return Ok(Some(self.read.split_to(PREFIX).freeze()));
                    }
                }
                State::Plain(0) => self.state = State::Prefix,
                State::Plain(left) => {
                    let take = (*left).min(self.read.len());
                    if take == 0 {
                        return Ok(None);
                    }
                    *left -= take;
                    return Ok(Some(self.read.split_to(take).freeze()));
                }
                State::Packed(length) => {
                    if self.read.len() < *length {
                        return Ok(None);
                    }
                    let packed = self.read.split_to(*length).freeze();
                    let length = unpacked_len(packed.clone())?;
                    self.state = State::Unpacking(packed);
                    let mut prefix = BytesMut::with_capacity(PREFIX);
                    prefix.put_u8(0);
                    prefix.put_u32(u32::try_from(length).map_err(|_| too_long(length))?);
                    return Ok(Some(prefix.freeze()));
                }
                State::Unpacking(left) => match piece(left)? {
                    Some(piece) => {
                        let unpacked = piece.unpack()?;
                        if !unpacked.is_empty() {
                            return Ok(Some(unpacked));
                        }
                    }
                    None => self.state = State::Prefix,
                },
            }
        }
    }
}

impl Body for Unpacked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        loop {
            match me.step() {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(Pin::new(&mut me.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => me.read.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                None if !me.read.is_empty() => {
                    me.read.clear();
                    return Poll::Ready(Some(Err(broken("it ends inside a message"))));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

/// A piece of a snappy stream.
enum Piece {
    Packed(Bytes),
    Plain(Bytes),
    /// The head of a stream, or what may be skipped.
    Other,
}

/// The next piece; `None` at the end.
fn piece(left: &mut Bytes) -> Result<Option<Piece>, Status> {
    if left.is_empty() {
        return Ok(None);
    }
    let Some([kind, a, b, c]) = left.get(..PIECE_HEAD).and_then(|h| <[u8; PIECE_HEAD]>::try_from(h).ok()) else {
        return Err(broken("a piece ends early"));
    };
    let length = usize::try_from(u32::from_le_bytes([a, b, c, 0])).unwrap_or(usize::MAX);
    left.advance(PIECE_HEAD);
    if length > left.len() {
        return Err(broken("a piece ends early"));
    }
    let body = left.split_to(length);
    Ok(Some(match kind {
        0x00 | 0x01 if length < CHECKSUM => return Err(broken("a piece has no checksum")),
        0x00 => Piece::Packed(body),
        0x01 => Piece::Plain(body),
        0xff if body.as_ref() != b"sNaPpY" => return Err(broken("it is no snappy stream")),
        0x80..=0xff => Piece::Other,
        _ => return Err(broken("a piece is of an unknown kind")),
    }))
}

impl Piece {
    fn len(&self) -> Result<usize, Status> {
        let length = match self {
            Self::Packed(body) => snap::raw::decompress_len(body.get(CHECKSUM..).unwrap_or_default())
                .map_err(|e| broken(&e.to_string()))?,
            Self::Plain(body) => body.len().saturating_sub(CHECKSUM),
            Self::Other => 0,
        };
        if length > PIECE { Err(broken("a piece is longer than 64 KiB")) } else { Ok(length) }
    }

    fn unpack(self) -> Result<Bytes, Status> {
        let (expected, data) = match self {
            Self::Packed(mut body) => {
                let expected = body.get_u32_le();
                let data = snap::raw::Decoder::new().decompress_vec(&body).map_err(|e| broken(&e.to_string()))?;
                (expected, Bytes::from(data))
            }
            Self::Plain(mut body) => (body.get_u32_le(), body),
            Self::Other => return Ok(Bytes::new()),
        };
        let crc = crc32c::crc32c(&data);
        if crc.rotate_right(15).wrapping_add(0xa282_ead8) != expected {
            return Err(broken("a piece's checksum is wrong"));
        }
        Ok(data)
    }
}

/// How long a message will be.
fn unpacked_len(mut packed: Bytes) -> Result<usize, Status> {
    let mut whole = 0usize;
    while let Some(piece) = piece(&mut packed)? {
        whole += piece.len()?;
        if whole > RECEIVE_MAX {
            return Err(too_long(whole));
        }
    }
    Ok(whole)
}

fn broken(why: &str) -> Status {
    Status::internal(format!("a snappy message can't be unpacked: {why}"))
}

fn too_long(bytes: usize) -> Status {
    Status::resource_exhausted(format!(
        "a message has {bytes} bytes or more, and none may have more than {RECEIVE_MAX}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, StreamBody};
    use std::io::Write as _;

    fn packed(message: &[u8]) -> Vec<u8> {
        let mut stream = snap::write::FrameEncoder::new(Vec::new());
        stream.write_all(message).unwrap();
        prefixed(1, &stream.into_inner().unwrap())
    }

    fn prefixed(flag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    async fn unpack(bytes: &[u8], cut: usize) -> Result<Vec<u8>, Status> {
        let pieces: Vec<_> =
            bytes.chunks(cut).map(|c| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(c)))).collect();
        let body = tonic::body::Body::new(StreamBody::new(tokio_stream::iter(pieces)));
        Unpacked::new(body).collect().await.map(|all| all.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn messages_are_unpacked_however_the_stream_is_cut() {
        let large: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let messages = [b"".to_vec(), b"small".to_vec(), large];
        let (mut sent, mut want) = (Vec::new(), Vec::new());
        for m in &messages {
            sent.extend(packed(m));
            sent.extend(prefixed(0, m));
            want.extend(prefixed(0, m));
            want.extend(prefixed(0, m));
        }
        for cut in [3, 1000, sent.len()] {
            assert_eq!(unpack(&sent, cut).await.unwrap(), want, "in pieces of {cut}");
        }
    }

    #[tokio::test]
    async fn answers_are_packed_for_who_packs_requests() {
        use axum::http::Request;
        use tower::ServiceExt as _;
        let large: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let plain = [prefixed(0, &large), prefixed(0, b"x"), prefixed(0, b"")].concat();
        let answer = plain.clone();
        let app = axum::Router::new()
            .fallback(move || async move { axum::body::Body::from(answer) })
            .layer(axum::middleware::from_fn(accept));
        for packs in [true, false] {
            let mut request = Request::new(axum::body::Body::empty());
            if packs {
                ask(request.headers_mut());
            }
            let mut response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(taken(response.headers_mut()), packs);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if packs {
                assert!(body.len() < plain.len() / 2, "{} bytes", body.len());
                assert_eq!(unpack(&body, 1000).await.unwrap(), plain);
            } else {
                assert_eq!(body, plain);
            }
        }
    }

    #[tokio::test]
    async fn bombs_and_damage_are_refused() {
        // 4 MiB that say that they are more than 64: each piece announces 64 KiB.
        let zeros = snap::raw::Encoder::new().compress_vec(&vec![0; PIECE]).unwrap();
        let mut piece = vec![0];
        piece.extend(&u32::try_from(zeros.len() + 4).unwrap().to_le_bytes()[..3]);
        piece.extend([0; 4]);
        piece.extend(&zeros);
        let bomb = prefixed(1, &piece.repeat(RECEIVE_MAX / PIECE + 1));
        assert!(bomb.len() < 8 << 20);
        let e = unpack(&bomb, 1 << 16).await.unwrap_err();
        assert_eq!(e.code(), tonic::Code::ResourceExhausted, "{e}");
        let good = packed(&vec![7; 1000]);
        for at in 5..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            if let Ok(out) = unpack(&bad, 100).await {
                assert_eq!(out, prefixed(0, &[7; 1000]), "byte {at}");
            }
        }
        assert!(unpack(&good[..good.len() - 1], 100).await.is_err());
        assert!(unpack(&prefixed(1, b"\x02\x00\x00\x00"), 100).await.is_err());
    }
}
