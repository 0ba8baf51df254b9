//! GCS, S3 and Azure, through `object_store`. Its own retries and time limits are off: `contract` and `client` have ours.

mod body;
mod client;
mod meaning;
mod names;
mod open;

pub use client::Timeouts;
pub(crate) use open::{Surroundings, open};

use crate::Result;
use crate::error::{Error, Kind, Operation};
use crate::path;
use crate::store::{Condition, Entry, Meta, Object, Page, Sink, Source, Store, Version};
use async_trait::async_trait;
use body::Streamed;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use meaning::Asked;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    PutResult, UpdateVersion,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a provider of `object_store` has to be able to do for us.
pub(crate) trait Cloud: ObjectStore + PaginatedListStore + MultipartStore {}

impl<T: ObjectStore + PaginatedListStore + MultipartStore> Cloud for T {}

/// A bucket at a provider.
#[derive(Clone)]
pub(crate) struct Remote {
    cloud: Arc<dyn Cloud>,
    /// The same, for bodies that are streamed: their hash can't be part of the signature.
    streaming: Arc<dyn Cloud>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cloud)
    }
}

const NONE: &Condition = &Condition::None;

fn asked(operation: Operation, path: &str) -> Asked<'_> {
    Asked { operation, path, condition: NONE }
}

fn location(path: &str, operation: Operation) -> Result<Path> {
    path::check(path, operation)?;
    Path::parse(path).map_err(|e| Error::new(Kind::Invalid, operation, path, e.to_string()))
}

fn version(etag: Option<String>, generation: Option<String>) -> Version {
    Version { etag, generation }
}

fn put_version(result: PutResult) -> Version {
    version(result.e_tag, result.version)
}

fn meta(found: ObjectMeta) -> Meta {
    Meta {
        path: found.location.into(),
        size: found.size,
        modified_ms: found.last_modified.timestamp_millis(),
        version: version(found.e_tag, found.version),
    }
}

/// A payload of this length without its bytes: the client sends the source instead.
fn hollow(size: u64) -> PutPayload {
    static ZEROS: [u8; 1 << 18] = [0; 1 << 18];
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    let mut pieces = Vec::new();
    while left > 0 {
        let length = left.min(ZEROS.len());
        pieces.push(Bytes::from_static(ZEROS.get(..length).unwrap_or(&ZEROS)));
        left -= length;
    }
    pieces.into_iter().collect()
}

fn too_large(asked: Asked<'_>, max: u64) -> Error {
    Error::new(Kind::TooLarge, asked.operation, asked.path, format!("at most {max} bytes are taken"))
}

impl Remote {
    /// The answer to a read, of which no byte of the body was read: what it announces is in the object, and not more than `max`.
    async fn opened(&self, asked: Asked<'_>, range: Option<Range<u64>>, max: u64) -> Result<GetResult> {
        let Asked { operation, path, .. } = asked;
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let got = self.cloud.get_opts(&location(path, operation)?, options).await;
        let got = match got {
            Ok(got) => got,
            Err(e) => {
                let error = meaning::of(asked, &e);
                // A range outside of the object is told in many ways; its size tells it in one.
                if let Some(range) = range.filter(|_| matches!(e, object_store::Error::Generic { .. }))
                    && !meaning::came_from_http(&e)
                    && let Ok(found) = self.head(path).await
                    && range.end > found.size
                {
                    let what = format!("bytes {}..{} of an object of {}", range.start, range.end, found.size);
                    return Err(Error::new(Kind::Invalid, operation, path, what));
                }
                return Err(error);
            }
        };
        if let Some(range) = range.as_ref().filter(|r| r.end > got.meta.size) {
            let what = format!("bytes {}..{} of an object of {}", range.start, range.end, got.meta.size);
            return Err(Error::new(Kind::Invalid, operation, path, what));
        }
        let announced = got.range.end - got.range.start;
        if announced > max {
            return Err(too_large(asked, max));
        }
        Ok(got)
    }
}

#[async_trait]
impl Store for Remote {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        let asked = asked(if range.is_some() { Operation::GetRange } else { Operation::Get }, path);
        let got = self.opened(asked, range, max).await?;
        let announced = got.range.end - got.range.start;
        let meta = meta(got.meta.clone());
        // All at once: to grow would be to hold it twice.
        let mut bytes = BytesMut::with_capacity(usize::try_from(announced).unwrap_or_default());
        let mut pieces = got.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(|e| meaning::of(asked, &e))? {
            if (bytes.len() + piece.len()) as u64 > max {
                return Err(too_large(asked, max));
            }
            if bytes.is_empty() && piece.len() as u64 == announced {
                return Ok(Object { meta, bytes: piece });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Object { meta, bytes: bytes.freeze() })
    }

