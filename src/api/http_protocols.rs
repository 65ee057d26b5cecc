//! The protocols that other systems ask through, on the internal listener, and what holds for all of them: who may
//! ask, a share for each of the readings of Postgres, and a count of what became of each.

use super::{AuthZen, ForwardAuth, Hosts, Ofrep};
use crate::{
    check::Facts,
    domain::Decision,
    replica::Shares,
    server::{
        auth::{Admission, Admitted, Callers, Place, Refusal, Scope, Session, StreamKind},
        http::{
            body::Body,
            response::{Answer, refuse},
        },
        listener::Peer,
    },
    telemetry::{Labels, Metrics},
};
use chrono::SecondsFormat;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The most readings of Postgres for one protocol: less than a third of those that all may have in progress, so that one
/// protocol leaves room for the others.
const READINGS: usize = 80;
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
    readings: Readings,
    metrics: Arc<Metrics>,
}

/// The readings of Postgres for each protocol.
struct Readings {
    ofrep: Arc<Semaphore>,
    authzen: Arc<Semaphore>,
    forward_auth: Arc<Semaphore>,
}

impl Default for Readings {
    fn default() -> Self {
        let [ofrep, authzen, forward_auth] = [(); 3].map(|()| Arc::new(Semaphore::new(READINGS)));
        Self { ofrep, authzen, forward_auth }
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
        let readings = Readings::default();
        Self { ofrep: None, authzen: None, forward_auth: None, callers, hosts, readings, metrics }
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
    ) -> Result<Admitted, Refusal> {
        let path = request.uri().path();
        let place = if path.starts_with(FORWARD_AUTH) {
            Place::ApiKey // `authorization` is of the user who is asked about
        } else if is_open(request) {
            return Ok(Admitted::Open);
        } else {
            Place::Either
        };
        let (headers, scope) = (request.headers(), Some(Scope::Check));
        let stream = Ofrep::is_stream(path).then_some(StreamKind::Ofrep);
        let admitted = session.admit(headers, place, scope, stream);
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
        admitted: Result<Admitted, Refusal>,
    ) -> Answer {
        let (admission, caller, gate) = match admitted {
            Ok(Admitted::Open) => (None, None, Gate::Open),
            Ok(Admitted::Call(share)) => (None, Some(share.readings()), Gate::Open),
            Ok(Admitted::Stream(admission)) => (Some(admission), None, Gate::Open),
            Err(refusal) => (None, None, Gate::Closed(refusal)),
        };
        let shares =
            |protocol: &Arc<Semaphore>| Shares { caller, protocol: Some(protocol.clone()) };
        let path = request.uri().path();
        let (protocol, reply) = match self {
            Self { ofrep: Some(ofrep), .. } if path.starts_with(OFREP) => {
                ("ofrep", shares(&self.readings.ofrep).scope(ofrep.answer(request, gate)).await)
            }
            Self { authzen: Some(authzen), .. } if AuthZen::has(path) => (
                "authzen",
                shares(&self.readings.authzen).scope(authzen.answer(request, gate)).await,
            ),
            Self { forward_auth: Some(forward_auth), .. } if path.starts_with(FORWARD_AUTH) => (
                "forward-auth",
                shares(&self.readings.forward_auth)
                    .scope(forward_auth.answer(&request, gate))
                    .await,
            ),
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
    !needs_key(request.uri().path()) || *request.method() == Method::OPTIONS
}

/// Whether what is at a path needs a key, where callers are named.
pub(super) fn needs_key(path: &str) -> bool {
    path.starts_with(OFREP) || (AuthZen::has(path) && !AuthZen::is_discovery(path))
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
