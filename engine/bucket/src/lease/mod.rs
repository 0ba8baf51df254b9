//! Who may change the blocks of a bucket: one holder at a time, with an epoch that grows with each.
//!
//! ```text
//! panoptes/v1/lease/<scope>     who holds it; created once, then only updated, never deleted
//! ```
//!
//! A scope is a selection of streams. The holder renews by an update that fails if anybody wrote in between. Whoever waits takes
//! over when the object stayed the same for its whole time *by the waiting one's own clock*, so no two clocks are compared; the
//! holder counts its time from before the request was sent, and gives up a tenth of it. It is counted by the wall clock too,
//! since a machine that sleeps stops the other one.
//!
//! The bucket knows no conditional delete. So [`Lease::check`] stands before every change, and [`Lease::confirm`], which asks the
//! bucket, before what others see: at most the one request that is under way when a process freezes can land later, and each of
//! those is harmless (CONTRACT.md).

mod claim;
#[cfg(test)]
mod tests;

pub use claim::{Claims, Taken, claim_path};

use crate::error::Kind;
use crate::store::Version;
use crate::{Bucket, document};
use model::protection;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where leases lie.
pub const ROOT: &str = "panoptes/v1/lease/";
const KIND: &str = "lease";
/// Largest lease that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// Shortest and longest time of a lease that is believed.
const TIMES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3600));

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The scope.
    pub scope: String,
    /// The selection of streams that it stands for, for people; empty: all.
    #[serde(default)]
    pub selector: String,
    /// Who holds it, for people: the name of a pod.
    pub holder: String,
    /// Tells this process from all others.
    pub run: String,
    /// Grows with every holder.
    pub epoch: u64,
    /// Since when it holds, in ms since the epoch, by the holder's clock.
    pub since_ms: i64,
    /// When it was renewed last, by the holder's clock.
    pub time_ms: i64,
    /// How long it lasts without being renewed, in ms.
    pub ttl_ms: i64,
    /// How often it was renewed.
    pub renewals: u64,
    /// Given back: the next one may take it at once.
    #[serde(default)]
    pub released: bool,
}

impl Record {
    fn ttl(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.ttl_ms).unwrap_or(0)).clamp(TIMES.0, TIMES.1)
    }
}

/// Why something must not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The lease is gone: stop all work, and apply for it anew.
    #[error("the lease is lost: {0}")]
    Lost(String),
    /// The bucket did not answer; whether the lease is still held is not known.
    #[error(transparent)]
    Bucket(#[from] crate::Error),
}

/// The name of a scope's lease.
pub fn lease_path(scope: &str) -> String {
    format!("{ROOT}{scope}")
}

/// Reads a lease; none if nobody ever held it.
///
/// # Errors
/// As the store says; `Corrupt` for one that is damaged or of a newer format: only a person can tell what it means.
pub async fn read(bucket: &Bucket, scope: &str) -> crate::Result<Option<(Record, Version)>> {
    let path = lease_path(scope);
    let object = match bucket.get(&path, MAX_BYTES).await {
        Ok(object) => object,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    let record = document::read(KIND, &object.bytes).map_err(|e| {
        let what = format!("{e}; make sure that no compactor runs, then delete this object");
        crate::Error::new(Kind::Corrupt, crate::Operation::Get, &path, what)
    })?;
    Ok(Some((record, object.meta.version)))
}

/// Watches another one's lease until it has not changed for its whole time.
#[derive(Debug, Default)]
struct Watch(Option<(Version, Duration)>);

impl Watch {
    /// Whether it is over, or how much longer it can last if it is not renewed.
    fn is_over(&mut self, record: &Record, version: &Version, now: Duration) -> Result<(), Duration> {
        // Clocks run at slightly different speeds.
        let ttl = record.ttl() + record.ttl() / 10;
        match &self.0 {
            Some((seen, since)) if seen == version => match now.saturating_sub(*since) {
                waited if waited >= ttl => Ok(()),
                waited => Err(ttl - waited),
            },
            _ => {
                self.0 = Some((version.clone(), now));
                Err(ttl)
            }
        }
    }
}

/// One that wants the lease.
#[derive(Debug)]
pub struct Contender {
    bucket: Bucket,
    wish: Record,
    watch: Watch,
}

/// How an attempt went.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Held(Lease),
    /// Another one holds it; if it does not renew, it is over in this time.
    StandBy(Box<Record>, Duration),
}

