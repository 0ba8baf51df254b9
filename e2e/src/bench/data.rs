//! The generated hour: container and kube-state series as a small cluster has them, with resets, gaps and native
//! histograms, written into a real Prometheus through its remote-write receiver.

use anyhow::Context;
use prost::Message;
use std::time::Duration;
use testkit::http;

/// Seconds between two samples.
pub(super) const STEP_S: i64 = 15;
/// The generated time span.
pub(super) const HOUR_S: i64 = 3600;

/// Size of the data.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Pods; each has one container.
    pub pods: usize,
    /// Series with native histograms.
    pub histograms: usize,
    /// The last sample's time, seconds since the epoch.
    pub end_s: i64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { pods: 590, histograms: 200, end_s: 0 }
    }
}

/// One series of a pod: its metric, and how its value goes.
struct Metric(&'static str, Kind, &'static [(&'static str, &'static str)]);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Grows by about this much a second, with a reset now and then.
    Counter(f64),
    /// Moves about this value.
    Gauge(f64),
    /// Is always this value.
    Constant(f64),
}

const PER_POD: &[Metric] = &[
    Metric("container_cpu_usage_seconds_total", Kind::Counter(0.3), &[]),
    Metric("container_memory_working_set_bytes", Kind::Gauge(2e8), &[]),
    Metric("container_memory_usage_bytes", Kind::Gauge(3e8), &[]),
    Metric("container_spec_cpu_quota", Kind::Constant(100_000.0), &[]),
    Metric("container_spec_cpu_period", Kind::Constant(100_000.0), &[]),
    Metric("container_spec_cpu_shares", Kind::Constant(512.0), &[]),
    Metric("container_spec_memory_limit_bytes", Kind::Constant(1e9), &[]),
    Metric("container_network_receive_bytes_total", Kind::Counter(5e4), &[("interface", "eth0")]),
    Metric("container_network_transmit_bytes_total", Kind::Counter(3e4), &[("interface", "eth0")]),
    Metric("kube_pod_container_status_restarts_total", Kind::Counter(0.0005), &[]),
    Metric("kube_pod_container_status_running", Kind::Constant(1.0), &[]),
    Metric("kube_pod_container_status_last_terminated_reason", Kind::Constant(1.0), &[("reason", "OOMKilled")]),
    Metric("kube_pod_container_status_last_terminated_reason", Kind::Constant(0.0), &[("reason", "Error")]),
    Metric("kube_pod_container_status_waiting_reason", Kind::Constant(0.0), &[("reason", "ImagePullBackOff")]),
    Metric("kube_pod_container_resource_requests_memory_bytes", Kind::Constant(5e8), &[]),
    Metric("kubelet_volume_stats_used_bytes", Kind::Gauge(4e9), &[("persistentvolumeclaim", "data")]),
    Metric("kubelet_volume_stats_capacity_bytes", Kind::Constant(1e10), &[("persistentvolumeclaim", "data")]),
];

impl Shape {
    /// Series that each replica holds.
    pub(super) fn series(&self) -> usize {
        self.pods * PER_POD.len() + self.histograms + 2 * NODES
    }
}

const NODES: usize = 10;

