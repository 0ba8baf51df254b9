//! A store that misbehaves by plan, for simulations: what `testkit::faults` does on the wire, without a wire.

use crate::error::{Error, Kind, Operation};
use crate::store::{Condition, Entry, Meta, Object, Page, Source, Store, Version};
use crate::{Directory, Memory, Result};
use async_trait::async_trait;
use bytes::Bytes;
use model::world::Entropy;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong, and how often: shares between 0 and 1 of all calls.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The store fails before it does anything.
    pub fails: f64,
    /// The store asks to slow down.
    pub throttles: f64,
    /// The store does what was asked, and its answer is lost.
    pub loses_answer: f64,
    /// A read gives fewer bytes than announced.
    pub cuts: f64,
    /// An upload stores fewer bytes than were sent, and says that all went well.
    pub truncates: f64,
    /// Each call takes this long.
    pub delay: Duration,
    /// These are denied.
    pub denied: Vec<Operation>,
    /// Listings don't show the objects whose names contain one of these.
    pub unlisted: Vec<String>,
    /// Calls on objects whose names contain one of these never end.
    pub hangs: Vec<String>,
}

/// A store with faults.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<dyn Store>,
    entropy: Arc<dyn Entropy>,
    plan: Arc<Mutex<Plan>>,
    calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} with faults", self.inner)
    }
}

impl From<Memory> for Arc<dyn Store> {
    fn from(store: Memory) -> Self {
        Arc::new(store)
    }
}

impl From<Directory> for Arc<dyn Store> {
    fn from(store: Directory) -> Self {
        Arc::new(store)
    }
}

impl Faults {
    /// Faults by `plan` before a store.
    pub fn new(inner: impl Into<Arc<dyn Store>>, entropy: Arc<dyn Entropy>, plan: Plan) -> Self {
        Self { inner: inner.into(), entropy, plan: Arc::new(Mutex::new(plan)), calls: Arc::default() }
    }

    /// Another plan from now on.
    pub fn set(&self, plan: Plan) {
        *self.plan.lock() = plan;
    }

    /// How often each operation reached the store.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.calls.lock().clone()
    }

    fn happens(&self, share: f64) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "a random share needs no more than 53 bits")]
        let at = (self.entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        at < share
    }

    /// What happens before the call; tells whether its answer will be lost.
    async fn before(&self, operation: Operation, path: &str) -> Result<Plan> {
        *self.calls.lock().entry(operation.name()).or_default() += 1;
        let mut plan = self.plan.lock().clone();
        if !plan.delay.is_zero() {
            tokio::time::sleep(plan.delay).await;
        }
        if plan.hangs.iter().any(|h| path.contains(h)) {
            std::future::pending::<()>().await;
        }
        let fail = |kind, what| Err(Error::new(kind, operation, path, what));
        if plan.denied.contains(&operation) {
            return fail(Kind::Denied, "denied by plan");
        }
        if self.happens(plan.throttles) {
            return fail(Kind::Throttled, "throttled by plan");
        }
        if self.happens(plan.fails) {
            return fail(Kind::Unavailable, "failed by plan");
        }
        plan.loses_answer = if self.happens(plan.loses_answer) { 1.0 } else { 0.0 };
        Ok(plan)
    }

    fn after<T>(operation: Operation, path: &str, plan: &Plan, result: Result<T>) -> Result<T> {
        if plan.loses_answer > 0.0 {
            let uncertain = matches!(operation, Operation::Upload | Operation::Delete);
            let error = Error::new(Kind::Unavailable, operation, path, "the answer was lost by plan");
            return Err(Error { uncertain, ..error });
        }
        result
    }
}

#[async_trait]
impl Store for Faults {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        let operation = if range.is_some() { Operation::GetRange } else { Operation::Get };
        let plan = self.before(operation, path).await?;
        let mut got = self.inner.get(path, range, max).await;
        if let Ok(object) = &mut got
            && !object.bytes.is_empty()
            && self.happens(plan.cuts)
        {
            // As a success: who announced more must notice.
            object.bytes.truncate(object.bytes.len() / 2);
        }
        Self::after(operation, path, &plan, got)
    }

    async fn head(&self, path: &str) -> Result<Meta> {
        let plan = self.before(Operation::Attributes, path).await?;
        Self::after(Operation::Attributes, path, &plan, self.inner.head(path).await)
    }

    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page> {
        let plan = self.before(Operation::Iter, prefix).await?;
        let mut page = self.inner.list(prefix, one_level, token).await?;
        page.entries.retain(|e| match e {
            Entry::Object(meta) => !plan.unlisted.iter().any(|u| meta.path.contains(u)),
            Entry::Directory(_) => true,
        });
        Self::after(Operation::Iter, prefix, &plan, Ok(page))
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        let plan = self.before(Operation::Upload, path).await?;
        Self::after(Operation::Upload, path, &plan, self.inner.put(path, body, condition).await)
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        let plan = self.before(Operation::Upload, path).await?;
        let done = if self.happens(plan.truncates) {
            let half = usize::try_from(source.size() / 2).unwrap_or_default();
            let cut = source.read(0, half).unwrap_or_default();
            self.inner.put(path, cut, Condition::None).await
        } else {
            self.inner.upload(path, source).await
        };
        Self::after(Operation::Upload, path, &plan, done)
    }

    async fn begin_parts(&self, path: &str) -> Result<String> {
        let plan = self.before(Operation::Upload, path).await?;
        Self::after(Operation::Upload, path, &plan, self.inner.begin_parts(path).await)
    }

    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String> {
        let plan = self.before(Operation::Upload, path).await?;
        Self::after(Operation::Upload, path, &plan, self.inner.put_part(path, id, index, body).await)
    }

    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version> {
        let plan = self.before(Operation::Upload, path).await?;
        Self::after(Operation::Upload, path, &plan, self.inner.complete_parts(path, id, parts).await)
    }

    async fn abort_parts(&self, path: &str, id: &str) -> Result<()> {
        let plan = self.before(Operation::Upload, path).await?;
        Self::after(Operation::Upload, path, &plan, self.inner.abort_parts(path, id).await)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let plan = self.before(Operation::Delete, path).await?;
        Self::after(Operation::Delete, path, &plan, self.inner.delete(path).await)
    }
}
