//! The routes of the HTTP listeners: webhooks and probes for the world; metrics, and the protocols that speak HTTP, for
//! the inside.

use super::{Probed, Protocols, Webhooks, probes, webhook};
use crate::server::{
    auth::{Admitted, Refusal, Session},
    http::{
        self as http_server,
        response::{Answer, not_allowed, read_only, refuse},
    },
    listener::{Limits, Listener, Peer, Place, Unverified},
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The most connections open at once to the world.
const CONNECTIONS: usize = 512;
/// What unsigned requests may hold: bodies of 64 MiB; of one address, 16 connections and four of the largest bodies.
const UNVERIFIED: Unverified = Unverified {
    connections_per_address: 16,
    bytes_per_address: 4 * webhook::LARGEST_BODY,
    bytes: 64 * 1024 * 1024,
};
/// The most from the inside, half of which may be event streams.
const INTERNAL_CONNECTIONS: usize = 2048;
/// How long a connection may last.
const AGE: Duration = Duration::from_mins(10);

/// The error for a request that names another host.
const MISDIRECTED: &str = "the Host header names neither this machine nor PUBLIC_URL: ask by `localhost` or \
     `127.0.0.1`, or set PUBLIC_URL";

/// Which routes a listener has.
#[derive(Clone)]
pub enum Face {
    /// What Clerk and load balancers may reach.
    Public(Arc<Webhooks>, Arc<Probed>),
    /// What only backends may reach.
    Internal(Arc<Probed>, Arc<Protocols>),
}

/// Answers requests on this listener until `stop`.
pub async fn serve_http(listener: Listener, face: Face, stop: CancellationToken) {
    let (connections, unverified) = match face {
        Face::Public(..) => (CONNECTIONS, Some(UNVERIFIED)),
        Face::Internal(..) => (INTERNAL_CONNECTIONS, None),
    };
    let connect = |peer: &Peer| {
        let (face, session, place) = (face.clone(), face.session(peer), peer.place());
        move |request| {
            let admitted = face.admit(session.as_ref(), &request);
            answer(face.clone(), place.clone(), request, admitted)
        }
    };
    let limits = Limits { connections, age: AGE, unverified };
    http_server::serve(listener, limits, connect, stop).await;
}

impl Face {
    /// Who calls on a connection of this peer, if that is to be known.
    fn session(&self, peer: &Peer) -> Option<Session> {
        match self {
            Self::Public(..) => None,
            Self::Internal(_, protocols) => protocols.session(peer),
        }
    }

    /// Lets a request in; tells of the admission if its answer is a stream.
    fn admit<B>(
        &self,
        session: Option<&Session>,
        request: &Request<B>,
    ) -> Result<Admitted, Refusal> {
        match (self, session) {
            (Self::Internal(_, protocols), Some(session)) => protocols.admit(session, request),
            (Self::Public(..) | Self::Internal(..), _) => Ok(Admitted::Open),
        }
    }

    /// Whether the request names a host that the listener answers to.
    fn is_called_by_its_name<B>(&self, request: &Request<B>) -> bool {
        match self {
            Self::Public(..) => true,
            Self::Internal(_, protocols) => protocols.hosts.allow(request),
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        place: &Place,
        admitted: Result<Admitted, Refusal>,
    ) -> Answer {
        let path = request.uri().path();
        match (self, path) {
            (Self::Public(webhooks, _), "/webhooks/clerk") => match *request.method() {
                Method::POST => webhooks.take(request, place).await,
                _ => not_allowed("POST"),
            },
            (Self::Internal(probed, _), "/metrics") => {
                read_only(&request, || probes::metrics(probed))
            }
            (Self::Public(..) | Self::Internal(..), "/livez") => read_only(&request, probes::livez),
            (Self::Public(_, probed) | Self::Internal(probed, _), "/readyz") => {
                read_only(&request, || probes::readyz(probed))
            }
            (Self::Internal(_, protocols), _) => protocols.take(request, admitted).await,
            (Self::Public(..), _) => refuse(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }
}

async fn answer(
    face: Face,
    place: Place,
    request: Request<Incoming>,
    admitted: Result<Admitted, Refusal>,
) -> Answer {
    if face.is_called_by_its_name(&request) {
        face.route(request, &place, admitted).await
    } else {
        refuse(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED)
    }
}
