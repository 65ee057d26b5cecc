//! Tests of which connections are closed to make room for others.

use super::{ListenerLimits, UnverifiedLimits, connections::Connections};
use futures_util::FutureExt;
use std::{net::IpAddr, sync::Arc, time::Duration};

const LIMITS: UnverifiedLimits =
    UnverifiedLimits { connections_per_address: 2, bytes_per_address: 100, bytes: 1000 };

fn of(most: usize) -> Arc<Connections> {
    let age = Duration::from_secs(1);
    Arc::new(Connections::new(ListenerLimits { connections: most, age, unverified: Some(LIMITS) }))
}

fn at(address: &str) -> IpAddr {
    address.parse().unwrap()
}

const STRANGER: &str = "203.0.113.7";
const OTHER: &str = "198.51.100.1";

#[test]
fn an_address_at_its_limit_loses_its_own_oldest_connection() {
    let connections = of(10);
    let (_other, other) = connections.enter(at(OTHER));
    let (_first, first) = connections.enter(at(STRANGER));
    let (_second, second) = connections.enter(at(STRANGER));
    assert!(!first.is_cancelled());
    let (_third, third) = connections.enter(at(&format!("::ffff:{STRANGER}")));
    assert!(first.is_cancelled() && !second.is_cancelled() && !third.is_cancelled());
    assert!(!other.is_cancelled());
}

#[test]
fn one_network_of_ipv6_is_one_address() {
    let connections = of(10);
    let (_first, first) = connections.enter(at("2001:db8:1:2::1"));
    let _second = connections.enter(at("2001:db8:1:2:ffff::1"));
    let _third = connections.enter(at("2001:db8:1:2::3"));
    assert!(first.is_cancelled());
    let (_fourth, fourth) = connections.enter(at("2001:db8:1:3::1"));
    let _fifth = connections.enter(at("2001:db8:1:4::1"));
    assert!(!fourth.is_cancelled());
}

#[test]
fn proxies_and_senders_are_not_limited_by_their_address() {
    for address in
        ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"]
    {
        let connections = of(10);
        let slots: Vec<_> = (0..9).map(|_| connections.enter(at(address))).collect();
        assert!(slots.iter().all(|(_, close)| !close.is_cancelled()), "{address}");
    }
    let connections = of(10);
    connections.enter(at(STRANGER)).0.slot().verified();
    let slots: Vec<_> = (0..9).map(|_| connections.enter(at(STRANGER))).collect();
    assert!(slots.iter().all(|(_, close)| !close.is_cancelled()));
}

#[test]
fn few_addresses_that_connect_fast_displace_only_each_other() {
    let connections = of(6);
    let (_honest, honest) = connections.enter(at(OTHER));
    let mut crowd = Vec::new();
    for n in 0..50 {
        crowd.push(connections.enter(at(&format!("203.0.113.{}", n % 3))));
        let _ = connections.room().now_or_never();
        crowd.retain(|(_, close)| !close.is_cancelled());
    }
    assert!(!honest.is_cancelled());
}

#[test]
fn a_full_listener_closes_the_connection_longest_without_a_verified_request() {
    let connections = of(3);
    let (working, working_closes) = connections.enter(at("10.0.0.1"));
    let (known, known_closes) = connections.enter(at("10.0.0.2"));
    let (stranger, stranger_closes) = connections.enter(at("10.0.0.3"));
    working.slot().verified();
    known.slot().verified();
    known.slot().release();
    drop(stranger);
    assert!(connections.room().now_or_never().is_some(), "there is room");
    let (newest, newest_closes) = connections.enter(at("10.0.0.3"));
    assert!(connections.room().now_or_never().is_none(), "one has to end first");
    assert!(!stranger_closes.is_cancelled() && !newest_closes.is_cancelled());
    assert!(known_closes.is_cancelled() && !working_closes.is_cancelled());
    assert!(connections.room().now_or_never().is_none(), "and only one is closed for it");
    drop(known);
    assert!(connections.room().now_or_never().is_some());
    drop((working, newest));
}

#[test]
fn too_many_bytes_close_the_connections_that_have_waited_longest() {
    let connections = of(100);
    let (first, first_closes) = connections.enter(at(STRANGER));
    let (second, second_closes) = connections.enter(at(STRANGER));
    assert!(first.slot().hold(60) && second.slot().hold(40));
    assert!(second.slot().hold(1));
    assert!(first_closes.is_cancelled() && !second_closes.is_cancelled());
    assert!(!first.slot().hold(1), "it is being closed");
    assert!(!second.slot().hold(100), "more than one address may hold");
    let locals: Vec<_> = (0..11).map(|_| connections.enter(at("10.0.0.1"))).collect();
    let (last, others) = locals.split_last().unwrap();
    assert!(others.iter().all(|(held, _)| held.slot().hold(100)));
    others[0].0.slot().verified();
    assert!(last.0.slot().hold(50));
    let closed: Vec<_> = others.iter().map(|(_, close)| close.is_cancelled()).collect();
    assert_eq!(closed.iter().filter(|closed| **closed).count(), 1);
    assert!(!closed[0] && closed[1], "a verified one is not closed: {closed:?}");
    others[0].0.slot().release();
    assert!(last.0.slot().hold(50));
}
