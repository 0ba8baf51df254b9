//! What lies in blocks: chunks of every encoding.

use super::Decoder;
use bytes::Bytes;
use model::FloatHistogram;
use model::histogram::Span;
use tsdb::chunk::histogram::FloatHistogramEncoder;
use tsdb::chunk::{Encoding, XorEncoder, decode};

pub(crate) const BLOCKS: &[Decoder] = &[
    Decoder::new("chunk-xor", |b| chunk(Encoding::Xor, b), xor),
    Decoder::new("chunk-histogram", |b| chunk(Encoding::Histogram, b), histogram),
    Decoder::new("chunk-float-histogram", |b| chunk(Encoding::FloatHistogram, b), float_histogram),
];

fn chunk(encoding: Encoding, bytes: &[u8]) -> Result<(), String> {
    for sample in decode(encoding, Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())? {
        sample.map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn xor() -> Vec<Vec<u8>> {
    let values: [fn(i32) -> f64; 3] =
        [f64::from, |_| 1.5, |i| if i % 7 == 0 { f64::NAN } else { f64::from(i).sin() * 1e300 }];
    let of = |value: &fn(i32) -> f64, n: i32| {
        let mut encoder = XorEncoder::default();
        for i in 0..n {
            assert!(encoder.append(1_700_000_000_000 + i64::from(i) * 15_000 + i64::from(i % 3), value(i)));
        }
        encoder.finish().to_vec()
    };
    values.iter().flat_map(|v| [of(v, 1), of(v, 2), of(v, 120)]).collect()
}

/// A chunk of integer histograms as Prometheus writes it: schema 0, two spans, three samples.
fn histogram() -> Vec<Vec<u8>> {
    vec![b"\x00\x00\x00".to_vec()]
}

fn float_histogram() -> Vec<Vec<u8>> {
    let mut h = FloatHistogram {
        schema: 0,
        zero_threshold: 0.001,
        zero_count: 2.0,
        count: 12.0,
        sum: 18.4,
        positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 2 }],
        positive_buckets: vec![1.0, 2.0, 3.0, 4.0],
        ..FloatHistogram::default()
    };
    let mut encoder = FloatHistogramEncoder::new(1_700_000_000_000, &h);
    for i in 1..60 {
        h.count += 1.0;
        h.positive_buckets[1] += 1.0;
        assert!(encoder.append(1_700_000_000_000 + i * 15_000, &h));
    }
    vec![encoder.finish().to_vec()]
}
