//! Google Cloud Storage as a test sees it: both APIs (XML as `object_store` speaks it, JSON as Google's Go client and so
//! Thanos speaks it) over one set of buckets in memory, with generation preconditions, keys that can be asked for and
//! withdrawn, rights that can be denied, and a count of requests by operation.
//!
//! In a test's own process it is a [`Gcs`]; `e2e gcs` serves it as a process for whole clusters, where
//! [`Remote`] makes buckets and changes what is allowed.

mod auth;
mod json;
mod store;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::json;

pub use auth::key;
pub use store::{Right, Settings};

use crate::wire::{self, Answer, Request};
use store::{Refused, Store};

#[derive(Debug, Default)]
struct Shared {
    store: Mutex<Store>,
    stopped: AtomicBool,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server in this process; it ends when dropped.
#[derive(Debug)]
pub struct Gcs {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Gcs {
    /// Starts one on loopback, on a port of its own, without a bucket.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts one at an address of this machine.
    ///
    /// # Errors
    /// When the address is taken or isn't ours.
    pub fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let server = Arc::clone(&shared);
        std::thread::Builder::new().name("gcs".to_owned()).spawn(move || accept(&server, &listener))?;
        Ok(Self { shared, address })
    }

    /// Where it answers, as in `http://127.0.0.1:20019`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket; one that is there stays as it is.
    pub fn make_bucket(&self, name: &str) {
        self.shared.store().buckets.entry(name.to_owned()).or_default();
    }

    /// Changes who may do what with buckets that have no settings of their own, from the next request on.
    pub fn set(&self, settings: Settings) {
        self.shared.store().settings = settings;
    }

    /// Denies these rights, and no others, to everybody.
    pub fn deny(&self, rights: &[Right]) {
        self.shared.store().settings.deny = rights.iter().copied().collect();
    }

    /// Accepts these keys only, by their ids.
    pub fn accept_keys(&self, ids: &[&str]) {
        self.shared.store().settings.keys = Some(ids.iter().map(|id| (*id).to_owned()).collect());
    }

    /// Requests so far by operation: `list get head put delete`, `multipart-start` and its relatives; refused ones too.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.shared.store().requests.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// Names of all objects of a bucket, in order.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        self.shared.store().buckets.get(bucket).map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// An object's content.
    pub fn object(&self, bucket: &str, name: &str) -> Option<Vec<u8>> {
        self.shared.store().buckets.get(bucket)?.get(name).map(|object| object.bytes.to_vec())
    }
}

impl Gcs {
    /// Puts an object into a bucket that is there, past the API: thousands of objects may share their bytes.
    ///
    /// # Errors
    /// When the bucket is not there.
    pub fn insert(&self, bucket: &str, name: &str, bytes: Bytes) -> anyhow::Result<()> {
        let put = self.shared.store().put(bucket, name, bytes, "application/octet-stream", None);
        put.map(drop).map_err(|refused| anyhow::anyhow!("{bucket}/{name}: {refused:?}"))
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// Serves at an address for as long as the process lives; the buckets are made at once.
///
/// # Errors
/// When the address is taken or isn't ours.
pub fn serve(address: SocketAddr, buckets: &[String]) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    let shared = Arc::<Shared>::default();
    for name in buckets {
        shared.store().buckets.insert(name.clone(), BTreeMap::new());
    }
    accept(&shared, &listener);
    Ok(())
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that goes away in the middle is no failure of ours.
            let _ = converse(&shared, stream);
        });
    }
}

fn converse(shared: &Shared, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let base = format!("http://{}", stream.local_addr()?);
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = wire::read(&mut reader)? {
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        let (answer, ahead) = {
            let mut store = shared.store();
            (answer(&mut store, &request, &base), store.settings.ahead)
        };
        let now = timestamp(SystemTime::now()).checked_add(jiff::SignedDuration::from_secs(ahead))?;
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        answer.with("Date", printer.timestamp_to_rfc9110_string(&now)?).write(&mut writer)?;
        if request.is_last {
            break;
        }
    }
    Ok(())
}

