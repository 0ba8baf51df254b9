//! A Prometheus that hangs, cuts its answer, damages it, refuses, or has only plain samples; and callers that go away.

use super::common::{Sidecar, matcher, series, until};
use args::SidecarArgs;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prost::Message;
use proto::prometheus::{Chunk, ChunkedReadResponse, ChunkedSeries, QueryResult, ReadResponse, Sample, TimeSeries};
use proto::thanos::{Label, LabelNamesRequest, SeriesRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::Code;

const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";

fn label(n: &str, v: &str) -> Label {
    Label { name: n.to_owned().into(), value: v.to_owned().into() }
}

fn frame(series: usize) -> Vec<u8> {
    let chunk = Chunk { min_time_ms: 1, max_time_ms: 2, r#type: 1, data: vec![7; 100].into() };
    let labels = vec![label("__name__", "m"), label("cluster", "ops"), label("n", &format!("{series:06}"))];
    let message =
        ChunkedReadResponse { chunked_series: vec![ChunkedSeries { labels, chunks: vec![chunk] }], query_index: 0 };
    let message = message.encode_to_vec();
    let mut out = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut out);
    out.extend(crc32c::crc32c(&message).to_be_bytes());
    out.extend(message);
    out
}

fn streamed(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, STREAMED)], body.into()).into_response()
}

