//! Remote read: streamed frames of chunks, taken apart without decoding a chunk; and the older answer with plain samples.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use proto::prometheus::read_request::ResponseType;
use proto::prometheus::{ChunkedReadResponse, ChunkedSeries, Query, ReadRequest, ReadResponse, TimeSeries};
use proto::thanos::{AggrChunk, LabelMatcher, Series};
use tsdb::chunk::Recoder;

use crate::storeapi::wire;

/// Largest frame that is taken. Prometheus cuts at 1 MiB, plus one chunk.
const MAX_FRAME: usize = 64 << 20;
/// Largest answer of plain samples, unpacked.
const MAX_SAMPLES: usize = 256 << 20;
/// The content type of a streamed answer begins with this.
pub(super) const STREAMED: &str = "application/x-streamed-protobuf";

/// A broken answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// The stream ended in the middle of a frame.
    #[error("the stream ends inside frame {frame}{}", said(.text))]
    Cut {
        /// Number of the frame, from 0.
        frame: u64,
        /// What is left, if it is text: Prometheus appends its error there.
        text: String,
    },
    /// A frame's checksum is wrong.
    #[error("frame {frame} is damaged: its CRC-32C is {found:08x}, its head says {expected:08x}")]
    Checksum {
        /// Number of the frame, from 0.
        frame: u64,
        /// What the head says.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// A frame's length makes no sense.
    #[error("frame {frame} announces {length} bytes, more than {MAX_FRAME}{}", said(.text))]
    TooLarge {
        /// Number of the frame, from 0.
        frame: u64,
        /// The length.
        length: u64,
        /// What stands there, if it is text.
        text: String,
    },
    /// A frame or an answer can't be decoded.
    #[error("frame {frame} can't be decoded: {message}")]
    Decode {
        /// Number of the frame, from 0.
        frame: u64,
        /// Why.
        message: String,
    },
    /// A chunk without an encoding.
    #[error("a chunk has the encoding {0}, which the StoreAPI can't carry")]
    Encoding(i32),
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("; Prometheus says: {text}") }
}

/// The body of a remote-read request for chunks, or else samples.
pub(super) fn request(min_time: i64, max_time: i64, matchers: Vec<LabelMatcher>) -> Result<Vec<u8>, ReadError> {
    let query = Query { start_timestamp_ms: min_time, end_timestamp_ms: max_time, matchers, hints: None };
    let request = ReadRequest {
        queries: vec![query],
        accepted_response_types: vec![ResponseType::StreamedXorChunks.into(), ResponseType::Samples.into()],
    };
    snap::raw::Encoder::new()
        .compress_vec(&request.encode_to_vec())
        .map_err(|e| ReadError::Decode { frame: 0, message: format!("the request can't be packed: {e}") })
}

/// Takes a stream of bytes apart into frames: length, checksum, message.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
    frame: u64,
}

