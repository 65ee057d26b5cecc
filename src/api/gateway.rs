//! Authorizes requests for gateways, over HTTP and gRPC alike: may this request pass to a route that needs a feature?
//!
//! Invariants: the user comes from a verified session, never from unverified headers of the client; and a request that
//! cannot be decided does not pass.

mod ext_authz;
mod forward_auth;

pub use ext_authz::ExtAuthz;
pub use forward_auth::ForwardAuth;

use crate::{
    check::{CheckError, CheckErrorKind, Evaluator, Subjects},
    clerk::{Credentials, SessionError, SessionVerifier, SignedIn},
    domain::{Explanation, Question, Subject},
    replica::Consistency,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// All headers that the service may add to a request, each with the field of the answer that it holds. A gateway must
/// remove or overwrite those that a client sends, so that they never reach a backend.
pub const HEADERS: [(&str, &str); 10] = [
    ("x-entitlement-reason", "reason"),
    ("x-entitlement-subject", "subject"),
    ("x-entitlement-plan", "plan"),
    ("x-entitlement-limit", "limit"),
    ("x-entitlement-valid-until", "validUntil"),
    ("x-entitlement-revision", "revision"),
    ("x-entitlement-checked-at", "checkedAt"),
    ("x-entitlement-stale", "stale"),
    ("x-entitlement-user", "user"),
    ("x-entitlement-organization", "organization"),
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

/// Why a request cannot be decided now. The gateway decides whether it passes nevertheless.
#[derive(Debug)]
pub struct GatewayUnavailable {
    /// The reason, for the gateway's log.
    pub reason: String,
    /// The label `result` of the metric.
    pub result: &'static str,
}

impl From<CheckError> for GatewayUnavailable {
    fn from(CheckError { reason, kind }: CheckError) -> Self {
        let result = match kind {
            CheckErrorKind::Overloaded => "overloaded",
            CheckErrorKind::Transient | CheckErrorKind::Permanent => "unavailable",
        };
        Self { reason, result }
    }
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
    ) -> Result<GatewayResponse, GatewayUnavailable> {
        let session = match session {
            Ok(session) => session,
            Err(error @ SessionError::NoKeys(_)) => {
                return Err(GatewayUnavailable {
                    reason: error.to_string(),
                    result: "unavailable",
                });
            }
            Err(error) => return Ok(unauthenticated(&error.to_string())),
        };
        let Ok(question) = Question::feature(route.feature) else {
            return Ok(misconfigured(
                "the feature of the route is missing or not a valid slug: correct the route",
            ));
        };
        let denied = match route.denied {
            None | Some("403" | "") => 403,
            Some("402") => 402,
            Some(_) => return Ok(misconfigured("`denied` must be 402 or 403: correct the route")),
        };
        let organization = session.organization.as_ref().map(Subject::id);
        let subjects = Subjects::of_user(session.user.id(), organization);
        let consistency = Consistency::default();
        let evaluated = self.checks.evaluated_accounts(subjects, &consistency).await?;
        let evaluation = self.checks.context();
        let answer = self.checks.answer(&evaluation, &evaluated, subjects, &question);
        Ok(decided(&answer, &session, route.feature, denied))
    }
}

fn decided(
    answer: &Explanation<'_>,
    session: &SignedIn,
    feature: &str,
    denied: u16,
) -> GatewayResponse {
    let (status, result) = match (answer.allowed, answer.is_unknown_target()) {
        (true, _) => (200, "allowed"),
        (false, false) => (denied, "denied"),
        (false, true) => (denied, "unknown_feature"),
    };
    let mut body =
        json!({ "allowed": answer.allowed, "feature": feature, "reason": answer.reason.name() });
    if let Some(plan) = answer.plan {
        body["plan"] = plan.into();
    }
    GatewayResponse { status, headers: headers(answer, session), body, result }
}

/// All of [`HEADERS`]. They are empty where the answer lacks the field, so that a gateway that copies them overwrites those
/// of the client.
fn headers(answer: &Explanation<'_>, session: &SignedIn) -> Vec<(&'static str, String)> {
    let mut fields = json!(answer);
    fields["user"] = session.user.as_str().into();
    fields["organization"] = session.organization.as_ref().map(Subject::as_str).into();
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    HEADERS.into_iter().map(|(name, field)| (name, text(&fields[field]))).collect()
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
