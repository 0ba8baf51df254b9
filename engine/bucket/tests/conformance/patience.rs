//! A transfer ends for lack of progress, never because it takes long.

use crate::suite;
use bucket::layers::retry::Policy;
use bucket::{Bucket, Config, Kind, Options, Timeouts};
use bytes::Bytes;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::faults::{Fault, Proxy, Rule};
use testkit::gcs::Gcs;

fn impatient(url: &str) -> Bucket {
    let short = Duration::from_millis(400);
    let timeouts = Timeouts { connect: Duration::from_secs(5), stall: short, answer: short };
    let retry = Policy { attempts: 1, ..suite::options().retry };
    let yaml = format!("type: GCS\nconfig:\n  bucket: my-bucket\n  endpoint: {url}\n");
    Bucket::open(&Config::parse(&yaml).unwrap(), Options { timeouts, retry, ..suite::options() }).unwrap()
}

/// A server that takes a body slowly, or stops taking it.
fn slow_server(stops_at: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 19];
        let (mut taken, mut length) = (0, usize::MAX);
        while taken < length {
            if taken >= stops_at {
                std::thread::sleep(Duration::from_secs(5));
                return;
            }
            let n = stream.read(&mut buffer).unwrap();
            if n == 0 {
                return;
            }
            if length == usize::MAX {
                let head = String::from_utf8_lossy(&buffer[..n]).to_lowercase();
                let rest = head.split("content-length: ").nth(1).unwrap();
                let end = head.find("\r\n\r\n").unwrap() + 4;
                length = rest.split("\r\n").next().unwrap().parse::<usize>().unwrap() + end;
            }
            taken += n;
            std::thread::sleep(Duration::from_millis(20));
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nx-goog-generation: 1\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_succeeds_and_a_stalled_one_fails() {
    let body: Bytes = vec![1; 31 << 20].into();
    let start = Instant::now();
    impatient(&slow_server(usize::MAX)).upload("a", Arc::new(body.clone())).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(800), "it took longer than any patience: {:?}", start.elapsed());
    let start = Instant::now();
    let error = impatient(&slow_server(1 << 20)).upload("a", Arc::new(body)).await.unwrap_err();
    assert_eq!((error.kind, error.uncertain), (Kind::Unavailable, true));
    assert!(error.what.contains("nothing moved"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_download_succeeds_and_a_hanging_one_fails() {
    let server = Gcs::start().unwrap();
    server.make_bucket("my-bucket");
    let proxy = Proxy::start(&server.url(), 1).unwrap();
    let bucket = impatient(&proxy.url());
    bucket.put("a", vec![1; 120_000]).await.unwrap();
    proxy.set(vec![Rule::always(Fault::Slow(100_000))]);
    let start = Instant::now();
    assert_eq!(bucket.get("a", 1 << 20).await.unwrap().bytes.len(), 120_000);
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    proxy.set(vec![Rule::always(Fault::Hang(Duration::from_secs(20)))]);
    let start = Instant::now();
    assert_eq!(bucket.get("a", 1 << 20).await.unwrap_err().kind, Kind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
