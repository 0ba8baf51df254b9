//! Reading the counter aggregate: a running total whose chunks tell the counter's true first and last value.

/// Chains counters over chunks. A chunk begins with the first true value, goes on with totals, and ends with the time of its last
/// total once more, beside the last true value; so resets between chunks are seen.
#[derive(Debug, Clone, Default)]
pub struct Resets {
    at: Option<i64>,
    /// The last value of the chunk.
    last: f64,
    /// The total so far.
    total: f64,
}

impl Resets {
    /// Takes the next value; gives the total at its time, or nothing if there is none to tell: values that are not a number, that
    /// go back in time, and the last one of a chunk.
    pub fn next(&mut self, t: i64, v: f64) -> Option<f64> {
        if v.is_nan() {
            return None;
        }
        match self.at {
            None => self.total = v,
            Some(at) if t > at => self.total += if v >= self.last { v - self.last } else { v },
            Some(at) => {
                if t == at {
                    self.last = v;
                }
                return None;
            }
        }
        (self.at, self.last) = (Some(t), v);
        Some(self.total)
    }

    /// The last true value.
    pub fn last(&self) -> f64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_between_chunks_are_seen() {
        let mut r = Resets::default();
        let told: Vec<Option<f64>> = [
            (10, 5.0), // the first true value
            (99, 9.0),
            (199, 12.0),
            (199, 3.0), // there was a reset: truly it is 3
            (205, 4.0), // the next chunk: grown by 1
            (299, 6.0),
            (299, f64::NAN),
            (250, 100.0),
            (299, 6.0),
            (305, 1.0), // a reset between chunks
        ]
        .into_iter()
        .map(|(t, v)| r.next(t, v))
        .collect();
        let some = |v| Some(v);
        let none = None;
        assert_eq!(
            told,
            [some(5.0), some(9.0), some(12.0), none, some(13.0), some(15.0), none, none, none, some(16.0)]
        );
        assert_eq!(r.last(), 1.0);
    }
}
