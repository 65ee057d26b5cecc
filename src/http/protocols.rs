//! The protocols that other systems ask through, on the internal listener, and what holds for all of them: who may
//! ask, a bound for each on the requests that wait for the database, and a count of what became of each.

use super::{Answer, AuthZen, ForwardAuth, Hosts, Ofrep, body::Body, refuse};
use crate::{
    access::Decision,
    callers::{Admission, Callers, Place, Refusal, Scope, Session, StreamKind},
    checks::Facts,
    net::Peer,
    telemetry::{Labels, Metrics},
};
use chrono::SecondsFormat;
use futures_util::{StreamExt, poll};
use http::{Method, Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{sync::Arc, task::Poll};
use tokio::sync::Semaphore;

/// The most requests of one protocol that wait for the database: less than a third of the readings of Postgres that all
/// may have in progress, so that one protocol leaves room for the others.
const WAITING: usize = 80;
/// The largest body: a full batch with the longest ids fits.
pub(super) const LARGEST_BODY: usize = 64 * 1024;

/// Where OFREP is.
const OFREP: &str = "/ofrep/";
/// Where forward authentication is.
pub(super) const FORWARD_AUTH: &str = "/auth/";

/// The protocols that are served.
pub struct Protocols {
    /// `OpenFeature`'s remote evaluation.
    pub ofrep: Option<Ofrep>,
    /// `AuthZEN` evaluations.
    pub authzen: Option<AuthZen>,
    /// Forward authentication of nginx, Caddy and Traefik.
    pub forward_auth: Option<ForwardAuth>,
    /// Who may ask; everybody, if this is not known.
    callers: Option<Arc<Callers>>,
    /// The names that the listener answers to.
    pub(super) hosts: Hosts,
    metrics: Arc<Metrics>,
}

/// Bounds the requests of one protocol that wait for the database. A cached check never waits.
pub(super) struct Waiting(Semaphore);

/// Too many requests of the protocol wait already.
pub(super) struct Crowded;

impl Waiting {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(WAITING))
    }

    /// Does work that may wait for the database; only if it does, it needs one of the places.
    pub(super) async fn bound<F: Future>(&self, work: F) -> Result<F::Output, Crowded> {
        let mut work = Box::pin(work);
        if let Poll::Ready(done) = poll!(work.as_mut()) {
            return Ok(done);
        }
        let _place = self.0.try_acquire().map_err(|_| Crowded)?;
        Ok(work.await)
    }
}

/// An answer, and one word for what became of the request: a label of few values.
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) result: &'static str,
}

/// Whether a request goes on.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    Open,
    /// Its caller may not ask.
    Closed(Refusal),
}

/// How a caller who may not ask is refused: the status, and the word for the metric.
pub(super) fn refusal(refusal: Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::NoKey | Refusal::WrongKey | Refusal::SeveralKeys => {
            (StatusCode::UNAUTHORIZED, "unauthenticated")
        }
        Refusal::NoScope(_) => (StatusCode::FORBIDDEN, "forbidden"),
        Refusal::TooMany => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
    }
}

impl Protocols {
    /// None yet; asked by these callers only, if they are known.
    #[must_use]
    pub fn none(callers: Option<Arc<Callers>>, hosts: Hosts, metrics: Arc<Metrics>) -> Self {
        Self { ofrep: None, authzen: None, forward_auth: None, callers, hosts, metrics }
    }

    /// Who calls on a connection of this peer, if that is to be known.
    pub(super) fn session(&self, peer: &Peer) -> Option<Session> {
        let callers = self.callers.clone();
        callers.map(|callers| Session::new(callers, peer.names().to_vec()))
    }

    /// Lets a request go on if its caller may ask it, and counts refusals; tells of the admission if the answer is a
    /// stream.
    pub(super) fn admit<B>(
        &self,
        session: &Session,
        request: &Request<B>,
    ) -> Result<Option<Admission>, Refusal> {
        let path = request.uri().path();
        let place = if path.starts_with(FORWARD_AUTH) {
            Place::ApiKey // `authorization` is of the user who is asked about
        } else if is_open(request) {
            return Ok(None);
        } else {
            Place::Either
        };
        let (headers, scope) = (request.headers(), Some(Scope::Check));
        let admitted = if Ofrep::is_stream(path) {
            session.admit_stream(headers, place, scope, StreamKind::Ofrep).map(Some)
        } else {
            session.admit(headers, place, scope).map(|_| None)
        };
        admitted.inspect_err(|refusal| count(&self.metrics, *refusal))
    }

    /// Closes a stream when its caller is no longer let in, and counts that as a refusal.
    fn bound(&self, answer: Answer, admission: Admission) -> Answer {
        let metrics = self.metrics.clone();
        let withdrawn = async move { count(&metrics, admission.withdrawn().await) };
        answer.map(|body| match body {
            Body::Right(events) => {
                Body::Right(StreamBody::new(Box::pin(events.take_until(Box::pin(withdrawn)))))
            }
            Body::Left(whole) => Body::Left(whole),
        })
    }

    /// Answers a request that may be of one of the protocols.
    pub(super) async fn take(
        &self,
        request: Request<Incoming>,
        admitted: Result<Option<Admission>, Refusal>,
    ) -> Answer {
        let (admission, gate) = match admitted {
            Ok(admission) => (admission, Gate::Open),
            Err(refusal) => (None, Gate::Closed(refusal)),
        };
        let path = request.uri().path();
        let (protocol, reply) = match self {
            Self { ofrep: Some(ofrep), .. } if path.starts_with(OFREP) => {
                ("ofrep", ofrep.answer(request, gate).await)
            }
            Self { authzen: Some(authzen), .. } if AuthZen::has(path) => {
                ("authzen", authzen.answer(request, gate).await)
            }
            Self { forward_auth: Some(forward_auth), .. } if path.starts_with(FORWARD_AUTH) => {
                ("forward-auth", forward_auth.answer(&request, gate).await)
            }
            _ => return refuse(StatusCode::NOT_FOUND, "there is nothing here"),
        };
        let labels = Labels([("protocol", protocol), ("result", reply.result)]);
        self.metrics.protocol_requests.get_or_create(&labels).inc();
        match admission {
            Some(admission) => self.bound(reply.answer, admission),
            None => reply.answer,
        }
    }
}

fn count(metrics: &Metrics, refusal: Refusal) {
    metrics.calls_refused.get_or_create(&Labels([("cause", refusal.cause())])).inc();
}

/// Whether everybody may ask this: a browser's question before the request, which cannot have a key; where things are;
/// and what is of no protocol, such as a probe.
fn is_open<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    let is_asked = path.starts_with(OFREP) || (AuthZen::has(path) && !AuthZen::is_discovery(path));
    !is_asked || *request.method() == Method::OPTIONS
}

/// Why something was decided so; a protocol writes the names of its own in its own way.
pub(super) fn explanation(
    decision: &Decision<'_>,
    facts: &Facts,
    revision: &str,
    valid_until: &str,
) -> Value {
    let told = decision.verdict.told();
    let mut explained = json!({
        "reason": told.reason,
        "revision": revision,
        "stale": facts.stale_for().is_some(),
    });
    let until = decision.valid_until.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
    for (name, value) in [
        ("subject", told.subject.map(|subject| subject.as_str().into())),
        ("plan", told.plan.map(Value::from)),
        ("limit", told.limit.map(Value::from)),
        (valid_until, until.map(Value::from)),
    ] {
        if let Some(value) = value {
            explained[name] = value;
        }
    }
    explained
}
