//! A store around another one that does a few requests in its own way, such as one that fails or counts: what it does not write
//! itself is passed on.

use crate::Result;
use crate::store::{Condition, Meta, Object, Page, Source, Store, Version};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// See [`Store`], method by method.
#[allow(missing_docs, reason = "they are those of Store")]
#[async_trait]
pub trait Around: Send + Sync + Debug + 'static {
    /// The store that it stands around.
    fn inner(&self) -> &dyn Store;

    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        self.inner().get(path, range, max).await
    }
    async fn head(&self, path: &str) -> Result<Meta> {
        self.inner().head(path).await
    }
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        self.inner().list(prefix, one_level, token).await
    }
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        self.inner().put(path, body, condition).await
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        self.inner().upload(path, source).await
    }
    async fn begin_parts(&self, path: &str) -> Result<String> {
        self.inner().begin_parts(path).await
    }
    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        self.inner().put_part(path, id, index, body).await
    }
    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        self.inner().complete_parts(path, id, parts).await
    }
    async fn abort_parts(&self, path: &str, id: &str) -> Result<()> {
        self.inner().abort_parts(path, id).await
    }
    async fn delete(&self, path: &str) -> Result<()> {
        self.inner().delete(path).await
    }
}

#[async_trait]
impl<T: Around> Store for T {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        Around::get(self, path, range, max).await
    }
    async fn head(&self, path: &str) -> Result<Meta> {
        Around::head(self, path).await
    }
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        Around::list(self, prefix, one_level, token).await
    }
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        Around::put(self, path, body, condition).await
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        Around::upload(self, path, source).await
    }
    async fn begin_parts(&self, path: &str) -> Result<String> {
        Around::begin_parts(self, path).await
    }
    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        Around::put_part(self, path, id, index, body).await
    }
    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        Around::complete_parts(self, path, id, parts).await
    }
    async fn abort_parts(&self, path: &str, id: &str) -> Result<()> {
        Around::abort_parts(self, path, id).await
    }
    async fn delete(&self, path: &str) -> Result<()> {
        Around::delete(self, path).await
    }
}
