//! What gateways are told, the same over HTTP and gRPC: may the request pass to a route that needs a feature?
//!
//! What must always hold: who asks is known from a verified session, never from what a client says of itself; and
//! what cannot be answered does not pass.

mod ext_authz;
mod forward_auth;

pub use ext_authz::ExtAuthz;
pub use forward_auth::ForwardAuth;

use crate::{
    check::{Checks, FailureKind, Payers},
    clerk::{Credentials, Session, Sessions, Unverified},
    domain::{Decision, Question, Subject},
    replica::Need,
};
use chrono::SecondsFormat;
use serde_json::{Value, json};
use std::sync::Arc;

/// The headers that a request may be given on its way, all of them: what a client sends under these names must not
/// reach a backend.
pub const HEADERS: [&str; 9] = [
    "x-entitlement-reason",
    "x-entitlement-subject",
    "x-entitlement-plan",
    "x-entitlement-limit",
    "x-entitlement-valid-until",
    "x-entitlement-revision",
    "x-entitlement-stale",
    "x-entitlement-user",
    "x-entitlement-organization",
];

/// Lets requests pass, or not.
#[derive(Debug)]
pub struct Gateways {
    checks: Arc<Checks>,
    sessions: Option<Sessions>,
}

/// What becomes of a request.
#[derive(Debug)]
pub struct Passage {
    /// 200, 401, 402, 403 or 503.
    pub status: u16,
    /// What to add to the request, or to the refusal.
    pub headers: Vec<(&'static str, String)>,
    /// Why, for machines and people.
    pub body: Value,
    /// One word, for the metric.
    pub result: &'static str,
}

/// What a route asks of a request.
#[derive(Debug, Clone, Copy)]
pub struct Route<'r> {
    /// The feature, maybe scoped.
    pub feature: &'r str,
    /// The status of a denial: `402` or `403`; nothing: 403.
    pub denied: Option<&'r str>,
}

impl Gateways {
    /// Decides by these checks, for whom these sessions say.
    #[must_use]
    pub fn new(checks: Arc<Checks>, sessions: Option<Sessions>) -> Self {
        Self { checks, sessions }
    }

    /// Who is signed in, by what the request itself brings.
    pub async fn session(&self, credentials: &Credentials<'_>) -> Result<Session, Unverified> {
        let unset = || Unverified::NoKeys("set CLERK_JWT_KEY or CLERK_JWKS_URL".into());
        self.sessions.as_ref().ok_or_else(unset)?.signed_in(credentials).await
    }

    /// Whether a request of this session passes.
    pub async fn pass(&self, session: Result<Session, Unverified>, route: Route<'_>) -> Passage {
        let session = match session {
            Ok(session) => session,
            Err(error @ Unverified::NoKeys(_)) => return unavailable(&error.to_string()),
            Err(error) => return unauthenticated(&error.to_string()),
        };
        let Ok(question) = Question::feature(route.feature) else {
            return misconfigured("the route names no feature that there can be");
        };
        let denied = match route.denied {
            None | Some("403" | "") => 403,
            Some("402") => 402,
            Some(_) => return misconfigured("the status of a denial must be 402 or 403"),
        };
        let organization = session.organization.as_ref().map(Subject::id);
        let payers = Payers::of_user(session.user.id(), organization);
        let facts = match self.checks.facts(payers, &Need::default()).await {
            Ok(facts) => facts,
            Err(failure) if failure.kind == FailureKind::Crowded => {
                return Passage { result: "overloaded", ..unavailable(&failure.reason) };
            }
            Err(failure) => return unavailable(&failure.reason),
        };
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, payers, &question);
        let state = State { revision: moment.revision(&facts), stale: facts.stale_for().is_some() };
        decided(&decision, state, &session, route.feature, denied)
    }
}

/// What a decision was made from.
struct State {
    revision: String,
    stale: bool,
}

fn decided(
    decision: &Decision<'_>,
    state: State,
    session: &Session,
    feature: &str,
    denied: u16,
) -> Passage {
    let told = decision.verdict.told();
    let text = |found: Option<&str>| found.unwrap_or_default().to_owned();
    let until = decision.valid_until.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let headers = vec![
        ("x-entitlement-reason", told.reason.to_owned()),
        ("x-entitlement-subject", text(told.subject.map(Subject::as_str))),
        ("x-entitlement-plan", text(told.plan)),
        ("x-entitlement-limit", told.limit.map(|limit| limit.to_string()).unwrap_or_default()),
        ("x-entitlement-valid-until", until.unwrap_or_default()),
        ("x-entitlement-revision", state.revision),
        ("x-entitlement-stale", state.stale.to_string()),
        ("x-entitlement-user", session.user.to_string()),
        ("x-entitlement-organization", text(session.organization.as_ref().map(Subject::as_str))),
    ];
    let (status, result) = match (told.allowed, decision.verdict.is_about_nothing()) {
        (true, _) => (200, "allowed"),
        (false, false) => (denied, "denied"),
        (false, true) => (denied, "unknown_feature"),
    };
    let mut body = json!({ "allowed": told.allowed, "feature": feature, "reason": told.reason });
    if let Some(plan) = told.plan {
        body["plan"] = plan.into();
    }
    Passage { status, headers, body, result }
}

fn unauthenticated(reason: &str) -> Passage {
    let headers = vec![("www-authenticate", "Bearer".to_owned())];
    Passage { status: 401, headers, body: json!({ "error": reason }), result: "unauthenticated" }
}

fn misconfigured(reason: &str) -> Passage {
    let body = json!({ "error": reason });
    Passage { status: 403, headers: Vec::new(), body, result: "invalid" }
}

/// That a gateway may not ask. It is no 401, which would send a user who is signed in to sign in again.
#[must_use]
pub fn not_let_in() -> Passage {
    let reason = "the gateway may not ask: it must send an API key with the scope `check` as X-API-Key, or use a \
                  client certificate";
    Passage { result: "gateway_refused", ..misconfigured(reason) }
}

/// That nothing can be answered now.
#[must_use]
pub fn unavailable(reason: &str) -> Passage {
    let headers = vec![("retry-after", "1".to_owned())];
    Passage { status: 503, headers, body: json!({ "error": reason }), result: "unavailable" }
}
