//! The module that keeps `CONTRACT.md`, over any provider: lost answers are recognised, lengths are checked, calls are tried
//! again within the budget, large uploads go on in parts.

use crate::Result;
use crate::error::{Error, Kind, Operation};
use crate::layers::retry::Retry;
use crate::store::{Condition, Meta, Object, Page, Sink, Source, Store, Version};
use async_trait::async_trait;
use bytes::Bytes;
use model::protection;
use std::ops::Range;
use std::sync::Arc;

/// A larger file whose upload failed goes on in parts, in bytes.
pub const PARTS_FROM: u64 = 32 << 20;
/// Size of a part, in bytes, and the memory that an upload in parts takes.
pub const PART: u64 = 16 << 20;
/// Most parts that all providers take.
const MAX_PARTS: u64 = 10_000;

/// What one request of an upload may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploads {
    /// Largest body of one request, in bytes: a larger file goes in parts from the start.
    pub one_request: u64,
    /// Whether a file may go in parts at all.
    pub parts: bool,
}

impl Default for Uploads {
    /// One request takes any file; parts help when it breaks.
    fn default() -> Self {
        Self { one_request: u64::MAX, parts: true }
    }
}

/// A provider under the contract.
#[derive(Debug)]
pub struct Contract {
    inner: Arc<dyn Store>,
    retry: Retry,
    uploads: Uploads,
}

impl Contract {
    /// The contract over a provider, with a budget of retries.
    pub fn new(inner: Arc<dyn Store>, retry: Retry, uploads: Uploads) -> Self {
        Self { inner, retry, uploads }
    }

    /// A conditional write was refused after an attempt whose answer was lost: it may be our own write that stands in the way.
    /// It is if the object holds exactly our bytes. Where two writers may send the same bytes and only one may win, the bytes
    /// must name the writer.
    async fn ours(&self, path: &str, body: &Bytes) -> Result<Option<Version>> {
        if protection::off("lost-answer") {
            return Ok(None);
        }
        let max = body.len() as u64;
        match self.retry.run(|_| self.inner.get(path, None, max)).await {
            Ok(object) if object.bytes == *body => Ok(Some(object.meta.version)),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::TooLarge) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn in_parts(&self, path: &str, source: &Arc<dyn Source>) -> Result<Version> {
        let size = source.size();
        let most = self.uploads.one_request;
        let part = PART.min(most).max(size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20));
        if part > most {
            let what = format!("{size} bytes are more than {MAX_PARTS} parts of {most} bytes; raise `part_size`");
            return Err(Error::new(Kind::Local, Operation::Upload, path, what));
        }
        let id = self.retry.run(|_| self.inner.begin_parts(path)).await?;
        let sent = async {
            let mut parts = Vec::new();
            let (mut offset, mut crc) = (0, 0);
            while offset < size {
                let length = part.min(size - offset);
                let body = read(source, path, offset, length).await?;
                crc = crc32c::crc32c_append(crc, &body);
                let index = parts.len();
                parts.push(self.retry.run(|_| self.inner.put_part(path, &id, index, body.clone())).await?);
                offset += length;
            }
            self.complete(path, &id, parts, (size, crc)).await
        };
        let result = sent.await;
        if result.is_err() {
            // Best effort; what stays is invisible, and a life-cycle rule of the bucket removes it.
            let _ = self.inner.abort_parts(path, &id).await;
        }
        result
    }

    /// Joins the parts of an object of this size and CRC-32C.
    async fn complete(&self, path: &str, id: &str, parts: Vec<String>, (size, crc): (u64, u32)) -> Result<Version> {
        let done = self
            .retry
            .run(|_| {
                let parts = parts.clone();
                async { self.inner.complete_parts(path, id, parts).await }
            })
            .await;
        match done {
            Err(e) if e.kind == Kind::NotFound => {}
            done => return done,
        }
        // The upload is gone: completed by an attempt whose answer was lost, or swept by somebody. What lies there may be of
        // an earlier attempt that broke, so it is read.
        let meta = self.retry.run(|_| self.inner.head(path)).await?;
        let differs = |what: String| Err(Error::new(Kind::Corrupt, Operation::Upload, path, what));
        if meta.size != size {
            return differs(format!("{size} bytes were sent in parts, {} are there", meta.size));
        }
        let (mut offset, mut there) = (0, 0);
        while offset < size && !protection::off("parts-read-back") {
            let end = offset.saturating_add(PART).min(size);
            let piece = self.get(path, Some(offset..end), PART).await?;
            if piece.meta.version != meta.version {
                return differs("somebody else wrote the object while it was read back".to_owned());
            }
            there = crc32c::crc32c_append(there, &piece.bytes);
            offset = end;
        }
        if there != crc && !protection::off("parts-read-back") {
            return differs(format!("what was sent in parts has CRC-32C {crc:08x}, what is there {there:08x}"));
        }
        Ok(meta.version)
    }
}