/// Writes the whole hour into the Prometheus at `url`. Replicas scrape the same targets at offsets of a third of a
/// step, each with gaps of its own.
pub(super) fn fill(url: &str, shape: &Shape, replica: usize) -> anyhow::Result<()> {
    let headers = [
        ("Content-Encoding", "snappy"),
        ("Content-Type", "application/x-protobuf"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    let mut all = series(shape);
    let offset_ms = i64::try_from(replica)? * STEP_S * 1000 / 3;
    let mut random = Random(0x9e37_79b9 + replica as u64);
    for step in 0..=(HOUR_S / STEP_S) {
        let t = (shape.end_s - HOUR_S + step * STEP_S) * 1000 + offset_ms - STEP_S * 1000;
        // Each replica is away for two minutes, at another time.
        let minute = step * STEP_S / 60;
        let away = i64::try_from(replica)? * 17 + 10;
        let gap = (away..away + 2).contains(&minute);
        for chunk in all.chunks_mut(2_500) {
            for s in &mut *chunk {
                s.step(t, step, &mut random);
            }
            if !gap {
                let request = Write { series: chunk.iter().map(|s| s.proto.clone()).collect() };
                let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
                let answer =
                    http::request("POST", &format!("{url}/api/v1/write"), &headers, body, Duration::from_secs(30))?;
                anyhow::ensure!((200..300).contains(&answer.status), "remote write: {} {}", answer.status, answer.body);
            }
        }
    }
    Ok(())
}

/// Seconds since the epoch.
#[allow(clippy::disallowed_methods, reason = "a benchmark works on the real present")]
pub(super) fn now_s() -> anyhow::Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("clock before 1970")?;
    Ok(i64::try_from(now.as_secs())?)
}

struct Series {
    proto: TimeSeries,
    kind: Option<Kind>,
    seed: u64,
    value: f64,
    buckets: [u64; 20],
}

fn series(shape: &Shape) -> Vec<Series> {
    let mut out = Vec::with_capacity(shape.series());
    for pod in 0..shape.pods {
        let node = format!("node-{}", pod % NODES);
        let namespace = format!("team-{}", pod % 20);
        let name = format!("app-{pod}-7d9c6b5f4d-x{:04x}", pod * 7919 % 65536);
        let container = format!("app-{}", pod % 30);
        let id = format!(
            "/kubepods/burstable/pod{:08x}/{:016x}",
            pod * 104_729,
            (pod as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        );
        for Metric(metric, kind, more) in PER_POD {
            let mut labels = vec![
                ("__name__", *metric),
                ("container", &container),
                ("id", &id),
                ("image", "registry.example/app:1.2.3"),
                ("instance", &node),
                ("job", "kubernetes-nodes-cadvisor"),
                ("kubernetes_io_hostname", &node),
                ("name", &name),
                ("namespace", &namespace),
                ("pod", &name),
            ];
            labels.extend(more.iter().copied());
            out.push(Series::new(&labels, Some(*kind), out.len()));
        }
    }
    for node in 0..NODES {
        let node = format!("node-{node}");
        for (metric, value) in [("machine_memory_bytes", 6.4e10), ("machine_cpu_cores", 16.0)] {
            let labels = [("__name__", metric), ("instance", &node), ("kubernetes_io_hostname", &node)];
            out.push(Series::new(&labels, Some(Kind::Constant(value)), out.len()));
        }
    }
    for h in 0..shape.histograms {
        let path = format!("/api/{h}");
        let labels = [("__name__", "request_duration_seconds"), ("job", "app"), ("path", path.as_str())];
        out.push(Series::new(&labels, None, out.len()));
    }
    out
}

impl Series {
    fn new(labels: &[(&str, &str)], kind: Option<Kind>, seed: usize) -> Self {
        let mut labels: Vec<Label> =
            labels.iter().map(|(n, v)| Label { name: (*n).to_owned(), value: (*v).to_owned() }).collect();
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        let proto = TimeSeries { labels, samples: Vec::new(), histograms: Vec::new() };
        Self { proto, kind, seed: seed as u64, value: 0.0, buckets: [0; 20] }
    }

    fn step(&mut self, t: i64, step: i64, random: &mut Random) {
        let noise = random.unit();
        // A container in fifty restarts once, at a step of its own.
        let reset = self.seed.is_multiple_of(50) && step == (self.seed / 50 % 240) as i64;
        match self.kind {
            Some(kind) => {
                self.value = match kind {
                    Kind::Counter(_) if reset => 0.0,
                    Kind::Counter(rate) => self.value + rate * STEP_S as f64 * (0.5 + noise),
                    Kind::Gauge(about) => (about * (0.8 + 0.4 * noise)).round(),
                    Kind::Constant(v) => v,
                };
                self.proto.samples = vec![Sample { value: self.value, timestamp: t }];
            }
            None => {
                if reset {
                    self.buckets = [0; 20];
                    self.value = 0.0;
                }
                for _ in 0..10 {
                    let bucket = (random.unit() * random.unit() * 20.0) as usize;
                    if let Some(b) = self.buckets.get_mut(bucket) {
                        *b += 1;
                    }
                    self.value += 0.1 * (bucket as f64 + 1.0);
                }
                let mut last = 0i64;
                let deltas = self.buckets.iter().map(|b| {
                    let d = *b as i64 - last;
                    last = *b as i64;
                    d
                });
                self.proto.histograms = vec![Histogram {
                    count: self.buckets.iter().sum(),
                    sum: self.value,
                    schema: 1,
                    zero_threshold: 1e-128,
                    zero_count: 0,
                    positive_spans: vec![BucketSpan { offset: -8, length: 20 }],
                    positive_deltas: deltas.collect(),
                    timestamp: t,
                }];
            }
        }
    }
}

/// A small generator (splitmix64): the same data at every run.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

// Remote write 1.0, the fields that are used here.

#[derive(Clone, PartialEq, Message)]
struct Write {
    #[prost(message, repeated, tag = "1")]
    series: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, tag = "6")]
    zero_count: u64,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}
