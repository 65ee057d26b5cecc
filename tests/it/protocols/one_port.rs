//! The API listener tells gRPC and HTTP/1.1 apart by the first bytes and, as `security::tls` shows, by ALPN.

use crate::support::{
    connect::CHECK,
    database::Db,
    raw_socket::exchange,
    service::{ADA, Replica},
};
use serde_json::json;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends bytes in pieces, and returns the first bytes of the answer.
async fn in_pieces(to: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut peer = TcpStream::connect(to).await.unwrap();
    peer.set_nodelay(true).unwrap();
    for piece in pieces {
        peer.write_all(piece).await.unwrap();
    }
    let mut answer = vec![0; 9];
    peer.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_first_bytes_tell_the_version_however_they_are_split() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
    for cut in [1, 2, 3, 4, 5, 23, 24] {
        let answer = in_pieces(replica.bound.api, &[&preface[..cut], &preface[cut..]]).await;
        assert_eq!(
            answer[3], 4,
            "cut after {cut} bytes, the answer is a SETTINGS frame: {answer:?}"
        );
    }
    let body = json!({ "userId": ADA, "feature": "export" }).to_string();
    let request = format!(
        "POST {CHECK} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for cut in [1, 2, 3, 4, 5, 30] {
        let (start, rest) = request.as_bytes().split_at(cut);
        let answer = in_pieces(replica.bound.api, &[start, rest]).await;
        assert_eq!(answer, b"HTTP/1.1 ", "cut after {cut} bytes");
    }
}

#[tokio::test]
async fn bytes_of_neither_are_refused() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for bytes in [
        "PRX * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
        "PRI * HTTP/1.1\r\n\r\n123456",
    ] {
        let answer = exchange(replica.bound.api, bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || !answer.contains("200"),
            "{answer}"
        );
    }
    assert_eq!(exchange(replica.bound.api, "").await, "", "a silent peer is disconnected");
}

#[tokio::test]
async fn a_connection_serves_many_requests_of_different_protocols() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let url = |path: &str| format!("http://{}{path}", replica.bound.api);
    for _ in 0..3 {
        let connect = client.post(url(CHECK)).header("content-type", "application/json");
        let connect = connect.body(json!({ "userId": ADA, "feature": "export" }).to_string());
        assert_eq!(connect.send().await.unwrap().status(), 200);
        let ofrep = client.post(url("/ofrep/v1/evaluate/flags/export"));
        let ofrep = ofrep.header("content-type", "application/json");
        let ofrep = ofrep.body(json!({ "context": { "targetingKey": ADA } }).to_string());
        assert_eq!(ofrep.send().await.unwrap().status(), 200);
        assert_eq!(client.get(url("/metrics")).send().await.unwrap().status(), 404);
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_rest_of_a_first_head() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut peer = TcpStream::connect(replica.bound.api).await.unwrap();
    peer.write_all(b"POST /x HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    let served = replica.check(ADA, "", "export").await; // the listener has read the bytes before
    assert!(!served.allowed);
    replica.stop().await.unwrap();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}
