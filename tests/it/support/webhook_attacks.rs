//! Attacks on the webhook listener. `attacks.rs` runs them beside a signed sender.

use crate::{
    support::http2_frames::Attacker,
    support::service::{payload, secret},
};
use chrono::Utc;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout_at},
};

const POST: &str = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\n";

type Closed = BoxFuture<'static, Vec<Option<Duration>>>;

/// Headers of a delivery with an invalid signature that pass all checks possible before the body is read.
pub fn unsigned_headers() -> String {
    let now = Utc::now().timestamp();
    format!("svix-id: msg_1\r\nsvix-timestamp: {now}\r\nsvix-signature: v1,AAAA\r\n")
}

/// More concurrent bodies than delivery slots, each sent byte by byte and opened anew when closed.
pub fn slow_bodies(to: SocketAddr, until: Instant) -> Closed {
    crowd(
        200,
        move || async move {
            let post = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n";
            let head = format!("{post}{}\r\n", unsigned_headers());
            let mut attacker = Attacker::sending(to, head.as_bytes()).await;
            while !attacker.is_closed() && Instant::now() < until {
                let _ = attacker.send(b"{").await;
                sleep(Duration::from_millis(500)).await;
            }
        },
        until,
    )
}

/// More connections than the listener's limit, each kept alive by probes and opened anew when closed.
pub fn idlers(to: SocketAddr, until: Instant) -> Closed {
    crowd(
        600,
        move || async move {
            let mut attacker = Attacker::sending(to, b"").await;
            while !attacker.is_closed() && Instant::now() < until {
                let _ = attacker.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
                sleep(Duration::from_millis(500)).await;
            }
        },
        until,
    )
}

/// Nearly all of a body of the largest size, and then silence: more in total than unsigned bodies may hold.
pub fn heavy_bodies(to: SocketAddr, until: Instant) -> Closed {
    crowd(
        160,
        move || async move {
            let post = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\ncontent-length: 524288\r\n";
            let head = format!("{post}{}\r\n{}", unsigned_headers(), "x".repeat(524_000));
            Attacker::sending(to, head.as_bytes()).await.stay(until).await;
        },
        until,
    )
}

/// Endless chunks, and a false content-length.
pub fn body_bombs(to: SocketAddr, until: Instant) -> Closed {
    four(move || async move {
        let (mut closed, chunk) = (None, format!("4000\r\n{}\r\n", "x".repeat(0x4000)));
        while Instant::now() < until {
            let head = format!("{POST}transfer-encoding: chunked\r\n\r\n");
            let mut attacker = Attacker::sending(to, head.as_bytes()).await;
            attacker.flood(until, |_| chunk.clone().into_bytes()).await;
            closed = attacker.stay(until).await;
            let lie = format!("{POST}content-length: 4294967296\r\n\r\n");
            Attacker::sending(to, lie.as_bytes()).await.stay(until).await;
        }
        closed
    })
}

/// Bodies of the largest accepted size, nested as deeply as possible, without a valid signature.
pub fn unsigned(to: SocketAddr, until: Instant) -> Closed {
    four(move || async move {
        let (mut closed, body) = (None, "[".repeat(512 * 1024));
        let signed = "svix-id: msg_1\r\nsvix-signature: v1,AAAA\r\nsvix-timestamp: ";
        while Instant::now() < until {
            let now = Utc::now().timestamp();
            let length = body.len();
            let head = format!("{POST}{signed}{now}\r\ncontent-length: {length}\r\n\r\n{body}");
            closed = Attacker::sending(to, head.as_bytes()).await.stay(until).await;
        }
        closed
    })
}

/// Sends requests without end, and reads no responses.
pub fn pipelined(to: SocketAddr, until: Instant) -> Closed {
    four(move || async move {
        let mut peer = TcpStream::connect(to).await.unwrap();
        let (requests, began) =
            ("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100), Instant::now());
        while let Ok(sent) = timeout_at(until.into(), peer.write_all(requests.as_bytes())).await {
            if sent.is_err() {
                return Some(began.elapsed());
            }
        }
        None
    })
}

/// Runs four connections with the same attack.
fn four<F>(attacker: impl Fn() -> F) -> Closed
where
    F: Future<Output = Option<Duration>> + Send + 'static,
{
    join_all((0..4).map(|_| attacker())).boxed()
}

fn crowd<F>(size: usize, attacker: impl Fn() -> F + Copy + Send + 'static, until: Instant) -> Closed
where
    F: Future<Output = ()> + Send,
{
    let again = move |_| async move {
        while Instant::now() < until {
            attacker().await;
        }
        None
    };
    join_all((0..size).map(again)).boxed()
}

/// Delivers a signed body on a new connection, and returns the status line of the response.
pub async fn deliver(to: SocketAddr) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let (body, now) = (payload("subscriptionItem.active"), Utc::now().timestamp());
    let signature = secret().sign("msg_1", now, &body);
    let mut peer = TcpStream::connect(to).await?;
    let head = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\
         svix-id: msg_1\r\nsvix-timestamp: {now}\r\nsvix-signature: {signature}\r\n\r\n{body}",
        body.len()
    );
    peer.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
