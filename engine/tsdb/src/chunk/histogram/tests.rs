use super::layout::Layout;
use super::*;
use crate::chunk::bits::BitWriter;
use crate::chunk::{self, ChunkError, Encoding, ErrorKind, check, histograms};
use bytes::Bytes;
use model::histogram::rows::Table;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, Span};
use model::sample::{Value, is_stale, stale_nan};
use proptest::prelude::*;

fn sample(counts: &[f64], schema: i32) -> FloatHistogram {
    let custom = schema == CUSTOM_BUCKETS_SCHEMA;
    FloatHistogram {
        schema,
        zero_threshold: 2f64.powi(-128),
        zero_count: 1.0,
        count: 1.0 + counts.iter().sum::<f64>(),
        sum: counts.iter().sum::<f64>() * 0.7,
        positive_spans: vec![Span { offset: -3, length: counts.len() as u32 }],
        positive_buckets: counts.to_vec(),
        negative_spans: if custom { vec![] } else { vec![Span { offset: 2, length: 1 }] },
        negative_buckets: if custom { vec![] } else { vec![0.5] },
        custom_values: if custom { vec![0.1, 2.5, 1e9] } else { vec![] },
        ..FloatHistogram::default()
    }
}

fn integer(h: &FloatHistogram) -> Histogram<u64> {
    let ints = |b: &[f64]| b.iter().map(|v| *v as u64).collect();
    Histogram {
        reset_hint: h.reset_hint,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: h.zero_count as u64,
        count: h.count as u64,
        sum: h.sum,
        positive_spans: h.positive_spans.clone(),
        negative_spans: h.negative_spans.clone(),
        positive_buckets: ints(&h.positive_buckets),
        negative_buckets: ints(&h.negative_buckets),
        custom_values: h.custom_values.clone(),
    }
}

fn decode<V: Count>(starts: bool, data: Bytes) -> Result<Vec<(i64, Histogram<V>)>, ChunkError> {
    HistogramIter::new(starts, data)?.collect()
}

fn append<V: Count>(e: &mut HistogramEncoder<V>, t: i64, h: &Histogram<V>) -> bool {
    matches!(e.append(0, t, h).unwrap(), Appended::Here)
}

fn round_trip<V: Count>(starts: bool, samples: &[(i64, Histogram<V>)]) {
    let (first, rest) = samples.split_first().unwrap();
    let mut e = HistogramEncoder::new(starts, 5, first.0, &first.1, None).unwrap();
    for (i, (t, h)) in rest.iter().enumerate() {
        let st = if i < 3 { 5 } else { t - 1000 };
        assert!(matches!(e.append(st, *t, h).unwrap(), Appended::Here));
    }
    assert_eq!(e.bytes().len(), e.size());
    assert_eq!(check(e.encoding(), &e.bytes()).unwrap().samples, samples.len() as u64);
    same_as_rows(e.encoding(), &e.bytes(), |_| true);
    same_as_rows(e.encoding(), &e.bytes(), |t| t % 2 == 0);
    let read = decode::<V>(starts, e.bytes()).unwrap();
    assert_eq!(read.len(), samples.len());
    for (i, ((t, h), (rt, mut rh))) in samples.iter().zip(read).enumerate() {
        assert_eq!(rh.reset_hint, if i == 0 { ResetHint::Unknown } else { ResetHint::NotReset });
        rh.reset_hint = ResetHint::Unknown;
        assert_eq!((*t, h), (rt, &rh));
    }
}

/// Reading as rows gives what reading one by one gives, staleness markers left out.
fn same_as_rows(encoding: Encoding, data: &Bytes, wants: impl Fn(i64) -> bool) {
    let mut table = Table::default();
    let read = histograms(encoding, data, &mut table, &wants).unwrap();
    assert_eq!(read, matches!(encoding, Encoding::Histogram | Encoding::FloatHistogram), "{encoding}");
    if read {
        let all = chunk::decode(encoding, data.clone()).unwrap().map(Result::unwrap);
        let one_by_one: Vec<_> = all
            .filter_map(|s| match s.v {
                Value::Histogram(h) if wants(s.t) && !is_stale(h.sum) => Some((s.t, FloatHistogram::clone(&h))),
                _ => None,
            })
            .collect();
        assert_eq!(table.histograms().collect::<Vec<_>>(), one_by_one);
    }
}

