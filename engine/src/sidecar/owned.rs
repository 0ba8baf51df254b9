//! Which external and replica names series have as labels of their own. It decides whether an answer can be streamed in order
//! (see `order`). Asked of Prometheus, remembered for half a minute.

use super::prometheus::{Prometheus, Scope};
use model::world::Clock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer is trusted. A series that turns up in between is noticed when it breaks the order.
const FRESH: Duration = Duration::from_secs(30);
/// Deadline of one question.
const DEADLINE: Duration = Duration::from_secs(5);
/// Most names that are remembered.
const MAX_NAMES: usize = 64;

pub(super) struct Owned {
    prometheus: Prometheus,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<String, (Duration, bool)>>,
}

impl Owned {
    pub(super) fn new(prometheus: Prometheus, clock: Arc<dyn Clock>) -> Self {
        Self { prometheus, clock, known: Mutex::default() }
    }

    /// True if some series has one of these labels, or if that can't be found out.
    pub(super) async fn any(&self, names: &[String]) -> bool {
        for name in names {
            if self.one(name).await {
                return true;
            }
        }
        false
    }

    async fn one(&self, name: &str) -> bool {
        let now = self.clock.elapsed();
        if let Some((at, owned)) = self.known.lock().get(name)
            && now.saturating_sub(*at) < FRESH
        {
            return *owned;
        }
        let scope = Scope { matchers: &[], start: 0, end: i64::MAX, limit: Some(1) };
        let owned = match tokio::time::timeout(DEADLINE, self.prometheus.label_values(name, scope)).await {
            Ok(Ok(answer)) => !answer.data.is_empty(),
            // Not remembered: collecting is the safe way, and the next request asks again.
            Ok(Err(_)) | Err(_) => return true,
        };
        self.remember(name, now, owned);
        owned
    }

    /// A series with one of these labels has been seen.
    pub(super) fn seen(&self, names: &[String]) {
        let now = self.clock.elapsed();
        names.iter().for_each(|name| self.remember(name, now, true));
    }

    fn remember(&self, name: &str, now: Duration, owned: bool) {
        let mut known = self.known.lock();
        if known.len() >= MAX_NAMES {
            known.clear();
        }
        known.insert(name.to_owned(), (now, owned));
    }
}
