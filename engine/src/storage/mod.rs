//! A part's object storage: its configuration, kept fresh; the bucket in use; what the part's own check of its rights found.
//!
//! A missing configuration or a failing bucket is told in the state document and never ends a part or makes it unready: what
//! needs no bucket goes on.

mod config;
pub(crate) mod hash;
pub(crate) mod relabel;
pub(crate) mod selector;
pub mod web;

use crate::server::Context;
use arc_swap::ArcSwapOption;
use args::state::{Bucket as State, BucketError, BucketErrorClass as Class};
use bucket::verify::{Check, Right};
use bucket::{Bucket, Kind, Options};
use config::{Found, Source};
use model::world::World;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How often the file is compared with what is in use.
const POLL: Duration = Duration::from_secs(2);
/// First delay before a failed check is repeated; doubled up to the interval.
const RETRY: Duration = Duration::from_secs(15);
/// A check that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Object storage of a part; clones share it.
#[derive(Clone)]
pub struct Storage {
    shared: Arc<Shared>,
}

/// The bucket that a configuration describes.
pub struct InUse {
    /// The bucket.
    pub bucket: Bucket,
    /// SHA-256 of the configuration: another one may mean another bucket.
    pub configuration: String,
    check: tokio::sync::Mutex<Check>,
}

