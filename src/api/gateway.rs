//! Authorizes requests for gateways, over HTTP and gRPC alike: may this request pass to a route that needs a feature?
//!
//! Invariants: the user comes from a verified session, never from unverified headers of the client; and a request that
//! cannot be decided does not pass.

mod ext_authz;
mod forward_auth;

pub use ext_authz::ExtAuthz;
pub use forward_auth::ForwardAuth;

use crate::{
    check::{CheckErrorKind, Evaluator, Subjects},
    clerk::{Credentials, SessionError, SessionVerifier, SignedIn},
    domain::{Decision, Question, Subject},
    replica::Consistency,
};
use chrono::SecondsFormat;
use serde_json::{Value, json};
use std::sync::Arc;

/// All headers that the service may add to a request. A gateway must remove or overwrite those that a client sends, so
/// that they never reach a backend.
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

/// Decides whether a request may pass.
#[derive(Debug)]
pub struct GatewayAuthorizer {
    checks: Arc<Evaluator>,
    sessions: Option<SessionVerifier>,
}

/// The answer to a gateway.
#[derive(Debug)]
pub struct GatewayResponse {
    /// 200, 401, 402, 403 or 503.
    pub status: u16,
    /// Headers to add to the request that passes, or to the denial.
    pub headers: Vec<(&'static str, String)>,
    /// The body of a denial, in JSON.
    pub body: Value,
    /// The label `result` of the metric.
    pub result: &'static str,
}

/// The requirement of a route.
#[derive(Debug, Clone, Copy)]
pub struct Route<'r> {
    /// The feature, optionally with a scope.
    pub feature: &'r str,
    /// The status of a denial: `402` or `403`; 403 by default.
    pub denied: Option<&'r str>,
}

impl GatewayAuthorizer {
    /// Creates the authorizer. Without `sessions`, no session token can be verified.
    #[must_use]
    pub fn new(checks: Arc<Evaluator>, sessions: Option<SessionVerifier>) -> Self {
        Self { checks, sessions }
    }

    /// Verifies the session token of a request.
    pub async fn session(&self, credentials: &Credentials<'_>) -> Result<SignedIn, SessionError> {
        let unset = || SessionError::NoKeys("set CLERK_JWT_KEY or CLERK_JWKS_URL".into());
        self.sessions.as_ref().ok_or_else(unset)?.signed_in(credentials).await
    }

    /// Decides whether a request of this session may pass to the route.
    pub async fn pass(
        &self,
        session: Result<SignedIn, SessionError>,
        route: Route<'_>,
    ) -> GatewayResponse {
        let session = match session {
            Ok(session) => session,
            Err(error @ SessionError::NoKeys(_)) => return unavailable(&error.to_string()),
            Err(error) => return unauthenticated(&error.to_string()),
        };
        let Ok(question) = Question::feature(route.feature) else {
            return misconfigured(
                "the feature of the route is missing or not a valid slug: correct the route",
            );
        };
        let denied = match route.denied {
            None | Some("403" | "") => 403,
            Some("402") => 402,
            Some(_) => return misconfigured("`denied` must be 402 or 403: correct the route"),
        };
        let organization = session.organization.as_ref().map(Subject::id);
        let subjects = Subjects::of_user(session.user.id(), organization);
        let consistency = Consistency::default();
        let evaluated = match self.checks.evaluated_accounts(subjects, &consistency).await {
            Ok(evaluated) => evaluated,
            Err(failure) if failure.kind == CheckErrorKind::Overloaded => {
                return GatewayResponse { result: "overloaded", ..unavailable(&failure.reason) };
            }
            Err(failure) => return unavailable(&failure.reason),
        };
        let evaluation = self.checks.context();
        let decision = self.checks.decide(&evaluation, &evaluated, subjects, &question);
        let state = State {
            revision: evaluation.revision(&evaluated),
            stale: evaluated.stale_for().is_some(),
        };
        decided(&decision, state, &session, route.feature, denied)
    }
}

/// The state of the data that a decision was made from.
struct State {
    revision: String,
    stale: bool,
}

fn decided(
    decision: &Decision<'_>,
    state: State,
    session: &SignedIn,
    feature: &str,
    denied: u16,
) -> GatewayResponse {
    let explained = decision.verdict.explain();
    let text = |found: Option<&str>| found.unwrap_or_default().to_owned();
    let until = decision.valid_until.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let headers = vec![
        ("x-entitlement-reason", explained.reason.to_owned()),
        ("x-entitlement-subject", text(explained.subject.map(Subject::as_str))),
        ("x-entitlement-plan", text(explained.plan)),
        ("x-entitlement-limit", explained.limit.map(|limit| limit.to_string()).unwrap_or_default()),
        ("x-entitlement-valid-until", until.unwrap_or_default()),
        ("x-entitlement-revision", state.revision),
        ("x-entitlement-stale", state.stale.to_string()),
        ("x-entitlement-user", session.user.to_string()),
        ("x-entitlement-organization", text(session.organization.as_ref().map(Subject::as_str))),
    ];
    let (status, result) = match (explained.allowed, decision.verdict.is_unknown_target()) {
        (true, _) => (200, "allowed"),
        (false, false) => (denied, "denied"),
        (false, true) => (denied, "unknown_feature"),
    };
    let mut body =
        json!({ "allowed": explained.allowed, "feature": feature, "reason": explained.reason });
    if let Some(plan) = explained.plan {
        body["plan"] = plan.into();
    }
    GatewayResponse { status, headers, body, result }
}

fn unauthenticated(reason: &str) -> GatewayResponse {
    let headers = vec![("www-authenticate", "Bearer".to_owned())];
    GatewayResponse {
        status: 401,
        headers,
        body: json!({ "error": reason }),
        result: "unauthenticated",
    }
}

fn misconfigured(reason: &str) -> GatewayResponse {
    let body = json!({ "error": reason });
    GatewayResponse { status: 403, headers: Vec::new(), body, result: "invalid" }
}

/// The answer to a gateway that is not authorized. Not 401, which would make a signed-in user sign in again.
#[must_use]
pub fn caller_rejected() -> GatewayResponse {
    let reason = "the gateway is not authorized: it must send an API key with the scope `check` as X-API-Key, or use a \
                  client certificate";
    GatewayResponse { result: "gateway_refused", ..misconfigured(reason) }
}

/// The answer when the service cannot decide now: 503, retry after 1 s.
#[must_use]
pub fn unavailable(reason: &str) -> GatewayResponse {
    let headers = vec![("retry-after", "1".to_owned())];
    GatewayResponse {
        status: 503,
        headers,
        body: json!({ "error": reason }),
        result: "unavailable",
    }
}
