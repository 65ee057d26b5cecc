//! Listeners of both gRPC and HTTP: they limit the number and age of connections, close those that send or receive
//! nothing, do TLS, detect the version of HTTP, survive a lack of file descriptors, and drain.

mod connections;
mod limits;
#[cfg(test)]
mod tests;
mod version;

pub use connections::ConnectionSlot;
pub use limits::Lifetime;
pub use version::HttpVersion;

use crate::server::tls::{CertificateName, Tls};
use bytes::Bytes;
use connections::{Connections, SlotGuard};
use hyper_util::rt::TokioIo;
use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

/// How long a new connection may take to send its first [`PREFACE_LEN`] bytes.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);
/// The length of HTTP/2's preface, in bytes; an HTTP/1 request line with a header is at least as long.
const PREFACE_LEN: usize = 24;

/// How long a peer may accept no bytes while there are some to write.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a listener that stops accepts the connections that are waiting already.
const ACCEPT_DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a new connection gets, when the listener stops, to reach the state in which it can be drained.
const HANDSHAKE_DRAIN_TIMEOUT: Duration = Duration::from_millis(50);

/// A listening socket, in plain text or with TLS.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    /// Whether peers may speak HTTP/2. Otherwise, all speak HTTP/1.1.
    allows_http2: bool,
}

impl Listener {
    /// Binds an address and listens.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn bind(address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, tls, allows_http2: false })
    }

    /// Lets peers speak HTTP/2, too.
    #[must_use]
    pub fn allow_http2(self) -> Self {
        Self { allows_http2: true, ..self }
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// If the operating system does not report it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None, allows_http2: false }
    }
}

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// The maximum number of open connections.
    pub connections: usize,
    /// The maximum age of a connection.
    pub age: Duration,
    /// The limits of unverified peers. With them, a full listener closes the connection that has gone longest without a
    /// verified request; without them, it waits until a connection ends.
    pub unverified: Option<UnverifiedLimits>,
}

/// The limits of peers without a verified request.
///
/// The limits per address apply to public addresses that have not sent a verified request. A loopback or private
/// address may be a proxy in front, which many peers share; an address with verified requests is a real sender or a
/// proxy.
#[derive(Debug, Clone, Copy)]
pub struct UnverifiedLimits {
    /// The maximum number of connections of one address.
    pub connections_per_address: usize,
    /// The maximum number of bytes in unverified bodies of one address.
    pub bytes_per_address: usize,
    /// The maximum number of bytes in all unverified bodies.
    pub bytes: usize,
}

/// Accepts connections until `stop`, then drains the open ones. `connect` makes an HTTP connection of an accepted peer,
/// and lets it end with its [`Lifetime`].
pub async fn serve<C, E>(
    listener: Listener,
    limits: ListenerLimits,
    stop: CancellationToken,
    connect: impl Fn(TokioIo<Peer>, Lifetime) -> C,
) where
    C: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let table = Arc::new(Connections::new(limits));
    let (opened, drain) = (TaskTracker::new(), CancellationToken::new());
    let open = |peer: Peer| {
        let close = peer.close.clone();
        let lifetime = Lifetime::new(limits.age, drain.clone());
        opened.spawn(run(connect(TokioIo::new(peer), lifetime), close));
    };
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            peer = accept(&listener.socket, &table) => {
                start(peer, &listener, &mut handshakes).into_iter().for_each(&open);
            }
            Some(peer) = handshakes.join_next() => handshaken(peer).into_iter().for_each(&open),
        }
    }
    // Peers that are already connected are not cut off; they are drained below.
    for peer in waiting_peers(&listener, &table).await {
        start(peer, &listener, &mut handshakes).into_iter().for_each(&open);
    }
    drop(listener);
    finish_handshakes(handshakes, open).await;
    sleep(HANDSHAKE_DRAIN_TIMEOUT).await;
    drain.cancel();
    opened.close();
    opened.wait().await;
}

async fn run<E: Display>(
    connection: impl Future<Output = Result<(), E>>,
    close: CancellationToken,
) {
    match close.run_until_cancelled(connection).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "connection failed"),
        None => tracing::debug!("connection closed to make room for others"),
    }
}

/// Accepts the connections that are waiting already.
async fn waiting_peers(listener: &Listener, table: &Arc<Connections>) -> Vec<Peer> {
    let until = Instant::now() + ACCEPT_DRAIN_TIMEOUT;
    let mut peers = Vec::new();
    let next = || timeout(Duration::from_millis(1), accept(&listener.socket, table));
    while Instant::now() < until
        && let Ok(peer) = next().await
    {
        peers.push(peer);
    }
    peers
}

