//! The open connections of a listener: how many there may be, and which one is closed when there are too many.
//!
//! A listener that everybody can reach must not be filled by peers that prove nothing. Each connection counts from the
//! moment that it was accepted or last carried a verified request. When the listener is full, or the unverified
//! bodies hold too many bytes, the address with most connections loses the one that counts from the earliest moment. Requests that are not
//! verified, however many, make no connection younger. A connection whose request is verified and not answered yet is
//! never closed.

use super::{Limits, Unverified, limits};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The most addresses that are remembered because a verified request came from them.
const REMEMBERED: usize = 1024;

/// The open connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    /// The limits of what is not verified. `None`: a full listener waits until a connection ends.
    unverified: Option<Unverified>,
    open: Mutex<Open>,
    /// A connection has ended, or can be closed again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    /// The bytes of all unverified bodies.
    bytes: usize,
    /// Addresses that a verified request came from: senders, or a proxy in front of them.
    verified: HashSet<IpAddr>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    state: State,
    /// Whether the connection has carried a verified request.
    is_verified: bool,
    /// The bytes of the body that is being read.
    bytes: usize,
    close: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing verified is in progress since this instant.
    Waiting(Instant),
    /// A verified request is in progress.
    Working,
    /// The connection is being closed.
    Closing,
}

/// A place in the listener, held as long as the connection.
#[derive(Debug)]
pub(super) struct Held(Place);

/// A connection's entry, through which the server reports what the connection does.
#[derive(Debug, Clone)]
pub struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        let (most, unverified) = (limits::connections(limits.connections), limits.unverified);
        Self { most, unverified, open: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until one more connection may be accepted; where the listener closes connections, closes one if it must.
    pub(super) async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let mut open = self.lock();
                if open.entries.len() < self.most {
                    return;
                }
                let closes = self.unverified.is_some() && !open.is_closing();
                // The newest connection has had no time to prove anything.
                let newest = open.entries.keys().next_back().copied();
                if closes {
                    open.close_one(|number, _| Some(number) != newest);
                }
            }
            changed.await;
        }
    }

    /// A place for a connection that was accepted, and what fires when it is to be closed.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> (Held, CancellationToken) {
        let (address, close) = (network(address), CancellationToken::new());
        let mut open = self.lock();
        if let Some(limits) = self.unverified
            && open.is_bounded(address)
        {
            let is_its_own = |_, entry: &Entry| entry.address == address;
            let open_of_it = |open: &Open| {
                let its_own = open.entries.values().filter(|entry| entry.address == address);
                its_own.filter(|entry| entry.state != State::Closing).count()
            };
            while open_of_it(&open) >= limits.connections_per_address && open.close_one(is_its_own)
            {
            }
        }
        let number = open.next;
        open.next += 1;
        let state = State::Waiting(Instant::now());
        let entry = Entry { address, state, is_verified: false, bytes: 0, close: close.clone() };
        open.entries.insert(number, entry);
        drop(open);
        (Held(Place { connections: self.clone(), number }), close)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn is_closing(&self) -> bool {
        self.entries.values().any(|entry| entry.state == State::Closing)
    }

    /// Whether an address is limited by itself: not one that is shared by many senders, as that of a proxy is.
    fn is_bounded(&self, address: IpAddr) -> bool {
        !is_local(address) && !self.verified.contains(&address)
    }

    /// Closes the connection that has gone longest without a verified request. Those of which nothing was ever verified
    /// come first, and of these those of the address that has most of them: however fast few addresses connect, they
    /// crowd out one another. Tells whether there was one.
    fn close_one(&mut self, may_close: impl Fn(u64, &Entry) -> bool) -> bool {
        let mut waiting: HashMap<IpAddr, usize> = HashMap::new();
        for entry in self.entries.values().filter(|entry| matches!(entry.state, State::Waiting(_)))
        {
            *waiting.entry(entry.address).or_default() += 1;
        }
        let candidates = self.entries.iter().filter_map(|(number, entry)| match entry.state {
            State::Waiting(since) if may_close(*number, entry) => {
                let is_known = entry.is_verified || self.verified.contains(&entry.address);
                Some((is_known, Reverse(waiting[&entry.address]), since, *number))
            }
            State::Waiting(_) | State::Working | State::Closing => None,
        });
        let Some((.., number)) = candidates.min() else { return false };
        self.set_bytes(number, 0);
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = State::Closing;
            entry.close.cancel();
        }
        true
    }

    /// Closes connections that hold bytes, of those that may be closed, while `is_too_much`.
    fn close_holders(
        &mut self,
        may_close: impl Fn(&Entry) -> bool,
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

impl Held {
    pub(super) fn place(&self) -> Place {
        self.0.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Place { connections, number } = &self.0;
        let mut open = connections.lock();
        open.set_bytes(*number, 0);
        open.entries.remove(number);
        drop(open);
        connections.changed.notify_one();
    }
}

impl Place {
    /// Counts bytes of an unverified body that were read. Where that is too much, connections are closed; `false` if
    /// this is one of them, or if none could be closed.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> bool {
        let Some(limits) = self.connections.unverified else { return true };
        let mut open = self.connections.lock();
        let Some(entry) = open.entries.get(&self.number) else { return false };
        let (address, held) = (entry.address, entry.bytes + bytes);
        if entry.state == State::Closing {
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
        let is_open = |entry: &Entry| entry.state != State::Closing;
        open.bytes <= limits.bytes && open.entries.get(&self.number).is_some_and(is_open)
    }

    /// The request that is in progress is verified: until [`Self::release`], the connection is not closed for others.
    pub fn verified(&self) {
        let mut open = self.connections.lock();
        let Open { entries, verified, .. } = &mut *open;
        let Some(entry) = entries.get_mut(&self.number) else { return };
        if entry.state != State::Closing {
            entry.state = State::Working;
        }
        entry.is_verified = true;
        if verified.len() < REMEMBERED {
            verified.insert(entry.address);
        }
    }

    /// The request is answered, and its body is no longer held.
    pub fn release(&self) {
        let mut open = self.connections.lock();
        open.set_bytes(self.number, 0);
        if let Some(entry) = open.entries.get_mut(&self.number)
            && entry.state == State::Working
        {
            entry.state = State::Waiting(Instant::now());
        }
        drop(open);
        self.connections.changed.notify_one();
    }
}

/// What counts as one address: of IPv6, the network that one customer of a provider is given.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Whether an address is of this machine or a private network, where a reverse proxy or a load balancer makes one
/// address of all peers.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_carriers = first == 100 && second & 0b1100_0000 == 64;
            address.is_loopback() || address.is_private() || address.is_link_local() || is_carriers
        }
        IpAddr::V6(address) => {
            // Of `::1`, `network` leaves `::`.
            address.is_unique_local() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}
