//! Asks the listeners of a service on this machine, as health checks do.

use reqwest::{Client, Response};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// GETs an address of this machine. The certificate is not verified, as Kubernetes' probes do not verify it either: it is
/// for the names that others call the service by, nothing secret is said, and who answers is on this machine.
pub async fn ask(url: String, patience: Duration) -> reqwest::Result<Response> {
    let client = Client::builder().no_proxy().timeout(patience);
    // No authorities need be there, and none are read.
    let client = client.tls_certs_only([]).tls_danger_accept_invalid_certs(true).build()?;
    client.get(url).send().await
}

/// The value of a gauge on a service's metrics page; `None` if nothing answers there, or the page lacks the gauge.
pub async fn gauge(service: &str, name: &str, patience: Duration) -> Option<u64> {
    let page = ask(format!("{service}/metrics"), patience).await.ok()?.text().await.ok()?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse().ok()
}

/// Where a listener that was given this address, with TLS or without, can be asked.
#[must_use]
pub fn url(listener: SocketAddr, speaks_tls: bool) -> String {
    format!("{}://{}", if speaks_tls { "https" } else { "http" }, reachable(listener))
}

/// A listener on every address of the machine is asked on the loopback one.
fn reachable(mut listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    listener
}
