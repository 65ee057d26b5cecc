//! Checks the Host header of requests to the API listener and the operator listener, against DNS rebinding.
//!
//! A web page can make its own host name resolve to 127.0.0.1; the browser on that machine then lets the page read the
//! answers of a loopback listener. A request of such a page still has the page's name in its Host header. Forward
//! authentication is exempt: a gateway forwards the client's Host header, and the session token authenticates the user.
//! If callers are authenticated, the paths that need a key are exempt too.

use crate::{
    domain::PublicUrl,
    domain::loopback::{is_loopback, is_this_machine},
    server::http::{body, response::refuse},
};
use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{StatusCode, header, uri::Authority};
use std::net::SocketAddr;

/// The error for a request with another name in its Host header.
pub(super) const MISDIRECTED: &str = "the Host header names neither this machine nor ENTITLEMENTS_PUBLIC_URL: use `localhost` or \
     `127.0.0.1` as the host, or set ENTITLEMENTS_PUBLIC_URL";

/// The host names that a listener accepts in the Host header: those of this machine, and the host of
/// `ENTITLEMENTS_PUBLIC_URL`.
#[derive(Debug, Clone)]
pub struct Hosts {
    public: Option<Box<str>>,
}

impl Hosts {
    /// The names for a listener at this address, with the URL that callers use; `None`: all names, because other
    /// machines can reach the listener.
    #[must_use]
    pub fn of(listener: SocketAddr, public_url: Option<&PublicUrl>) -> Option<Self> {
        let public = public_url.and_then(PublicUrl::host).map(String::into_boxed_str);
        is_loopback(listener.ip()).then_some(Self { public })
    }

    pub(super) fn allow<B>(&self, request: &http::Request<B>) -> bool {
        let named = match (request.uri().authority(), request.headers().get(header::HOST)) {
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
            (None, None) => return true, // HTTP/1.0, which no browser uses
        };
        named.as_ref().and_then(host).is_some_and(|host| {
            let is_public = |public: &str| public.eq_ignore_ascii_case(host);
            is_this_machine(host) || self.public.as_deref().is_some_and(is_public)
        })
    }
}

/// Rejects a request whose Host header is not accepted.
pub(super) async fn check_host(
    State(hosts): State<Hosts>,
    request: Request,
) -> Result<Request, Response> {
    if hosts.allow(&request) {
        return Ok(request);
    }
    body::ignore(request.into_body());
    Err(refuse(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED))
}

/// The host of an authority that consists of a host and an optional port.
fn host(authority: &Authority) -> Option<&str> {
    let (host, rest) = (authority.host(), authority.as_str().strip_prefix(authority.host())?);
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(host)
}
