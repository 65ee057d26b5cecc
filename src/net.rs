//! Listeners, shared by both faces: they bound the number of connections, drop those that say nothing, wait
//! out a lack of file descriptors, and drain.

use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use std::{
    fmt::Display,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a new connection may take to say its first [`GREETING`] bytes.
const FIRST_BYTES: Duration = Duration::from_secs(5);
/// The length of HTTP/2's preface; a request line of HTTP/1 is about as long.
const GREETING: usize = 24;

/// How long a connection that was just accepted takes to be able to hear that it should go.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// A connection that hears when it should end.
pub type Watched<C> =
    Pin<Box<dyn Future<Output = Result<(), <C as GracefulConnection>::Error>> + Send>>;

/// Accepts connections until `stop`, then lets the open ones finish what they are doing. `connect` makes a connection
/// of what was accepted, `drive` runs it.
pub async fn serve<C, D>(
    listener: TcpListener,
    most: usize,
    stop: CancellationToken,
    connect: impl Fn(TokioIo<Peer>) -> C,
    drive: impl Fn(Watched<C>) -> D,
) where
    C: GracefulConnection + Send + 'static,
    C::Error: Display,
    D: Future<Output = Result<(), C::Error>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(most));
    let graceful = GracefulShutdown::new();
    let open = |peer| {
        let connection = drive(Box::pin(graceful.watch(connect(TokioIo::new(peer)))));
        // Waited for by `graceful`, which `serve` waits for.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection failed");
            }
        });
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            peer = accept(&listener, &slots) => open(peer),
        }
    }
    // Who has connected already is not cut off, but told to go once it can be told.
    while let Ok(peer) = timeout(Duration::from_millis(1), accept(&listener, &slots)).await {
        open(peer);
    }
    drop(listener);
    sleep(HANDSHAKE).await;
    graceful.shutdown().await;
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Peer {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                let _ = io.set_nodelay(true); // only slower without
                return Peer {
                    io,
                    heard: 0,
                    deadline: Some(Box::pin(sleep(FIRST_BYTES))),
                    _slot: slot,
                };
            }
            Err(error) if is_the_peers_fault(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn is_the_peers_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// A connection that must say something soon.
#[derive(Debug)]
pub struct Peer {
    io: TcpStream,
    heard: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut peer.io).poll_read(cx, buf);
        if let Some(deadline) = &mut peer.deadline {
            peer.heard += buf.filled().len() - before;
            if peer.heard >= GREETING {
                peer.deadline = None;
            } else if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