/// Opens the connections whose handshakes end soon. Slower ones are dropped: they have no request in progress yet.
async fn finish_handshakes(mut handshakes: JoinSet<io::Result<Peer>>, open: impl Fn(Peer)) {
    let last = async {
        while let Some(peer) = handshakes.join_next().await {
            handshaken(peer).into_iter().for_each(&open);
        }
    };
    let _ = timeout(HANDSHAKE_DRAIN_TIMEOUT, last).await;
}

/// Returns the peer, or starts its TLS handshake and the detection of its version of HTTP.
fn start(peer: Peer, to: &Listener, handshakes: &mut JoinSet<io::Result<Peer>>) -> Option<Peer> {
    let allows_http2 = to.allows_http2;
    match &to.tls {
        Some(tls) => drop(handshakes.spawn(peer.shake_hands(tls.clone(), allows_http2))),
        None if allows_http2 => drop(handshakes.spawn(peer.with_detected_version())),
        None => return Some(peer),
    }
    None
}

fn handshaken(peer: Result<io::Result<Peer>, JoinError>) -> Option<Peer> {
    peer.ok()?.inspect_err(|error| tracing::debug!(%error, "handshake failed")).ok()
}

async fn accept(listener: &TcpListener, connections: &Arc<Connections>) -> Peer {
    connections.room().await;
    loop {
        match listener.accept().await {
            Ok((io, address)) => {
                let _ = io.set_nodelay(true); // without it, the connection is only slower
                let (held, close) = connections.enter(address.ip());
                return Peer {
                    io: Io::Left(io),
                    names: Vec::new(),
                    version: HttpVersion::Http1,
                    unread: Bytes::new(),
                    received: 0,
                    deadline: Some(Box::pin(sleep(FIRST_BYTES_TIMEOUT))),
                    stalled: None,
                    close,
                    held,
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

/// An accepted connection, with or without TLS. It fails if the peer does not send its first bytes in time (the TLS
/// handshake included), or stops accepting bytes.
#[derive(Debug)]
pub struct Peer {
    io: Io,
    /// The names in the client certificate.
    names: Vec<CertificateName>,
    version: HttpVersion,
    /// The bytes by which the version was detected.
    unread: Bytes,
    received: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    /// The timer of a stalled write; `None` while the peer accepts bytes.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Cancelled when the connection is to be closed to make room for others.
    close: CancellationToken,
    held: SlotGuard,
}

/// The bytes of a connection, in plain text or through TLS.
type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Peer {
    /// The names in the client certificate; empty without a certificate.
    #[must_use]
    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }

    /// The version of HTTP that the peer speaks.
    #[must_use]
    pub fn version(&self) -> HttpVersion {
        self.version
    }

    /// The slot of the connection in the listener.
    #[must_use]
    pub fn slot(&self) -> ConnectionSlot {
        self.held.slot()
    }

    async fn shake_hands(mut self, tls: Arc<Tls>, allows_http2: bool) -> io::Result<Self> {
        let (Io::Left(io), Some(deadline)) = (self.io, &mut self.deadline) else {
            return Err(io::ErrorKind::InvalidInput.into()); // has TLS already
        };
        let (io, names) = tokio::select! {
            accepted = tls.accept(io) => accepted?,
            () = deadline => return Err(io::ErrorKind::TimedOut.into()),
            () = self.close.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let agreed = HttpVersion::of_alpn(io.get_ref().1.alpn_protocol());
        let version = agreed.unwrap_or(HttpVersion::Http1);
        let peer = Self { io: Io::Right(Box::new(io)), names, version, ..self };
        if agreed.is_none() && allows_http2 { peer.with_detected_version().await } else { Ok(peer) }
    }

    /// The result of a write, or `TimedOut` if the peer has accepted nothing for too long.
    fn check_stall(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_TIMEOUT)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = &mut *self;
        if !peer.unread.is_empty() {
            let some = peer.unread.split_to(peer.unread.len().min(buf.remaining()));
            buf.put_slice(&some);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut peer.io).poll_read(cx, buf);
        if let Some(deadline) = &mut peer.deadline {
            peer.received += buf.filled().len() - before;
            if peer.received >= PREFACE_LEN {
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
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.check_stall(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.check_stall(cx, written)
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
