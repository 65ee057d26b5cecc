//! The HTTP protocols on the API listener, and their common layers: authentication, a limit of account loads for
//! each protocol, and a count of requests by result.

use super::{AuthZen, Connect, ForwardAuth, Hosts, Ofrep, hosts::check_host};
use crate::{
    replica::LoadLimits,
    server::{
        auth::{
            Admitted, AuthError, Callers, CredentialSource, Scope, StreamAdmission, StreamKind,
        },
        http::{HttpConnection, body, response::not_allowed},
    },
    telemetry::{Labels, Metrics},
};
use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state, map_request_with_state},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The maximum number of account loads of one protocol in progress: less than a third of the 256 of a replica, so that
/// the three protocols together leave some for gRPC.
const MAX_LOADS_PER_PROTOCOL: usize = 80;
/// The largest body, in bytes: a full batch with ids of the maximum length fits.
pub(super) const LARGEST_BODY: usize = 64 * 1024;

/// The HTTP protocols, each of which is served if it is set.
pub struct Protocols {
    /// `OpenFeature`'s remote evaluation.
    pub ofrep: Option<Ofrep>,
    /// `AuthZEN` evaluations.
    pub authzen: Option<AuthZen>,
    /// Forward authentication of nginx, Caddy and Traefik.
    pub forward_auth: Option<ForwardAuth>,
    /// Connect and gRPC-Web.
    pub(super) connect: Option<Connect>,
    /// The callers to authenticate; `None` admits every request.
    pub(super) callers: Option<Arc<Callers>>,
    /// The accepted host names; `None` accepts all.
    hosts: Option<Hosts>,
    metrics: Arc<Metrics>,
}

impl Protocols {
    /// Creates the set without any protocol; with `callers`, requests are authenticated.
    #[must_use]
    pub fn none(
        callers: Option<Arc<Callers>>,
        hosts: Option<Hosts>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            ofrep: None,
            authzen: None,
            forward_auth: None,
            connect: None,
            callers,
            hosts,
            metrics,
        }
    }

    /// Serves Connect and gRPC-Web. Where a key protects from web pages, the Host header is not checked.
    pub fn enable_connect(&mut self) {
        let hosts = self.hosts.clone().filter(|_| self.callers.is_none());
        self.connect = Some(Connect::new(hosts, self.metrics.clone()));
    }

    /// The routes of the protocols, merged with those of `open`, which need no key. The Host header is checked, except for
    /// paths where a key or a session token protects from web pages.
    pub(super) fn merged_into(self, mut open: Router) -> Router {
        let (mut keyed, mut gateways) = (Router::new(), Router::new());
        if let Some(ofrep) = self.ofrep {
            keyed = keyed.merge(ofrep.router(&self.metrics));
        }
        if let Some(authzen) = self.authzen {
            let (evaluations, discovery) = authzen.routers(&self.metrics);
            (keyed, open) = (keyed.merge(evaluations), open.merge(discovery));
        }
        if let Some(forward_auth) = self.forward_auth {
            gateways = forward_auth.router(&self.metrics);
        }
        match self.callers {
            Some(_) => gateways = gateways.merge(keyed),
            None => open = open.merge(keyed),
        }
        if let Some(hosts) = self.hosts {
            open = open.layer(map_request_with_state(hosts, check_host));
        }
        open.merge(gateways)
    }
}

/// The layers of one protocol.
#[derive(Clone)]
pub(super) struct ProtocolLayers {
    /// The label `protocol` of the metric.
    protocol: &'static str,
    /// The headers in which a request may present its key.
    source: CredentialSource,
    /// Renders the answer to a rejected caller.
    refused: fn(AuthError) -> Reply,
    /// The permits for account loads.
    loads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl ProtocolLayers {
    pub(super) fn new(
        protocol: &'static str,
        source: CredentialSource,
        refused: fn(AuthError) -> Reply,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let loads = Arc::new(Semaphore::new(MAX_LOADS_PER_PROTOCOL));
        Self { protocol, source, refused, loads, metrics: metrics.clone() }
    }

    /// Admits only requests of callers with the scope `check`, and limits their account loads. With `stream`, the
    /// routes answer with streams, which end when their caller's access is revoked.
    pub(super) fn admit(&self, routes: Router, stream: Option<StreamKind>) -> Router {
        let state = (self.clone(), stream);
        routes.method_not_allowed_fallback(not_allowed).layer(from_fn_with_state(state, admit))
    }

    /// Counts requests by result.
    pub(super) fn count(&self, routes: Router) -> Router {
        routes.layer(from_fn_with_state(self.clone(), count))
    }

    /// Ends a stream when its caller's access is revoked, and counts that as a rejection.
    fn end_when_revoked(self, answer: Response, stream: StreamAdmission) -> Response {
        let revoked =
            async move { self.metrics.count_refused_call(stream.revoked().await.cause()) };
        let end = Box::pin(revoked);
        answer.map(|body| Body::from_stream(body.into_data_stream().take_until(end)))
    }
}

async fn admit(
    State((layers, stream)): State<(ProtocolLayers, Option<StreamKind>)>,
    Extension(connection): Extension<HttpConnection>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = match connection.session() {
        Some(session) => {
            session.admit(request.headers(), layers.source, Some(Scope::Check), stream)
        }
        None => Ok(Admitted::Open),
    };
    let (stream, caller) = match admitted {
        Ok(Admitted::Open) => (None, None),
        Ok(Admitted::Call(share)) => (None, Some(share.loads())),
        Ok(Admitted::Stream(stream)) => (Some(stream), None),
        Err(refusal) => {
            layers.metrics.count_refused_call(refusal.cause());
            body::ignore(request.into_body());
            return challenge((layers.refused)(refusal).into_response());
        }
    };
    let limits = LoadLimits { caller, protocol: Some(layers.loads.clone()) };
    let answer = limits.scope(next.run(request)).await;
    match stream.filter(|_| answer.status().is_success()) {
        Some(stream) => layers.end_when_revoked(answer, stream),
        None => answer,
    }
}

/// Adds the challenge that a 401 must have.
/// Source: <https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2>
fn challenge(mut answer: Response) -> Response {
    if answer.status() == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

async fn count(State(layers): State<ProtocolLayers>, request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    let answer = next.run(request).await;
    let result = match answer.extensions().get() {
        Some(ResultLabel(result)) => result,
        None if is_preflight => "preflight",
        None => "refused",
    };
    let labels = Labels([("protocol", layers.protocol), ("result", result)]);
    layers.metrics.protocol_requests.get_or_create(&labels).inc();
    answer
}

/// An answer, and the label `result` of the metric.
pub(super) struct Reply {
    pub(super) answer: Response,
    pub(super) result: &'static str,
}

/// The label `result` of the metric, as an extension of an answer. Answers of the router have none.
#[derive(Clone, Copy)]
struct ResultLabel(&'static str);

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        (Extension(ResultLabel(self.result)), self.answer).into_response()
    }
}

/// The status for a rejected caller, and the label `result` of the metric.
pub(super) fn refusal(refusal: AuthError) -> (StatusCode, &'static str) {
    match refusal {
        AuthError::NoKey | AuthError::WrongKey | AuthError::SeveralKeys => {
            (StatusCode::UNAUTHORIZED, "unauthenticated")
        }
        AuthError::NoScope(_) => (StatusCode::FORBIDDEN, "forbidden"),
        AuthError::TooMany => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
    }
}
