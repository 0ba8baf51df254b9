//! The proof of [`super::proof`] counts on what stores have advertised. One may have loaded data with other labels since it was
//! last asked, so each series that comes is looked at: one that the proof does not allow for ends the evaluation elsewhere.

use model::Labels;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is true of the labels of every series of a select.
#[derive(Clone, Debug)]
pub(in crate::query) struct Bound {
    /// Without the labels that series come without.
    sets: Arc<[Labels]>,
    side: Side,
}

#[derive(Clone, Debug)]
enum Side {
    /// They carry the labels of one of the sets.
    Within,
    /// They carry those of none. Else this is said here.
    Apart(Arc<AtomicBool>),
}

impl Bound {
    /// Every series, which come without `dropped`, must be of one of the sets.
    pub(in crate::query) fn within(sets: &[Labels], dropped: &[String]) -> Self {
        Self::new(sets.iter(), dropped, Side::Within)
    }

    /// None may be of these; if one is, `broken` is set.
    pub(super) fn apart<'l>(
        sets: impl Iterator<Item = &'l Labels>,
        dropped: &[String],
        broken: &Arc<AtomicBool>,
    ) -> Self {
        Self::new(sets, dropped, Side::Apart(Arc::clone(broken)))
    }

    fn new<'l>(sets: impl Iterator<Item = &'l Labels>, dropped: &[String], side: Side) -> Self {
        // Of replicas one is enough.
        let mut sets: Vec<Labels> = sets.map(|s| s.without(dropped)).collect();
        sets.sort();
        sets.dedup();
        Self { sets: sets.into(), side }
    }

    /// Why a series with these labels may not be there.
    pub(in crate::query) fn breach(&self, labels: &Labels) -> Option<String> {
        let carries = |set: &Labels| set.iter().all(|(n, v)| labels.get(n) == Some(v));
        let within = self.sets.iter().any(carries);
        match &self.side {
            _ if model::protection::off("push-bounds") => None,
            Side::Within if !within => Some(format!("a store has sent {labels}, which no label set stands for")),
            Side::Apart(broken) if within => {
                broken.store(true, Ordering::Relaxed);
                Some(format!("a store has sent {labels}, which a querier beside it evaluates"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_of_a_set_if_it_carries_its_labels() {
        let set = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        let sets =
            [set(&[("cluster", "b"), ("region", "x"), ("replica", "0")]), set(&[("cluster", "c"), ("replica", "0")])];
        let broken = Arc::new(AtomicBool::new(false));
        let dropped = ["replica".to_owned()];
        let (within, apart) = (Bound::within(&sets, &dropped), Bound::apart(sets.iter(), &dropped, &broken));
        for (labels, is_within) in [
            (set(&[("cluster", "b"), ("pod", "p"), ("region", "x")]), true),
            (set(&[("cluster", "c")]), true),
            (set(&[("cluster", "b"), ("pod", "p")]), false),
            (set(&[("cluster", "d"), ("region", "x")]), false),
            (Labels::empty(), false),
        ] {
            assert_eq!(within.breach(&labels).is_none(), is_within, "{labels}");
            assert_eq!(
                (apart.breach(&labels).is_some(), broken.swap(false, Ordering::Relaxed)),
                (is_within, is_within)
            );
        }
    }
}
