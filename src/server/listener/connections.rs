//! The open connections of a listener: their maximum number, and which one is closed when there are too many.
//!
//! Unverified peers must not be able to fill a public listener. The idle time of a connection starts when it is
//! accepted, or when its last verified request is answered; unverified requests do not reset it. When the listener is
//! full, or the unverified bodies hold too many bytes, the address with the most connections loses the one with the
//! longest idle time. A connection with a verified request in progress is never closed.

use super::{ListenerLimits, UnverifiedLimits, limits};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The maximum number of addresses that are remembered because they sent a verified request.
const MAX_VERIFIED_ADDRESSES: usize = 1024;

/// The open connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// The limits of unverified peers; with `None`, a full listener waits until a connection ends.
    unverified: Option<UnverifiedLimits>,
    open: Mutex<OpenConnections>,
    /// Notified when a connection has ended, or can be closed again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    entries: BTreeMap<u64, OpenConnection>,
    /// The number of bytes in all unverified bodies.
    bytes: usize,
    /// Addresses that sent a verified request: senders, or a proxy in front of them.
    verified: HashSet<IpAddr>,
}

#[derive(Debug)]
struct OpenConnection {
    address: IpAddr,
    state: Verification,
    /// Whether the connection has carried a verified request.
    is_verified: bool,
    /// The number of bytes of the body that is being read.
    bytes: usize,
    close: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verification {
    /// No verified request is in progress since this instant.
    Waiting(Instant),
    /// A verified request is in progress.
    Working,
    /// The connection is being closed.
    Closing,
}

/// Holds the slot of a connection until it is dropped.
#[derive(Debug)]
pub(super) struct SlotGuard(ConnectionSlot);

/// The slot of a connection, through which the server reports the state of its request.
#[derive(Debug, Clone)]
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub(super) fn new(limits: ListenerLimits) -> Self {
        let (max, unverified) = (limits::connections(limits.connections), limits.unverified);
        Self { max, unverified, open: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until one more connection may be accepted; closes one if the listener is full and has limits for
    /// unverified peers.
    pub(super) async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let mut open = self.lock();
                if open.entries.len() < self.max {
                    return;
                }
                let closes = self.unverified.is_some() && !open.is_closing();
                // Not the newest connection: it has had no time to send a verified request.
                let newest = open.entries.keys().next_back().copied();
                if closes {
                    open.close_one(|number, _| Some(number) != newest);
                }
            }
            changed.await;
        }
    }

    /// Registers an accepted connection. Returns its slot, and the token that is cancelled when it is to be closed.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> (SlotGuard, CancellationToken) {
        let (address, close) = (network(address), CancellationToken::new());
        let mut open = self.lock();
        if let Some(limits) = self.unverified
            && open.is_bounded(address)
        {
            let is_its_own = |_, entry: &OpenConnection| entry.address == address;
            let open_count = |open: &OpenConnections| {
                let its_own = open.entries.values().filter(|entry| entry.address == address);
                its_own.filter(|entry| entry.state != Verification::Closing).count()
            };
            while open_count(&open) >= limits.connections_per_address && open.close_one(is_its_own)
            {
            }
        }
        let number = open.next;
        open.next += 1;
        let state = Verification::Waiting(Instant::now());
        let entry =
            OpenConnection { address, state, is_verified: false, bytes: 0, close: close.clone() };
        open.entries.insert(number, entry);
        drop(open);
        (SlotGuard(ConnectionSlot { connections: self.clone(), number }), close)
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn is_closing(&self) -> bool {
        self.entries.values().any(|entry| entry.state == Verification::Closing)
    }

    /// Whether the limits per address apply: not to an address that many senders may share, such as a proxy's.
    fn is_bounded(&self, address: IpAddr) -> bool {
        !is_local(address) && !self.verified.contains(&address)
    }

    /// Closes one waiting connection that `may_close` accepts; returns false if there is none. Connections and
    /// addresses without any verified request come first; among them, those of the address with the most waiting
    /// connections; then the one that waits longest. A few addresses that connect fast thus displace only each other.
    fn close_one(&mut self, may_close: impl Fn(u64, &OpenConnection) -> bool) -> bool {
        let mut waiting: HashMap<IpAddr, usize> = HashMap::new();
        for entry in
            self.entries.values().filter(|entry| matches!(entry.state, Verification::Waiting(_)))
        {
            *waiting.entry(entry.address).or_default() += 1;
        }
        let candidates = self.entries.iter().filter_map(|(number, entry)| match entry.state {
            Verification::Waiting(since) if may_close(*number, entry) => {
                let has_verified = entry.is_verified || self.verified.contains(&entry.address);
                Some((has_verified, Reverse(waiting[&entry.address]), since, *number))
            }
            Verification::Waiting(_) | Verification::Working | Verification::Closing => None,
        });
        let Some((.., number)) = candidates.min() else { return false };
        self.set_bytes(number, 0);
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = Verification::Closing;
            entry.close.cancel();
        }
        true
    }

    /// Closes connections that hold bytes and that `may_close` accepts, while `is_too_much` holds.
    fn close_holders(
        &mut self,
        may_close: impl Fn(&OpenConnection) -> bool,
        is_too_much: impl Fn(&Self) -> bool,
    ) {
        while is_too_much(self) && self.close_one(|_, e| e.bytes > 0 && may_close(e)) {}
    }

    fn bytes_of(&self, address: IpAddr) -> usize {
        let its_own = self.entries.values().filter(|entry| entry.address == address);
        its_own.map(|entry| entry.bytes).sum()
    }

    fn set_bytes(&mut self, number: u64, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(&number) {
            self.bytes = self.bytes - entry.bytes + bytes;
            entry.bytes = bytes;
        }
    }
}