impl FrameReader {
    /// Adds received bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame's series, if it has arrived as a whole.
    pub(super) fn pop(&mut self) -> Result<Option<Vec<ChunkedSeries>>, ReadError> {
        let frame = self.frame;
        let Some((length, head)) = uvarint(&self.buffer) else {
            return if self.buffer.len() < 10 { Ok(None) } else { Err(self.too_large(u64::MAX)) };
        };
        let length = match usize::try_from(length) {
            Ok(n) if n <= MAX_FRAME => n,
            _ => return Err(self.too_large(length)),
        };
        let Some(checksum) = self.buffer.get(head..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
        let expected = u32::from_be_bytes(*checksum);
        let start = head + 4;
        if self.buffer.len() < start + length {
            // The buffer grows with what has arrived: an announced length is not believed.
            return Ok(None);
        }
        self.buffer.advance(start);
        let message = self.buffer.split_to(length).freeze();
        let found = crc32c::crc32c(&message);
        if found != expected {
            return Err(ReadError::Checksum { frame, expected, found });
        }
        self.frame += 1;
        // The message's labels and chunks are slices of `message`: nothing is copied.
        let response = proto::bounded::decode::<ChunkedReadResponse>(message)
            .map_err(|e| ReadError::Decode { frame, message: e.to_string() })?;
        Ok(Some(response.chunked_series))
    }

    /// The stream has ended: nothing may be left.
    pub(super) fn finish(&self) -> Result<(), ReadError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(ReadError::Cut { frame: self.frame, text: self.text() }) }
    }

    fn too_large(&self, length: u64) -> ReadError {
        ReadError::TooLarge { frame: self.frame, length, text: self.text() }
    }

    /// What is left if it reads like text: an error in the middle of its answer, Prometheus can only append.
    fn text(&self) -> String {
        let head = self.buffer.get(..500).unwrap_or(&self.buffer);
        let text = String::from_utf8_lossy(head);
        let readable = text.chars().all(|c| !c.is_control() || c.is_whitespace()) && !text.contains('\u{fffd}');
        if readable { text.trim().to_owned() } else { String::new() }
    }
}

