//! Finds out which protocol a port speaks, to explain why a request to it fails.

use http::Uri;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long the port may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of an answer that are read.
const MAX_ANSWER: u64 = 2048;
/// The beginning of an HTTP/2 connection (RFC 9113, 3.4), with an empty SETTINGS frame.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const HTTP1: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Tls,
    Http1,
    Http2,
    /// Something else, such as Postgres.
    Other,
}

/// The protocol of the port of a URL; `None` if it does not answer.
pub(super) async fn speaks(url: &Uri) -> Option<Speaks> {
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    let host = url.host()?.trim_matches(['[', ']']);
    // Some servers close a connection that does not begin with an HTTP/1.1 request.
    match answer(host, port, HTTP2).await {
        Some(found) => Some(found),
        None => answer(host, port, HTTP1).await,
    }
}

/// The scheme, host and port of a URL, without a password that it may have.
pub(super) fn shown(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.scheme_str().unwrap_or("http"))
}

/// The protocol of the answer to some bytes; `None` if there is no answer.
async fn answer(host: &str, port: u16, greeting: &[u8]) -> Option<Speaks> {
    let mut answer = Vec::new();
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(greeting).await.ok()?;
        let mut stream = stream.take(MAX_ANSWER);
        while recognized(&answer).is_none() && stream.read_buf(&mut answer).await.ok()? > 0 {}
        Some(())
    };
    let _ = timeout(TIMEOUT, ask).await;
    let other = if answer.starts_with(b"HTTP/1.") { Speaks::Http1 } else { Speaks::Other };
    recognized(&answer).or((!answer.is_empty()).then_some(other))
}

/// The protocol, as soon as it is certain.
fn recognized(answer: &[u8]) -> Option<Speaks> {
    match answer {
        [0x15 | 0x16, 0x03, ..] => Some(Speaks::Tls), // an alert, or a handshake (RFC 8446, 5.1)
        [_, _, _, 0x04, ..] => Some(Speaks::Http2),   // SETTINGS
        _ if !answer.starts_with(b"HTTP/1.") => None,
        // Many servers answer a request without TLS to a port with TLS by an error in plain text that says so.
        _ if answer.windows(5).any(|word| word == b"HTTPS") => Some(Speaks::Tls),
        [_, _, _, _, _, _, _, _, _, b'4', b'0', b'0', ..] if !is_complete(answer) => None,
        _ if answer.len() < 12 => None,
        _ => Some(Speaks::Http1),
    }
}

/// Whether the answer has a body, or as much of it as is read.
fn is_complete(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    head.is_some_and(|end| answer.len() > end + 4)
}