/// A Prometheus of which only remote read (and label names) misbehave.
async fn fake(read: fn() -> Response) -> (String, Sidecar) {
    let config = r#"{"status":"success","data":{"yaml":"global:\n  external_labels:\n    cluster: ops\n"}}"#;
    let app = Router::new()
        .route("/-/ready", get(|| async { "ok" }))
        .route("/api/v1/status/buildinfo", get(|| async { StatusCode::NOT_FOUND }))
        .route("/api/v1/status/config", get(move || async move { config }))
        .route("/metrics", get(|| async { "prometheus_tsdb_lowest_timestamp_seconds 9.223372036854776e+15\n" }))
        .route("/api/v1/label/{name}/values", get(|| async { r#"{"status":"success","data":[]}"# }))
        .route("/api/v1/labels", post(move || async move { read() }))
        .route("/api/v1/read", post(move || async move { read() }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let sidecar = Sidecar::start(SidecarArgs { prometheus_url: url.clone(), ..SidecarArgs::default() });
    sidecar.ready().await;
    (url, sidecar)
}

fn request() -> SeriesRequest {
    SeriesRequest { max_time: i64::MAX, matchers: vec![matcher(0, "__name__", "m")], ..SeriesRequest::default() }
}

async fn failure(read: fn() -> Response) -> tonic::Status {
    let (_, sidecar) = fake(read).await;
    series(&mut sidecar.store().await, request()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_an_error_that_says_where() {
    let bad_crc = failure(|| {
        let mut bytes = frame(0);
        bytes.extend(frame(1));
        *bytes.last_mut().unwrap() ^= 1;
        streamed(bytes)
    });
    let e = bad_crc.await;
    assert!(e.code() == Code::Internal && e.message().contains("frame 1 is damaged"), "{e}");

    let cut = failure(|| streamed(frame(0)[..40].to_vec())).await;
    assert!(cut.message().contains("ends inside frame 0"), "{cut}");

    let error_text = failure(|| {
        let mut bytes = frame(0);
        bytes.extend(b"expanding series: query timed out\n");
        streamed(bytes)
    });
    let e = error_text.await;
    assert!(e.message().contains("expanding series: query timed out"), "{e}");

    let huge = failure(|| streamed(vec![0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3, 4])).await;
    assert!(huge.message().contains("announces"), "{huge}");

    let garbage = failure(|| {
        let message = [0xff, 0xff, 0xff];
        let mut out = vec![3];
        out.extend(crc32c::crc32c(&message).to_be_bytes());
        out.extend(message);
        streamed(out)
    });
    assert!(garbage.await.message().contains("can't be decoded"));

    let refused = failure(|| (StatusCode::BAD_REQUEST, "exceeded sample limit (50000000)").into_response()).await;
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("exceeded sample limit"),
        "{refused}"
    );

    let broken = failure(|| {
        let pieces = vec![Ok(Bytes::from(frame(0))), Err(std::io::Error::other("gone"))];
        streamed(Body::from_stream(tokio_stream::iter(pieces)))
    });
    assert_eq!(broken.await.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn label_calls_carry_prometheus_codes() {
    for (status, code) in [
        (400, Code::InvalidArgument),
        (404, Code::NotFound),
        (422, Code::Internal),
        (500, Code::Internal),
        (503, Code::Unavailable),
    ] {
        // A function pointer can't capture, so the status travels in a static.
        static STATUS: AtomicUsize = AtomicUsize::new(0);
        STATUS.store(status, Ordering::SeqCst);
        let (_, sidecar) = fake(|| {
            let status = StatusCode::from_u16(STATUS.load(Ordering::SeqCst) as u16).unwrap();
            (status, r#"{"status":"error","errorType":"x","error":"no way"}"#).into_response()
        })
        .await;
        let e = sidecar.store().await.label_names(LabelNamesRequest::default()).await.unwrap_err();
        assert!(e.code() == code && e.message().contains("no way"), "{status}: {e}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_prometheus_ends_with_the_callers_deadline() {
    let (_, sidecar) =
        fake(|| streamed(Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>()))).await;
    let mut store = sidecar.store().await;
    let mut r = tonic::Request::new(request());
    r.set_timeout(Duration::from_millis(400));
    let mut stream = store.series(r).await.unwrap().into_inner();
    let outcome = tokio::time::timeout(Duration::from_secs(5), stream.message()).await.expect("it must not hang");
    let e = outcome.unwrap_err();
    // Either side may notice first.
    assert!(matches!(e.code(), Code::DeadlineExceeded | Code::Cancelled), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_samples_are_cut_into_chunks() {
    let (_, sidecar) = fake(|| {
        let series = |n: &str| TimeSeries {
            labels: vec![label("__name__", "m"), label("n", n)],
            samples: (0..250).map(|i| Sample { value: f64::from(i), timestamp: i64::from(i) * 1000 }).collect(),
            ..TimeSeries::default()
        };
        let response = ReadResponse { results: vec![QueryResult { timeseries: vec![series("b"), series("a")] }] };
        let body = snap::raw::Encoder::new().compress_vec(&response.encode_to_vec()).unwrap();
        ([(header::CONTENT_TYPE, "application/x-protobuf"), (header::CONTENT_ENCODING, "snappy")], body).into_response()
    })
    .await;
    let (all, _) = series(&mut sidecar.store().await, request()).await.unwrap();
    assert_eq!(all.iter().map(|s| super::common::labels(s).value("n").to_owned()).collect::<Vec<_>>(), ["a", "b"]);
    let count: usize = all[0]
        .chunks
        .iter()
        .map(|c| {
            let raw = c.raw.as_ref().unwrap();
            tsdb::chunk::decode(tsdb::chunk::Encoding::from_store_api(raw.r#type), raw.data.clone()).unwrap().count()
        })
        .sum();
    assert_eq!((all[0].chunks.len(), count), (3, 250));
}

/// How many frames the endless Prometheus has been asked for.
static SENT: AtomicUsize = AtomicUsize::new(0);

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_holds_up_prometheus_and_fills_no_memory() {
    let (_, sidecar) = fake(|| {
        let endless = futures::stream::unfold(0usize, |n| async move {
            SENT.fetch_add(1, Ordering::SeqCst);
            // A few hundred kilobytes each.
            let bytes: Vec<u8> = (0..1000).flat_map(|i| frame(n * 1000 + i)).collect();
            Some((Ok::<_, std::io::Error>(Bytes::from(bytes)), n + 1))
        });
        streamed(Body::from_stream(endless))
    })
    .await;
    let mut store = sidecar.store().await;
    let mut stream = store.series(SeriesRequest { response_batch_size: 64, ..request() }).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    // Nobody reads on: what is under way fills the windows, then everything stands still.
    let settled = Arc::new(AtomicUsize::new(usize::MAX));
    until("standstill", async || {
        std::thread::sleep(Duration::from_millis(300));
        let now = SENT.load(Ordering::SeqCst);
        settled.swap(now, Ordering::SeqCst) == now
    })
    .await;
    let megabytes = SENT.load(Ordering::SeqCst) * frame(0).len() * 1000 / (1 << 20);
    assert!(megabytes < 40, "{megabytes} MB were taken from Prometheus for a caller that does not read");
    // A caller that leaves ends the request to Prometheus.
    drop(stream);
    drop(store);
    let before = SENT.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = SENT.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(SENT.load(Ordering::SeqCst), after, "it goes on for nobody");
    assert!(after - before < 50);
}
