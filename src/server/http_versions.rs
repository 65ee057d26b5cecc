//! HTTP/2 and HTTP/1.1 on one port, each with its service.

use super::{
    grpc, http,
    listener::{self, HttpVersion, Lifetime, Listener, ListenerLimits, Peer},
};
use ::http::{Request, Response};
use futures_util::future::Either;
use hyper::{body::Incoming, service::Service};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The maximum number of open connections.
const MAX_CONNECTIONS: usize = 10_000;

/// How long the head of an HTTP/1.1 request may take to arrive. It also limits the pause between two requests, for which
/// callers keep their connections open.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves this listener until `stop`; connections are closed at about `age`. `on_http2` and `on_http1` make the
/// services of a connection.
pub async fn serve<G, H>(
    listener: Listener,
    age: Duration,
    stop: CancellationToken,
    on_http2: impl Fn(&Peer) -> G,
    on_http1: impl Fn(&Peer) -> H,
) where
    G: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
    G: Send + 'static,
    G::Future: Send + 'static,
    H: Service<Request<Incoming>, Response = Response<axum::body::Body>, Error = Infallible>,
    H: Send + 'static,
    H::Future: Send + 'static,
{
    let (http2, http1) = (grpc::connections(), http::connections(HEAD_TIMEOUT));
    let connect = |io: TokioIo<Peer>, lifetime: Lifetime| match io.inner().version() {
        HttpVersion::Http2 => {
            let service = on_http2(io.inner());
            let connection = lifetime.limit(http2.serve_connection(io, service));
            Either::Left(grpc::InlineConnection(Box::pin(connection)))
        }
        HttpVersion::Http1 => {
            let has_begun = Arc::new(AtomicBool::new(false));
            let service =
                NotesRequests { service: on_http1(io.inner()), has_begun: has_begun.clone() };
            let connection = http1.serve_connection(io, service);
            let has_begun = move || has_begun.load(Ordering::Relaxed);
            Either::Right(Box::pin(lifetime.limit_if_begun(connection, has_begun)))
        }
    };
    let limits = ListenerLimits { connections: MAX_CONNECTIONS, age, unverified: None };
    listener::serve(listener.allow_http2(), limits, stop, connect).await;
}

/// A service that notes whether it has received a request.
struct NotesRequests<H> {
    service: H,
    has_begun: Arc<AtomicBool>,
}

impl<H: Service<Request<Incoming>>> Service<Request<Incoming>> for NotesRequests<H> {
    type Response = H::Response;
    type Error = H::Error;
    type Future = H::Future;

    fn call(&self, request: Request<Incoming>) -> H::Future {
        self.has_begun.store(true, Ordering::Relaxed);
        self.service.call(request)
    }
}
