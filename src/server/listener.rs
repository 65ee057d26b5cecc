//! Listeners, shared by both faces: they bound the number of connections and how long each lasts, drop those that say
//! nothing or take nothing, do TLS, wait out a lack of file descriptors, and drain.

mod connections;
mod limits;
#[cfg(test)]
mod tests;

pub use connections::Place;

use crate::server::tls::{Name, Tls};
use connections::{Connections, Held};
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a new connection may take to say its first [`GREETING`] bytes.
const FIRST_BYTES: Duration = Duration::from_secs(5);
/// The length of HTTP/2's preface; a request line of HTTP/1 is about as long.
const GREETING: usize = 24;

/// How long a peer may take none of the bytes that are there for it.
const TAKES_WITHIN: Duration = Duration::from_secs(30);

/// How long a connection that was just accepted takes to be able to hear that it should go.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// A connection that hears when it should end.
pub type Watched<C> =
    Pin<Box<dyn Future<Output = Result<(), <C as GracefulConnection>::Error>> + Send>>;

/// A socket that takes connections, in plain text or by TLS.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Listener {
    /// Listens at an address.
    pub async fn bind(address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, tls })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }
}

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most connections open at once.
    pub connections: usize,
    /// How long each may last.
    pub age: Duration,
    /// What peers may hold whose requests are not verified. With it, a full listener closes the connection that has
    /// gone longest without a verified request; without it, a full listener waits until a connection ends.
    pub unverified: Option<Unverified>,
}

/// What peers may hold whose requests are not verified.
///
/// The limits of one address hold for public addresses that no verified request came from. A loopback or private
/// address is that of a proxy in front, which makes one address of all peers; an address that sends verified requests
/// is a sender's or a proxy's.
#[derive(Debug, Clone, Copy)]
pub struct Unverified {
    /// The most connections of one address.
    pub connections_per_address: usize,
    /// The most bytes of bodies of one address.
    pub bytes_per_address: usize,
    /// The most bytes of bodies of all.
    pub bytes: usize,
}

/// Accepts connections until `stop`, then lets the open ones finish what they are doing. `connect` makes a connection
/// of what was accepted, `drive` runs it.
pub async fn serve<C, D>(
    listener: Listener,
    limits: Limits,
    stop: CancellationToken,
    connect: impl Fn(TokioIo<Peer>) -> C,
    drive: impl Fn(Watched<C>) -> D,
) where
    C: GracefulConnection + Send + 'static,
    C::Error: Display + Send,
    D: Future<Output = Result<(), C::Error>> + Send + 'static,
{
    let table = Arc::new(Connections::new(limits));
    let (opened, told) = (TaskTracker::new(), CancellationToken::new());
    let open = |peer: Peer| {
        let close = peer.close.clone();
        let connection = connect(TokioIo::new(peer));
        let connection = drive(Box::pin(limits::watch(connection, limits.age, told.clone())));
        opened.spawn(run(connection, close));
    };
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            peer = accept(&listener.socket, &table) => {
                greet(peer, &listener, &mut handshakes).into_iter().for_each(&open);
            }
            Some(peer) = handshakes.join_next() => shaken(peer).into_iter().for_each(&open),
        }
    }
    // Who has connected already is not cut off, but told to go once it can be told.
    while let Ok(peer) = timeout(Duration::from_millis(1), accept(&listener.socket, &table)).await {
        greet(peer, &listener, &mut handshakes).into_iter().for_each(&open);
    }
    drop(listener);
    settle(handshakes, open).await;
    sleep(HANDSHAKE).await;
    told.cancel();
    opened.close();
    opened.wait().await;
}

async fn run<E: Display>(
    connection: impl Future<Output = Result<(), E>>,
    close: CancellationToken,
) {
    match close.run_until_cancelled(connection).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection failed"),
        None => tracing::debug!("closed a connection to make room for others"),
    }
}

/// Opens those whose handshakes end soon; who takes longer has not asked for anything yet.
async fn settle(mut handshakes: JoinSet<io::Result<Peer>>, open: impl Fn(Peer)) {
    let last = async {
        while let Some(peer) = handshakes.join_next().await {
            shaken(peer).into_iter().for_each(&open);
        }
    };
    let _ = timeout(HANDSHAKE, last).await;
}

/// A peer to talk to in plain text, or one more handshake.
fn greet(peer: Peer, to: &Listener, handshakes: &mut JoinSet<io::Result<Peer>>) -> Option<Peer> {
    let Some(tls) = &to.tls else { return Some(peer) };
    handshakes.spawn(peer.shake_hands(tls.clone()));
    None
}

fn shaken(peer: Result<io::Result<Peer>, JoinError>) -> Option<Peer> {
    peer.ok()?.inspect_err(|error| tracing::debug!(%error, "a TLS handshake failed")).ok()
}

async fn accept(listener: &TcpListener, connections: &Arc<Connections>) -> Peer {
    connections.room().await;
    loop {
        match listener.accept().await {
            Ok((io, address)) => {
                let _ = io.set_nodelay(true); // only slower without
                let (held, close) = connections.enter(address.ip());
                return Peer {
                    io: Io::Plain(io),
                    names: Vec::new(),
                    heard: 0,
                    deadline: Some(Box::pin(sleep(FIRST_BYTES))),
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

/// A connection that must say something soon, within the same time after it was accepted, with TLS or without; and
/// take what is said to it.
#[derive(Debug)]
pub struct Peer {
    io: Io,
    /// The names in the certificate that it has presented.
    names: Vec<Name>,
    heard: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    /// When it is too late for the peer to take what is to be written; `None` while it takes all.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Fires when the connection is closed to make room for others.
    close: CancellationToken,
    held: Held,
}

/// What bytes come from and go to.
#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Peer {
    /// The names in the certificate that the peer has presented; none if it has not.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The connection's place in the listener.
    #[must_use]
    pub fn place(&self) -> Place {
        self.held.place()
    }

    async fn shake_hands(mut self, tls: Arc<Tls>) -> io::Result<Self> {
        let (Io::Plain(io), Some(deadline)) = (self.io, &mut self.deadline) else {
            return Err(io::ErrorKind::InvalidInput.into()); // shaken before
        };
        let (io, names) = tokio::select! {
            shaken = tls.accept(io) => shaken?,
            () = deadline => return Err(io::ErrorKind::TimedOut.into()),
            () = self.close.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        Ok(Self { io: Io::Tls(Box::new(io)), names, ..self })
    }

    /// What came of writing, unless the peer has taken nothing for too long.
    fn taken(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(TAKES_WITHIN)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Does the same with either.
macro_rules! either {
    ($io:expr, $name:ident => $does:expr) => {
        match $io {
            Io::Plain($name) => $does,
            Io::Tls($name) => $does,
        }
    };
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = &mut *self;
        let before = buf.filled().len();
        let read = either!(&mut peer.io, io => Pin::new(io).poll_read(cx, buf));
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
        let written = either!(&mut self.io, io => Pin::new(io).poll_write(cx, bytes));
        self.taken(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(&mut self.io, io => Pin::new(io).poll_write_vectored(cx, slices));
        self.taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.io, io => io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.io, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.io, io => Pin::new(io).poll_shutdown(cx))
    }
}
