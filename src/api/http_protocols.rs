//! The HTTP protocols on the operator listener, and their common parts: authentication, a limit of account loads for
//! each protocol, and a count of requests by result.

use super::{AuthZen, ForwardAuth, Hosts, Ofrep};
use crate::{
    replica::LoadLimits,
    server::{
        auth::{
            Admitted, AuthError, CallerSession, Callers, CredentialSource, Scope, StreamAdmission,
            StreamKind,
        },
        http::{
            body::Body,
            response::{Answer, refuse},
        },
        listener::Peer,
    },
    telemetry::{Labels, Metrics},
};
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The maximum number of account loads of one protocol in progress: less than a third of the 256 of a replica, so that
/// the three protocols together leave some for gRPC.
const MAX_LOADS_PER_PROTOCOL: usize = 80;
/// The largest body, in bytes: a full batch with ids of the maximum length fits.
pub(super) const LARGEST_BODY: usize = 64 * 1024;

/// The prefix of OFREP's paths.
const OFREP: &str = "/ofrep/";
/// The prefix of forward authentication's paths.
pub(super) const FORWARD_AUTH: &str = "/auth/";

/// The HTTP protocols, each of which is served if it is set.
pub struct Protocols {
    /// `OpenFeature`'s remote evaluation.
    pub ofrep: Option<Ofrep>,
    /// `AuthZEN` evaluations.
    pub authzen: Option<AuthZen>,
    /// Forward authentication of nginx, Caddy and Traefik.
    pub forward_auth: Option<ForwardAuth>,
    /// The callers to authenticate; `None` admits every request.
    callers: Option<Arc<Callers>>,
    /// The accepted host names.
    pub(super) hosts: Hosts,
    loads: LoadPermits,
    metrics: Arc<Metrics>,
}

/// The permits for account loads of each protocol.
struct LoadPermits {
    ofrep: Arc<Semaphore>,
    authzen: Arc<Semaphore>,
    forward_auth: Arc<Semaphore>,
}

impl Default for LoadPermits {
    fn default() -> Self {
        let [ofrep, authzen, forward_auth] =
            [(); 3].map(|()| Arc::new(Semaphore::new(MAX_LOADS_PER_PROTOCOL)));
        Self { ofrep, authzen, forward_auth }
    }
}

/// An answer, and the label `result` of the metric.
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) result: &'static str,
}

/// Whether the caller of a request is admitted.
#[derive(Clone, Copy)]
pub(super) enum Admission {
    Open,
    /// The caller is rejected.
    Closed(AuthError),
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

impl Protocols {
    /// Creates the set without any protocol; with `callers`, requests are authenticated.
    #[must_use]
    pub fn none(callers: Option<Arc<Callers>>, hosts: Hosts, metrics: Arc<Metrics>) -> Self {
        let loads = LoadPermits::default();
        Self { ofrep: None, authzen: None, forward_auth: None, callers, hosts, loads, metrics }
    }

    /// The authentication of a connection with this peer; `None` if callers are not authenticated.
    pub(super) fn session(&self, peer: &Peer) -> Option<CallerSession> {
        let callers = self.callers.clone();
        callers.map(|callers| CallerSession::new(callers, peer.names().to_vec()))
    }

    /// Authenticates and authorizes a request, and counts rejections. A request for a stream is admitted as
    /// [`Admitted::Stream`].
    pub(super) fn admit<B>(
        &self,
        session: &CallerSession,
        request: &Request<B>,
    ) -> Result<Admitted, AuthError> {
        let path = request.uri().path();
        let source = if path.starts_with(FORWARD_AUTH) {
            CredentialSource::ApiKey // `authorization` has the token of the user to check
        } else if is_open(request) {
            return Ok(Admitted::Open);
        } else {
            CredentialSource::Either
        };
        let (headers, scope) = (request.headers(), Some(Scope::Check));
        let stream = Ofrep::is_stream(path).then_some(StreamKind::Ofrep);
        let admitted = session.admit(headers, source, scope, stream);
        admitted.inspect_err(|refusal| self.metrics.count_refused_call(refusal.cause()))
    }

    /// Ends a stream when its caller's access is revoked, and counts that as a rejection.
    fn end_when_revoked(&self, answer: Answer, stream: StreamAdmission) -> Answer {
        let metrics = self.metrics.clone();
        let revoked = async move { metrics.count_refused_call(stream.withdrawn().await.cause()) };
        answer.map(|body| match body {
            Body::Right(events) => {
                Body::Right(StreamBody::new(Box::pin(events.take_until(Box::pin(revoked)))))
            }
            Body::Left(whole) => Body::Left(whole),
        })
    }

    /// Answers a request with the protocol of its path; 404 if there is none.
    pub(super) async fn take(
        &self,
        request: Request<Incoming>,
        admitted: Result<Admitted, AuthError>,
    ) -> Answer {
        let (stream, caller, admission) = match admitted {
            Ok(Admitted::Open) => (None, None, Admission::Open),
            Ok(Admitted::Call(share)) => (None, Some(share.loads()), Admission::Open),
            Ok(Admitted::Stream(stream)) => (Some(stream), None, Admission::Open),
            Err(refusal) => (None, None, Admission::Closed(refusal)),
        };
        let limits =
            |protocol: &Arc<Semaphore>| LoadLimits { caller, protocol: Some(protocol.clone()) };
        let path = request.uri().path();
        let (protocol, reply) = match self {
            Self { ofrep: Some(ofrep), .. } if path.starts_with(OFREP) => {
                ("ofrep", limits(&self.loads.ofrep).scope(ofrep.answer(request, admission)).await)
            }
            Self { authzen: Some(authzen), .. } if AuthZen::has(path) => (
                "authzen",
                limits(&self.loads.authzen).scope(authzen.answer(request, admission)).await,
            ),
            Self { forward_auth: Some(forward_auth), .. } if path.starts_with(FORWARD_AUTH) => (
                "forward-auth",
                limits(&self.loads.forward_auth)
                    .scope(forward_auth.answer(&request, admission))
                    .await,
            ),
            _ => return refuse(StatusCode::NOT_FOUND, "there is no such path"),
        };
        let labels = Labels([("protocol", protocol), ("result", reply.result)]);
        self.metrics.protocol_requests.get_or_create(&labels).inc();
        match stream {
            Some(stream) => self.end_when_revoked(reply.answer, stream),
            None => reply.answer,
        }
    }
}

/// Whether a request needs no key: a CORS preflight, which cannot have one; discovery; and paths of no protocol, such
/// as probes.
fn is_open<B>(request: &Request<B>) -> bool {
    !needs_key(request.uri().path()) || *request.method() == Method::OPTIONS
}

/// Whether a path needs a key when callers are authenticated.
pub(super) fn needs_key(path: &str) -> bool {
    path.starts_with(OFREP) || (AuthZen::has(path) && !AuthZen::is_discovery(path))
}
