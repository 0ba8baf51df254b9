//! Lets queries in, in the order in which they came, as long as the process has memory for another one.

use crate::server::metrics::Metrics;
use args::QueryArgs;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use promql::exec::{Account, EngineOptions, ProcessBudget};
use std::sync::Arc;
use tokio::sync::{Mutex, Notify};

/// What a querier has without a query, bytes.
const OWN: u64 = 96 << 20;
/// The part of the rest of a container's memory that queries may use, in eighths; two are for what stores send
/// ([`super::buffers`]), one for answers that are compressed and for what the allocator keeps. With more, G18 has a querier of
/// 512 MiB killed where the machine is fast enough to fill it.
const EIGHTHS: u64 = 5;
/// Fewest bytes that are set aside for a query.
const LEAST: u64 = 1 << 20;

/// The gate before the memory of the process.
pub struct Admission {
    budget: Arc<ProcessBudget>,
    /// Set aside for each query that runs, bytes; it may grow beyond it as far as there is memory.
    reserve: u64,
    /// Whoever holds it is the next.
    turn: Mutex<()>,
    freed: Arc<Notify>,
    waiting: Gauge,
    waited: Counter,
}

/// The bytes that queries may hold in a container of so many.
fn of_container(bytes: u64) -> u64 {
    (bytes.saturating_sub(OWN) / 8 * EIGHTHS).max(bytes / 8).max(LEAST)
}

impl Admission {
    /// As the flags say.
    pub fn new(args: &QueryArgs, places: usize, metrics: &Metrics) -> Self {
        let of_container = || crate::server::memory::limit().map_or(0, of_container);
        let max = if args.total_bytes == 0 { of_container() } else { args.total_bytes };
        Self::with_limit(max, args.max_bytes, places, metrics)
    }

    /// At most `max` bytes (0: no limit) for queries of which each may take `each`, of which `places` run at once.
    fn with_limit(max: u64, each: u64, places: usize, metrics: &Metrics) -> Self {
        let freed = Arc::new(Notify::new());
        let signal = Arc::clone(&freed);
        let budget = Arc::new(ProcessBudget::signalling(max, move || signal.notify_one()));
        // Half of the memory is shared out beforehand, the other half goes to those that need it.
        let share = max / 2 / places.max(1) as u64;
        let reserve = if max == 0 { 0 } else { share.max(LEAST).min(if each == 0 { u64::MAX } else { each }) };
        let limit: Gauge = metrics.register(
            "panoptes_query_memory_limit_bytes",
            "Bytes that all queries may hold together; 0 is no limit",
            Gauge::default(),
        );
        limit.set(i64::try_from(max).unwrap_or(i64::MAX));
        Self {
            budget,
            reserve,
            turn: Mutex::default(),
            freed,
            waiting: metrics.register(
                "panoptes_query_memory_waiting",
                "Queries that wait until there is memory for them",
                Gauge::default(),
            ),
            waited: metrics.register(
                "panoptes_query_memory_waited",
                "Queries that had to wait for memory",
                Counter::default(),
            ),
        }
    }

    /// What all queries share; it belongs into the engine's options.
    pub fn budget(&self) -> Arc<ProcessBudget> {
        Arc::clone(&self.budget)
    }

    /// Waits for this query's turn and for memory. Dropping the future leaves the queue.
    pub async fn enter(&self, options: &EngineOptions) -> Account {
        let mut waiting = None;
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            // Those behind the first wait as much as the first.
            Err(_) => {
                waiting = Some(self.wait());
                self.turn.lock().await
            }
        };
        loop {
            if let Some(account) = Account::reserving(options, self.reserve) {
                return account;
            }
            waiting.get_or_insert_with(|| self.wait());
            self.freed.notified().await;
        }
    }

    /// Counts one more that waits, until it is dropped.
    fn wait(&self) -> super::eval::InFlight {
        self.waited.inc();
        super::eval::InFlight::new(&self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ready::Readiness;
    use std::time::Duration;

    #[test]
    fn a_container_has_room_for_more_than_queries() {
        for (container, queries) in [(512u64, 260), (4096, 2500), (128, 20), (64, 8)] {
            assert_eq!(of_container(container << 20) >> 20, queries);
        }
        assert_eq!(of_container(7), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn queries_wait_in_line_until_there_is_memory() {
        let metrics = Metrics::new("query", Readiness::default());
        // 8 MiB for two places: 2 MiB are set aside for each.
        let gate = Arc::new(Admission::with_limit(8 << 20, 0, 2, &metrics));
        let options = EngineOptions { process: Some(gate.budget()), max_bytes: 0, ..EngineOptions::default() };
        let greedy = gate.enter(&options).await;
        greedy.fetch(7 << 20).unwrap();
        let entered = |name: &'static str| {
            let (gate, options) = (Arc::clone(&gate), options.clone());
            tokio::spawn(async move { (name, gate.enter(&options).await) })
        };
        let first = entered("first");
        tokio::task::yield_now().await;
        let (left, third) = (entered("left"), entered("third"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!first.is_finished() && !third.is_finished());
        // Those behind the first wait, too.
        let says = |line: &str| assert!(metrics.render().unwrap().contains(line), "{line}");
        says("panoptes_query_memory_waiting 3");
        says("panoptes_query_memory_waited_total 3");
        // One that goes away does not hold the line up.
        left.abort();
        tokio::task::yield_now().await;
        says("panoptes_query_memory_waiting 2");
        greedy.give_back(3 << 20);
        drop(greedy);
        let (name, account) = first.await.unwrap();
        assert_eq!(name, "first");
        let (name, _) = third.await.unwrap();
        assert_eq!(name, "third");
        says("panoptes_query_memory_waiting 0");
        drop(account);
        assert_eq!(gate.budget().held(), 0, "{:?}", gate.budget());
    }
}