fn uvarint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, b) in bytes.iter().take(10).enumerate() {
        value |= u64::from(b & 0x7f).checked_shl(7 * i as u32)?;
        if b & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// A series as the StoreAPI has it; chunks are passed on as they are, hashed.
pub(super) fn series(s: ChunkedSeries) -> Result<Series, ReadError> {
    let mut chunks = Vec::with_capacity(s.chunks.len());
    for c in s.chunks {
        if c.r#type < 1 {
            return Err(ReadError::Encoding(c.r#type));
        }
        chunks.push(AggrChunk {
            min_time: c.min_time_ms,
            max_time: c.max_time_ms,
            raw: Some(wire::chunk(c.r#type - 1, c.data)),
            ..AggrChunk::default()
        });
    }
    Ok(Series { labels: s.labels, chunks })
}

/// Reads an answer of plain samples.
pub(super) fn samples(packed: &[u8]) -> Result<Vec<TimeSeries>, ReadError> {
    let error = |message: String| ReadError::Decode { frame: 0, message };
    let size = snap::raw::decompress_len(packed).map_err(|e| error(e.to_string()))?;
    // A copy of 64 bytes takes three, so no honest answer unpacks to more than 22 times its size.
    let most = packed.len().saturating_mul(22).min(MAX_SAMPLES);
    if size > most && !model::protection::off("snappy-length") {
        return Err(error(format!(
            "it announces {size} bytes unpacked; {} bytes packed can't give more than {most}",
            packed.len()
        )));
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| error(e.to_string()))?;
    let response = proto::bounded::decode::<ReadResponse>(Bytes::from(unpacked)).map_err(|e| error(e.to_string()))?;
    Ok(response.results.into_iter().flat_map(|r| r.timeseries).collect())
}

/// A series of plain samples, cut into chunks. Histograms become float histograms, which lose nothing below 2^53; one whose
/// spans and buckets differ in number is left out.
pub(super) fn series_of_samples(s: TimeSeries) -> Series {
    // Two, since a series that changed its kind lists both apart.
    let (mut floats, mut histograms) = (Recoder::default(), Recoder::default());
    for sample in &s.samples {
        // Floats always fit.
        let _fits = floats.push_float(sample.timestamp, sample.value);
    }
    for sample in &s.histograms {
        let _fits = histograms.push_histogram(sample.timestamp, proto::histograms::decode(sample));
    }
    let all = floats.finish().into_iter().chain(histograms.finish());
    let chunks = all.map(|c| {
        let raw = Some(wire::chunk(c.encoding.to_store_api(), c.data));
        AggrChunk { min_time: c.min_t, max_time: c.max_t, raw, ..AggrChunk::default() }
    });
    let mut chunks: Vec<_> = chunks.collect();
    chunks.sort_by_key(|c| c.min_time);
    Series { labels: s.labels, chunks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::prometheus::{BucketSpan, Chunk, Histogram, Sample, histogram};
    use proto::thanos::Label;
    use tsdb::chunk::Encoding;

    fn frame(series: &str) -> Vec<u8> {
        let label = Label { name: "a".into(), value: series.to_owned().into() };
        let chunk = Chunk { min_time_ms: 1, max_time_ms: 2, r#type: 1, data: vec![9; 300].into() };
        let chunked_series = vec![ChunkedSeries { labels: vec![label], chunks: vec![chunk] }];
        let message = ChunkedReadResponse { chunked_series, query_index: 0 }.encode_to_vec();
        let mut out = Vec::new();
        prost::encoding::encode_varint(message.len() as u64, &mut out);
        out.extend(crc32c::crc32c(&message).to_be_bytes());
        out.extend(message);
        out
    }

    #[test]
    fn frames_arrive_in_any_pieces() {
        let bytes: Vec<u8> = ["x", "y", "z"].iter().flat_map(|s| frame(s)).collect();
        for piece in [1, 7, 100, 5000] {
            let (mut reader, mut names) = (FrameReader::default(), Vec::new());
            for part in bytes.chunks(piece) {
                reader.push(part);
                while let Some(series) = reader.pop().unwrap() {
                    names.extend(series.iter().map(|s| s.labels[0].value.clone()));
                }
            }
            reader.finish().unwrap();
            assert_eq!(names, ["x", "y", "z"], "{piece}");
        }
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let mut reader = FrameReader::default();
        reader.push(&frame("x"));
        let mut bad = frame("y");
        *bad.last_mut().unwrap() ^= 1;
        reader.push(&bad);
        assert!(reader.pop().unwrap().is_some());
        let error = reader.pop().unwrap_err();
        assert!(error.to_string().starts_with("frame 1 is damaged"), "{error}");

        let mut reader = FrameReader::default();
        reader.push(&frame("x"));
        reader.push(b"query timed out in remote read\n");
        assert!(reader.pop().unwrap().is_some());
        assert!(reader.pop().unwrap().is_none());
        let error = reader.finish().unwrap_err().to_string();
        assert!(error.contains("inside frame 1") && error.contains("says: query timed out"), "{error}");

        let mut reader = FrameReader::default();
        reader.push(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0]);
        assert!(matches!(reader.pop(), Err(ReadError::TooLarge { .. })));
        let mut reader = FrameReader::default();
        reader.push(&[0xff; 12]);
        assert!(matches!(reader.pop(), Err(ReadError::TooLarge { .. })));
    }

    #[test]
    fn plain_samples_become_chunks() {
        let sample = |i: i64| Sample { value: i as f64, timestamp: i * 1000 };
        let histogram = |i: i64| Histogram {
            count: Some(histogram::Count::CountInt(3 + i as u64)),
            sum: 1.5,
            schema: 3,
            positive_spans: vec![BucketSpan { offset: 1, length: 2 }],
            positive_deltas: vec![1 + i, 1],
            timestamp: 1_000_000 + i,
            ..Histogram::default()
        };
        let series = TimeSeries {
            samples: (0..250).map(sample).collect(),
            histograms: (0..5).map(histogram).collect(),
            ..TimeSeries::default()
        };
        let chunks = series_of_samples(series).chunks;
        let kinds: Vec<i32> = chunks.iter().map(|c| c.raw.as_ref().unwrap().r#type).collect();
        assert_eq!(kinds, [0, 0, 0, 2]);
        let raw = chunks[3].raw.clone().unwrap();
        let samples: Vec<_> = tsdb::chunk::decode(Encoding::from_store_api(raw.r#type), raw.data)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let model::sample::Value::Histogram(h) = &samples[4].v else { panic!("not a histogram") };
        assert_eq!((samples[4].t, h.count, h.positive_buckets.as_slice()), (1_000_004, 7.0, [5.0, 6.0].as_slice()));
    }
}