/// Reads from a source away from the async threads.
pub(crate) async fn read(source: &Arc<dyn Source>, path: &str, offset: u64, length: u64) -> Result<Bytes> {
    let failed = |what: String| Error::new(Kind::Local, Operation::Upload, path, what);
    let from = Arc::clone(source);
    let length = usize::try_from(length).map_err(|e| failed(e.to_string()))?;
    match tokio::task::spawn_blocking(move || from.read(offset, length)).await {
        Ok(Ok(bytes)) if bytes.len() == length => Ok(bytes),
        Ok(Ok(_)) => Err(failed("the file became shorter while it was sent".to_owned())),
        Ok(Err(e)) => Err(failed(e.to_string())),
        Err(e) => Err(failed(e.to_string())),
    }
}

#[async_trait]
impl Store for Contract {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        let operation = if range.is_some() { Operation::GetRange } else { Operation::Get };
        self.retry
            .run(|_| {
                let range = range.clone();
                async move {
                    let wanted = range.as_ref().map(|r| r.end - r.start);
                    let object = self.inner.get(path, range, max).await?;
                    let wanted = wanted.unwrap_or(object.meta.size);
                    let have = object.bytes.len() as u64;
                    if have != wanted && !protection::off("object-length") {
                        let what = format!("{wanted} bytes were announced, {have} came");
                        return Err(Error::new(Kind::Corrupt, operation, path, what));
                    }
                    Ok(object)
                }
            })
            .await
    }

    async fn get_into(&self, path: &str, range: Range<u64>, sink: &mut dyn Sink) -> Result<u64> {
        let (wanted, sink) = (range.end - range.start, tokio::sync::Mutex::new(sink));
        self.retry
            .run(|_| async {
                let mut sink = sink.lock().await;
                let have = self.inner.get_into(path, range.clone(), &mut **sink).await?;
                if have != wanted {
                    let what = format!("{wanted} bytes were announced, {have} came");
                    return Err(Error::new(Kind::Corrupt, Operation::GetRange, path, what));
                }
                Ok(have)
            })
            .await
    }

    async fn head(&self, path: &str) -> Result<Meta> {
        self.retry.run(|_| self.inner.head(path)).await
    }

    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        self.retry.run(|_| self.inner.list(prefix, one_level, token.clone())).await
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        let uncertain = std::sync::atomic::AtomicBool::new(false);
        let (uncertain, body, condition) = (&uncertain, &body, &condition);
        let written = self
            .retry
            .run(|_| async move {
                let written = self.inner.put(path, body.clone(), condition.clone()).await;
                if written.as_ref().is_err_and(|e| e.uncertain) {
                    uncertain.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                written
            })
            .await;
        match written {
            Err(e)
                if matches!(e.kind, Kind::Exists | Kind::Changed)
                    && uncertain.load(std::sync::atomic::Ordering::Relaxed) =>
            {
                // Ours may have been written over since.
                self.ours(path, body).await?.ok_or(Error { uncertain: true, ..e })
            }
            written => written,
        }
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        let Uploads { one_request, parts } = self.uploads;
        if parts && source.size() > one_request {
            return self.in_parts(path, &source).await;
        }
        if !parts || source.size() <= PARTS_FROM {
            return self.retry.run(|_| self.inner.upload(path, Arc::clone(&source))).await;
        }
        // In good weather one request; in bad weather parts, so that a break doesn't begin all again.
        match self.retry.once(self.inner.upload(path, Arc::clone(&source))).await {
            Ok(version) => return Ok(version),
            Err((failed, false)) => return Err(failed),
            Err((_, true)) => {}
        }
        match self.in_parts(path, &source).await {
            Err(e) if e.kind == Kind::Unsupported => {
                self.retry.run(|_| self.inner.upload(path, Arc::clone(&source))).await
            }
            done => done,
        }
    }

    async fn begin_parts(&self, path: &str) -> Result<String> {
        self.retry.run(|_| self.inner.begin_parts(path)).await
    }

    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        self.retry.run(|_| self.inner.put_part(path, id, index, body.clone())).await
    }

    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        self.retry.run(|_| self.inner.complete_parts(path, id, parts.clone())).await
    }

    async fn abort_parts(&self, path: &str, id: &str) -> Result<()> {
        self.retry.run(|_| self.inner.abort_parts(path, id)).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.retry.run(|_| self.inner.delete(path)).await
    }
}
