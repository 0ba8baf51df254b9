//! A page of metrics that a test controls, to be scraped by a real Prometheus.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct Page {
    types: BTreeMap<String, &'static str>,
    values: BTreeMap<String, f64>,
    growing: BTreeMap<String, (f64, Instant)>,
    text: Option<(String, String)>,
}

#[derive(Debug, Default)]
struct Shared {
    page: Mutex<Page>,
    down: AtomicBool,
    stopped: AtomicBool,
    scrapes: AtomicU64,
}

impl Shared {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP server with one page of metrics, on a port of its own; it ends when dropped.
#[derive(Debug)]
pub struct MetricsSource {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl MetricsSource {
    /// Starts with an empty page.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Starts with an empty page, on an address of this machine that others reach.
    ///
    /// # Errors
    /// When no port is free or the address isn't ours.
    pub fn start_at(address: Ipv4Addr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, crate::ports::free()?))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let server = Arc::clone(&shared);
        std::thread::Builder::new().name("metrics-source".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let server = Arc::clone(&server);
                std::thread::spawn(move || answer(&server, stream));
            }
        })?;
        Ok(Self { shared, address })
    }

    /// Where it answers, as in `127.0.0.1:20019`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sets one series, written as on the page: `name` or `name{label="value"}`.
    pub fn set(&self, series: &str, value: f64) {
        self.shared.page().values.insert(series.to_owned(), value);
    }

    /// Adds to one series (from 0 when it is new).
    pub fn add(&self, series: &str, value: f64) {
        *self.shared.page().values.entry(series.to_owned()).or_default() += value;
    }

    /// Makes one series grow by so much per second from now on, evenly: the truth of its rate is known.
    pub fn set_growing(&self, series: &str, per_second: f64) {
        self.shared.page().growing.insert(series.to_owned(), (per_second, Instant::now()));
    }

    /// Takes one series off the page.
    pub fn remove(&self, series: &str) {
        self.shared.page().values.remove(series);
    }

    /// Declares the type of a metric: `counter`, `gauge` or `histogram`.
    pub fn declare(&self, metric: &str, kind: &'static str) {
        self.shared.page().types.insert(metric.to_owned(), kind);
    }

    /// Sets a classic histogram: cumulative counts by upper bound (the last is the total), and the sum.
    /// `labels` is written as on the page without braces, as in `job="a"`; it may be empty.
    pub fn set_histogram(&self, metric: &str, labels: &str, buckets: &[(&str, f64)], sum: f64) {
        self.declare(metric, "histogram");
        let comma = if labels.is_empty() { "" } else { "," };
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        for (bound, count) in buckets {
            self.set(&format!("{metric}_bucket{{{labels}{comma}le=\"{bound}\"}}"), *count);
        }
        let total = buckets.last().map_or(0.0, |(_, count)| *count);
        self.set(&format!("{metric}_bucket{{{labels}{comma}le=\"+Inf\"}}"), total);
        self.set(&format!("{metric}_count{braces}"), total);
        self.set(&format!("{metric}_sum{braces}"), sum);
    }

    /// Serves this text as it is, with this content type, instead of the single series.
    pub fn set_text(&self, content_type: &str, text: &str) {
        self.shared.page().text = Some((content_type.to_owned(), text.to_owned()));
    }

    /// While down, every scrape fails with 503, which leaves a gap.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// How often the page was served.
    pub fn scrapes(&self) -> u64 {
        self.shared.scrapes.load(Ordering::SeqCst)
    }
}

impl Drop for MetricsSource {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is to end.
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(shared: &Shared, mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let Ok(reader) = stream.try_clone() else {
        return;
    };
    // The request's header is read to its end, so that closing doesn't reset the connection.
    for line in BufReader::new(reader).lines() {
        match line {
            Ok(line) if line.is_empty() => break,
            Ok(_) => {}
            Err(_) => return,
        }
    }
    let (status, kind, body) = if shared.down.load(Ordering::SeqCst) {
        ("503 Service Unavailable", "text/plain".to_owned(), String::new())
    } else {
        shared.scrapes.fetch_add(1, Ordering::SeqCst);
        let (kind, body) = render(&shared.page());
        ("200 OK", kind, body)
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn render(page: &Page) -> (String, String) {
    if let Some(text) = &page.text {
        return text.clone();
    }
    let mut body = String::new();
    for (metric, kind) in &page.types {
        body.push_str(&format!("# TYPE {metric} {kind}\n"));
    }
    for (series, value) in &page.values {
        body.push_str(&format!("{series} {value}\n"));
    }
    for (series, (per_second, since)) in &page.growing {
        body.push_str(&format!("{series} {}\n", per_second * since.elapsed().as_secs_f64()));
    }
    ("text/plain; version=0.0.4; charset=utf-8".to_owned(), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[test]
    fn serves_what_was_set() {
        let source = MetricsSource::start().unwrap();
        source.declare("a_total", "counter");
        source.add("a_total{x=\"1\"}", 2.0);
        source.add("a_total{x=\"1\"}", 3.0);
        source.set_histogram("h", "", &[("0.5", 1.0), ("1", 4.0)], 2.5);
        let url = format!("http://{}/metrics", source.address());
        let page = http::get(&url).unwrap().body;
        assert!(page.contains("# TYPE a_total counter\n") && page.contains("a_total{x=\"1\"} 5\n"), "{page}");
        assert!(page.contains("h_bucket{le=\"+Inf\"} 4\n") && page.contains("h_count 4\n"), "{page}");
        source.set_down(true);
        assert_eq!(http::get(&url).unwrap().status, 503);
        assert_eq!(source.scrapes(), 1);
    }
}