impl Contender {
    /// One that wants the lease of `scope` (letters, digits, `-`) for `ttl` at a time; `holder` and `selector` are for people.
    pub fn new(bucket: Bucket, scope: &str, selector: &str, holder: &str, ttl: Duration) -> Self {
        let run = format!("{:016x}", bucket.world().entropy.next_u64());
        let ttl_ms = i64::try_from(ttl.clamp(TIMES.0, TIMES.1).as_millis()).unwrap_or(i64::MAX);
        let wish = Record {
            scope: scope.to_owned(),
            selector: selector.to_owned(),
            holder: holder.to_owned(),
            run,
            epoch: 0,
            since_ms: 0,
            time_ms: 0,
            ttl_ms,
            renewals: 0,
            released: false,
        };
        Self { bucket, wish, watch: Watch::default() }
    }

    /// Takes the lease if nobody has it. Call it again and again while another one does.
    ///
    /// # Errors
    /// As the store says, and see [`read`].
    pub async fn attempt(&mut self) -> crate::Result<Attempt> {
        let clock = Arc::clone(&self.bucket.world().clock);
        let path = lease_path(&self.wish.scope);
        let found = read(&self.bucket, &self.wish.scope).await?;
        let (from, now) = (clock.elapsed(), clock.now_ms());
        let mut record = Record { since_ms: now, time_ms: now, epoch: 1, ..self.wish.clone() };
        let written = match &found {
            None => self.bucket.create(&path, bytes(&record)?).await,
            Some((theirs, version)) => {
                // What this process held before and gave up is nobody's.
                if !theirs.released
                    && theirs.run != self.wish.run
                    && !protection::off("lease")
                    && let Err(left) = self.watch.is_over(theirs, version, from)
                {
                    return Ok(Attempt::StandBy(Box::new(theirs.clone()), left));
                }
                record.epoch = theirs.epoch.saturating_add(1);
                self.bucket.update(&path, bytes(&record)?, version).await
            }
        };
        match written {
            Ok(version) => {
                self.watch = Watch::default();
                Ok(Attempt::Held(Lease::new(self.bucket.clone(), record, version, (from, now))))
            }
            // Another one was faster.
            Err(e) if matches!(e.kind, Kind::Exists | Kind::Changed) => {
                let other = read(&self.bucket, &self.wish.scope).await?.map_or(record, |(record, _)| record);
                let ttl = other.ttl();
                Ok(Attempt::StandBy(Box::new(other), ttl))
            }
            Err(e) => Err(e),
        }
    }
}

fn bytes(record: &Record) -> crate::Result<Vec<u8>> {
    document::write(KIND, record).map_err(|e| {
        crate::Error::new(Kind::Invalid, crate::Operation::Upload, lease_path(&record.scope), e.to_string())
    })
}

/// The lease, held; clones share it. It is over when it is not renewed in time ([`Lease::keep`]).
#[derive(Debug, Clone)]
pub struct Lease {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    record: Record,
    state: Mutex<State>,
    lost: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct State {
    version: Version,
    renewals: u64,
    /// Until when, by the clock that never goes back, and by the wall clock.
    until: (Duration, i64),
}

impl Lease {
    fn new(bucket: Bucket, record: Record, version: Version, from: (Duration, i64)) -> Self {
        let until = until(&record, from);
        let state = Mutex::new(State { version, renewals: 0, until });
        Self { shared: Arc::new(Shared { bucket, record, state, lost: watch::Sender::new(None) }) }
    }

    /// As it was when it was taken.
    pub fn record(&self) -> &Record {
        &self.shared.record
    }

