//! Authentication and authorization of gRPC calls: which caller may call which method.

use super::scopes::{RequiredScope, is_stream};
use crate::{
    replica::LoadLimits,
    server::{
        auth::{
            Admitted, AuthError, CallerSession, CallerShare, Callers, CredentialSource, Scope,
            StreamKind,
        },
        grpc::end_when_revoked,
        listener::Peer,
    },
    telemetry::Metrics,
};
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use std::{convert::Infallible, pin::Pin, sync::Arc};
use tokio::task::futures::TaskLocalFuture;
use tonic::{Status, body::Body};

/// Authenticates and authorizes the calls of a listener. Without [`Callers`], every call is admitted.
#[derive(Clone, Default)]
pub struct AuthLayer {
    callers: Option<Arc<Callers>>,
    metrics: Arc<Metrics>,
}

impl AuthLayer {
    /// Admits these callers, and counts rejected calls.
    #[must_use]
    pub fn new(callers: Option<Arc<Callers>>, metrics: Arc<Metrics>) -> Self {
        Self { callers, metrics }
    }

    /// Wraps the service of one connection with this peer.
    pub fn wrap<S>(&self, service: S, peer: &Peer) -> Authenticated<S> {
        Authenticated { service, session: self.session(peer), layer: self.clone() }
    }

    /// The authentication of a connection with this peer; `None` if callers are not authenticated.
    pub(super) fn session(&self, peer: &Peer) -> Option<CallerSession> {
        let callers = self.callers.clone()?;
        Some(CallerSession::new(callers, peer.names().to_vec()))
    }

    /// Admits a call of a connection with this session, or returns its error. The caller of a method that records callers
    /// becomes a part of the request.
    pub(super) fn admit<B>(
        &self,
        session: Option<&CallerSession>,
        request: &mut Request<B>,
    ) -> Result<Admitted, Status> {
        let Some(session) = session else { return Ok(Admitted::Open) };
        let method = request.uri().path();
        let required = RequiredScope::of(method);
        let scope = match required {
            RequiredScope::Nothing => return Ok(Admitted::Open),
            RequiredScope::Caller | RequiredScope::Unlisted => None,
            RequiredScope::Scope(scope) => Some(scope),
        };
        let (headers, source) = (request.headers(), CredentialSource::Authorization);
        let stream = is_stream(method).then_some(StreamKind::Grpc);
        let entry = session.admit(headers, source, scope, stream);
        let entry = entry.map_err(|refusal| refused(&self.metrics, refusal))?;
        match (required, &entry) {
            (RequiredScope::Unlisted, _) => Err(Status::unimplemented("unknown method")),
            (
                RequiredScope::Scope(scope @ (Scope::Admin | Scope::Support | Scope::Overrides)),
                Admitted::Call(share),
            ) => {
                tracing::info!(caller = share.caller, method, "{scope} call");
                if scope == Scope::Overrides {
                    request.extensions_mut().insert(share.clone());
                }
                Ok(entry)
            }
            (RequiredScope::Scope(_) | RequiredScope::Caller | RequiredScope::Nothing, _) => {
                Ok(entry)
            }
        }
    }

    /// Runs an admitted call with the share of its caller. A stream ends when the access of its caller is revoked.
    pub(super) async fn run<B, F>(
        &self,
        admitted: Admitted,
        service: &impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = F>,
        request: Request<B>,
    ) -> Response<Body>
    where
        F: Future<Output = GrpcResult>,
    {
        let call = service.call(request);
        let answer = match admitted {
            Admitted::Open => call.await,
            Admitted::Call(share) => loads_of(&share).scope(call).await,
            Admitted::Stream(admission) => {
                call.await.map(|answer| end_when_revoked(answer, admission, self.metrics.clone()))
            }
        };
        answer.unwrap_or_else(|never| match never {})
    }
}

/// The limit of the account loads of a caller.
fn loads_of(share: &CallerShare) -> LoadLimits {
    LoadLimits { caller: Some(share.loads()), protocol: None }
}

/// The service of one connection, which receives only admitted calls.
pub struct Authenticated<S> {
    service: S,
    session: Option<CallerSession>,
    layer: AuthLayer,
}

/// Counts a rejected call. The status does not reveal what was wrong with a key.
fn refused(metrics: &Metrics, refusal: AuthError) -> Status {
    metrics.count_refused_call(refusal.cause());
    match refusal {
        AuthError::NoKey | AuthError::WrongKey | AuthError::SeveralKeys => Status::unauthenticated(
            "the call has no valid credentials: send an API key as `authorization: Bearer KEY`, or use a client \
             certificate",
        ),
        AuthError::NoScope(scope) => {
            Status::permission_denied(format!("the caller lacks the scope `{scope}`"))
        }
        AuthError::TooMany => Status::resource_exhausted(
            "the caller has too many open streams: close some, or retry later",
        ),
    }
}

type GrpcResult = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Incoming>> for Authenticated<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        Either<S::Future, TaskLocalFuture<LoadLimits, S::Future>>,
        Either<Ready<GrpcResult>, Pin<Box<dyn Future<Output = GrpcResult> + Send>>>,
    >;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        match self.layer.admit(self.session.as_ref(), &mut request) {
            Ok(Admitted::Open) => Either::Left(Either::Left(self.service.call(request))),
            Ok(Admitted::Call(share)) => {
                Either::Left(Either::Right(loads_of(&share).scope(self.service.call(request))))
            }
            Ok(Admitted::Stream(admission)) => {
                let (answer, metrics) = (self.service.call(request), self.layer.metrics.clone());
                let response =
                    async move { Ok(end_when_revoked(answer.await?, admission, metrics)) };
                Either::Right(Either::Right(Box::pin(response)))
            }
            Err(refused) => Either::Right(Either::Left(ready(Ok(refused.into_http())))),
        }
    }
}
