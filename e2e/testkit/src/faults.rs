//! A proxy before any object store that speaks HTTP: it counts requests by operation, and lets some of them go wrong by plan.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use crate::wire::{self, Answer, Request};

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A page of names.
    List,
    /// An object or a part of it.
    Get,
    /// What is known of an object.
    Head,
    /// A write without a condition.
    Put,
    /// A write under a condition.
    ConditionalPut,
    /// Any request of an upload in parts.
    Parts,
    /// A delete.
    Delete,
    /// Whatever else, tokens for example.
    Other,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The store is not asked; this status and code are answered.
    Refuse(u16, &'static str),
    /// The store is not asked, and the connection ends.
    Drop,
    /// The store does what is asked, and the connection ends before its answer.
    LoseAnswer,
    /// Half of the answer's body comes, and the connection ends.
    CutBody,
    /// Half of the request's body reaches the store, which is content with it.
    Truncate,
    /// A bit of the request's body reaches the store as another one.
    Flip,
    /// The answer is the one that the same request had before, if there was one.
    Stale,
    /// The request's body is taken at this speed, in bytes per second, and so is the answer's given.
    Slow(u64),
    /// Nothing is answered for this long, then the connection ends.
    Hang(Duration),
}

/// A fault and when it happens.
#[derive(Debug, Clone)]
pub struct Rule {
    /// To these operations; none: to all.
    pub operations: Vec<Operation>,
    /// To requests whose path holds this.
    pub path: String,
    /// To this share of them, from 0 to 1.
    pub share: f64,
    /// At most so often.
    pub times: u64,
    /// What happens.
    pub fault: Fault,
}

impl Rule {
    /// Every time, to all requests.
    pub fn always(fault: Fault) -> Self {
        Self { operations: Vec::new(), path: String::new(), share: 1.0, times: u64::MAX, fault }
    }

    /// To these operations only.
    #[must_use]
    pub fn to(mut self, operations: &[Operation]) -> Self {
        self.operations = operations.to_vec();
        self
    }