/// Opens the bucket that the two flags describe, once: for tools.
///
/// # Errors
/// When neither or both are given, or the configuration can't be used.
pub fn open((content, file): (&str, &str), world: World) -> anyhow::Result<Bucket> {
    let source = config::source(content, file)?;
    let source =
        source.ok_or_else(|| anyhow::anyhow!("give --objstore.config-file or --objstore.config: which bucket?"))?;
    match source.read().map_err(anyhow::Error::msg)? {
        Found::Nothing(why) => anyhow::bail!("{why}"),
        Found::Text { text, .. } => {
            let config = config::parse(&text, |name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?;
            Ok(Bucket::open(&config, Options::new(world))?)
        }
    }
}

/// What tells this part from others in the same bucket: `component` and the name of its pod, as far as there is one.
pub fn part_name(component: &str) -> String {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(128).collect();
    if name.is_empty() { component.to_owned() } else { format!("{component}-{name}") }
}

struct Shared {
    source: Source,
    options: Options,
    part: String,
    needs: &'static [Right],
    interval: Duration,
    world: World,
    in_use: ArcSwapOption<InUse>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    doubt: Notify,
    denied: AtomicBool,
}

impl Storage {
    /// Object storage as two flags describe it; `None` if both are empty. `part` is unique among the parts that use a bucket,
    /// `needs` what this one has to be allowed to do.
    ///
    /// # Errors
    /// When both flags are given. A wrong configuration is no error here: see [`Storage::state`].
    pub fn new(
        (content, file): (&str, &str),
        part: &str,
        needs: &'static [Right],
        interval: Duration,
        context: &Context,
    ) -> anyhow::Result<Option<Self>> {
        let Some(source) = config::source(content, file)? else { return Ok(None) };
        let world = context.world.clone();
        let options = Options::new(world.clone());
        context.metrics.register_collector(options.meter.clone());
        let shared = Shared {
            source,
            options,
            part: part.to_owned(),
            needs,
            interval,
            world,
            in_use: ArcSwapOption::empty(),
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            doubt: Notify::new(),
            denied: AtomicBool::new(false),
        };
        let storage = Self { shared: Arc::new(shared) };
        storage.reload();
        Ok(Some(storage))
    }

    /// Over a bucket that is open, and was found good: for simulations.
    #[cfg(test)]
    pub(crate) fn over(bucket: Bucket, context: &Context) -> Self {
        let storage = Self::new(("none", ""), "test", &[], Duration::MAX, context).unwrap().unwrap();
        let check = tokio::sync::Mutex::new(Check::new("test", &[]));
        storage.shared.in_use.store(Some(Arc::new(InUse { bucket, configuration: "given".to_owned(), check })));
        *storage.shared.state.lock() = State { checked_at_ms: Some(0), ..State::default() };
        storage
    }

    /// The bucket in use; `None` as long as there was no good configuration.
    pub fn in_use(&self) -> Option<Arc<InUse>> {
        self.shared.in_use.load_full()
    }

    /// The section of the state document.
    pub fn state(&self) -> State {
        self.shared.state.lock().clone()
    }

    /// True if the last check found all rights.
    pub fn usable(&self) -> bool {
        self.shared.state.lock().usable()
    }

    /// Changes whenever another configuration is in use, or the verdict on its bucket is another one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Someone's request has failed: check soon instead of at the next interval. If it was denied, rights that were found
    /// once and are not tried each time (to create) are tried again.
    pub fn doubt(&self, denied: bool) {
        self.shared.denied.fetch_or(denied, Ordering::Relaxed);
        self.shared.doubt.notify_one();
    }

    /// Keeps configuration and check fresh until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let clock = Arc::clone(&self.shared.world.clock);
        let (mut due, mut failures) = (Duration::ZERO, 0u32);
        loop {
            if self.reload() {
                (due, failures) = (Duration::ZERO, 0);
            }
            if let Some(in_use) = self.in_use()
                && clock.elapsed() >= due
            {
                let good = tokio::select! {
                    good = self.check(&in_use) => good,
                    () = stop.cancelled() => return,
                };
                failures = if good { 0 } else { failures.saturating_add(1) };
                due = clock.elapsed() + self.pause(failures);
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.shared.doubt.notified() => due = due.min(clock.elapsed() + POLL),
                () = stop.cancelled() => return,
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => self.shared.interval,
            Some(n) => RETRY.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.shared.interval),
        }
    }

    /// Takes what the source has now; true if another configuration is in use.
    fn reload(&self) -> bool {
        let shared = &*self.shared;
        let found = match shared.source.read() {
            Ok(found) => found,
            Err(why) => {
                self.refuse(why, None);
                return false;
            }
        };
        let (hash, text) = match found {
            Found::Nothing(why) => {
                self.refuse(why, None);
                return false;
            }
            Found::Text { hash, text } => (hash, text),
        };
        {
            let mut state = shared.state.lock();
            if state.configuration.as_deref() == Some(&hash) {
                (state.configuration_error, state.configuration_refused) = (None, None);
                return false;
            }
            if state.configuration_refused.as_deref() == Some(&hash) {
                return false;
            }
        }
        let opened = config::parse(&text, |n| std::env::var(n).ok())
            .and_then(|c| Bucket::open(&c, shared.options.clone()).map_err(|e| e.to_string()));
        match opened {
            Err(why) => {
                self.refuse(why, Some(hash));
                false
            }
            Ok(bucket) => {
                tracing::info!(bucket = bucket.describe(), "object storage is configured");
                *shared.state.lock() =
                    State { name: bucket.describe().to_owned(), configuration: Some(hash.clone()), ..State::default() };
                let check = tokio::sync::Mutex::new(Check::new(&shared.part, shared.needs));
                shared.in_use.store(Some(Arc::new(InUse { bucket, configuration: hash, check })));
                shared.changes.send_modify(|n| *n = n.wrapping_add(1));
                true
            }
        }
    }

    /// A newer configuration can't be used, or there is none; what is in use stays.
    fn refuse(&self, why: String, hash: Option<String>) {
        let mut state = self.shared.state.lock();
        if state.configuration_error.as_ref() != Some(&why) {
            tracing::warn!(error = %why, "the configuration of object storage can't be used");
        }
        (state.configuration_error, state.configuration_refused) = (Some(why), hash);
    }

    /// Checks the rights; true if all are there.
    async fn check(&self, in_use: &InUse) -> bool {
        let (shared, bucket) = (&*self.shared, &in_use.bucket);
        let begin = shared.world.clock.elapsed();
        let mut check = in_use.check.lock().await;
        if shared.denied.swap(false, Ordering::Relaxed) {
            *check = Check::new(&shared.part, shared.needs);
        }
        let outcome = match tokio::time::timeout(DEADLINE, check.run(bucket)).await {
            Ok(Ok(())) => None,
            Ok(Err(f)) => Some((class(f.error.kind), f.error.to_string(), f.permission.map(str::to_owned))),
            Err(_) => Some((Class::Unreachable, format!("the store did not answer within {DEADLINE:?}"), None)),
        };
        drop(check);
        let (now, took) = (shared.world.clock.now_ms(), shared.world.clock.elapsed().saturating_sub(begin));
        let good = outcome.is_none();
        let mut state = shared.state.lock();
        let news = state.checked_at_ms.is_none() || state.error.is_none() != good;
        state.checked_at_ms = Some(now);
        state.latency_us = i64::try_from(took.as_micros()).ok();
        let since_ms = state.error.as_ref().map_or(now, |e| e.since_ms);
        let error =
            outcome.map(|(class, message, missing_right)| BucketError { class, message, missing_right, since_ms });
        match (&state.error, &error) {
            (None, Some(e)) => {
                tracing::warn!(bucket = bucket.describe(), error = e.message, "the bucket can't be used");
            }
            (Some(_), None) => tracing::info!(bucket = bucket.describe(), "the bucket can be used again"),
            _ => {}
        }
        state.error = error;
        drop(state);
        if news {
            shared.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
        good
    }
}

fn class(kind: Kind) -> Class {
    match kind {
        Kind::Denied | Kind::Credentials => Class::Denied,
        Kind::MissingBucket => Class::BucketMissing,
        Kind::Throttled | Kind::Unavailable => Class::Unreachable,
        Kind::ClockSkew => Class::ClockSkew,
        _ => Class::Other,
    }
}
