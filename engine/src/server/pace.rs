//! Floods of HTTP/2 control frames are slowed down: a connection that sends more of them than a caller has use for is read
//! from more slowly, so that TCP holds its sender back. Nobody is refused, and nobody else waits.
//!
//! A frame of nine bytes (a SETTINGS to acknowledge, a call that is reset at once) costs us thousands of times what it
//! costs its sender, and `h2` bounds only what it remembers of them, not how much of them it does.

use prometheus_client::metrics::counter::Counter;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head: length (3), kind, flags, stream (4).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// What a frame costs that begins a call, in units.
const CALL: u32 = 16;
/// What another frame costs that makes work, in units.
const CONTROL: u32 = 8;
/// What a frame costs that comes with a busy stream, in units: data, room for more of it, and the pings by which Go's gRPC
/// measures the way, one in every round trip.
const FLOW: u32 = 1;
/// Units that come back in a second: 1,000 calls, or 16,000 updates of a window.
const RATE: f64 = 16_000.0;
/// Units that may be used at once.
const BURST: f64 = 16_000.0;

/// Where in the bytes of a connection we are.
#[derive(Debug)]
enum At {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// In the head of a frame, of which so many bytes are known.
    Head([u8; HEAD], usize),
    /// So many bytes of the frame's payload are to come.
    Payload(usize),
    /// It does not speak HTTP/2.
    Other,
}

impl At {
    /// Takes the next bytes; the units that the frames that begin in them cost.
    fn read(&mut self, mut bytes: &[u8]) -> u32 {
        let mut cost = 0;
        while !bytes.is_empty() {
            match self {
                Self::Other => break,
                Self::Preface(seen) => {
                    let n = bytes.len().min(PREFACE.len() - *seen);
                    if PREFACE[*seen..*seen + n] != bytes[..n] {
                        *self = Self::Other;
                        break;
                    }
                    bytes = &bytes[n..];
                    *self =
                        if *seen + n == PREFACE.len() { Self::Head([0; HEAD], 0) } else { Self::Preface(*seen + n) };
                }
                Self::Head(head, known) => {
                    let n = bytes.len().min(HEAD - *known);
                    head[*known..*known + n].copy_from_slice(&bytes[..n]);
                    *known += n;
                    bytes = &bytes[n..];
                    if *known == HEAD {
                        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                        cost += match head[3] {
                            WINDOW_UPDATE | PING => FLOW,
                            DATA if length > 0 => FLOW,
                            HEADERS => CALL,
                            _ => CONTROL,
                        };
                        *self = Self::Payload(length);
                    }
                }
                Self::Payload(left) => {
                    let n = bytes.len().min(*left);
                    bytes = &bytes[n..];
                    *left -= n;
                }
            }
            if matches!(self, Self::Payload(0)) {
                *self = Self::Head([0; HEAD], 0);
            }
        }
        cost
    }
}

/// A connection whose frames are counted, and that is read from no faster than they may come.
#[derive(Debug)]
pub(super) struct Paced<I> {
    io: I,
    at: At,
    /// Units in hand at `since`; below zero, nothing is read until they have come back.
    units: f64,
    since: Instant,
    wait: Option<Pin<Box<Sleep>>>,
    /// Connections that had to wait.
    paced: Counter,
    told: bool,
}

impl<I> Paced<I> {
    pub(super) fn new(io: I, paced: Counter) -> Self {
        Self { io, at: At::Preface(0), units: BURST, since: Instant::now(), wait: None, paced, told: false }
    }

    fn spend(&mut self, cost: u32) {
        if cost == 0 || model::protection::off("control-frame-pace") {
            return;
        }
        let now = Instant::now();
        self.units = (self.units + (now - self.since).as_secs_f64() * RATE).min(BURST) - f64::from(cost);
        self.since = now;
        if self.units < 0.0 {
            self.wait = Some(Box::pin(tokio::time::sleep(Duration::from_secs_f64(-self.units / RATE))));
            if !self.told {
                self.told = true;
                self.paced.inc();
                tracing::debug!("a connection sends more control frames than it may, and is slowed down");
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Paced<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(wait) = &mut this.wait {
            ready!(wait.as_mut().poll(cx));
            this.wait = None;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let cost = this.at.read(&buf.filled()[before..]);
        this.spend(cost);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Paced<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut out = u32::try_from(payload).unwrap().to_be_bytes()[1..].to_vec();
        out.extend([kind, 0, 0, 0, 0, 1]);
        out.extend(vec![7; payload]);
        out
    }

    #[test]
    fn frames_are_counted_wherever_the_bytes_are_cut() {
        let frames = [
            frame(4, 6),
            frame(1, 300),
            frame(DATA, 5),
            frame(DATA, 0),
            frame(WINDOW_UPDATE, 4),
            frame(3, 4),
            frame(PING, 8),
        ];
        let bytes = [PREFACE.to_vec(), frames.concat()].concat();
        for size in [1, 2, 5, 9, 10, 64, bytes.len()] {
            let mut at = At::Preface(0);
            let cost: u32 = bytes.chunks(size).map(|piece| at.read(piece)).sum();
            assert_eq!(cost, CALL + 3 * CONTROL + 3 * FLOW, "pieces of {size}");
            assert!(matches!(at, At::Head(_, 0)));
        }
    }

    #[test]
    fn what_is_not_http2_costs_nothing() {
        let mut at = At::Preface(0);
        assert_eq!(at.read(b"PRI * HTTP/1.1\r\n\r\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), 0);
        assert!(matches!(at, At::Other));
    }

    /// Time stands still but where somebody waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_at_its_pace_and_a_busy_stream_as_it_comes() {
        let begin = Instant::now();
        let read = async |bytes: Vec<u8>| {
            let (begin, mut out) = (Instant::now(), Vec::new());
            Paced::new(io::Cursor::new(bytes), Counter::default()).read_to_end(&mut out).await.unwrap();
            begin.elapsed()
        };
        let settings = [PREFACE.to_vec(), frame(4, 0).repeat(24_000)].concat();
        let took = read(settings).await;
        let seconds = (24_000.0 * f64::from(CONTROL) - BURST) / RATE;
        assert!((seconds - 1.0..seconds + 1.0).contains(&took.as_secs_f64()), "{took:?}, not {seconds} s");
        let stream =
            [PREFACE.to_vec(), [frame(DATA, 16 << 10), frame(WINDOW_UPDATE, 4)].concat().repeat(4_000)].concat();
        assert_eq!(read(stream).await, Duration::ZERO, "64 MiB at once");
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}