    async fn get_into(&self, path: &str, range: Range<u64>, sink: &mut dyn Sink) -> Result<u64> {
        let asked = asked(Operation::GetRange, path);
        let max = range.end.saturating_sub(range.start);
        let mut pieces = self.opened(asked, Some(range), max).await?.into_stream();
        let mut count = 0;
        while let Some(piece) = pieces.try_next().await.map_err(|e| meaning::of(asked, &e))? {
            let before = count;
            count += piece.len() as u64;
            if count > max {
                return Err(too_large(asked, max));
            }
            sink.take(before, piece).await;
        }
        Ok(count)
    }

    async fn head(&self, path: &str) -> Result<Meta> {
        let operation = Operation::Attributes;
        let found = self.cloud.head(&location(path, operation)?).await;
        found.map(meta).map_err(|e| meaning::of(asked(operation, path), &e))
    }

    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        let options = PaginatedListOptions {
            delimiter: one_level.then_some("/".into()),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let prefix_option = Some(prefix).filter(|p| !p.is_empty());
        let listed = self.cloud.list_paginated(prefix_option, options).await;
        let listed = listed.map_err(|e| meaning::of(asked(Operation::Iter, prefix), &e))?;
        let directories = listed.result.common_prefixes.into_iter().map(|p| Entry::Directory(format!("{p}/")));
        let objects = listed.result.objects.into_iter().map(|o| Entry::Object(meta(o)));
        Ok(Page { entries: directories.chain(objects).collect(), next: listed.page_token })
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        let operation = Operation::Upload;
        let mode = match &condition {
            Condition::None => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(v) => {
                PutMode::Update(UpdateVersion { e_tag: v.etag.clone(), version: v.generation.clone() })
            }
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let written = self.cloud.put_opts(&location(path, operation)?, body.into(), options).await;
        written.map(put_version).map_err(|e| meaning::of(Asked { operation, path, condition: &condition }, &e))
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        let operation = Operation::Upload;
        let location = location(path, operation)?;
        let size = source.size();
        let streamed = Streamed { source, failed: Arc::new(AtomicBool::new(false)) };
        let failed = Arc::clone(&streamed.failed);
        let mut options = PutOptions::default();
        options.extensions.insert(streamed);
        let written = self.streaming.put_opts(&location, hollow(size), options).await;
        written.map(put_version).map_err(|e| {
            let error = meaning::of(asked(operation, path), &e);
            if failed.load(Ordering::Relaxed) {
                return Error { kind: Kind::Local, uncertain: false, ..error };
            }
            error
        })
    }

    async fn begin_parts(&self, path: &str) -> Result<String> {
        let operation = Operation::Upload;
        let id = self.cloud.create_multipart(&location(path, operation)?).await;
        // Without one the bucket itself is missing.
        id.map_err(|e| meaning::of(Asked { operation, path, condition: &Condition::Absent }, &e))
    }

    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        let operation = Operation::Upload;
        let part = self.cloud.put_part(&location(path, operation)?, &id.to_owned(), index, body.into()).await;
        part.map(|p| p.content_id).map_err(|e| meaning::of(asked(operation, path), &e))
    }

    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        let operation = Operation::Upload;
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        let done = self.cloud.complete_multipart(&location(path, operation)?, &id.to_owned(), parts).await;
        done.map(put_version).map_err(|e| meaning::of(asked(operation, path), &e))
    }

    async fn abort_parts(&self, path: &str, id: &str) -> Result<()> {
        let operation = Operation::Upload;
        let done = self.cloud.abort_multipart(&location(path, operation)?, &id.to_owned()).await;
        done.map_err(|e| meaning::of(asked(operation, path), &e))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let operation = Operation::Delete;
        match self.cloud.delete(&location(path, operation)?).await {
            Ok(()) => Ok(()),
            Err(e) => match meaning::of(asked(operation, path), &e) {
                e if e.is_not_found() => Ok(()),
                e => Err(e),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hollow_payload_has_the_length() {
        for size in [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 700_000] {
            assert_eq!(super::hollow(size).content_length() as u64, size);
        }
    }
}
