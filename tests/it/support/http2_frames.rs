//! HTTP/2 frames written by hand, for traffic that no client library sends.
//!
//! Source: RFC 9113, section 4.1 for frames, RFC 7541, appendix A for the numbers of header fields.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{sleep, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Encodes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes the header block of a gRPC call, without dynamic table or Huffman code.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    let mut add = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    };
    add(&[0x04], path);
    add(&[0x01], "localhost"); // :authority
    add(&[0x0f, 0x10], "application/grpc"); // content-type
    add(b"\0\x02te", "trailers");
    block
}

/// An attacker's connection. Received frames are read and dropped.
pub struct Attacker {
    write: OwnedWriteHalf,
    read: AbortOnDropHandle<Duration>,
    got_goaway: Arc<AtomicBool>,
}

impl Attacker {
    /// Connects and sends these bytes.
    pub async fn sending(to: SocketAddr, bytes: &[u8]) -> Self {
        let (read, mut write) = TcpStream::connect(to).await.unwrap().into_split();
        let got_goaway = Arc::new(AtomicBool::new(false));
        let read = AbortOnDropHandle::new(tokio::spawn(read_frames(
            read,
            Instant::now(),
            got_goaway.clone(),
        )));
        let _ = write.write_all(bytes).await; // may be closed already
        Self { write, read, got_goaway }
    }

    /// Connects by HTTP/2 with this SETTINGS payload.
    pub async fn with_settings(to: SocketAddr, settings: &[u8]) -> Self {
        Self::sending(to, &[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await
    }

    /// Connects by HTTP/2.
    pub async fn new(to: SocketAddr) -> Self {
        Self::with_settings(to, &[]).await
    }

    /// Sends `bytes(0)`, `bytes(1)` and so on, until the peer closes or the time is over.
    pub async fn flood(&mut self, until: Instant, bytes: impl Fn(u32) -> Vec<u8>) {
        for burst in (0..).step_by(64) {
            // Sends many at once, because the attacker's system calls are not under test.
            let frames: Vec<u8> = (burst..burst + 64).flat_map(&bytes).collect();
            let sent = timeout_at(until.into(), self.write.write_all(&frames)).await;
            if self.is_closed() || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Sends bytes one by one, with a pause after each.
    pub async fn drip(&mut self, until: Instant, bytes: &[u8]) {
        for byte in bytes {
            if self.is_closed() || Instant::now() > until || self.send(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sends these bytes once.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write.write_all(bytes).await
    }

    pub fn is_closed(&self) -> bool {
        self.read.is_finished()
    }

    /// Whether the peer has sent GOAWAY.
    pub fn has_goaway(&self) -> bool {
        self.got_goaway.load(Ordering::SeqCst)
    }

    /// Waits until the peer closes, and returns the age of the connection then; `None` if the time is over before.
    pub async fn stay(self, until: Instant) -> Option<Duration> {
        let Self { read, write, .. } = self;
        let closed = timeout_at(until.into(), read).await;
        drop(write);
        closed.ok()?.ok()
    }
}

/// Reads frames until the peer closes.
async fn read_frames(
    mut read: OwnedReadHalf,
    began: Instant,
    got_goaway: Arc<AtomicBool>,
) -> Duration {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        got_goaway.fetch_or(head[3] == GOAWAY, Ordering::SeqCst);
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        if copy(&mut (&mut read).take(length), &mut sink()).await.is_err() {
            break;
        }
    }
    began.elapsed()
}
