//! Windows, and how many chunks they go into.

/// The last moment of the window that `t` lies in.
pub(super) fn end(t: i64, resolution: i64) -> i64 {
    (t - t.rem_euclid(resolution)).saturating_add(resolution - 1)
}

/// How many chunks so many samples of a resolution between two times become: as few as leave each at most 140 windows, if the
/// time is as densely filled as the samples are. `from` is the samples' resolution; raw ones are taken for a minute apart.
pub(super) fn chunks(min_t: i64, max_t: i64, from: i64, to: i64, samples: usize) -> usize {
    let span = max_t.saturating_sub(min_t);
    let windows = (span / to) as f64;
    let fullness = (samples as f64 / (span as f64 / from as f64)).min(1.0);
    let windows = (windows * fullness) as usize + 1;
    (1..=windows).find(|x| windows / x <= 140).unwrap_or(1)
}

/// Cuts times into batches of `size` samples, each extended to the end of its last window.
pub(super) fn batches(
    times: &[i64],
    size: usize,
    resolution: i64,
) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let rest = times.get(begin..)?;
        let least = size.min(rest.len());
        let end = end(*rest.get(least.checked_sub(1)?)?, resolution);
        let length = least + rest.get(least..)?.iter().take_while(|t| **t <= end).count();
        let batch = begin..begin + length;
        begin = batch.end;
        Some(batch)
    })
}

/// Runs of samples of one window, with the time that the window is told under: its end, but never behind the last sample.
pub(super) fn runs(times: &[i64], resolution: i64) -> impl Iterator<Item = (i64, std::ops::Range<usize>)> + '_ {
    let last = times.last().copied().unwrap_or(0);
    let mut begin = 0;
    std::iter::from_fn(move || {
        let end = end(*times.get(begin)?, resolution).min(last);
        let length = times.get(begin..)?.iter().take_while(|t| **t <= end).count().max(1);
        let run = begin..begin + length;
        begin = run.end;
        Some((end, run))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_one_before_the_next() {
        assert_eq!([0, 1, 299_999, 300_000].map(|t| end(t, 300_000)), [299_999, 299_999, 299_999, 599_999]);
    }

    #[test]
    fn few_samples_need_few_chunks() {
        let day = 86_400_000;
        // A day has 288 windows of five minutes: three chunks of 96; with a sample every ten minutes half of them count.
        assert_eq!(chunks(0, day, 60_000, 300_000, 1440), 3);
        assert_eq!(chunks(0, day, 60_000, 300_000, 144), 1);
        assert_eq!(chunks(5, 5, 60_000, 300_000, 1), 1);
    }

    #[test]
    fn batches_end_with_windows() {
        let times = [0, 1, 2, 9, 10, 11, 30];
        assert_eq!(batches(&times, 2, 10).collect::<Vec<_>>(), [0..4, 4..6, 6..7]);
        assert_eq!(batches(&[], 2, 10).count(), 0);
        assert_eq!(runs(&times, 10).collect::<Vec<_>>(), [(9, 0..4), (19, 4..6), (30, 6..7)]);
    }
}