    /// To paths that hold this.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        part.clone_into(&mut self.path);
        self
    }

    /// To this share of requests.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// So often, then no more.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    random: u64,
    requests: BTreeMap<Operation, u64>,
    faults: u64,
    answers: BTreeMap<String, Reply>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
    stopped: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Starts one before the store at `upstream` (`host:port`), without faults; the same seed makes the same choices.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(upstream: &str, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = State {
            rules: Vec::new(),
            random: seed | 1,
            requests: BTreeMap::new(),
            faults: 0,
            answers: BTreeMap::new(),
        };
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared { upstream, state: Mutex::new(state), stopped: AtomicBool::new(false) });
        let server = Arc::clone(&shared);
        std::thread::Builder::new().name("faults".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let server = Arc::clone(&server);
                // A connection that ends in the middle is what this is for.
                std::thread::spawn(move || drop(converse(&server, stream)));
            }
        })?;
        Ok(Self { shared, address })
    }

    /// Where it answers, as in `127.0.0.1:20019`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where it answers, as in `http://127.0.0.1:20019`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// These rules from now on; of several that fit, the first counts.
    pub fn set(&self, rules: Vec<Rule>) {
        self.shared.state().rules = rules;
    }

    /// Requests so far, those that went wrong included.
    pub fn requests(&self) -> BTreeMap<Operation, u64> {
        self.shared.state().requests.clone()
    }

    /// How many of them went wrong.
    pub fn faults(&self) -> u64 {
        self.shared.state().faults
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn operation(request: &Request) -> Operation {
    let has = |name: &str| request.query.contains_key(name);
    let is_listing = has("list-type") || request.param("comp") == Some("list") || request.path.ends_with("/o");
    let is_conditional =
        ["if-none-match", "if-match", "x-goog-if-generation-match"].iter().any(|name| request.header(name).is_some())
            || has("ifGenerationMatch");
    match request.method.as_str() {
        "GET" if is_listing => Operation::List,
        "GET" => Operation::Get,
        "HEAD" => Operation::Head,
        "DELETE" if has("uploadId") => Operation::Parts,
        "DELETE" => Operation::Delete,
        "POST" if has("delete") => Operation::Delete,
        _ if has("uploads") || has("uploadId") || has("upload_id") => Operation::Parts,
        _ if request.param("comp").is_some_and(|c| c == "block" || c == "blocklist") => Operation::Parts,
        "PUT" | "POST" if request.path.contains("token") => Operation::Other,
        "PUT" | "POST" if is_conditional => Operation::ConditionalPut,
        "PUT" | "POST" => Operation::Put,
        _ => Operation::Other,
    }
}

impl State {
    fn fault(&mut self, operation: Operation, request: &Request) -> Option<Fault> {
        *self.requests.entry(operation).or_default() += 1;
        let path = wire::decode(&request.target);
        for rule in &mut self.rules {
            let fits = (rule.operations.is_empty() || rule.operations.contains(&operation))
                && path.contains(&rule.path)
                && rule.times > 0;
            if !fits {
                continue;
            }
            // xorshift64*: the same seed, the same faults.
            self.random ^= self.random >> 12;
            self.random ^= self.random << 25;
            self.random ^= self.random >> 27;
            let at = (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64;
            if at < rule.share {
                rule.times -= 1;
                self.faults += 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

/// An answer of the store, as it came.
#[derive(Debug, Clone)]
struct Reply {
    head: String,
    body: Bytes,
    /// Of an answer to HEAD the length belongs to a body that never comes.
    is_head: bool,
}

fn converse(shared: &Shared, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = wire::read(&mut reader)? {
        let operation = operation(&request);
        let fault = shared.state().fault(operation, &request);
        match &fault {
            Some(Fault::Refuse(status, code)) => {
                let message = format!("<Error><Code>{code}</Code><Message>by plan</Message></Error>");
                Answer::xml(*status, if request.method == "HEAD" { "" } else { &message }).write(&mut writer)?;
                if request.is_last {
                    break;
                }
                continue;
            }
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::Hang(time)) => {
                std::thread::sleep(*time);
                return Ok(());
            }
            Some(Fault::Truncate) => request.body = request.body.slice(..request.body.len() / 2),
            Some(Fault::Flip) => {
                let mut body = request.body.to_vec();
                let middle = body.len() / 2;
                if let Some(byte) = body.get_mut(middle) {
                    *byte ^= 1;
                }
                request.body = body.into();
            }
            Some(Fault::Slow(speed)) => std::thread::sleep(duration(request.body.len(), *speed)),
            _ => {}
        }
        let key = format!("{} {}", request.method, request.target);
        let mut reply = forward(&shared.upstream, &request)?;
        let before = shared.state().answers.get(&key).cloned();
        match (&fault, before) {
            (Some(Fault::LoseAnswer), _) => return Ok(()),
            (Some(Fault::Stale), Some(before)) => reply = before,
            (Some(Fault::CutBody), _) if !reply.is_head && !reply.body.is_empty() => {
                writer.write_all(reply.head.as_bytes())?;
                writer.write_all(&reply.body[..reply.body.len() / 2])?;
                return Ok(());
            }
            (Some(Fault::Slow(speed)), _) => {
                writer.write_all(reply.head.as_bytes())?;
                for piece in reply.body.chunks((usize::try_from(*speed)? / 10).max(1)) {
                    writer.write_all(piece)?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                continue;
            }
            _ if operation == Operation::List => {
                // Only listings are ever stale here; more would hold every object.
                shared.state().answers.insert(key, reply.clone());
            }
            _ => {}
        }
        writer.write_all(reply.head.as_bytes())?;
        writer.write_all(&reply.body)?;
        writer.flush()?;
        if request.is_last {
            break;
        }
    }
    Ok(())
}

fn duration(bytes: usize, speed: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / speed.max(1) as f64)
}

fn forward(upstream: &str, request: &Request) -> anyhow::Result<Reply> {
    let mut stream = TcpStream::connect(upstream).with_context(|| format!("connect to {upstream}"))?;
    stream.set_nodelay(true)?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !["content-length", "transfer-encoding", "connection", "expect"].contains(&name.as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let end = rest.windows(4).position(|w| w == b"\r\n\r\n").context("an answer without a head")? + 4;
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        at += end;
        // 100 Continue.
        if text.split(' ').nth(1).is_some_and(|status| status.starts_with('1')) {
            continue;
        }
        let body = Bytes::from(bytes).slice(at..);
        return Ok(reply(&text, body, request.method == "HEAD"));
    }
}

/// The reply with a length, as one that stays on a kept connection must have.
fn reply(head: &str, body: Bytes, is_head: bool) -> Reply {
    let lower = head.to_ascii_lowercase();
    let is_chunked = lower.contains("transfer-encoding: chunked");
    let body = if is_chunked { dechunk(&body) } else { body };
    let mut out = String::new();
    for line in head.trim_end().split("\r\n") {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let is_length = name == "content-length" && !is_head;
        if !is_length && !["connection", "transfer-encoding", "keep-alive"].contains(&name.as_str()) {
            out.push_str(line);
            out.push_str("\r\n");
        }
    }
    if !is_head {
        out.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    out.push_str("\r\n");
    Reply { head: out, body, is_head }
}

fn dechunk(mut rest: &[u8]) -> Bytes {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        let length = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        let Some(piece) = rest.get(end + 2..end + 2 + length).filter(|p| !p.is_empty()) else { break };
        out.extend_from_slice(piece);
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcs::Gcs;
    use crate::http;

    fn ask(proxy: &Proxy, method: &str, path: &str, body: &str) -> anyhow::Result<http::Answer> {
        http::request(method, &format!("{}{path}", proxy.url()), &[], body, Duration::from_secs(5))
    }

    #[test]
    fn each_fault_is_what_it_says() {
        let server = Gcs::start().unwrap();
        server.make_bucket("b");
        let proxy = Proxy::start(&server.url(), 1).unwrap();
        let all = |rule: Rule| proxy.set(vec![rule]);
        assert_eq!(ask(&proxy, "PUT", "/b/a", "0123456789").unwrap().status, 200);
        assert_eq!(ask(&proxy, "GET", "/b/a", "").unwrap().body, "0123456789");
        all(Rule::always(Fault::Refuse(503, "SlowDown")).times(1));
        let refused = ask(&proxy, "GET", "/b/a", "").unwrap();
        assert!(refused.status == 503 && refused.body.contains("SlowDown"));
        assert_eq!(ask(&proxy, "GET", "/b/a", "").unwrap().status, 200);
        all(Rule::always(Fault::LoseAnswer).to(&[Operation::Put]));
        assert!(ask(&proxy, "PUT", "/b/lost", "x").is_err());
        assert_eq!(server.object("b", "lost").unwrap(), b"x");
        all(Rule::always(Fault::Drop));
        assert!(ask(&proxy, "PUT", "/b/dropped", "x").is_err());
        assert!(server.object("b", "dropped").is_none());
        all(Rule::always(Fault::Truncate));
        assert_eq!(ask(&proxy, "PUT", "/b/short", "0123456789").unwrap().status, 200);
        assert_eq!(server.object("b", "short").unwrap(), b"01234");
        all(Rule::always(Fault::Flip));
        assert_eq!(ask(&proxy, "PUT", "/b/flipped", "0123456789").unwrap().status, 200);
        assert_eq!(server.object("b", "flipped").unwrap(), b"0123446789");
        all(Rule::always(Fault::CutBody));
        assert!(ask(&proxy, "GET", "/b/a", "").map_or(true, |a| a.body == "01234"));
        proxy.set(Vec::new());
        let listing = "/b?list-type=2";
        assert!(!ask(&proxy, "GET", listing, "").unwrap().body.contains("later"));
        ask(&proxy, "PUT", "/b/later", "x").unwrap();
        all(Rule::always(Fault::Stale));
        assert!(!ask(&proxy, "GET", listing, "").unwrap().body.contains("later"));
        proxy.set(Vec::new());
        assert!(ask(&proxy, "GET", listing, "").unwrap().body.contains("later"));
        assert_eq!(proxy.requests()[&Operation::List], 3);
        assert_eq!(proxy.faults(), 7);
    }
}
