//! The one place that opens TCP connections. A simulation replaces what is re-exported here; nothing else names `tokio::net`.

use std::io;
use std::net::SocketAddr;
pub use tokio::net::{TcpListener, TcpStream};

/// Listens on `host:port`; port 0 picks a free one.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// True if a listener on `[::]` takes IPv4 connections too (unless there is no IPv6 at all: then it fails).
pub fn dual_stack() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|only| only.trim() == "0")
}

/// Accepts the next connection. Nagle's algorithm is off: it delays every third small answer by 40 ms.
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}

/// Connects to `host:port`, with Nagle's algorithm off.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
