//! A small blocking HTTP client for plain text and JSON over loopback: enough for a test, no runtime needed. It speaks HTTP/1.0,
//! so that every answer ends with the connection.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::Context as _;

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code, as in 200.
    pub status: u16,
    /// The header lines, as they came.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When the status isn't a success or the body isn't JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        anyhow::ensure!(
            (200..300).contains(&self.status),
            "status {}: {}",
            self.status,
            self.body.chars().take(500).collect::<String>()
        );
        serde_json::from_str(&self.body)
            .with_context(|| format!("not JSON: {}", self.body.chars().take(200).collect::<String>()))
    }
}

/// `GET url` with a limit of 30 s.
///
/// # Errors
/// When the address is wrong, nobody answers, or the answer isn't HTTP.
pub fn get(url: &str) -> anyhow::Result<Answer> {
    request("GET", url, &[], "", Duration::from_secs(30))
}

/// `POST url` with a body, limit 30 s.
///
/// # Errors
/// As [`get`].
pub fn post(url: &str, content_type: &str, body: &str) -> anyhow::Result<Answer> {
    request("POST", url, &[("Content-Type", content_type)], body, Duration::from_secs(30))
}

/// Any request over plain HTTP.
///
/// # Errors
/// As [`get`].
pub fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
    limit: Duration,
) -> anyhow::Result<Answer> {
    let body = body.as_ref();
    let rest = url.strip_prefix("http://").with_context(|| format!("{url}: only http:// here"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let address = host
        .to_socket_addrs()
        .with_context(|| format!("{host} is not host:port"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, limit.min(Duration::from_secs(5)))
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("{method} {url}"))?;
    parse(&bytes).with_context(|| format!("{method} {url}"))
}

/// Percent-encodes a value for a query string.
pub fn encode(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn parse(bytes: &[u8]) -> anyhow::Result<Answer> {
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("the answer has no header")?;
    let head = std::str::from_utf8(&bytes[..split])?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| format!("not HTTP: {first}"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())))
        .collect();
    let body = &bytes[split + 4..];
    // A server may answer an HTTP/1.0 request in chunks all the same.
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v.eq_ignore_ascii_case("chunked"));
    let body = if chunked { dechunk(body)? } else { body.to_vec() };
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn dechunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("a chunk without a size")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[..end])?.split(';').next().unwrap_or_default().trim(), 16)?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(out);
        }
        anyhow::ensure!(rest.len() >= size + 2, "a chunk was cut off");
        out.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_chunked_answer() {
        let answer =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
    }

    #[test]
    fn encodes_a_query() {
        assert_eq!(encode("sum by (a) (b{c=\"d\"})"), "sum%20by%20%28a%29%20%28b%7Bc%3D%22d%22%7D%29");
    }
}
