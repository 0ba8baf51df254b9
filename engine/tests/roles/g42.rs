//! Goal G42: floods of resets, continuations, settings and slow headers, and bombs, against the gRPC and HTTP ports of a querier.
//! Honest callers go on, memory stays, and afterwards everything is as before.

use super::common::until;
use super::fake_store::Fake;
use super::querier::{Querier, args};
use proto::info::InfoRequest;
use proto::info::info_client::InfoClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Size};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// What memory may grow by, bytes.
const MORE: u64 = 64 << 20;
/// A megabyte and the gRPC limit that it is above.
const ABOVE_THE_CAP: u32 = 65 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The head of a call of Info, in literals that no table remembers.
fn head() -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/thanos.info.Info/Info"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        out.push(0);
        out.push(u8::try_from(name.len()).unwrap());
        out.extend(name.as_bytes());
        out.push(u8::try_from(value.len()).unwrap());
        out.extend(value.as_bytes());
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flood {
    Resets,
    Continuations,
    Settings,
    SlowHeaders,
    SlowHttp,
    Bombs,
}

const FLOODS: [Flood; 6] =
    [Flood::Resets, Flood::Continuations, Flood::Settings, Flood::SlowHeaders, Flood::SlowHttp, Flood::Bombs];

/// Sends pieces as quickly as they are taken, and reads what comes back; a connection that is closed is made anew.
async fn attack(flood: Flood, to: String, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(stream) = TcpStream::connect(&to).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (mut from, mut into) = stream.into_split();
        let read = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while matches!(from.read(&mut buffer).await, Ok(1..)) {}
        });
        let _ = one(flood, &mut into, &stop, &sent).await;
        read.abort();
    }
}

