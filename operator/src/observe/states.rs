//! The state documents of the parts, asked over HTTP pod by pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use args::state::{MAX_BYTES, PATH, State};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::desired::names;

/// How long a part may take to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How many are asked at once.
const AT_ONCE: usize = 16;

/// A part's document, or why there is none.
pub type PartState = Result<State, String>;
/// By pod.
pub type States = BTreeMap<String, PartState>;
/// Where a pod's part answers; `None` if it isn't asked.
pub type Locate = Arc<dyn Fn(&Pod) -> Option<SocketAddr> + Send + Sync>;

/// Where parts answer: on the pod's address, once its containers run.
#[must_use]
pub fn pod_address(pod: &Pod) -> Option<SocketAddr> {
    let component = pod.labels().get("app.kubernetes.io/component")?;
    let speaks = matches!(component.as_str(), "prometheus" | "query" | names::STORE | names::COMPACT)
        || names::is_remote(component);
    if !speaks {
        return None;
    }
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running"))?;
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(address, args::HTTP_PORT))
}

/// Asks all of them.
pub async fn fetch(targets: BTreeMap<String, SocketAddr>) -> States {
    futures::stream::iter(targets)
        .map(|(pod, address)| async move {
            let answer = match timeout(LIMIT, ask(address)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
            };
            (pod, answer)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

async fn ask(address: SocketAddr) -> PartState {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = hyper::Request::get(PATH)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("{PATH} answered {status}"));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
        State::parse(&body.to_bytes())
    };
    // The connection is driven until the answer is complete; dropping the sender then ends it.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn server(answer: Vec<u8>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0u8; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(&answer).await;
        });
        address
    }

    async fn one(answer: &str) -> PartState {
        let address = server(answer.as_bytes().to_vec()).await;
        fetch(BTreeMap::from([("p".to_owned(), address)])).await.remove("p").unwrap()
    }

    #[tokio::test]
    async fn documents_and_other_answers() {
        let body = r#"{"format":1,"component":"query","version":"0.1.0","ready":true,"new":1}"#;
        let good = one(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await.unwrap();
        assert!(good.ready && good.component == "query");
        assert!(one("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap_err().contains("404"));
        assert!(one("SSH-2.0-OpenSSH\r\n").await.is_err());
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BYTES + 10));
        assert!(one(&endless).await.unwrap_err().contains("limit"));
        let refused = fetch(BTreeMap::from([("p".to_owned(), "127.0.0.1:1".parse().unwrap())])).await;
        assert!(refused["p"].is_err());
    }
}
