//! A TCP proxy in front of Postgres, with faults.

use nix::unistd::User;
use rustix::process::geteuid;
use std::{
    fs,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    time::sleep,
};

/// The state of the link, for open and new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Whole,
    /// One in five pieces of the server's data is delayed by 80 ms.
    Slow,
    /// Notifications are dropped.
    Deaf,
    /// Connections are closed in order.
    Cut,
    /// Connections are reset.
    Reset,
    /// New connections are refused.
    Refused,
    /// No data passes, and connections stay open.
    BlackHole,
}

/// A proxy in front of the Unix socket of a private Postgres.
pub struct Proxy {
    pub address: SocketAddr,
    link: watch::Sender<Link>,
}

impl Proxy {
    /// Starts a proxy in front of the server of this URL.
    pub async fn before(url: &str) -> Self {
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let socket = options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, links) = watch::channel(Link::Whole);
        tokio::spawn(accept(listener, socket, links));
        Self { address, link }
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// The URL of a database through this proxy.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://entitlements@{}/{database}?sslmode=disable", self.address)
    }
}

/// Whether a connection was made by this user or, if we are root, by the user that the pooler runs as. Postgres sees
/// all connections of this proxy as ours. Linux lists the owner of each connection; on other systems the tests trust
/// the machine.
fn is_ours(from: SocketAddr, to: SocketAddr) -> bool {
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else { return true };
    let (Some(local), Some(remote)) = (listed(from), listed(to)) else { return false };
    // Both ends must match: an earlier connection from the same port may still be in TIME_WAIT, listed as root's.
    let owners = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let owner = owners
        .filter(|row| row.get(1) == Some(&&*local) && row.get(2) == Some(&&*remote))
        .find_map(|row| row.get(7)?.parse().ok());
    let pooler = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root());
    owner == Some(geteuid().as_raw())
        || owner.is_some() && owner == pooler.map(|user| user.uid.as_raw())
}

/// Formats an address as `/proc/net/tcp` does.
fn listed(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let ip = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

async fn accept(listener: TcpListener, socket: PathBuf, mut links: watch::Receiver<Link>) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    loop {
        if *links.borrow() == Link::Refused {
            listener = None;
            if links.wait_for(|link| *link != Link::Refused).await.is_err() {
                return;
            }
        }
        let open = match listener.take() {
            Some(open) => open,
            None => TcpListener::bind(address).await.unwrap(),
        };
        tokio::select! {
            accepted = open.accept() => {
                let (peer, from) = accepted.unwrap();
                if is_ours(from, address) {
                    tokio::spawn(serve(peer, socket.clone(), links.clone()));
                }
            }
            changed = links.changed() => if changed.is_err() { return },
        }
        listener = Some(open);
    }
}

async fn serve(peer: TcpStream, socket: PathBuf, links: watch::Receiver<Link>) {
    peer.set_nodelay(true).unwrap();
    let Ok(server) = UnixStream::connect(&socket).await else { return };
    let (mut from_server, mut to_server) = split(server);
    let (mut from_peer, mut to_peer) = peer.into_split();
    let up = pump(&mut from_peer, &mut to_server, links.clone(), None);
    let down = pump(&mut from_server, &mut to_peer, links.clone(), Some(Vec::new()));
    tokio::select! { () = up => {}, () = down => {} }
    let peer = from_peer.reunite(to_peer).unwrap();
    if *links.borrow() == Link::Reset {
        peer.set_zero_linger().unwrap();
    }
}

/// Copies data until either side ends or the link breaks. The server's data is kept in whole messages, so that
/// notifications can be dropped.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut links: watch::Receiver<Link>,
    mut messages: Option<Vec<u8>>,
) {
    let (mut buffer, delay) = (vec![0; 16 * 1024], RandomState::new());
    loop {
        let link = *links.borrow_and_update();
        match link {
            Link::Whole | Link::Deaf | Link::Slow => {}
            Link::BlackHole => {
                if links.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Link::Cut | Link::Reset | Link::Refused => return,
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = links.changed() => continue,
        };
        let Ok(1..) = read else { return };
        let read = &buffer[..read.unwrap()];
        let out = match &mut messages {
            Some(pending) if link == Link::Slow => {
                if delay.hash_one(Instant::now()).is_multiple_of(5) {
                    sleep(Duration::from_millis(80)).await;
                }
                whole_messages(pending, read, false)
            }
            Some(pending) => whole_messages(pending, read, link == Link::Deaf),
            None => read.to_vec(),
        };
        if *links.borrow() == Link::BlackHole {
            let _ = links.wait_for(|link| *link != Link::BlackHole).await;
        }
        if to.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Takes the complete messages received from the server, without notifications if the link drops them.
fn whole_messages(pending: &mut Vec<u8>, read: &[u8], deaf: bool) -> Vec<u8> {
    pending.extend_from_slice(read);
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(length) = pending.get(at + 1..at + 5) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some(message) = pending.get(at..=at + length) else { break };
        if !(deaf && message[0] == b'A') {
            out.extend_from_slice(message);
        }
        at += 1 + length;
    }
    pending.drain(..at);
    out
}
