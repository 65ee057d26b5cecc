//! Requests to the listeners of a service on this machine, as health checks send them.

use reqwest::{Client, Response};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// The gauge with the fingerprint of the callers file in force.
pub const CALLERS_IN_FORCE: &str = "entitlements_callers_in_force";

/// Sends a GET request to a URL of this machine. The certificate is not verified, as in Kubernetes' probes: it is
/// issued for the public name of the service, the request has no secrets, and the peer is on this machine.
pub async fn ask(url: String, time_limit: Duration) -> reqwest::Result<Response> {
    let client = Client::builder().no_proxy().timeout(time_limit);
    // Do not load certificate authorities: an image may have none.
    let client = client.tls_certs_only([]).tls_danger_accept_invalid_certs(true).build()?;
    client.get(url).send().await
}

/// The value of a gauge on the metrics page of a service; `None` if no service answers or the page lacks the gauge.
pub async fn gauge(service: &str, name: &str, time_limit: Duration) -> Option<u64> {
    let page = ask(format!("{service}/metrics"), time_limit).await.ok()?.text().await.ok()?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse().ok()
}

/// The URL for requests to a listener with this address.
#[must_use]
pub fn url(listener: SocketAddr, speaks_tls: bool) -> String {
    format!("{}://{}", if speaks_tls { "https" } else { "http" }, reachable(listener))
}

/// Replaces the unspecified address, on which a listener accepts everything, by the loopback address.
pub(super) fn reachable(mut listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    listener
}