impl SlotGuard {
    pub(super) fn slot(&self) -> ConnectionSlot {
        self.0.clone()
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let ConnectionSlot { connections, number } = &self.0;
        let mut open = connections.lock();
        open.set_bytes(*number, 0);
        open.entries.remove(number);
        drop(open);
        connections.changed.notify_one();
    }
}

impl ConnectionSlot {
    /// Counts bytes of an unverified body. If a limit is exceeded, closes connections; returns false if this is one of
    /// them, or if too few could be closed.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> bool {
        let Some(limits) = self.connections.unverified else { return true };
        let mut open = self.connections.lock();
        let Some(entry) = open.entries.get(&self.number) else { return false };
        let (address, held) = (entry.address, entry.bytes + bytes);
        if entry.state == Verification::Closing {
            return false;
        }
        open.set_bytes(self.number, held);
        if open.is_bounded(address) {
            open.close_holders(
                |entry| entry.address == address,
                |open| open.bytes_of(address) > limits.bytes_per_address,
            );
        }
        open.close_holders(|_| true, |open| open.bytes > limits.bytes);
        let is_open = |entry: &OpenConnection| entry.state != Verification::Closing;
        open.bytes <= limits.bytes && open.entries.get(&self.number).is_some_and(is_open)
    }

    /// Marks the request in progress as verified: until [`Self::release`], the connection is not closed for others.
    pub fn verified(&self) {
        let mut open = self.connections.lock();
        let OpenConnections { entries, verified, .. } = &mut *open;
        let Some(entry) = entries.get_mut(&self.number) else { return };
        if entry.state != Verification::Closing {
            entry.state = Verification::Working;
        }
        entry.is_verified = true;
        if verified.len() < MAX_VERIFIED_ADDRESSES {
            verified.insert(entry.address);
        }
    }

    /// Marks the request as answered and its body as freed.
    pub fn release(&self) {
        let mut open = self.connections.lock();
        open.set_bytes(self.number, 0);
        if let Some(entry) = open.entries.get_mut(&self.number)
            && entry.state == Verification::Working
        {
            entry.state = Verification::Waiting(Instant::now());
        }
        drop(open);
        self.connections.changed.notify_one();
    }
}

/// The address for counting: IPv6 addresses are reduced to their /64 network, which one customer usually controls.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Whether an address belongs to this machine or a private network, where it may be that of a reverse proxy or load
/// balancer that all peers share.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_carrier_grade_nat = first == 100 && second & 0b1100_0000 == 64;
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || is_carrier_grade_nat
        }
        IpAddr::V6(address) => {
            // `network` has reduced `::1` to `::`.
            address.is_unique_local() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}
