//! What one request may hold in memory, in bytes, from the merge to its answer. What lies before the merge is
//! [`super::buffers`]'s.

use super::fanout::Failed;
use promql::exec::{Account, EngineOptions};
use std::sync::Arc;

/// Bytes that one request may hold, over all its selects.
#[derive(Debug)]
pub struct Budget(Arc<Account>);

impl Budget {
    /// A budget of a request that evaluates nothing; 0 is none.
    pub fn new(bytes: u64) -> Self {
        let options = EngineOptions { max_bytes: bytes, process: None, ..EngineOptions::default() };
        Self(Arc::new(Account::new(&options)))
    }

    /// That of a query, which what is fetched shares with the evaluation.
    pub fn of(account: Arc<Account>) -> Self {
        Self(account)
    }

    /// Gives some back.
    pub(super) fn give(&self, bytes: usize) {
        self.0.give_back(bytes as u64);
    }

    /// Takes some.
    pub fn take(&self, bytes: usize) -> Result<(), Failed> {
        self.0.fetch(bytes as u64).map_err(|e| Failed(e.to_string()))
    }
}

/// A part of a budget that is given back.
pub(super) struct Taken<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl<'a> Taken<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more.
    pub(super) fn more(&mut self, bytes: usize) -> Result<(), Failed> {
        self.bytes += bytes;
        self.budget.take(bytes)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_for_a_while_is_given_back() {
        let budget = Budget::new(100);
        {
            let mut held = Taken::new(&budget);
            held.more(60).unwrap();
            assert!(budget.take(50).unwrap_err().0.contains("more than the 100 bytes"));
            budget.give(50);
            assert!(held.more(60).is_err());
        }
        budget.take(100).unwrap();
        Budget::new(0).take(usize::MAX / 2).unwrap();
    }
}
