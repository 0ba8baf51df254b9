//! Messages whose memory is bounded by their bytes.
//!
//! Two bytes announce an empty repeated element, which takes hundreds of bytes as a structure: a frame of 64 MiB could
//! unfold to gigabytes. So before a message is decoded, its elements are counted, and one that would take more than
//! 1 MiB + 12 × its bytes is refused. Nothing that any Thanos or Prometheus sends comes near: a label pair has more bytes
//! than that, and so has a chunk.

use crate::thanos::{AggrChunk, Label, LabelMatcher, LabelSet, Series};
use crate::{info, prometheus, thanos};
use bytes::{Buf, Bytes};
use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

/// What any message may take, in bytes.
const FREE: usize = 1 << 20;
/// What each of its bytes may take beyond that.
const FACTOR: usize = 12;

/// A message that we receive.
pub trait Bounded: Message + Default {
    /// The parts of it that take memory of their own.
    const SHAPE: Shape;
}

/// The fields of a message that take memory: repeated ones, and messages that have such.
#[derive(Clone, Copy, Debug)]
pub struct Shape(&'static [Field]);

#[derive(Clone, Copy, Debug)]
struct Field {
    number: u64,
    /// Bytes of one element in its vector; 0 for a field that is not repeated.
    each: usize,
    shape: Shape,
}

/// A repeated field.
const fn many<T>(number: u64, shape: Shape) -> Field {
    Field { number, each: size_of::<T>(), shape }
}

/// A message inside a message.
const fn one(number: u64, shape: Shape) -> Field {
    Field { number, each: 0, shape }
}

const LEAF: Shape = Shape(&[]);

/// A message that can't be decoded, or would take too much memory.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BoundedError {
    /// Too many elements for its size.
    #[error(
        "a message of {length} bytes would take {memory} bytes or more of memory: it repeats elements that are nearly empty"
    )]
    TooMuch {
        /// Bytes of the message.
        length: usize,
        /// Bytes of memory, as far as they were counted.
        memory: usize,
    },
    /// Not a message of this type.
    #[error("{0}")]
    Decode(#[from] prost::DecodeError),
}

/// Decodes a message whose memory is in proportion to its bytes.
///
/// # Errors
/// When it is broken, or would take more memory than 1 MiB + 12 × its bytes.
pub fn decode<M: Bounded>(bytes: Bytes) -> Result<M, BoundedError> {
    let allowed = FREE + FACTOR * bytes.len();
    let memory = weigh(M::SHAPE, &bytes, allowed);
    if memory > allowed && !model::protection::off("message-memory") {
        return Err(BoundedError::TooMuch { length: bytes.len(), memory });
    }
    Ok(M::decode(bytes)?)
}

/// The memory of all vectors, as they grow. Stops early above `most`, and where the bytes are no message: there the
/// decoder stops as well.
fn weigh(shape: Shape, mut bytes: &[u8], most: usize) -> usize {
    let mut counts = [0usize; 8];
    let mut memory = 0;
    while !bytes.is_empty() && memory <= most {
        let Some((number, body)) = field(&mut bytes) else { break };
        let Some((index, field)) = shape.0.iter().enumerate().find(|(_, f)| f.number == number) else { continue };
        if let Some(count) = counts.get_mut(index).filter(|_| field.each > 0) {
            *count += 1;
            // A vector begins with four places and doubles.
            if *count == 1 {
                memory += 4 * field.each;
            } else if *count > 4 && (*count - 1).is_power_of_two() {
                memory += (*count - 1) * field.each;
            }
        }
        if !field.shape.0.is_empty() {
            memory += weigh(field.shape, body.unwrap_or_default(), most.saturating_sub(memory));
        }
    }
    memory
}

/// Takes one field off: its number, and its body if it has a length.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let body = match key & 7 {
        0 => {
            varint(bytes)?;
            None
        }
        1 => {
            take(bytes, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Some(take(bytes, length)?)
        }
        5 => {
            take(bytes, 4)?;
            None
        }
        // Groups: a field that we know can't be inside, so their parts count for nothing.
        3 | 4 => None,
        _ => return None,
    };
    Some((key >> 3, body))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