    /// Ends with the reason when the lease is lost.
    pub async fn lost(&self) -> String {
        let mut changes = self.shared.lost.subscribe();
        loop {
            if let Some(why) = changes.borrow_and_update().clone() {
                return why;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether it is held, by this process's clocks: asked before each change of the bucket.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn check(&self) -> Result<(), Error> {
        if protection::off("fence") {
            return Ok(());
        }
        if let Some(why) = self.shared.lost.borrow().clone() {
            return Err(Error::Lost(why));
        }
        let clock = &self.shared.bucket.world().clock;
        let (by_time, by_wall) = self.shared.state.lock().until;
        if clock.elapsed() < by_time && clock.now_ms() < by_wall {
            return Ok(());
        }
        Err(self.lose("it was not renewed in time (the process stood still, or the bucket was out of reach)"))
    }

    /// As [`check`](Self::check), and the bucket says the same: asked before what others see, and what can't be undone.
    ///
    /// # Errors
    /// [`Error::Lost`]; [`Error::Bucket`] if it can't be asked.
    pub async fn confirm(&self) -> Result<(), Error> {
        self.check()?;
        if protection::off("fence") {
            return Ok(());
        }
        match read(&self.shared.bucket, &self.shared.record.scope).await? {
            Some((there, _)) if self.is_ours(&there) => self.check(),
            Some((there, _)) => Err(self.lose(&format!("{} holds it now, epoch {}", there.holder, there.epoch))),
            None => Err(self.lose("somebody deleted it")),
        }
    }

    fn is_ours(&self, there: &Record) -> bool {
        let ours = &self.shared.record;
        there.run == ours.run && there.epoch == ours.epoch && !there.released
    }

    fn lose(&self, why: &str) -> Error {
        self.shared.lost.send_if_modified(|lost| {
            let news = lost.is_none();
            if news {
                *lost = Some(why.to_owned());
            }
            news
        });
        Error::Lost(self.shared.lost.borrow().clone().unwrap_or_default())
    }

    /// Renews it until it is lost; drop the future to stop.
    pub async fn keep(&self) {
        let pause = self.shared.record.ttl() / 4;
        while self.check().is_ok() {
            tokio::time::sleep(pause).await;
            // One connection that hangs must not outlast the lease; what became of the request the next one reads.
            match tokio::time::timeout(pause, self.renew(false)).await {
                Ok(Err(Error::Bucket(error))) => {
                    tracing::warn!(%error, "the lease could not be renewed; it is tried again");
                }
                Ok(_) => {}
                Err(_) => tracing::warn!("the lease could not be renewed in time; it is tried again"),
            }
        }
    }

    /// Gives it back, so that the next one need not wait.
    pub async fn release(&self) {
        if self.check().is_ok()
            && let Err(error) = self.renew(true).await
        {
            tracing::warn!(%error, "the lease could not be given back; the next one has to wait for its end");
        }
        self.lose("it was given back");
    }

    async fn renew(&self, released: bool) -> Result<(), Error> {
        self.check()?;
        let shared = &*self.shared;
        let clock = &shared.bucket.world().clock;
        // Twice, since a write whose answer was lost has changed the version.
        for _ in 0..2 {
            let (from, now) = (clock.elapsed(), clock.now_ms());
            let (version, renewals) = {
                let state = shared.state.lock();
                (state.version.clone(), state.renewals + 1)
            };
            let record = Record { time_ms: now, renewals, released, ..shared.record.clone() };
            match shared.bucket.update(&lease_path(&record.scope), bytes(&record)?, &version).await {
                Ok(version) => {
                    *shared.state.lock() = State { version, renewals, until: until(&record, (from, now)) };
                    return Ok(());
                }
                Err(e) if matches!(e.kind, Kind::Changed | Kind::NotFound | Kind::Exists) => {
                    match read(&shared.bucket, &record.scope).await? {
                        Some((there, version)) if self.is_ours(&there) => shared.state.lock().version = version,
                        Some((there, _)) => {
                            return Err(self.lose(&format!("{} holds it now, epoch {}", there.holder, there.epoch)));
                        }
                        None => return Err(self.lose("somebody deleted it")),
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Until when a holder believes in a lease that was asked for at `from`.
fn until(record: &Record, from: (Duration, i64)) -> (Duration, i64) {
    let ttl = record.ttl() - record.ttl() / 10;
    (from.0 + ttl, from.1.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)))
}
