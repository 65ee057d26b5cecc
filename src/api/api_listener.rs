//! The API listener: gRPC over HTTP/2; Connect, gRPC-Web and the HTTP protocols over HTTP/1.1 and HTTP/2.

use super::{AuthLayer, Protocols, connect::ConnectApi};
use crate::server::{
    grpc::{CallMetrics, Deadline},
    http::{self, HttpConnection, response::not_found},
    http_versions,
    listener::{Listener, Peer},
};
use ::http::{HeaderValue, Request, Response, header};
use axum::{Router, body::Body};
use futures_util::future::{BoxFuture, Either};
use hyper::body::Incoming;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// gRPC services, for the bodies of requests of both versions of HTTP.
pub trait GrpcServices:
    Service<Request<Incoming>, Response = GrpcResponse, Error = Infallible, Future: Send>
    + Service<Request<tonic::body::Body>, Response = GrpcResponse, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GrpcServices for S where
    S: Service<Request<Incoming>, Response = GrpcResponse, Error = Infallible, Future: Send>
        + Service<
            Request<tonic::body::Body>,
            Response = GrpcResponse,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

type GrpcResponse = Response<tonic::body::Body>;

/// Everything that the API listener serves.
pub struct Api<S> {
    /// The gRPC services.
    pub services: S,
    /// Admits the calls of the gRPC services, over each protocol.
    pub auth_layer: AuthLayer,
    /// The metrics of these calls.
    pub calls: Arc<CallMetrics>,
    /// The protocols over HTTP.
    pub protocols: Protocols,
    /// The approximate maximum age of a connection.
    pub age: Duration,
}

impl<S: GrpcServices> Api<S> {
    /// Serves on this listener until `stop`.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let Self { services, auth_layer, calls, protocols, age } = self;
        let services = Deadline::new(services, calls);
        let connect = protocols.connect.clone().map(|connect| {
            Arc::new(ConnectApi::new(connect, auth_layer.clone(), services.clone()))
        });
        let router = protocols.merged_into(Router::new().fallback(not_found));
        let router = http::checked(router);
        let http = |peer: &Peer| HttpServices {
            connection: HttpConnection::new(peer, auth_layer.session(peer)),
            connect: connect.clone(),
            router: router.clone(),
        };
        let http2 = |peer: &Peer| Http2Services {
            grpc: auth_layer.wrap(services.clone(), peer),
            others: http(peer),
        };
        http_versions::serve(listener, age, stop, http2, http).await;
    }
}

/// The services of one HTTP/2 connection: gRPC, and what HTTP/1.1 has. A client that agrees on HTTP/2 in the TLS handshake,
/// as curl does, then speaks Connect over it.
struct Http2Services<G, H> {
    grpc: G,
    others: H,
}

impl<G, H> hyper::service::Service<Request<Incoming>> for Http2Services<G, H>
where
    G: hyper::service::Service<Request<Incoming>, Response = GrpcResponse, Error = Infallible>,
    H: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    H::Future: Send + 'static,
{
    type Response = GrpcResponse;
    type Error = Infallible;
    type Future = Either<G::Future, BoxFuture<'static, Result<GrpcResponse, Infallible>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_grpc = |kind: &[u8]| match kind.strip_prefix(b"application/grpc") {
            Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
            None => false,
        };
        if kind.is_some_and(is_grpc) {
            return Either::Left(self.grpc.call(request));
        }
        let answer = self.others.call(request);
        Either::Right(Box::pin(async {
            // The connection polls each call once, for which decompressing and parsing take too long. So the call gets a
            // task of its own.
            yield_now().await;
            answer.await.map(|answer| answer.map(tonic::body::Body::new))
        }))
    }
}

/// The services of one connection beside gRPC.
struct HttpServices<S> {
    connection: HttpConnection,
    connect: Option<Arc<ConnectApi<S>>>,
    router: Router,
}

/// Connect's methods do not pass through the router, which clones and boxes for each request.
impl<S: GrpcServices> hyper::service::Service<Request<Incoming>> for HttpServices<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        BoxFuture<'static, Result<Response<Body>, Infallible>>,
        <Router as Service<Request<Incoming>>>::Future,
    >;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let connection = self.connection.clone();
        match &self.connect {
            Some(connect) if connect.serves(request.uri().path()) => {
                let connect = connect.clone();
                Either::Left(Box::pin(async move { Ok(connect.call(connection, request).await) }))
            }
            Some(_) | None => {
                request.extensions_mut().insert(connection);
                Either::Right(self.router.clone().call(request))
            }
        }
    }
}
