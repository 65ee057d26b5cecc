//! The HTTP face: webhooks and probes for the world; metrics, and the protocols that speak HTTP, for the inside.

mod authzen;
mod body;
mod forward_auth;
mod hosts;
mod ofrep;
mod probes;
mod protocols;
mod public_url;
mod webhook;

pub use authzen::AuthZen;
pub use forward_auth::ForwardAuth;
pub use hosts::Hosts;
pub use ofrep::{Cors, InvalidOrigin, Ofrep};
pub use protocols::Protocols;
pub use public_url::{InvalidPublicUrl, PublicUrl};
pub use webhook::Webhooks;

use crate::{
    accounts::Accounts,
    callers::{Admitted, Callers, Refusal, Session},
    net::{self, Listener, Peer, Place},
    store::Store,
    telemetry::Metrics,
};
use body::Body;
use chrono::{DateTime, Utc};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// The most connections open at once to the world.
const CONNECTIONS: usize = 512;
/// What unsigned requests may hold: bodies of 64 MiB; of one address, 16 connections and four of the largest bodies.
const UNVERIFIED: net::Unverified = net::Unverified {
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
/// Browsers take an answer for what its content type says.
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Which routes a listener has.
#[derive(Clone)]
pub enum Face {
    /// What Clerk and load balancers may reach.
    Public(Arc<Webhooks>, Arc<Probed>),
    /// What only backends may reach.
    Internal(Arc<Probed>, Arc<Protocols>),
}

/// What probes and scrapes look at.
pub struct Probed {
    /// Whether questions can be answered.
    pub accounts: Arc<Accounts>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whose connections are told of.
    pub store: Arc<Store>,
    /// How many gRPC calls were not answered yet.
    pub calls_in_progress: Box<dyn Fn() -> usize + Send + Sync>,
    /// When the first of the listeners' certificates expires, if they have any.
    pub certificate_expires_at: Box<dyn Fn() -> Option<DateTime<Utc>> + Send + Sync>,
    /// Who may call, if that is restricted.
    pub callers: Option<Arc<Callers>>,
    /// Set once the service was asked to stop.
    pub draining: CancellationToken,
}

/// Answers requests on this listener until `stop`.
pub async fn serve(listener: Listener, face: Face, stop: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(64)
        .max_buf_size(16 * 1024);
    let connect = |io: TokioIo<Peer>| {
        let (face, session) = (face.clone(), face.session(io.inner()));
        let place = io.inner().place();
        let answer = move |request| {
            let admitted = face.admit(session.as_ref(), &request);
            answer(face.clone(), place.clone(), request, admitted)
        };
        builder.serve_connection(io, service_fn(answer))
    };
    let (connections, unverified) = match face {
        Face::Public(..) => (CONNECTIONS, Some(UNVERIFIED)),
        Face::Internal(..) => (INTERNAL_CONNECTIONS, None),
    };
    let limits = net::Limits { connections, age: AGE, unverified };
    net::serve(listener, limits, stop, connect, |connection| connection).await;
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

type Answer = Response<Body>;

async fn answer(
    face: Face,
    place: Place,
    request: Request<Incoming>,
    admitted: Result<Admitted, Refusal>,
) -> Result<Answer, Infallible> {
    let mut answer = if let Some(reason) = misframed(&request) {
        refuse(StatusCode::BAD_REQUEST, reason)
    } else if face.is_called_by_its_name(&request) {
        face.route(request, &place, admitted).await
    } else {
        refuse(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED)
    };
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    Ok(answer)
}

/// What hyper lets pass although proxies in front may read it in another way. A message with both Content-Length and
/// Transfer-Encoding needs no rule here: hyper drops Content-Length, and reads the chunks.
fn misframed(request: &Request<Incoming>) -> Option<&'static str> {
    match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == http::Version::HTTP_11 => Some("the Host header is missing"),
        0 | 1 => None,
        _ => Some("the Host header is present twice: send one"),
    }
}

fn read_only(request: &Request<Incoming>, answer: impl FnOnce() -> Answer) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => answer(),
        _ => not_allowed("GET, HEAD"),
    }
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

/// An error in words; the connection ends with it, because the rest of the request may be unread.
fn refuse(status: StatusCode, reason: &str) -> Answer {
    let mut answer = json_body(status, &json!({ "error": reason }));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

fn json_body(status: StatusCode, body: &serde_json::Value) -> Answer {
    with_type(status, "application/json", format!("{body}\n"))
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Body::Left(Full::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
