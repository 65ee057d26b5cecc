//! The routes of the HTTP listeners: webhooks and probes on the webhook listener; metrics, probes and the HTTP
//! protocols on the operator listener.

use super::{ProbeState, Protocols, Webhooks, probes, webhook};
use crate::server::{
    auth::{Admitted, AuthError, CallerSession},
    http::{
        self as http_server,
        response::{Answer, not_allowed, read_only, refuse},
    },
    listener::{ConnectionSlot, Listener, ListenerLimits, Peer, UnverifiedLimits},
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The maximum number of connections of the webhook listener.
const MAX_CONNECTIONS: usize = 512;
/// The limits of unverified requests: 64 MiB of bodies; for one address, 16 connections and four bodies of maximum
/// size.
const UNVERIFIED: UnverifiedLimits = UnverifiedLimits {
    connections_per_address: 16,
    bytes_per_address: 4 * webhook::LARGEST_BODY,
    bytes: 64 * 1024 * 1024,
};
/// The maximum number of connections of the operator listener, half of which may be event streams.
const MAX_OPERATOR_CONNECTIONS: usize = 2048;
/// The maximum age of a connection.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The error for a request with another name in its Host header.
const MISDIRECTED: &str = "the Host header names neither this machine nor PUBLIC_URL: use `localhost` or \
     `127.0.0.1` as the host, or set PUBLIC_URL";

/// The routes of a listener.
#[derive(Clone)]
pub enum Surface {
    /// The webhook listener: webhooks from Clerk, and probes.
    Webhooks(Arc<Webhooks>, Arc<ProbeState>),
    /// The operator listener: metrics, probes and the HTTP protocols.
    Operators(Arc<ProbeState>, Arc<Protocols>),
}

/// Serves a surface on this listener until `stop`.
pub async fn serve_http(listener: Listener, surface: Surface, stop: CancellationToken) {
    let (connections, unverified) = match surface {
        Surface::Webhooks(..) => (MAX_CONNECTIONS, Some(UNVERIFIED)),
        Surface::Operators(..) => (MAX_OPERATOR_CONNECTIONS, None),
    };
    let connect = |peer: &Peer| {
        let (surface, session, slot) = (surface.clone(), surface.session(peer), peer.slot());
        move |request| {
            let admitted = surface.admit(session.as_ref(), &request);
            answer(surface.clone(), slot.clone(), request, admitted)
        }
    };
    let limits = ListenerLimits { connections, age: MAX_AGE, unverified };
    http_server::serve(listener, limits, connect, stop).await;
}

impl Surface {
    /// The authentication of a connection with this peer; `None` if callers are not authenticated.
    fn session(&self, peer: &Peer) -> Option<CallerSession> {
        match self {
            Self::Webhooks(..) => None,
            Self::Operators(_, protocols) => protocols.session(peer),
        }
    }

    /// Authenticates and authorizes a request.
    fn admit<B>(
        &self,
        session: Option<&CallerSession>,
        request: &Request<B>,
    ) -> Result<Admitted, AuthError> {
        match (self, session) {
            (Self::Operators(_, protocols), Some(session)) => protocols.admit(session, request),
            (Self::Webhooks(..) | Self::Operators(..), _) => Ok(Admitted::Open),
        }
    }

    /// Whether the Host header of the request is accepted.
    fn accepts_host<B>(&self, request: &Request<B>) -> bool {
        match self {
            Self::Webhooks(..) => true,
            Self::Operators(_, protocols) => protocols.hosts.allow(request),
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        slot: &ConnectionSlot,
        admitted: Result<Admitted, AuthError>,
    ) -> Answer {
        let path = request.uri().path();
        match (self, path) {
            (Self::Webhooks(webhooks, _), "/webhooks/clerk") => match *request.method() {
                Method::POST => webhooks.take(request, slot).await,
                _ => not_allowed("POST"),
            },
            (Self::Operators(state, _), "/metrics") => {
                read_only(&request, || probes::metrics(state))
            }
            (Self::Webhooks(..) | Self::Operators(..), "/livez") => {
                read_only(&request, probes::livez)
            }
            (Self::Webhooks(_, state) | Self::Operators(state, _), "/readyz") => {
                read_only(&request, || probes::readyz(state))
            }
            (Self::Operators(_, protocols), _) => protocols.take(request, admitted).await,
            (Self::Webhooks(..), _) => refuse(StatusCode::NOT_FOUND, "there is no such path"),
        }
    }
}

async fn answer(
    surface: Surface,
    slot: ConnectionSlot,
    request: Request<Incoming>,
    admitted: Result<Admitted, AuthError>,
) -> Answer {
    if surface.accepts_host(&request) {
        surface.route(request, &slot, admitted).await
    } else {
        refuse(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED)
    }
}
