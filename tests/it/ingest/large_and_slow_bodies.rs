//! Webhook requests with large, slow or missing bodies are answered early, and hold no slot of a delivery.

use crate::{
    support::database::Db,
    support::raw_socket::{drip, exchange, status, write_then_read},
    support::service::{Replica, payload},
    support::webhook_attacks::unsigned_headers,
};
use futures_util::future::join_all;

/// A head and the pieces of a body of this length, either with content-length or chunked.
fn large(path: &str, headers: &str, length: usize, chunked: bool) -> (String, Vec<Vec<u8>>) {
    const PIECE: usize = 50_000;
    let post = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}");
    let pieces = (0..length.div_ceil(PIECE)).map(|at| vec![b'x'; PIECE.min(length - at * PIECE)]);
    if !chunked {
        return (format!("{post}content-length: {length}\r\n\r\n"), pieces.collect());
    }
    let chunk =
        |piece: Vec<u8>| [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
    let chunks = pieces.map(chunk).chain([b"0\r\n\r\n".to_vec()]);
    (format!("{post}transfer-encoding: chunked\r\n\r\n"), chunks.collect())
}

#[tokio::test]
async fn a_sender_of_a_body_that_is_too_large_reads_the_413_response() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let bound = replica.bound;
    let json = "content-type: application/json\r\nconnection: close\r\n";
    let unsigned = unsigned_headers();
    let expect = format!("{unsigned}expect: 100-continue\r\n");
    for (to, path, headers, lengths) in [
        (bound.webhook, "/webhooks/clerk", &*unsigned, &[600_000, 2_000_000, 7_000_000][..]),
        (bound.webhook, "/webhooks/clerk", &*expect, &[600_000, 2_000_000, 7_000_000]),
        (bound.api, "/ofrep/v1/evaluate/flags", json, &[600_000, 7_000_000]),
        (bound.api, "/access/v1/evaluation", json, &[600_000, 7_000_000]),
    ] {
        for (length, chunked) in
            lengths.iter().flat_map(|length| [(*length, false), (*length, true)])
        {
            let (head, body) = large(path, headers, length, chunked);
            let body: Vec<_> = body.iter().map(Vec::as_slice).collect();
            let answer = write_then_read(to, &head, &body).await;
            let shown = format!("{path} {headers:?} {length} {chunked}: {answer}");
            let last = answer.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
            assert_eq!(status(&last), 413, "{shown}");
            assert!(answer.contains("the body is larger than"), "{shown}");
        }
    }
    let (_, metrics) = replica.get("/metrics").await;
    let refused = "entitlements_webhooks_refused_total{status=\"413\"} 12";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn a_sender_that_expects_100_continue_is_rejected_before_it_sends_the_body() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let (head, _) = large("/webhooks/clerk", "expect: 100-continue\r\n", 7_000_000, false);
    let answer = exchange(replica.bound.webhook, head).await;
    assert_eq!(status(&answer), 413, "{answer}");
}

#[tokio::test]
async fn discarded_bodies_hold_no_delivery_slot_and_end() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let (head, _) = large("/webhooks/clerk", "", 7_000_000, false);
    let http = replica.bound.webhook;
    let dripping: Vec<_> = (0..100)
        .map(|_| {
            let head = head.clone();
            tokio::spawn(async move { drip(http, &head).await })
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(replica.send(&payload("subscriptionItem.active")).await.status, 200);
    }
    for answer in join_all(dripping).await {
        assert_eq!(status(&answer.unwrap()), 413);
    }
    let (head, body) = large("/webhooks/clerk", "", 20_000_000, false);
    let body: Vec<_> = body.iter().map(Vec::as_slice).collect();
    let answer = write_then_read(http, &head, &body).await;
    assert!([413, 0].contains(&status(&answer)), "beyond the bound: {answer}");
}

#[tokio::test]
async fn silent_and_slow_peers_are_disconnected() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let http = replica.bound.webhook;
    let post = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n";
    let post = &*format!("{post}{}", unsigned_headers());
    let silent = join_all(["", "P", "PRI * HTTP/2.0\r\n", post].map(|bytes| exchange(http, bytes)));
    let short = exchange(http, format!("{post}\r\n{{\"type\":"));
    let (body_head, header_head) = (format!("{post}\r\n"), format!("{post}x-drip: "));
    let dripping = async { tokio::join!(drip(http, &body_head), drip(http, &header_head)) };
    let silent_grpc = exchange(replica.bound.api, "PRI * HTTP/2");
    let (silent, short, (body, header), _) = tokio::join!(silent, short, dripping, silent_grpc);
    assert!(silent.iter().all(|answer| [0, 400, 408].contains(&status(answer))), "{silent:?}");
    assert_eq!(status(&short), 408, "{short}");
    assert_eq!(status(&body), 408, "{body}");
    assert!([0, 400, 408].contains(&status(&header)), "{header}");
}

#[tokio::test]
async fn a_request_that_cannot_be_a_delivery_is_rejected_before_its_body_arrives() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let old = unsigned_headers().replacen("svix-timestamp: 1", "svix-timestamp: ", 1);
    for (headers, refused) in [(String::new(), 400), (old, 401)] {
        let post = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n";
        let began = std::time::Instant::now();
        let answer = exchange(replica.bound.webhook, format!("{post}{headers}\r\n{{")).await;
        assert_eq!(status(&answer), refused, "{headers:?}: {answer}");
        // Reading the body would end with 408 after a pause of 3 s.
        assert!(began.elapsed().as_secs() < 3, "{headers:?}");
    }
}

#[tokio::test]
async fn bodies_that_are_being_read_take_no_slot_of_a_delivery() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let http = replica.bound.webhook;
    let post = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n";
    let head = format!("{post}{}\r\n", unsigned_headers());
    let holding: Vec<_> = (0..100)
        .map(|_| {
            let head = head.clone();
            tokio::spawn(async move { drip(http, &head).await })
        })
        .collect();
    for _ in 0..20 {
        let answer = replica.send(&payload("subscriptionItem.active")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for answer in join_all(holding).await {
        let answer = answer.unwrap();
        assert_eq!(status(&answer), 408, "{answer}");
    }
}
