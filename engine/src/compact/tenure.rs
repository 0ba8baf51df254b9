//! Getting the lease, and working while it is held.

use super::pass::Tenure;
use super::{Compactor, Fault};
use bucket::Bucket;
use bucket::lease::{self, Attempt, Contender, Lease};
use model::protection;
use parking_lot::Mutex;
use std::task::Poll;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After a failed pass the next one comes soon, and for want of disk space sooner.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_SPACE: Duration = Duration::from_secs(5);
/// Longest pause between two attempts at the lease.
const ATTEMPT: Duration = Duration::from_secs(15);
/// Longest time to give the lease back at the end.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// How a compactor ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to stop, or its one pass is over.
    Over,
    /// Another one has the lease: only without `--wait`.
    StandsBy(String),
    /// The one pass failed.
    Failed(Fault),
}

/// Renews a lease until it is dropped: on a task of its own, so that nothing that takes long holds it up.
pub(super) struct Keeper(tokio::task::JoinHandle<()>);

impl Keeper {
    pub(super) fn new(lease: &Lease) -> Self {
        let kept = lease.clone();
        Self(tokio::spawn(async move { kept.keep().await }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Compactor {
    /// Waits until so many bytes of disk are free, at most for the time between two passes.
    async fn wait_for_room(&self, needed: u64, longest: Duration) {
        let clock = &self.world.clock;
        let end = clock.elapsed() + longest;
        while clock.elapsed() < end && (self.options.free)(&self.dir).is_some_and(|free| free < needed) {
            tokio::time::sleep(RETRY_SPACE).await;
        }
    }

    /// Works with one bucket: pass after pass with a pause `interval` in between, or a single one if there is none.
    pub(super) async fn work(&self, bucket: &Bucket, interval: Option<Duration>, stop: &CancellationToken) -> End {
        let held = Mutex::new(None);
        let end = tokio::select! {
            biased;
            end = self.tenures(bucket, interval, &held) => end,
            () = stop.cancelled() => End::Over,
        };
        // Work has ended where it stood; the next compactor need not wait.
        let lease = held.lock().take();
        if let Some(lease) = lease {
            let _ = tokio::time::timeout(GIVE_BACK, lease.release()).await;
        }
        end
    }

    async fn tenures(&self, bucket: &Bucket, interval: Option<Duration>, held: &Mutex<Option<Lease>>) -> End {
        let share = &self.share;
        let mut contender =
            Contender::new(bucket.clone(), &share.scope, &share.words, &self.options.name, self.options.lease);
        let mut stood_by: Option<u64> = None;
        loop {
            let lease = match contender.attempt().await {
                Ok(Attempt::Held(lease)) => lease,
                Ok(Attempt::StandBy(other, left)) => {
                    self.progress.lease(&other, false);
                    // Without `--wait`, a holder that lives is told at once; one that died is waited out.
                    let lives = stood_by.is_some_and(|renewals| renewals != other.renewals);
                    if interval.is_none() && lives {
                        return End::StandsBy(other.holder);
                    }
                    if stood_by.is_none() {
                        tracing::info!(holder = other.holder, epoch = other.epoch, "another compactor has the lease");
                    }
                    stood_by = Some(other.renewals);
                    tokio::time::sleep(left.min(ATTEMPT).min(self.options.lease / 4)).await;
                    continue;
                }
                Err(error) => {
                    let fault = Fault::Bucket(error);
                    tracing::warn!(error = %fault, "the lease can't be asked for");
                    self.progress.pass(Err(fault.to_string()));
                    if interval.is_none() {
                        return End::Failed(fault);
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            stood_by = None;
            *held.lock() = Some(lease.clone());
            self.progress.lease(lease.record(), true);
            tracing::info!(epoch = lease.record().epoch, "the lease is held");
            let mut tenure = Tenure::new(self, bucket, &lease);
            let passes = async {
                let mut has_waited = false;
                loop {
                    let outcome = tenure.pass(self).await;
                    self.progress.pass(outcome.as_ref().map_err(ToString::to_string).copied());
                    let pause = match (outcome, interval) {
                        (Err(Fault::Lost(why)), _) => return Err(why),
                        // Without `--wait`, streams of a scope that died are waited for, once, and those of one that lives are told.
                        (Ok(()), None) => match tenure.taken() {
                            None => return Ok(End::Over),
                            Some((Some(left), _)) if !has_waited => {
                                has_waited = true;
                                left
                            }
                            Some((_, what)) => return Ok(End::Failed(Fault::Held(what))),
                        },
                        (Err(fault), None) => return Ok(End::Failed(fault)),
                        (Ok(()), Some(interval)) => interval,
                        (Err(Fault::Space { needed, .. }), Some(interval)) => {
                            self.wait_for_room(needed, interval).await;
                            continue;
                        }
                        (Err(fault), Some(interval)) => {
                            tracing::warn!(error = %fault, "the pass failed; it is repeated");
                            interval.min(RETRY)
                        }
                    };
                    tokio::time::sleep(pause).await;
                }
            };
            let keeper = Keeper::new(&lease);
            // Work is ended where it stands as soon as the lease is lost. It is asked each time that work wakes, too: after a freeze
            // not even the next attempt of a request that had failed is sent.
            tokio::pin!(passes);
            let guarded = std::future::poll_fn(|cx| match lease.check() {
                Err(lease::Error::Lost(why)) if !protection::off("asked-awake") => Poll::Ready(Err(why)),
                _ => passes.as_mut().poll(cx),
            });
            let ended = tokio::select! {
                biased;
                ended = guarded => ended,
                why = lease.lost() => Err(why),
            };
            drop(keeper);
            match ended {
                Ok(end) => return end,
                Err(why) => {
                    tracing::warn!(why, "the lease is lost; all work is given up");
                    self.progress.lease(lease.record(), false);
                    self.progress.pass(Err(format!("the lease is lost: {why}")));
                }
            }
        }
    }
}