const LABELS: Field = many::<Label>(1, LEAF);
const SERIES: Shape = Shape(&[LABELS, many::<AggrChunk>(2, LEAF)]);
const HISTOGRAM: Shape = Shape(&[
    many::<prometheus::BucketSpan>(8, LEAF),
    many::<i64>(9, LEAF),
    many::<f64>(10, LEAF),
    many::<prometheus::BucketSpan>(11, LEAF),
    many::<i64>(12, LEAF),
    many::<f64>(13, LEAF),
    many::<f64>(16, LEAF),
]);
const TIME_SERIES: Shape = Shape(&[
    LABELS,
    many::<prometheus::Sample>(2, LEAF),
    many::<prometheus::Exemplar>(3, Shape(&[LABELS])),
    many::<prometheus::Histogram>(4, HISTOGRAM),
]);

const SET: Shape = Shape(&[LABELS]);
const RULE: Shape = Shape(&[
    one(1, Shape(&[one(3, SET)])),
    one(2, Shape(&[one(5, SET), one(6, SET), many::<thanos::AlertInstance>(7, Shape(&[one(1, SET), one(2, SET)]))])),
]);
const STATISTICS: Shape = Shape(&[
    many::<thanos::Statistic>(2, LEAF),
    many::<thanos::Statistic>(3, LEAF),
    many::<thanos::Statistic>(4, LEAF),
    many::<thanos::Statistic>(5, LEAF),
]);
const STORE_MATCHERS: Shape = Shape(&[many::<LabelMatcher>(1, LEAF)]);
const SHARD: Shape = Shape(&[many::<String>(4, LEAF)]);
const RESULT: Field = one(2, TIME_SERIES);
const RESULTS: Field = one(4, Shape(&[many::<prometheus::TimeSeries>(1, TIME_SERIES)]));

macro_rules! bounded {
    ($($message:ty: [$($field:expr),* $(,)?];)*) => {$(
        impl Bounded for $message {
            const SHAPE: Shape = Shape(&[$($field),*]);
        }
    )*};
}

bounded! {
    thanos::SeriesRequest: [
        many::<LabelMatcher>(3, LEAF),
        many::<i32>(5, LEAF),
        one(12, Shape(&[one(4, Shape(&[many::<String>(3, LEAF)])), many::<String>(6, LEAF)])),
        one(13, Shape(&[many::<String>(4, LEAF)])),
        many::<String>(14, LEAF),
    ];
    thanos::SeriesResponse: [
        one(1, SERIES),
        one(4, Shape(&[many::<Series>(1, SERIES)])),
        many::<String>(5, LEAF),
    ];
    thanos::LabelNamesRequest: [many::<LabelMatcher>(6, LEAF), many::<String>(7, LEAF)];
    thanos::LabelNamesResponse: [many::<String>(1, LEAF), many::<String>(2, LEAF)];
    thanos::LabelValuesRequest: [many::<LabelMatcher>(7, LEAF), many::<String>(8, LEAF)];
    thanos::LabelValuesResponse: [many::<String>(1, LEAF), many::<String>(2, LEAF)];
    info::InfoRequest: [];
    info::InfoResponse: [
        many::<LabelSet>(1, Shape(&[LABELS])),
        one(3, Shape(&[many::<info::TsdbInfo>(6, Shape(&[one(1, Shape(&[LABELS]))]))])),
    ];
    prometheus::ReadResponse: [
        many::<prometheus::QueryResult>(1, Shape(&[many::<prometheus::TimeSeries>(1, TIME_SERIES)])),
    ];
    prometheus::ChunkedReadResponse: [
        many::<prometheus::ChunkedSeries>(1, Shape(&[LABELS, many::<prometheus::Chunk>(2, LEAF)])),
    ];
    thanos::RulesRequest: [
        many::<String>(3, LEAF),
        many::<String>(4, LEAF),
        many::<String>(5, LEAF),
        many::<String>(6, LEAF),
    ];
    thanos::RulesResponse: [one(1, Shape(&[many::<thanos::Rule>(3, RULE)]))];
    thanos::TargetsRequest: [];
    thanos::TargetsResponse: [one(1, Shape(&[
        many::<thanos::ActiveTarget>(1, Shape(&[one(1, SET), one(2, SET)])),
        many::<thanos::DroppedTarget>(2, Shape(&[one(1, SET)])),
    ]))];
    thanos::MetricMetadataRequest: [];
    thanos::MetricMetadataResponse: [one(1, Shape(&[
        many::<(String, thanos::MetricMetadataEntry)>(1, Shape(&[one(2, Shape(&[many::<thanos::Meta>(2, LEAF)]))])),
    ]))];
    thanos::ExemplarsRequest: [];
    thanos::ExemplarsResponse: [one(1, Shape(&[one(1, SET), many::<thanos::Exemplar>(2, Shape(&[one(1, SET)]))]))];
    thanos::TsdbStatisticsRequest: [many::<LabelMatcher>(4, LEAF)];
    thanos::TsdbStatisticsResponse: [one(1, Shape(&[
        many::<(String, thanos::TsdbStatisticsEntry)>(1, Shape(&[one(2, STATISTICS)])),
    ]))];
    thanos::QueryRequest: [
        many::<String>(5, LEAF),
        many::<thanos::StoreMatchers>(6, STORE_MATCHERS),
        one(11, SHARD),
    ];
    thanos::QueryRangeRequest: [
        many::<String>(7, LEAF),
        many::<thanos::StoreMatchers>(8, STORE_MATCHERS),
        one(13, SHARD),
    ];
    thanos::QueryResponse: [RESULT, RESULTS];
    thanos::QueryRangeResponse: [RESULT, RESULTS];
}

