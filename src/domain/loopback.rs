//! Recognizes hosts that are this machine: traffic to them does not cross a network.

use std::net::IpAddr;

/// Whether an address is a loopback address; an IPv4-mapped IPv6 address counts as its IPv4 address.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether a host is `localhost` or a loopback address; an IPv6 address may stand in brackets.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}
