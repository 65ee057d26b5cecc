//! Which hosts are this machine, wherever that makes a difference: what is sent to one of them crosses no network.

use std::net::IpAddr;

/// Whether an address is a loopback address, also one of IPv4 that is written as one of IPv6.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether a host is `localhost` or a loopback address, one of IPv6 in brackets or not.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}