#[test]
fn rows_leave_out_markers_and_refuse_gauges_and_lies() {
    let h = sample(&[1.0, 2.0], 3);
    let mut e = HistogramEncoder::new(false, 0, 10, &h, None).unwrap();
    assert!(append(&mut e, 20, &sample(&[2.0, 2.0], 3)));
    assert!(append(&mut e, 30, &FloatHistogram { sum: stale_nan(), ..FloatHistogram::default() }));
    same_as_rows(e.encoding(), &e.bytes(), |_| true);
    let whole = e.bytes();
    for end in 0..whole.len() {
        let mut table = Table::default();
        let error = histograms(Encoding::FloatHistogram, &whole[..end], &mut table, |_| true).unwrap_err();
        let plain = chunk::decode(Encoding::FloatHistogram, whole.slice(..end))
            .and_then(|all| all.collect::<Result<Vec<_>, _>>());
        assert_eq!(error, plain.unwrap_err(), "{end} bytes");
    }
    let gauge = FloatHistogram { reset_hint: ResetHint::Gauge, ..h };
    let e = HistogramEncoder::new(false, 0, 10, &gauge, None).unwrap();
    let mut table = Table::default();
    assert!(!histograms(e.encoding(), &e.bytes(), &mut table, |_| true).unwrap() && table.is_empty());
}

/// Two bytes of a chunk can stand for a kilobyte of rows.
#[test]
fn rows_that_take_many_times_their_chunk_are_left_to_the_slow_way() {
    for (buckets, samples, fast) in [(160, 120, true), (160, 1_000, false), (2_000, 120, false)] {
        let h = sample(&vec![1.0; buckets], 3);
        let mut e = HistogramEncoder::new(false, 0, 0, &h, None).unwrap();
        (1..samples).for_each(|i| assert!(append(&mut e, i * 15_000, &h)));
        let mut table = Table::default();
        assert_eq!(histograms(e.encoding(), &e.bytes(), &mut table, |_| true).unwrap(), fast, "{buckets} × {samples}");
        assert_eq!(table.is_empty(), !fast);
    }
}

proptest! {
    #[test]
    fn histograms_round_trip(
        schema in prop_oneof![-4i32..=8, Just(CUSTOM_BUCKETS_SCHEMA)],
        growth in prop::collection::vec(prop::collection::vec(0.0f64..100.0, 4), 1..50),
        starts in any::<bool>(),
    ) {
        let mut counts = vec![0.0; 4];
        let samples: Vec<(i64, FloatHistogram)> = growth.iter().enumerate().map(|(i, g)| {
            counts.iter_mut().zip(g).for_each(|(c, g)| *c += g.floor());
            (i as i64 * 15_000 + 1_700_000_000_000, sample(&counts, schema))
        }).collect();
        round_trip(starts, &samples);
        round_trip(starts, &samples.iter().map(|(t, h)| (*t, integer(h))).collect::<Vec<_>>());
    }
}

#[test]
fn a_reset_needs_a_new_chunk_and_more_buckets_do_not() {
    let mut e = HistogramEncoder::new(false, 0, 0, &sample(&[3.0, 4.0], 3), None).unwrap();
    assert!(append(&mut e, 1, &sample(&[3.0, 4.0, 1.0], 3)));
    assert_eq!(decode::<f64>(false, e.bytes()).unwrap()[0].1.positive_buckets, [3.0, 4.0, 0.0]);
    let old = match e.append(0, 2, &sample(&[3.0, 4.0, 1.0], 2)).unwrap() {
        Appended::Cut(old) => old,
        Appended::Here => panic!("another schema"),
    };
    assert_eq!((old.count(), old.range(), e.count(), e.range()), (2, (0, 1), 1, (2, 2)));
    assert!(!append(&mut e, 3, &sample(&[3.0, 3.0, 1.0], 2)), "a bucket falls");
    assert_eq!(HistogramIter::<f64>::new(false, e.bytes()).unwrap().header(), ResetHint::Reset);
    let stale = FloatHistogram { sum: stale_nan(), ..FloatHistogram::default() };
    assert!(append(&mut e, 4, &stale));
    assert!(!append(&mut e, 5, &sample(&[3.0, 5.0, 1.0], 2)), "nothing follows a staleness marker");
    assert!(append(&mut e, 6, &stale));
    let read = decode::<f64>(false, e.bytes()).unwrap();
    assert!(is_stale(read[1].1.sum) && read[1].1.positive_buckets.is_empty());
}

