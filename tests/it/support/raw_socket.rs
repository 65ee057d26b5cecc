//! Raw requests that no client library sends, and their responses.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Status;

/// An HTTP/2 connection that adds no headers to requests.
pub type Http2 = SendRequest<Full<Bytes>>;

/// Opens an HTTP/2 connection.
pub async fn http2(to: SocketAddr) -> Http2 {
    let peer = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (requests, connection) = handshake(TokioExecutor::new(), peer).await.unwrap();
    tokio::spawn(connection);
    requests
}

fn request(path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body)).unwrap()
}

/// Calls a gRPC method with raw bytes as body, and returns the head of the response: a rejected call ends at once.
pub async fn opened(
    connection: &Http2,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Status {
    let response = connection.clone().send_request(request(path, headers, body)).await.unwrap();
    Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
}

/// Calls a gRPC method with raw bytes as body, and returns the HTTP status and gRPC's status.
pub async fn grpc(
    connection: &Http2,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, Status) {
    let response = connection.clone().send_request(request(path, headers, body)).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.ok().and_then(|body| body.trailers().cloned());
    let found = Status::from_header_map(&head.headers)
        .or_else(|| Status::from_header_map(&trailers.unwrap_or_default()));
    (head.status.as_u16(), found.unwrap_or_else(|| Status::unknown("no status")))
}

/// Longer than any deadline of the service.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends bytes, keeps the connection open, and reads until the peer closes it.
pub async fn exchange(to: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut peer = TcpStream::connect(to).await.unwrap();
    peer.write_all(bytes.as_ref()).await.unwrap();
    read_to_end(&mut peer).await
}

/// Sends a whole request before it reads, as some clients do, and returns the bytes received before the connection was
/// closed or reset.
pub async fn write_then_read(to: SocketAddr, head: &str, body: &[&[u8]]) -> String {
    let mut peer = TcpStream::connect(to).await.unwrap();
    peer.write_all(head.as_bytes()).await.unwrap();
    for piece in body {
        if peer.write_all(piece).await.is_err() {
            break;
        }
    }
    read_to_end(&mut peer).await
}

/// Sends a head, and then a body byte by byte for as long as the peer accepts it.
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
    // A reset after the response counts as an end: the peer did not read the rest of the request.
    let _ = timeout(TIMEOUT, from.read_to_end(&mut answer)).await.expect("closed in time");
    dripping.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn read_to_end(peer: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(TIMEOUT, peer.read_to_end(&mut answer)).await.expect("closed in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status code of a raw response; 0 without one.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
