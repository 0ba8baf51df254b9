//! Cuts a sorted stream of series into messages: batches as large as the caller asked for, below a megabyte each.

use crate::server::FRAME_MAX;
use prost::Message;
use proto::thanos::{AggrChunk, Series, SeriesBatch, SeriesResponse, series_response};

/// What a chunk counts as, in samples, where its true number is not known.
pub const SAMPLES_PER_CHUNK: u64 = 120;

/// Collects series and gives messages.
#[derive(Debug)]
pub struct Frames {
    batch: usize,
    pending: Vec<Series>,
    bytes: usize,
}

impl Frames {
    /// With at most `batch` series in a message; 1 means that each is sent on its own.
    pub fn new(batch: usize) -> Self {
        Self { batch: batch.max(1), pending: Vec::new(), bytes: 0 }
    }

    /// Adds a series, and gives the messages that are full. A series too large for one message is split by its chunks.
    pub fn push(&mut self, series: Series) -> Vec<SeriesResponse> {
        let mut full = Vec::new();
        for part in split(series) {
            let size = part.encoded_len();
            if !self.pending.is_empty() && self.bytes + size > FRAME_MAX {
                full.extend(self.flush());
            }
            self.bytes += size;
            self.pending.push(part);
            if self.pending.len() >= self.batch || self.bytes >= FRAME_MAX {
                full.extend(self.flush());
            }
        }
        full
    }

    /// What has not been sent yet: before a warning, and at the end.
    pub fn flush(&mut self) -> Option<SeriesResponse> {
        self.bytes = 0;
        let mut pending = std::mem::take(&mut self.pending);
        let result = match (self.batch, pending.len()) {
            (_, 0) => return None,
            (1, 1) => series_response::Result::Series(pending.pop()?),
            _ => series_response::Result::Batch(SeriesBatch { series: pending }),
        };
        Some(SeriesResponse { result: Some(result) })
    }
}

/// A message with a warning.
pub fn warning(text: impl Into<String>) -> SeriesResponse {
    SeriesResponse { result: Some(series_response::Result::Warning(text.into())) }
}

/// Neighbouring parts of one series, each with the same labels, below the size of a message as far as single chunks are.
fn split(series: Series) -> Vec<Series> {
    if series.encoded_len() <= FRAME_MAX || series.chunks.len() < 2 {
        return vec![series];
    }
    let Series { labels, chunks } = series;
    let mut parts: Vec<Vec<AggrChunk>> = vec![Vec::new()];
    let mut bytes = 0;
    for chunk in chunks {
        let size = chunk.encoded_len();
        if bytes + size > FRAME_MAX / 2 && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = parts.last_mut() {
            last.push(chunk);
        }
    }
    parts.into_iter().map(|chunks| Series { labels: labels.clone(), chunks }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::thanos::{Chunk, Label};

    fn series(name: &str, chunks: usize, size: usize) -> Series {
        let chunk = |t| AggrChunk {
            min_time: t,
            max_time: t,
            raw: Some(Chunk { r#type: 0, data: vec![7; size].into(), hash: 1 }),
            ..Default::default()
        };
        Series {
            labels: vec![Label { name: "a".into(), value: name.to_owned().into() }],
            chunks: (0..chunks as i64).map(chunk).collect(),
        }
    }

    fn unpack(r: SeriesResponse) -> Vec<Series> {
        match r.result {
            Some(series_response::Result::Series(s)) => vec![s],
            Some(series_response::Result::Batch(b)) => b.series,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn batches_have_the_asked_size_and_the_rest_comes_at_the_end() {
        let mut f = Frames::new(3);
        let mut sent = Vec::new();
        for i in 0..7 {
            sent.extend(f.push(series(&i.to_string(), 1, 10)));
        }
        sent.extend(f.flush());
        assert_eq!(sent.into_iter().map(|r| unpack(r).len()).collect::<Vec<_>>(), [3, 3, 1]);
        assert!(f.flush().is_none());
        let single = Frames::new(1).push(series("x", 1, 1)).pop().unwrap();
        assert!(matches!(single.result, Some(series_response::Result::Series(_))));
    }

    #[test]
    fn no_message_is_larger_than_a_megabyte_and_no_chunk_is_lost() {
        let mut f = Frames::new(64);
        let mut sent = f.push(series("small", 1, 100));
        sent.extend(f.push(series("huge", 300, 10_000)));
        sent.extend(f.push(series("small too", 1, 100)));
        sent.extend(f.flush());
        assert!(
            sent.iter().all(|r| r.encoded_len() <= FRAME_MAX + 1024),
            "{:?}",
            sent.iter().map(Message::encoded_len).collect::<Vec<_>>()
        );
        let all: Vec<Series> = sent.into_iter().flat_map(unpack).collect();
        let times: Vec<i64> =
            all.iter().filter(|s| s.labels[0].value == "huge").flat_map(|s| &s.chunks).map(|c| c.min_time).collect();
        assert_eq!(times, (0..300).collect::<Vec<_>>());
    }
}
