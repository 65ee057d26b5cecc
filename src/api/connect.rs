//! Connect and gRPC-Web: every method of the gRPC services, for callers without HTTP/2, and with plain JSON.
//!
//! Callers, scopes, deadlines and metrics are those of gRPC. A web page gets no answer: its key would be public.

use super::{AuthLayer, GrpcServices, Hosts, LARGEST_REQUEST, pb};
use crate::{
    server::{
        connect::{self, ConnectError, Destination, Head, Methods},
        grpc::Deadline,
        http::{HttpConnection, body, framing_error},
    },
    telemetry::{Labels, Metrics},
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};
use tonic::Status;
use tonic_web::GrpcWebLayer;
use tower_layer::Layer;
use tower_service::Service;

/// The error for a request of a web page.
const WEB_PAGE: &str = "the request has the Origin of another web page: a key in a web page is public, so call the service \
     from your backend";

/// The settings of Connect and gRPC-Web.
#[derive(Clone)]
pub struct Connect {
    methods: Arc<Methods>,
    /// The accepted host names; `None` accepts all.
    hosts: Option<Hosts>,
    metrics: Arc<Metrics>,
}

impl Connect {
    /// Serves the methods of `entitlements.v1` and of gRPC's health checks. `hosts` has the accepted host names, where
    /// no key protects from web pages.
    #[must_use]
    pub fn new(hosts: Option<Hosts>, metrics: Arc<Metrics>) -> Self {
        let methods = Methods::new(&[pb::DESCRIPTOR, tonic_health::pb::FILE_DESCRIPTOR_SET]);
        Self { methods: Arc::new(methods), hosts, metrics }
    }
}

/// Connect and gRPC-Web, in front of gRPC services.
pub(super) struct ConnectApi<S> {
    connect: Connect,
    auth_layer: AuthLayer,
    services: Deadline<S>,
}

impl<S: GrpcServices> ConnectApi<S> {
    pub(super) fn new(connect: Connect, auth_layer: AuthLayer, services: Deadline<S>) -> Self {
        Self { connect, auth_layer, services }
    }

    /// Whether a path belongs to a service of Connect.
    pub(super) fn serves(&self, path: &str) -> bool {
        !matches!(self.connect.methods.find(path), Destination::Nothing)
    }

    /// Answers a request for such a path, and counts it.
    pub(super) async fn call(
        self: Arc<Self>,
        connection: HttpConnection,
        request: Request<Incoming>,
    ) -> Response {
        let request = request.map(Body::new);
        let is_web = is_grpc_web(request.headers());
        let (result, answer) = match self.refusal(&request) {
            Some(error) => {
                body::ignore(request.into_body());
                (error.code(), error.into_response())
            }
            None if is_web => self.clone().grpc_web(connection, request).await,
            None => self.connect(&connection, request).await,
        };
        let protocol = if is_web { "grpc-web" } else { "connect" };
        let labels = Labels([("protocol", protocol), ("result", result)]);
        self.connect.metrics.protocol_requests.get_or_create(&labels).inc();
        answer
    }

    /// Why a request is refused whatever it asks.
    fn refusal(&self, request: &Request<Body>) -> Option<ConnectError> {
        if let Some(reason) = framing_error(request) {
            return Some(ConnectError::invalid(reason));
        }
        if self.connect.hosts.as_ref().is_some_and(|hosts| !hosts.allow(request)) {
            let status = Status::permission_denied(super::hosts::MISDIRECTED);
            let http = StatusCode::MISDIRECTED_REQUEST;
            return Some(ConnectError::of_http(status, http, None));
        }
        is_from_another_page(request).then(|| Status::permission_denied(WEB_PAGE).into())
    }

    async fn connect(
        &self,
        connection: &HttpConnection,
        request: Request<Body>,
    ) -> (&'static str, Response) {
        let (parts, body) = request.into_parts();
        let head = match self.head(&parts) {
            Ok(head) => head,
            Err(error) => {
                body::ignore(body);
                return (error.code(), error.into_response());
            }
        };
        match self.answer(connection, &head, parts, body).await {
            Ok(answer) => ("ok", answer),
            Err(error) => (error.code(), head.refuse(error)),
        }
    }

    fn head(&self, parts: &Parts) -> Result<Head, ConnectError> {
        match self.connect.methods.find(parts.uri.path()) {
            Destination::Method(method) => Head::parse(method, parts, LARGEST_REQUEST),
            Destination::Service | Destination::Nothing => {
                let message = format!("there is no method {}", parts.uri.path());
                let status = Status::unimplemented(message);
                Err(ConnectError::of_http(status, StatusCode::NOT_FOUND, None))
            }
        }
    }

    async fn answer(
        &self,
        connection: &HttpConnection,
        head: &Head,
        parts: Parts,
        body: Body,
    ) -> Result<Response, ConnectError> {
        let mut request = Request::from_parts(parts, ());
        let admitted = match self.admit(connection, &mut request) {
            Ok(admitted) => admitted,
            Err(status) => {
                body::ignore(body);
                return Err(status.into());
            }
        };
        let content = match head.message() {
            Some(message) => message,
            None => read(body, head.largest_content()).await?,
        };
        let call = connect::call(head, request.into_parts().0, content)?;
        let answer = self.auth_layer.run(admitted, &self.services, call).await;
        connect::answer(head, answer).await
    }

    async fn grpc_web(
        self: Arc<Self>,
        connection: HttpConnection,
        request: Request<Body>,
    ) -> (&'static str, Response) {
        let mut service = GrpcWebLayer::new().layer(GrpcOverHttp1 { api: self, connection });
        let answer = service.call(request).await.unwrap_or_else(|never| match never {});
        let status = Status::from_header_map(answer.headers());
        let result = status.map_or("ok", |status| ConnectError::from(status).code());
        (result, answer.map(Body::new))
    }

    fn admit<B>(
        &self,
        connection: &HttpConnection,
        request: &mut Request<B>,
    ) -> Result<crate::server::auth::Admitted, Status> {
        let session = connection.session.as_deref().map(Mutex::lock);
        let session = session.map(|session| session.unwrap_or_else(PoisonError::into_inner));
        self.auth_layer.admit(session.as_deref(), request)
    }
}

async fn read(body: Body, largest: usize) -> Result<Bytes, ConnectError> {
    use body::BodyError::{EndedEarly, NoRoom, TooLarge, TooSlow};
    body::read(body, largest).await.map_err(|error| {
        let message = error.to_string();
        let status = match error {
            TooLarge(_) | NoRoom => Status::resource_exhausted(message),
            EndedEarly => Status::cancelled(message),
            TooSlow => Status::deadline_exceeded(message),
        };
        status.into()
    })
}

fn is_grpc_web(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

/// Whether a browser sent the request for a page of another origin.
fn is_from_another_page(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()), // HTTP/2
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    !page.zip(host).is_some_and(|((_, page), host)| page.eq_ignore_ascii_case(host))
}

/// The gRPC services, as gRPC-Web's translation calls them.
#[derive(Clone)]
struct GrpcOverHttp1<S> {
    api: Arc<ConnectApi<S>>,
    connection: HttpConnection,
}

impl<S: GrpcServices> Service<Request<tonic::body::Body>> for GrpcOverHttp1<S> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        let admitted = self.api.admit(&self.connection, &mut request);
        let api = self.api.clone();
        Box::pin(async move {
            Ok(match admitted {
                Ok(admitted) => api.auth_layer.run(admitted, &api.services, request).await,
                Err(status) => status.into_http(),
            })
        })
    }
}