fn answer(store: &mut Store, request: &Request, base: &str) -> Answer {
    let path = request.path.as_str();
    if path == "/token" || path == "/oauth2/token" {
        return auth::exchange(request, &store.settings);
    }
    // The metadata server of a pod with workload identity.
    if path == "/computeMetadata/v1/instance/service-accounts/default/token" {
        return auth::ambient();
    }
    if let Some(rest) = path.strip_prefix("/_test/") {
        return control(store, request, rest);
    }
    let inside = ["/storage/v1/b/", "/upload/storage/v1/b/", "/"].iter().find_map(|root| path.strip_prefix(root));
    let bucket = wire::decode(inside.and_then(|rest| rest.split('/').next()).unwrap_or_default());
    let who = match auth::check(request, store.settings(&bucket)) {
        Ok(who) => who,
        Err(why) => {
            xml::count(store, "unauthenticated");
            return refused(&why, "", path);
        }
    };
    let found = if let Some(rest) = path.strip_prefix("/storage/v1/b/") {
        json::answer(store, request, rest)
    } else if let Some(rest) = path.strip_prefix("/upload/storage/v1/b/") {
        json::upload(store, request, rest, base)
    } else {
        xml::answer(store, request)
    };
    found.unwrap_or_else(|why| refused(&why, &who, path))
}

fn refused(why: &Refused, who: &str, path: &str) -> Answer {
    let xml = xml::refused(why, who, path);
    if !path.starts_with("/storage/v1/") && !path.starts_with("/upload/") {
        return xml;
    }
    let message = String::from_utf8_lossy(&xml.body).into_owned();
    Answer::json(xml.status, &json!({"error": {"code": xml.status, "message": message}}))
}

/// What [`Remote`] asks for.
fn control(store: &mut Store, request: &Request, path: &str) -> Answer {
    match (request.method.as_str(), path.split_once('/').unwrap_or((path, ""))) {
        ("PUT", ("buckets", name)) => {
            store.buckets.entry(name.to_owned()).or_default();
            Answer::new(204)
        }
        ("DELETE", ("buckets", name)) => {
            store.buckets.remove(name);
            Answer::new(204)
        }
        ("PUT", ("settings", bucket)) => match serde_json::from_slice(&request.body) {
            Ok(settings) => {
                store.settings_of.insert(bucket.to_owned(), settings);
                Answer::new(204)
            }
            Err(error) => Answer::json(400, &json!({"error": error.to_string()})),
        },
        ("GET", ("requests", "")) => Answer::json(200, &json!(store.requests)),
        ("GET", ("names", bucket)) => {
            let names: BTreeSet<&String> =
                store.buckets.get(bucket).iter().flat_map(|objects| objects.keys()).collect();
            Answer::json(200, &json!(names))
        }
        ("PUT", ("objects", path)) => {
            let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
            match store.force(bucket, &wire::decode(name), request.body.clone()) {
                Ok(()) => Answer::new(204),
                Err(_) => Answer::new(404),
            }
        }
        ("GET", ("objects", path)) => {
            let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
            let found = store.buckets.get(bucket).and_then(|objects| objects.get(&wire::decode(name)));
            found.map_or_else(
                || Answer::new(404),
                |object| {
                    let mut answer = Answer::new(200);
                    answer.body = object.bytes.clone();
                    answer
                },
            )
        }
        _ => Answer::new(404),
    }
}

/// A server in another process.
#[derive(Debug, Clone)]
pub struct Remote {
    address: String,
}

