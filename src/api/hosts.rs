//! Checks the Host header of requests to the operator listener, against DNS rebinding.
//!
//! A web page can make its own host name resolve to 127.0.0.1; the browser on that machine then lets the page read the
//! answers of a loopback listener. A request of such a page still has the page's name in its Host header. Forward
//! authentication is exempt: a gateway forwards the client's Host header, and the session token authenticates the user.

use super::http_protocols::{FORWARD_AUTH, needs_key};
use crate::{
    domain::PublicUrl,
    domain::loopback::{is_loopback, is_this_machine},
};
use http::{Request, header, uri::Authority};
use std::net::SocketAddr;

/// The host names that a listener accepts in the Host header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// All names, because other machines can reach the listener.
    Any,
    /// The names of this machine, and the host of `PUBLIC_URL`. If callers are authenticated, a request that needs a
    /// key may name any host.
    OfThisMachine {
        /// The host of `PUBLIC_URL`.
        public: Option<Box<str>>,
        /// Whether callers are authenticated.
        knows_callers: bool,
    },
}

impl Hosts {
    /// The names for a listener at this address, with the URL that callers use.
    #[must_use]
    pub fn of(listener: SocketAddr, knows_callers: bool, public_url: Option<&PublicUrl>) -> Self {
        if !is_loopback(listener.ip()) {
            return Self::Any;
        }
        let public = public_url.and_then(PublicUrl::host).map(String::into_boxed_str);
        Self::OfThisMachine { public, knows_callers }
    }

    /// Whether the Host header of a request is accepted.
    pub(super) fn allow<B>(&self, request: &Request<B>) -> bool {
        let Self::OfThisMachine { public, knows_callers } = self else { return true };
        let path = request.uri().path();
        if path.starts_with(FORWARD_AUTH) || (*knows_callers && needs_key(path)) {
            return true;
        }
        let named = match (request.uri().authority(), request.headers().get(header::HOST)) {
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
            (None, None) => return true, // HTTP/1.0, which no browser uses
        };
        named.as_ref().and_then(host).is_some_and(|host| {
            is_this_machine(host) || public.as_ref().is_some_and(|p| p.eq_ignore_ascii_case(host))
        })
    }
}

/// The host of an authority that consists of a host and an optional port.
fn host(authority: &Authority) -> Option<&str> {
    let (host, rest) = (authority.host(), authority.as_str().strip_prefix(authority.host())?);
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(host)
}
