//! A short series of each kind and the bytes that Prometheus 0.314 makes of it, so that a change of ours shows without a peer.

use crate::{prometheus::encode, wire};
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, IntHistogram, ResetHint, Span};
use model::sample::stale_nan;
use serde_json::json;
use testkit::oracle::Oracle;
use tsdb::chunk::{Encoding, Exact, Value};

const GOLDEN: [(Encoding, &[&str]); 6] = [
    (
        Encoding::Xor,
        &[
            "000980a0abfef9623ff00000000000009875309bffd80038007b8acb80dc00e1d49dffee186a78ff7e000000000071385d8bdff6000000000000fffffffffffe2ee980",
        ],
    ),
    (
        Encoding::Histogram,
        &[
            "000400748ca578c9fc0003179fcad00131ff80000000000004eaf83a98a451b86137ffa52640032c",
            "0001c0748ca378cdfc0003179fcc2f9793a400000000000000061e20",
            "00014000ee5ca378cd2e7d909b46a5288000003f800062f3f99497b2f57ff0000000000000c448",
            "000300748ca378cdfc0003179fd027319bb20140000000000006267f874bad062f7fd8000000000003fb8bba6000",
        ],
    ),
    (
        Encoding::FloatHistogram,
        &[
            "000400748ca578c9fc0003179fcad0007ff000000000000000000000000000007fe00000000000007ff000000000000000000000000000000000000000000001f0753184dffee227fec267ff8d626eb0784dffeed06c20e726c07000f605b603",
            "0001c0748ca378cdfc0003179fcc2f9680460000000000008000000000000001000000000000000080180000000000008020000000000000",
            "00010000ee5ca378cd2e7d909b46a5288000003f800062f3f994979009c0000000000010010000000000001ffc0000000000001004000000000000100500000000000000",
            "000300748ca378cdfc0003179fd0273080560000000000008010000000000000805000000000000080240000000000008030000000000001f874bad184f805784c801c5effb0000000000007f71774c000",
        ],
    ),
    (
        Encoding::Xor2,
        &[
            "00090280a0abfef9623ff00000000000009875509bffdfe00018bcfe53538c0038007e3e5efc565c037003f07d07c075277ffbef2557861a9e3fdfd3ea0f80000000000e270bbfee3b3dd7bffffffffff1774c3fe1d135c0",
        ],
    ),
    (
        Encoding::HistogramSt,
        &[
            "000402748ca578c9fc0003179fcad00131ff80000000000004eaf83a98a451b86137ffa53f800062f3f94d4e2640032de3e5",
            "c00180748ca378cdfc0003179fcc2f9793a400000000000000061e381bd57fdf2c40",
            "40018000ee5ca378cd2e7d909b46a5288000003f800062f3f99497b2f57ff0000000000000c44a43baaffbe588",
            "000381748ca378cdfc0003179fd027319bb20140000000000006267c1fb57fdf2c5f874bad062f7fd8000000000003fc0003179f564be1fb8bba603f0e89ae00",
        ],
    ),
    (
        Encoding::FloatHistogramSt,
        &[
            "000402748ca578c9fc0003179fcad0007ff000000000000000000000000000007fe00000000000007ff000000000000000000000000000000000000000000001f0753184dffee227fec267ff8d626eb0784dffeed06c20ff800062f3f94d4e2726c07000f605b603f1f280",
            "c00180748ca378cdfc0003179fcc2f968046000000000000800000000000000100000000000000008018000000000000802000000000000181bd57fdf2c4",
            "00018000ee5ca378cd2e7d909b46a5288000003f800062f3f994979009c0000000000010010000000000001ffc00000000000010040000000000001005000000000000243baaffbe5880",
            "000381748ca378cdfc0003179fd0273080560000000000008010000000000000805000000000000080240000000000008030000000000001c1fb57fdf2c5f874bad184f805784c801c5effb0000000000007f800062f3eac97c3f71774c07e1d135c00",
        ],
    ),
];

fn samples(encoding: Encoding) -> Vec<Exact> {
    let times = [0, 15_000, 30_000, 45_003, 45_003, 59_998, 175_000, 4_000_000, 4_015_000];
    let values = [1.0, 1.0, 2.5, 3.0, -0.0, f64::INFINITY, 12.0, stale_nan(), stale_nan()];
    let one = |(i, (t, v)): (usize, (i64, f64))| {
        let st = if encoding.to_prometheus() < 4 || i < 2 { 0 } else { t - 1_000 * i as i64 };
        let (i, custom) = (i as u64, i == 5);
        let h = IntHistogram {
            reset_hint: if i == 4 { ResetHint::Gauge } else { ResetHint::Unknown },
            schema: if custom { CUSTOM_BUCKETS_SCHEMA } else { 1 },
            zero_threshold: if custom { 0.0 } else { 2f64.powi(-128) },
            zero_count: i,
            count: 4 * i + 3,
            sum: v,
            // The third sample brings a bucket, the fourth lacks an empty one, the fifth is a gauge.
            positive_spans: match i {
                0 | 1 => vec![Span { offset: -1, length: 2 }],
                2 => vec![Span { offset: -1, length: 2 }, Span { offset: 2, length: 1 }],
                _ => vec![Span { offset: -1, length: 1 }, Span { offset: 3, length: 1 }],
            },
            positive_buckets: if i == 2 {
                vec![i + 3, 0, 2 * i]
            } else if i < 2 {
                vec![i + 3, 0]
            } else {
                vec![i + 3, 2 * i]
            },
            custom_values: if custom { vec![0.25, 1e12] } else { vec![] },
            ..IntHistogram::default()
        };
        let v = match encoding {
            Encoding::Xor | Encoding::Xor2 => Value::Float(v),
            Encoding::Histogram | Encoding::HistogramSt => Value::Histogram(h),
            _ => Value::FloatHistogram(crate::prometheus::halved(h)),
        };
        Exact { st, t: 1_700_000_000_000 + t, v }
    };
    times.into_iter().zip(values).enumerate().map(one).collect()
}

#[test]
fn our_bytes_are_the_golden_ones() {
    for (encoding, golden) in GOLDEN {
        let ours: Vec<_> =
            encode(encoding, &samples(encoding), 120, false).iter().map(|c| wire::hex(&c.data)).collect();
        assert_eq!(ours, golden, "{encoding}");
    }
}

#[test]
fn the_golden_bytes_are_prometheus_s() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("prometheus-blocks").unwrap();
    for (encoding, golden) in GOLDEN {
        let number = encoding.to_prometheus();
        let request = json!({"op": "encode", "encoding": number, "samples": wire::samples(&samples(encoding))});
        let theirs = wire::read_chunks(&oracle.ask(&request).unwrap()["chunks"]);
        assert_eq!(theirs.iter().map(|c| wire::hex(&c.data)).collect::<Vec<_>>(), golden, "{encoding}");
    }
}
