//! Who is let in, and to which methods.

use super::scopes::{Needs, is_stream};
use crate::{
    replica::Shares,
    server::{
        auth::{Admitted, Callers, Place, Refusal, Scope, Session, StreamKind},
        grpc::bound,
        listener::Peer,
    },
    telemetry::{Labels, Metrics},
};
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use std::{convert::Infallible, pin::Pin, sync::Arc};
use tokio::task::futures::TaskLocalFuture;
use tonic::{Status, body::Body};

/// Lets callers in. Without [`Callers`] everybody is.
#[derive(Clone, Default)]
pub struct Door {
    callers: Option<Arc<Callers>>,
    metrics: Arc<Metrics>,
}

impl Door {
    /// Lets these callers in, and counts whom it does not.
    #[must_use]
    pub fn new(callers: Option<Arc<Callers>>, metrics: Arc<Metrics>) -> Self {
        Self { callers, metrics }
    }

    /// Stands before what a connection of this peer is served by.
    pub fn before<S>(&self, service: S, peer: &Peer) -> Guarded<S> {
        let session = |callers| Session::new(callers, peer.names().to_vec());
        let session = self.callers.clone().map(session);
        Guarded { service, session, metrics: self.metrics.clone() }
    }
}

/// A service on one connection, behind the door.
pub struct Guarded<S> {
    service: S,
    session: Option<Session>,
    metrics: Arc<Metrics>,
}

impl<S> Guarded<S> {
    fn admit(&self, request: &Request<Incoming>) -> Result<Admitted, Status> {
        let Some(session) = &self.session else { return Ok(Admitted::Open) };
        let method = request.uri().path();
        let needs = Needs::of(method);
        let scope = match needs {
            Needs::Nothing => return Ok(Admitted::Open),
            Needs::Caller | Needs::Unlisted => None,
            Needs::Scope(scope) => Some(scope),
        };
        let (headers, place) = (request.headers(), Place::Authorization);
        let stream = is_stream(method).then_some(StreamKind::Grpc);
        let entry = session.admit(headers, place, scope, stream);
        let entry = entry.map_err(|refusal| refused(&self.metrics, refusal))?;
        match (needs, &entry) {
            (Needs::Unlisted, _) => Err(Status::unimplemented("there is no such method")),
            (Needs::Scope(Scope::Admin), Admitted::Call(share)) => {
                tracing::info!(caller = share.caller, method, "an operator calls");
                Ok(entry)
            }
            (Needs::Scope(_) | Needs::Caller | Needs::Nothing, _) => Ok(entry),
        }
    }
}

/// Counts a refusal. Its answer does not tell what was wrong with a key.
fn refused(metrics: &Metrics, refusal: Refusal) -> Status {
    metrics.calls_refused.get_or_create(&Labels([("cause", refusal.cause())])).inc();
    match refusal {
        Refusal::NoKey | Refusal::WrongKey | Refusal::SeveralKeys => Status::unauthenticated(
            "who calls is not known: send a valid API key as `authorization: Bearer KEY`, or use a client \
             certificate",
        ),
        Refusal::NoScope(scope) => {
            Status::permission_denied(format!("the caller lacks the scope `{scope}`"))
        }
        Refusal::TooMany => Status::resource_exhausted(
            "the caller has too many streams: end some, or ask again later",
        ),
    }
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        Either<S::Future, TaskLocalFuture<Shares, S::Future>>,
        Either<Ready<Answer>, Pin<Box<dyn Future<Output = Answer> + Send>>>,
    >;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match self.admit(&request) {
            Ok(Admitted::Open) => Either::Left(Either::Left(self.service.call(request))),
            Ok(Admitted::Call(share)) => {
                let shares = Shares { caller: Some(share.readings()), protocol: None };
                Either::Left(Either::Right(shares.scope(self.service.call(request))))
            }
            Ok(Admitted::Stream(admission)) => {
                let (answer, metrics) = (self.service.call(request), self.metrics.clone());
                let bound = async move { Ok(bound(answer.await?, admission, metrics)) };
                Either::Right(Either::Right(Box::pin(bound)))
            }
            Err(refused) => Either::Right(Either::Left(ready(Ok(refused.into_http())))),
        }
    }
}
