//! HTTP/1.1: the settings of connections, the checks that apply to every request, and listeners with a router.

pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod response;

pub use cors::Cors;

use super::{
    auth::CallerSession,
    listener::{self, ConnectionSlot, Lifetime, Listener, ListenerLimits, Peer},
};
use axum::{Router, extract::Request, middleware::map_request, response::Response};
use http::{HeaderValue, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use response::refuse;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_service::Service;

/// How long the head of a request may take to arrive at a listener with a router.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes browsers use the declared content type instead of guessing it.
pub(crate) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The connection of a request, which is an extension of the request.
#[derive(Clone)]
pub(crate) struct HttpConnection {
    /// The slot of the connection in the listener.
    pub(crate) slot: ConnectionSlot,
    session: Option<Arc<Mutex<CallerSession>>>,
}

impl HttpConnection {
    pub(crate) fn new(peer: &Peer, session: Option<CallerSession>) -> Self {
        Self { slot: peer.slot(), session: session.map(|session| Arc::new(Mutex::new(session))) }
    }

    /// The authentication; `None` if callers are not authenticated.
    pub(crate) fn session(&self) -> Option<MutexGuard<'_, CallerSession>> {
        let session = self.session.as_deref()?;
        Some(session.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The settings of connections. `head_timeout` limits how long the head of a request may take to arrive, and how long a
/// connection may be idle.
pub(super) fn connections(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(64)
        .max_buf_size(16 * 1024);
    builder
}

/// Adds the checks that apply to every request.
pub(crate) fn checked(router: Router) -> Router {
    router
        .layer(map_request(well_framed))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF))
}

/// Serves the router on this listener until `stop`. Each request has its [`HttpConnection`] as an extension.
pub(crate) async fn serve(
    listener: Listener,
    limits: ListenerLimits,
    router: Router,
    stop: CancellationToken,
) {
    let (router, builder) = (checked(router), connections(HEAD_TIMEOUT));
    let connect = |io: TokioIo<Peer>, lifetime: Lifetime| {
        let (router, connection) = (router.clone(), HttpConnection::new(io.inner(), None));
        let answer = move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            router.clone().call(request)
        };
        lifetime.limit(builder.serve_connection(io, service_fn(answer)))
    };
    listener::serve(listener, limits, stop, connect).await;
}

/// Rejects a request that hyper accepts, but that a proxy in front may interpret differently.
async fn well_framed(request: Request) -> Result<Request, Response> {
    match framing_error(&request) {
        Some(reason) => Err(refuse(StatusCode::BAD_REQUEST, reason)),
        None => Ok(request),
    }
}

/// Why a proxy in front may interpret a request differently. A request with Content-Length and Transfer-Encoding needs
/// no check: hyper ignores Content-Length and reads the chunks.
pub(crate) fn framing_error<B>(request: &http::Request<B>) -> Option<&'static str> {
    match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == http::Version::HTTP_11 => Some("the Host header is missing"),
        0 | 1 => None,
        _ => Some("the Host header is present twice: send one"),
    }
}
