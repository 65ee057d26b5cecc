//! HTTP/1.1: serves a router on the connections of a listener, with the checks that apply to every request.

pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod response;

pub use cors::Cors;

use super::{
    auth::{CallerSession, Callers},
    listener::{self, ConnectionSlot, Listener, ListenerLimits, Peer},
};
use axum::{Router, extract::Request, middleware::map_request, response::Response};
use http::{HeaderValue, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use response::refuse;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_service::Service;

/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes browsers use the declared content type instead of guessing it.
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The connection of a request, which is an extension of the request.
#[derive(Clone)]
pub(crate) struct HttpConnection {
    /// The slot of the connection in the listener.
    pub(crate) slot: ConnectionSlot,
    /// Its authentication; `None` if callers are not authenticated.
    pub(crate) session: Option<Arc<Mutex<CallerSession>>>,
}

impl HttpConnection {
    fn new(peer: &Peer, callers: Option<Arc<Callers>>) -> Self {
        let session = callers.map(|callers| CallerSession::new(callers, peer.names().to_vec()));
        Self { slot: peer.slot(), session: session.map(|session| Arc::new(Mutex::new(session))) }
    }
}

/// Serves the router on this listener until `stop`. Each request has its [`HttpConnection`] as an extension.
pub(crate) async fn serve(
    listener: Listener,
    limits: ListenerLimits,
    callers: Option<Arc<Callers>>,
    router: Router,
    stop: CancellationToken,
) {
    let router = router
        .layer(map_request(well_framed))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(64)
        .max_buf_size(16 * 1024);
    let connect = |io: TokioIo<Peer>| {
        let (router, connection) =
            (router.clone(), HttpConnection::new(io.inner(), callers.clone()));
        let answer = move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            router.clone().call(request)
        };
        builder.serve_connection(io, service_fn(answer))
    };
    listener::serve(listener, limits, stop, connect, |connection| connection).await;
}

/// Rejects a request that hyper accepts, but that a proxy in front may interpret differently. A request with
/// Content-Length and Transfer-Encoding needs no check: hyper ignores Content-Length and reads the chunks.
async fn well_framed(request: Request) -> Result<Request, Response> {
    let reason = match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == http::Version::HTTP_11 => "the Host header is missing",
        0 | 1 => return Ok(request),
        _ => "the Host header is present twice: send one",
    };
    Err(refuse(StatusCode::BAD_REQUEST, reason))
}