/// The codec of all our services: sends as any, receives with [`decode`].
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Bounded + Send + 'static> Codec for BoundedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Takes received frames to messages.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Bounded> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The frame is one piece, so this is a slice of it.
        let frame = buffer.copy_to_bytes(buffer.remaining());
        decode(frame).map(Some).map_err(|e| match e {
            BoundedError::TooMuch { .. } => Status::resource_exhausted(e.to_string()),
            BoundedError::Decode(e) => Status::internal(format!("a message can't be decoded: {e}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_empty_elements_are_refused_and_honest_ones_are_not() {
        // A series with half a million chunks of nothing.
        let chunks = [0x12, 0].repeat(500_000);
        let mut frame = vec![0x0a];
        prost::encoding::encode_varint(chunks.len() as u64, &mut frame);
        frame.extend(chunks);
        let error = decode::<thanos::SeriesResponse>(frame.into()).unwrap_err().to_string();
        assert!(error.contains("nearly empty"), "{error}");

        let label = |i: usize| Label { name: format!("name_{i}").into(), value: "v".into() };
        let raw = |data: usize| Some(thanos::Chunk { r#type: 0, data: vec![7; data].into(), hash: u64::MAX });
        let chunk = AggrChunk { min_time: 1 << 40, max_time: 1 << 40, raw: raw(60), ..AggrChunk::default() };
        let series = Series { labels: (0..6).map(label).collect(), chunks: vec![chunk] };
        let batch = thanos::SeriesBatch { series: vec![series; 30_000] };
        let response = thanos::SeriesResponse { result: Some(thanos::series_response::Result::Batch(batch)) };
        let frame = Bytes::from(response.encode_to_vec());
        assert!(frame.len() > 4 << 20);
        assert_eq!(decode::<thanos::SeriesResponse>(frame).unwrap(), response);
        let values = (10_000..400_000).map(|i: usize| i.to_string()).collect();
        let response = thanos::LabelValuesResponse { values, ..Default::default() };
        assert_eq!(decode::<thanos::LabelValuesResponse>(response.encode_to_vec().into()).unwrap(), response);
    }

    #[test]
    fn what_is_weighed_is_what_vectors_take() {
        let names: Vec<String> = vec![String::new(); 1000];
        let response = thanos::LabelNamesResponse { names, ..Default::default() };
        let bytes = response.encode_to_vec();
        let taken =
            thanos::LabelNamesResponse::decode(bytes.as_slice()).unwrap().names.capacity() * size_of::<String>();
        assert_eq!(weigh(thanos::LabelNamesResponse::SHAPE, &bytes, usize::MAX), taken);
    }
}
