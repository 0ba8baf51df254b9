//! Bodies of requests and answers that tell when bytes move, so that a transfer ends for lack of progress and never because it
//! takes long.

use crate::store::Source;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequestBody, HttpResponseBody};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

/// Bytes that are read from a source at a time; what an upload holds in memory is a few of these.
const PIECE: usize = 128 << 10;

/// A request's body that comes from a source. It rides in the extensions of a request whose payload has the right length and
/// no content.
#[derive(Debug, Clone)]
pub(crate) struct Streamed {
    pub(crate) source: Arc<dyn Source>,
    /// The source failed; the request ends with it.
    pub(crate) failed: Arc<AtomicBool>,
}

/// When bytes moved last.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    last_ms: AtomicU64,
    sent: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            done: AtomicBool::new(false),
        })
    }

    fn moved(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    fn finished(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            self.moved(0);
        }
    }

    /// Bytes of the body that were handed to the connection.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// When patience ends: `stall` after the last byte moved, or `answer` after all were sent.
    pub(crate) fn deadline(&self, stall: Duration, answer: Duration) -> Instant {
        let last = self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        last + if self.done.load(Ordering::Relaxed) { answer } else { stall }
    }

    /// What was waited for when it ended.
    pub(crate) fn waited_for(&self, stall: Duration, answer: Duration) -> String {
        if self.done.load(Ordering::Relaxed) {
            format!("all was sent, and no answer began within {answer:.0?}")
        } else {
            format!("nothing moved for {stall:.0?}")
        }
    }
}

/// What is sent.
pub(crate) struct Sending {
    from: From,
    left: u64,
    progress: Arc<Progress>,
    /// CRC-32C of the bytes so far; told once it is that of all of them.
    crc: u32,
    sent: Arc<AtomicU32>,
}

enum From {
    Payload(HttpRequestBody, Bytes),
    Source { streamed: Streamed, offset: u64, reading: Option<JoinHandle<std::io::Result<Bytes>>> },
}

impl Sending {
    pub(crate) fn payload(body: HttpRequestBody, progress: Arc<Progress>) -> Self {
        let left = body.content_length() as u64;
        Self::new(From::Payload(body, Bytes::new()), left, progress)
    }

    pub(crate) fn source(streamed: Streamed, progress: Arc<Progress>) -> Self {
        let left = streamed.source.size();
        Self::new(From::Source { streamed, offset: 0, reading: None }, left, progress)
    }

    fn new(from: From, left: u64, progress: Arc<Progress>) -> Self {
        Self { from, left, progress, crc: 0, sent: Arc::default() }
    }

    /// Where the CRC-32C of what was sent is found, once all of it was.
    pub(crate) fn crc(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.sent)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Nobody asks for more: sent, or given up.
        self.progress.finished();
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = &mut *self;
        let piece = match &mut this.from {
            From::Payload(body, rest) => {
                if rest.is_empty() {
                    match Pin::new(body).poll_frame(context) {
                        Poll::Ready(Some(Ok(frame))) => *rest = frame.into_data().unwrap_or_default(),
                        Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(std::io::Error::other(e)))),
                        Poll::Ready(None) => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
                rest.split_to(rest.len().min(PIECE))
            }
            From::Source { streamed, offset, reading } => {
                if this.left == 0 {
                    Bytes::new()
                } else {
                    let job = reading.get_or_insert_with(|| {
                        let (source, offset) = (Arc::clone(&streamed.source), *offset);
                        let length = usize::try_from(this.left).map_or(PIECE, |left| left.min(PIECE));
                        tokio::task::spawn_blocking(move || source.read(offset, length))
                    });
                    let read = match Pin::new(job).poll(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(read) => read.map_err(std::io::Error::other).and_then(|read| read),
                    };
                    *reading = None;
                    match read {
                        Ok(piece) if !piece.is_empty() => {
                            *offset += piece.len() as u64;
                            piece
                        }
                        other => {
                            streamed.failed.store(true, Ordering::Relaxed);
                            let short = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                            return Poll::Ready(Some(Err(other.err().unwrap_or_else(short))));
                        }
                    }
                }
            }
        };
        if piece.is_empty() {
            this.progress.finished();
            return Poll::Ready(None);
        }
        this.left = this.left.saturating_sub(piece.len() as u64);
        this.crc = crc32c::crc32c_append(this.crc, &piece);
        this.progress.moved(piece.len());
        if this.left == 0 {
            this.sent.store(this.crc, Ordering::Relaxed);
            this.progress.finished();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What is received, given up when no byte came for a while to whoever waited for it. A reader that does not ask waits for
/// nothing.
pub(crate) struct Receiving<B> {
    inner: B,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// Asked, and nothing was there yet: the timer runs.
    waiting: bool,
}

impl<B> Receiving<B>
where
    B: Body<Data = Bytes, Error = reqwest::Error> + Send + Sync + Unpin + 'static,
{
    pub(crate) fn wrap(inner: B, patience: Duration) -> HttpResponseBody {
        let timer = Box::pin(tokio::time::sleep(patience));
        HttpResponseBody::new(Self { inner, patience, timer, waiting: false })
    }
}

impl<B: Body<Data = Bytes, Error = reqwest::Error> + Unpin> Body for Receiving<B> {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(context);
        let waited = std::mem::replace(&mut this.waiting, polled.is_pending());
        if this.waiting && !waited {
            let next = Instant::now() + this.patience;
            this.timer.as_mut().reset(next);
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(e))) => {
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Interrupted, e.without_url()))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.timer.as_mut().poll(context) {
                Poll::Ready(()) => {
                    let what = format!("no byte of the answer came for {:.0?}", this.patience);
                    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, what);
                    Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, error))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, StreamBody};

    #[tokio::test(start_paused = true)]
    async fn who_does_not_ask_waits_for_nothing() {
        let patience = Duration::from_secs(30);
        let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, reqwest::Error>>();
        let mut body = Receiving::wrap(StreamBody::new(receiver), patience);
        // The first byte is late for the reader's clock, not for its patience.
        tokio::time::sleep(patience * 2).await;
        let send =
            |text: &'static str| sender.unbounded_send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).unwrap();
        let later = async {
            tokio::time::sleep(patience / 2).await;
            send("a");
        };
        let (frame, ()) = tokio::join!(body.frame(), later);
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "a");
        // The reader pauses with bytes on the way.
        tokio::time::sleep(patience * 3).await;
        send("b");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "b");
        // Asked, and nothing comes.
        let start = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.kind() == HttpErrorKind::Timeout && start.elapsed() == patience, "{error} {:?}", start.elapsed());
    }
}