#[test]
fn a_histogram_whose_spans_lie_is_refused() {
    let mut h = sample(&[1.0, 2.0], 3);
    h.positive_buckets.pop();
    assert!(HistogramEncoder::new(false, 0, 0, &h, None).is_err());
    let mut e = HistogramEncoder::new(false, 0, 0, &sample(&[1.0, 2.0], 3), None).unwrap();
    let before = e.bytes();
    let error = e.append(0, 1, &h).unwrap_err().to_string();
    assert!(error.contains("announce 2 buckets and it has 1"), "{error}");
    assert_eq!(e.bytes(), before);
}

#[test]
fn a_chunk_with_start_times_counts_to_16383() {
    let h = sample(&[1.0], 0);
    let mut e = HistogramEncoder::new(true, 0, 0, &h, None).unwrap();
    for i in 1..16_383 {
        assert!(append(&mut e, i, &h));
    }
    assert!(e.append(0, 20_000, &h).is_err());
    assert_eq!(decode::<f64>(true, e.bytes()).unwrap().len(), 16_383);
}

#[test]
fn finer_resolutions_are_reduced() {
    let mut h = sample(&[1.0, 2.0, 4.0, 8.0, 16.0], 8);
    h.schema = 10;
    h.positive_spans = vec![Span { offset: 1, length: 4 }, Span { offset: 8, length: 1 }];
    let e = HistogramEncoder::new(false, 0, 0, &h, None).unwrap();
    let read = decode::<f64>(false, e.bytes()).unwrap().pop().unwrap().1;
    assert_eq!((read.schema, read.positive_buckets), (8, vec![15.0, 16.0]));
    assert_eq!(read.positive_spans, [Span { offset: 1, length: 1 }, Span { offset: 2, length: 1 }]);
}

#[test]
fn absurd_layouts_are_refused_before_memory_is_taken() {
    let mut w = BitWriter::head(&[0, 1, 0]);
    let span = Span { offset: 0, length: u32::MAX };
    Layout { schema: 3, positive: vec![span; 3], ..Layout::default() }.write(&mut w);
    let data = w.finish(&[]);
    for error in [decode::<f64>(false, data.clone()).unwrap_err(), decode::<u64>(false, data).unwrap_err()] {
        assert!(error.to_string().contains("layout, bit"), "{error}");
        assert!(error.to_string().contains("more buckets than the chunk has room for"), "{error}");
    }
    let mut w = BitWriter::head(&[0, 1, 0]);
    let far = Span { offset: i32::MIN, length: 1 };
    Layout { schema: 3, positive: vec![far], ..Layout::default() }.write(&mut w);
    let error = decode::<f64>(false, w.finish(&[])).unwrap_err();
    assert!(error.to_string().contains("further out than any number"), "{error}");
    let mut w = BitWriter::head(&[0, 1, 0]);
    Layout { schema: 99, ..Layout::default() }.write(&mut w);
    assert_eq!(decode::<f64>(false, w.finish(&[])).unwrap_err().kind, ErrorKind::Schema(99));
    assert_eq!(check(Encoding::Histogram, &Bytes::from_static(&[1])).unwrap_err().kind, ErrorKind::Truncated);
}

#[test]
fn few_bytes_make_no_long_work() {
    // Spans without buckets cost a few bits each, and each sample of some bits has a copy of all of them.
    let wide = FloatHistogram {
        positive_spans: [vec![Span { offset: 0, length: 1 }], vec![Span { offset: 0, length: 0 }; 8_000]].concat(),
        ..sample(&[1.0], 3)
    };
    let chunk = |samples: i64| {
        let mut e = HistogramEncoder::new(false, 0, 0, &wide, None).unwrap();
        for t in 1..samples {
            assert!(append(&mut e, t, &wide));
        }
        e.bytes()
    };
    assert_eq!(decode::<f64>(false, chunk(120)).unwrap().len(), 120);
    let error = decode::<f64>(false, chunk(2_000)).unwrap_err().to_string();
    assert!(error.contains("more spans and bounds"), "{error}");
}
