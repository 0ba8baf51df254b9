//! What one request may hold in memory, in bytes, from the merge to its answer. What lies before the merge is
//! [`super::buffers`]'s.

use super::fanout::Failed;

/// Bytes that one request may hold, over all its selects.
#[derive(Debug)]
pub struct Budget {
    left: std::sync::atomic::AtomicI64,
    whole: u64,
}

impl Budget {
    /// A budget; 0 is none.
    pub fn new(bytes: u64) -> Self {
        let whole = if bytes == 0 { i64::MAX as u64 } else { bytes };
        Self { left: std::sync::atomic::AtomicI64::new(i64::try_from(whole).unwrap_or(i64::MAX)), whole }
    }

    /// Gives some back.
    pub(super) fn give(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.left.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes some.
    pub fn take(&self, bytes: usize) -> Result<(), Failed> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.left.fetch_sub(bytes, std::sync::atomic::Ordering::Relaxed) < bytes {
            return Err(Failed(format!(
                "the query needs more than {} bytes of series: narrow it, or raise --query.max-bytes",
                self.whole
            )));
        }
        Ok(())
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
            assert!(budget.take(50).unwrap_err().0.contains("more than 100 bytes"));
            budget.give(50);
            assert!(held.more(60).is_err());
        }
        budget.take(100).unwrap();
        Budget::new(0).take(usize::MAX / 2).unwrap();
    }
}
