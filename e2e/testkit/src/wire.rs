//! Just enough of HTTP/1.1 for a fake: requests with bodies of known length or in chunks, answers, kept connections.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Context as _;
use bytes::Bytes;

/// No head of a request is longer.
const MAX_HEAD: usize = 64 << 10;
/// No body is longer: the largest file of a block has 512 MiB.
const MAX_BODY: usize = 1 << 30;

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query as they came.
    pub(crate) target: String,
    /// Still percent-encoded: an encoded slash is part of a name.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// By lower-case names.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
    /// The connection ends with the answer.
    pub(crate) is_last: bool,
}

impl Request {
    /// A header by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

/// The next request of a connection; none at its end.
pub(crate) fn read(reader: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Request>> {
    let mut left = MAX_HEAD;
    let first = line(reader, &mut left)?;
    if first.is_empty() {
        return Ok(None);
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().context("a request without a path")?);
    let mut headers = BTreeMap::new();
    loop {
        let line = line(reader, &mut left)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.get("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body = if chunked {
        chunks(reader)?
    } else {
        let length: usize = headers.get("content-length").map_or(Ok(0), |value| value.parse())?;
        anyhow::ensure!(length <= MAX_BODY, "a body of {length} bytes is too long");
        let mut body = Vec::new();
        reader.take(length as u64).read_to_end(&mut body)?;
        anyhow::ensure!(body.len() == length, "the body ends early");
        body
    };
    // Absolute targets are for proxies.
    let target = target.strip_prefix("http://").map_or(target, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
    });
    let is_last = match headers.get("connection") {
        Some(value) => value.eq_ignore_ascii_case("close"),
        None => first.ends_with("HTTP/1.0"),
    };
    Ok(Some(Request {
        method: method.to_owned(),
        target: target.to_owned(),
        path: path.to_owned(),
        query: query.collect(),
        headers,
        body: body.into(),
        is_last,
    }))
}

fn line(reader: &mut impl BufRead, left: &mut usize) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = reader.take(*left as u64).read_until(b'\n', &mut bytes)?;
    *left -= read;
    anyhow::ensure!(*left > 0, "the head of a request is too long");
    Ok(String::from_utf8(bytes)?.trim_end().to_owned())
}

fn chunks(reader: &mut BufReader<TcpStream>) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let head = line(reader, &mut MAX_HEAD.clone())?;
        let length = usize::from_str_radix(head.split(';').next().unwrap_or_default().trim(), 16)?;
        anyhow::ensure!(body.len() + length <= MAX_BODY, "a body is too long");
        let before = body.len();
        reader.by_ref().take(length as u64).read_to_end(&mut body)?;
        anyhow::ensure!(body.len() - before == length, "a chunk ends early");
        // The end of the chunk's line; after the last chunk, that of the trailers.
        while !line(reader, &mut MAX_HEAD.clone())?.is_empty() {}
        if length == 0 {
            return Ok(body);
        }
    }
}

/// Percent-decodes; what is no code stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code =
            text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// The length to tell where no body is sent.
    pub(crate) length: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), length: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        let mut answer = Self::new(status).with("Content-Type", "application/json; charset=UTF-8");
        answer.body = body.to_string().into();
        answer
    }

    pub(crate) fn xml(status: u16, body: &str) -> Self {
        let mut answer = Self::new(status).with("Content-Type", "application/xml; charset=UTF-8");
        answer.body = format!("<?xml version='1.0' encoding='UTF-8'?>{body}").into();
        answer
    }

    pub(crate) fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let length = self.length.unwrap_or(self.body.len());
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)?;
        stream.flush()
    }
}

/// Text inside XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
