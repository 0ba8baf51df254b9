//! What several want at the same time is done once.

use super::Trouble;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;

type Running<T> = BoxFuture<'static, Result<T, Trouble>>;

/// Work under way, by key. It ends when nobody waits for it any more.
pub(super) struct Flights<K, T: Clone>(Mutex<HashMap<K, WeakShared<Running<T>>>>);

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone> Flights<K, T> {
    /// The work under this key: that which is under way, or else this one.
    pub(super) fn join(&self, key: K, work: Running<T>) -> Shared<Running<T>> {
        let mut all = self.0.lock();
        match all.get(&key).and_then(WeakShared::upgrade) {
            Some(running) => running,
            None => {
                let running = work.shared();
                // It has not been polled yet, so it can be shared.
                if let Some(weak) = running.downgrade() {
                    all.retain(|_, other| other.upgrade().is_some());
                    all.insert(key, weak);
                }
                running
            }
        }
    }
}