impl Remote {
    /// The server at this address, as in `10.77.1.2:4443`.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket; one that is there stays as it is.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn make_bucket(&self, name: &str) -> anyhow::Result<()> {
        self.ask("PUT", &format!("/_test/buckets/{name}"), &[]).map(|_| ())
    }

    /// Removes a bucket with all that is in it.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn drop_bucket(&self, name: &str) -> anyhow::Result<()> {
        self.ask("DELETE", &format!("/_test/buckets/{name}"), &[]).map(|_| ())
    }

    /// Changes who may do what with a bucket, from the next request on.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn set(&self, bucket: &str, settings: &Settings) -> anyhow::Result<()> {
        self.ask("PUT", &format!("/_test/settings/{bucket}"), &serde_json::to_vec(settings)?).map(|_| ())
    }

    /// Requests so far by operation.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn requests(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_slice(&self.ask("GET", "/_test/requests", &[])?)?)
    }

    /// Names of all objects of a bucket, in order.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn names(&self, bucket: &str) -> anyhow::Result<Vec<String>> {
        Ok(serde_json::from_slice(&self.ask("GET", &format!("/_test/names/{bucket}"), &[])?)?)
    }

    /// Makes an object, or puts another content in its place, whatever rights anybody has.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn put(&self, bucket: &str, name: &str, body: &[u8]) -> anyhow::Result<()> {
        self.ask("PUT", &format!("/_test/objects/{bucket}/{name}"), body).map(|_| ())
    }

    /// An object's content.
    ///
    /// # Errors
    /// When there is none.
    pub fn object(&self, bucket: &str, name: &str) -> anyhow::Result<Vec<u8>> {
        self.ask("GET", &format!("/_test/objects/{bucket}/{name}"), &[])
    }

    /// Its process may have begun a moment ago.
    fn connect(&self) -> anyhow::Result<TcpStream> {
        let address = self.address.parse()?;
        let mut tries = 0;
        loop {
            match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && tries < 50 => tries += 1,
                connected => return Ok(connected?),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        use std::io::{Read as _, Write as _};
        let mut stream =
            self.connect().with_context(|| format!("{method} {path} of the bucket server {}", self.address))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        stream.write_all(&[head.as_bytes(), body].concat())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status: u16 = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
        let body = answer.get(end + 4..).unwrap_or_default().to_vec();
        anyhow::ensure!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or_default()
}

fn rfc3339(time: SystemTime) -> String {
    format!("{:.3}", timestamp(time))
}

fn rfc9110(time: SystemTime) -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&timestamp(time)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_controls_it() {
        let server = Gcs::start().unwrap();
        let remote = Remote::at(server.address.to_string());
        remote.make_bucket("b").unwrap();
        let ask = |method, path, body: &[u8]| remote.ask(method, path, body).map_err(|error| error.to_string());
        ask("PUT", "/b/a%2Fb", b"text").unwrap();
        assert_eq!(ask("GET", "/b/a%2Fb", &[]).unwrap(), b"text");
        assert_eq!(remote.names("b").unwrap(), ["a/b"]);
        assert_eq!(remote.object("b", "a/b").unwrap(), b"text");
        assert!(ask("GET", "/c/a", &[]).unwrap_err().contains("NoSuchBucket"));
        remote.set("b", &Settings { deny: BTreeSet::from([Right::Create]), ..Settings::default() }).unwrap();
        let said = ask("PUT", "/b/c", b"x").unwrap_err();
        assert!(said.contains("403") && said.contains("storage.objects.create"), "{said}");
        remote.set("b", &Settings { keys: Some(BTreeSet::from(["one".to_owned()])), ..Settings::default() }).unwrap();
        assert!(ask("GET", "/b/a%2Fb", &[]).unwrap_err().contains("401"));
        assert!(ask("GET", "/storage/v1/b/b/o", &[]).unwrap_err().contains("401"));
        assert!(ask("GET", "/c/a", &[]).unwrap_err().contains("404"), "another bucket's settings are its own");
        assert_eq!(remote.requests().unwrap()["put"], 2);
        remote.drop_bucket("b").unwrap();
        assert!(remote.names("b").unwrap().is_empty());
    }

    #[test]
    fn a_key_looks_like_googles() {
        let key = key("one", "a@b", "http://127.0.0.1:1").unwrap();
        assert!(key["private_key"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(key["token_uri"], "http://127.0.0.1:1/token");
    }
}