async fn one(
    flood: Flood,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    let head = head();
    if flood != Flood::SlowHttp {
        to.write_all(PREFACE).await?;
        to.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    }
    let mut stream = 1;
    if flood == Flood::Continuations {
        to.write_all(&frame(HEADERS, 0, stream, &head)).await?;
    }
    while !stop.load(Ordering::SeqCst) {
        let mut piece = Vec::new();
        match flood {
            Flood::Resets => {
                for _ in 0..100 {
                    piece.extend(frame(HEADERS, END_HEADERS, stream, &head));
                    piece.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
                    stream += 2;
                }
            }
            Flood::Continuations => {
                let literal = [&[0, 1, b'a', 100][..], &[b'x'; 100]].concat();
                piece.extend(frame(CONTINUATION, 0, stream, &literal.repeat(100)));
            }
            Flood::Settings => piece.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(500)),
            Flood::SlowHeaders => {
                // A head that never ends, a little at a time, on a connection of its own.
                piece.extend(frame(if stream == 1 { HEADERS } else { CONTINUATION }, 0, 1, &head[..2]));
                stream += 2;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Flood::SlowHttp => {
                piece.extend(if stream == 1 { b"GET / HTTP/1.1\r\nx: ".as_slice() } else { b"a".as_slice() });
                stream += 2;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Flood::Bombs => {
                piece.extend(frame(HEADERS, END_HEADERS, stream, &head));
                // A message that announces more than is allowed, and never comes.
                let announced = [&[0][..], &ABOVE_THE_CAP.to_be_bytes()].concat();
                piece.extend(frame(0, 0, stream, &announced));
                stream += 2;
            }
        }
        to.write_all(&piece).await?;
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Honest calls until told to stop: how long each took.
async fn honest(querier: &Querier, stop: &AtomicBool) -> Vec<Duration> {
    let channel = Channel::from_shared(format!("http://{}", querier.grpc)).unwrap().connect().await.unwrap();
    let mut took = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let begin = Instant::now();
        InfoClient::new(channel.clone()).info(InfoRequest {}).await.unwrap();
        let (status, answer) = querier.query("count(up)", "").await;
        assert!(status == 200 && answer["data"]["result"][0]["value"][1] == "1", "{answer}");
        took.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    took
}

async fn measured(querier: &Querier, time: Duration) -> Duration {
    let stop = AtomicBool::new(false);
    let wait = async {
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::SeqCst);
    };
    let (mut took, ()) = tokio::join!(honest(querier, &stop), wait);
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn goal_g42_bombs_and_floods() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

/// A message above the cap is refused before it is read, whether it is packed or not.
async fn bombs_are_refused(querier: &Querier) {
    let channel = Channel::from_shared(format!("http://{}", querier.grpc)).unwrap().connect().await.unwrap();
    let large = proto::thanos::LabelValuesRequest { label: "x".repeat(70 << 20), ..Default::default() };
    let mut client = proto::thanos::store_client::StoreClient::new(channel);
    let e = client.label_values(large).await.unwrap_err();
    assert!(
        matches!(
            e.code(),
            tonic::Code::OutOfRange | tonic::Code::ResourceExhausted | tonic::Code::Cancelled | tonic::Code::Internal
        ),
        "a message of 70 MiB: {e}"
    );
}

/// Of 20,000 frames that ask for an answer only so many are answered as a connection may send in this time.
async fn control_frames_are_paced(querier: &Querier) {
    let begin = Instant::now();
    let mut to = TcpStream::connect(&querier.grpc).await.unwrap();
    to.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]).repeat(20_000)].concat()).await.unwrap();
    let (mut heads, mut buffer) = (0, vec![0; 64 << 10]);
    let read = async {
        while let Ok(n @ 1..) = to.read(&mut buffer).await {
            heads += n / 9;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
    // 2,000 at once and 2,000 a second, and what one read took in.
    let most = 4_000.0 + begin.elapsed().as_secs_f64() * 2_000.0;
    assert!(heads > 0 && (heads as f64) < most, "{heads} frames were acknowledged in 2 s, {most} are the most");
}

async fn run() {
    let goal = Goal::start("G42");
    let store = Fake::live(&[&[("s", "1")]]).start().await;
    let querier = Querier::start(args(std::slice::from_ref(&store.address))).await;
    control_frames_are_paced(&querier).await;
    let time = goal.pick(Duration::from_millis(1_000), Duration::from_secs(5), Duration::from_secs(60));
    let quiet = measured(&querier, time).await;
    // A second of a busy machine says little: at ci size nothing but that honest calls go on.
    let limit = if goal.size() == Size::Ci { Duration::from_secs(3) } else { quiet.max(Duration::from_millis(20)) * 3 };
    let (mut all, mut most, mut slowest) = (Vec::new(), 0, Duration::ZERO);
    let before = resident();
    for flood in FLOODS {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let to = match flood {
            Flood::SlowHttp => querier.http.trim_start_matches("http://").to_owned(),
            _ => querier.grpc.clone(),
        };
        // What floods takes its share of this machine, too: two connections that send all they can, or many slow ones.
        let many = if matches!(flood, Flood::SlowHeaders | Flood::SlowHttp) { 200 } else { 2 };
        // On a thread of their own.
        let attackers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        for _ in 0..many {
            attackers.spawn(attack(flood, to.clone(), Arc::clone(&stop), Arc::clone(&sent)));
        }
        let during = measured(&querier, time).await;
        let grown = resident().saturating_sub(before);
        assert!(grown <= MORE, "{flood:?}: memory has grown by {grown} bytes, {MORE} are the most");
        stop.store(true, Ordering::SeqCst);
        attackers.shutdown_background();
        let begin = Instant::now();
        until("honest calls to be as quick as before", async || {
            measured(&querier, Duration::from_millis(150)).await <= limit
        })
        .await;
        let recovery = begin.elapsed();
        assert!(recovery <= Duration::from_secs(5), "{flood:?}: it recovers only after {recovery:?}");
        all.push(format!("{flood:?} {during:?}"));
        assert!(during <= limit, "{flood:?}: honest calls take {during:?} (p99), {quiet:?} without the flood");
        assert!(sent.load(Ordering::Relaxed) > 0, "{flood:?}: nothing was sent");
        (most, slowest) = (most.max(grown), slowest.max(recovery));
    }
    bombs_are_refused(&querier).await;
    goal.figure(&format!(
        "{} floods of {time:?}: honest calls p99 {quiet:?} alone, beside {}; memory +{} MiB at most; as before \
         after {slowest:?} at most",
        FLOODS.len(),
        all.join(", "),
        most >> 20
    ));
}
