//! Files spread over a fixed number of objects that are declared in pod templates from the start, so that more files never
//! change a template. A file stays in its slot when others come and go, so that no reader sees one vanish on the move.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Bytes that one slot may hold: a Secret or ConfigMap may have 1 MiB of data.
pub(super) const CAPACITY: usize = 900_000;

/// Puts each file into a slot: the one that its name hashes to, or the next with room. Gives the files of each slot, and
/// the names of those that fit nowhere.
pub(super) fn spread<'a>(
    files: impl IntoIterator<Item = (&'a str, usize)>,
    slots: usize,
) -> (BTreeMap<&'a str, usize>, Vec<&'a str>) {
    let mut used = vec![0usize; slots];
    let mut placed = BTreeMap::new();
    let mut left = Vec::new();
    let mut files: Vec<_> = files.into_iter().collect();
    // large ones first, while there is still room for them in one piece
    files.sort_unstable_by_key(|(name, size)| (Reverse(*size), *name));
    for (name, size) in files {
        let size = size + name.len();
        let first = preferred(name, slots);
        let free = (0..slots).map(|i| (first + i) % slots).find(|slot| used[*slot] + size <= CAPACITY);
        match free {
            Some(slot) => {
                used[slot] += size;
                placed.insert(name, slot);
            }
            None => left.push(name),
        }
    }
    (placed, left)
}

fn preferred(name: &str, slots: usize) -> usize {
    // FNV-1a: small, stable, and not a secret
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from((hash ^ (hash >> 32)) % slots.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_slot_when_others_come_and_go() {
        let names: Vec<String> = (0..100).map(|i| format!("file-{i}.yaml")).collect();
        let (all, left) = spread(names.iter().map(|n| (n.as_str(), 10_000)), 8);
        assert!(left.is_empty());
        let (half, _) = spread(names.iter().step_by(2).map(|n| (n.as_str(), 10_000)), 8);
        assert!(half.iter().all(|(name, slot)| all[name] == *slot));
        let mut per_slot = [0; 8];
        all.values().for_each(|slot| per_slot[*slot] += 1);
        assert!(per_slot.iter().all(|n| *n > 3), "{per_slot:?}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (placed, left) = spread([("a", 600_000), ("b", 600_000), ("c", 600_000), ("d", 900_001)], 2);
        assert_eq!(placed.len(), 2);
        assert_eq!(left, ["d", "c"]);
    }
}
