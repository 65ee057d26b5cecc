//! Requests that no client library would send: bytes to a socket, and what comes back.

use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than any deadline of the service.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends bytes, leaves the connection open, and reads until the other side closes it.
pub async fn exchange(to: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut peer = TcpStream::connect(to).await.unwrap();
    peer.write_all(bytes.as_ref()).await.unwrap();
    read_to_end(&mut peer).await
}

/// Sends a head, and then one byte of a body after another for as long as the other side takes them.
pub async fn drip(to: SocketAddr, head: &str) -> String {
    let peer = TcpStream::connect(to).await.unwrap();
    let (mut from, mut into) = peer.into_split();
    into.write_all(head.as_bytes()).await.unwrap();
    let dripping = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            if into.write_all(b"x").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end: what was sent after it was not read.
    let _ = timeout(PATIENCE, from.read_to_end(&mut answer)).await.expect("closed in time");
    dripping.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn read_to_end(peer: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, peer.read_to_end(&mut answer)).await.expect("closed in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status code of a raw answer; 0 if there was none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
