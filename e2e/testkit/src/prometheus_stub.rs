//! What a sidecar asks a Prometheus before it uploads, answered at once by a thread: for tests that start many sidecars beside
//! blocks that no Prometheus has to make.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// What the stub tells of itself.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// External labels, as in `("cluster", "ops")`.
    pub external_labels: Vec<(String, String)>,
    /// Flags without their dashes, as in `("storage.tsdb.min-block-duration", "2h")`.
    pub flags: Vec<(String, String)>,
    /// Retention in Prometheus's words, as in `15d`.
    pub retention: String,
}

impl Told {
    /// These external labels, no compaction of its own, 15 days.
    pub fn new(external_labels: &[(&str, &str)]) -> Self {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        Self {
            external_labels: owned(external_labels),
            flags: owned(&[("storage.tsdb.min-block-duration", "2h"), ("storage.tsdb.max-block-duration", "2h")]),
            retention: "15d".to_owned(),
        }
    }
}

/// A running stub; it ends when dropped.
#[derive(Debug)]
pub struct PrometheusStub {
    told: Arc<Mutex<Told>>,
    stopped: Arc<AtomicBool>,
    address: SocketAddr,
}

impl PrometheusStub {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(told: Told) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (told, stopped) = (Arc::new(Mutex::new(told)), Arc::new(AtomicBool::new(false)));
        let (tell, end) = (Arc::clone(&told), Arc::clone(&stopped));
        std::thread::Builder::new().name("prometheus-stub".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let told = tell.lock().unwrap_or_else(PoisonError::into_inner).clone();
                std::thread::spawn(move || serve(&told, stream));
            }
        })?;
        Ok(Self { told, stopped, address })
    }

    /// The base address, as in `http://127.0.0.1:20017`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tells something else from now on.
    pub fn tell(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

impl Drop for PrometheusStub {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is to end.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(told: &Told, mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let Ok(reader) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reader).lines();
    let Some(Ok(request)) = lines.next() else { return };
    // The header is read to its end, so that closing doesn't reset the connection.
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).and_then(|p| p.split('?').next()).unwrap_or_default();
    let (status, body) = match answer(told, path) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn answer(told: &Told, path: &str) -> Option<String> {
    let map = |pairs: &[(String, String)]| -> serde_json::Map<String, Value> {
        pairs.iter().map(|(n, v)| (n.clone(), Value::from(v.as_str()))).collect()
    };
    let data = match path {
        "/-/ready" => return Some("ready\n".to_owned()),
        "/metrics" => return Some("prometheus_tsdb_lowest_timestamp_seconds 1\n".to_owned()),
        "/api/v1/status/buildinfo" => json!({"version": "3.14.0"}),
        "/api/v1/status/config" => {
            let labels: String =
                told.external_labels.iter().map(|(n, v)| format!("    {n}: {}\n", Value::from(v.as_str()))).collect();
            let block = if labels.is_empty() { String::new() } else { format!("  external_labels:\n{labels}") };
            json!({"yaml": format!("global:\n  scrape_interval: 15s\n{block}")})
        }
        "/api/v1/status/flags" => Value::Object(map(&told.flags)),
        "/api/v1/status/runtimeinfo" => json!({"storageRetention": told.retention}),
        _ => return None,
    };
    Some(json!({"status": "success", "data": data}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[test]
    fn tells_what_it_was_told() {
        let stub = PrometheusStub::start(Told::new(&[("cluster", "ops")])).unwrap();
        let get = |path: &str| http::get(&format!("{}{path}", stub.url())).unwrap();
        assert!(get("/api/v1/status/config").body.contains("cluster: \\\"ops\\\""));
        assert!(get("/api/v1/status/flags").body.contains("min-block-duration\":\"2h\""));
        assert_eq!(get("/api/v1/nothing").status, 404);
        stub.tell(Told::default());
        assert!(!get("/api/v1/status/config").body.contains("external_labels"));
    }
}
