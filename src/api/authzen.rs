//! `AuthZEN`, the `OpenID` Foundation's Authorization API 1.0: single and batch evaluations, and discovery.
//!
//! Source: <https://openid.net/specs/authorization-api-1_0.html>. If the resource type is `feature` or `plan`, the
//! resource id is the feature or plan, and the action name is ignored. With any other resource type, which belongs to
//! the caller's own model, the action name is the feature. Invariant: an invalid evaluation is denied.

mod evaluation;

use super::http_protocols::{LARGEST_BODY, ProtocolLayers, Reply, refusal};
use crate::{
    check::{CheckError, CheckErrorKind, CooperativeYield, Evaluator},
    domain::{Explanation, PublicUrl},
    replica::Consistency,
    server::{
        auth::{AuthError, CredentialSource},
        http::{
            body::{self, BodyError},
            response::{json_body, not_allowed},
        },
    },
    telemetry::Metrics,
};
use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evaluation::Document;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;
use tower_http::propagate_header::PropagateHeaderLayer;

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const CONFIGURATION: &str = "/.well-known/authzen-configuration";
/// The header with the caller's id of the request, which the answer repeats.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The value of `Retry-After`, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Answers `AuthZEN` requests.
pub struct AuthZen {
    checks: Arc<Evaluator>,
    /// The base URL that callers use, for the discovery document; `None` if it is not known.
    public_url: Option<PublicUrl>,
}

/// Why a whole request fails, with the status and the label of the metric.
struct AuthZenError {
    status: StatusCode,
    reason: String,
    result: &'static str,
}

impl AuthZenError {
    fn invalid(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: reason.into(), result: "invalid" }
    }

    /// The answer to a rejected caller.
    fn refused(why: AuthError) -> Reply {
        let (status, result) = refusal(why);
        let reason = "send an API key with the scope `check` as Authorization: Bearer KEY or as X-API-Key: KEY";
        Self { status, reason: reason.into(), result }.reply()
    }

    /// Renders the error as a JSON string, as the specification requires.
    fn reply(self) -> Reply {
        let mut answer = json_body(self.status, &Value::String(self.reason));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        Reply { answer, result: self.result }
    }
}

impl IntoResponse for AuthZenError {
    fn into_response(self) -> Response {
        self.reply().into_response()
    }
}

impl From<CheckError> for AuthZenError {
    fn from(failure: CheckError) -> Self {
        let (status, result) = match failure.kind {
            CheckErrorKind::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            CheckErrorKind::Transient => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            CheckErrorKind::Permanent => (StatusCode::INTERNAL_SERVER_ERROR, "unavailable"),
        };
        Self { status, reason: failure.reason, result }
    }
}

impl AuthZen {
    /// Creates the protocol on this evaluator; the discovery document names `public_url`.
    #[must_use]
    pub fn new(checks: Arc<Evaluator>, public_url: Option<PublicUrl>) -> Self {
        Self { checks, public_url }
    }

    /// The routes that need a key, and that of the discovery document.
    pub(super) fn routers(self, metrics: &Arc<Metrics>) -> (Router, Router) {
        let layers = ProtocolLayers::new(
            "authzen",
            CredentialSource::Either,
            AuthZenError::refused,
            metrics,
        );
        let authzen = Arc::new(self);
        let evaluations = Router::new()
            .route(EVALUATION, post(evaluation))
            .route(EVALUATIONS, post(evaluations))
            .with_state(authzen.clone());
        let discovery = Router::new()
            .route(CONFIGURATION, get(configuration))
            .method_not_allowed_fallback(not_allowed)
            .with_state(authzen);
        [layers.admit(evaluations, None), discovery]
            .map(|routes| layers.count(routes).layer(PropagateHeaderLayer::new(REQUEST_ID)))
            .into()
    }

    async fn one(&self, document: &Document) -> Result<Reply, AuthZenError> {
        let query = document.single().map_err(AuthZenError::invalid)?;
        let consistency = Consistency::default();
        let evaluated = self.checks.evaluated_accounts(query.subjects, &consistency).await?;
        let evaluation = self.checks.context();
        let answer = self.checks.answer(&evaluation, &evaluated, query.subjects, &query.question);
        let result = if answer.allowed { "allowed" } else { "denied" };
        Ok(Reply { answer: json_body(StatusCode::OK, &response(&answer)), result })
    }

    /// Evaluates in order until the semantic ends the batch. An invalid evaluation is denied, alone.
    async fn many(&self, document: &Document) -> Result<Reply, AuthZenError> {
        let queries: Vec<_> = document.each().collect();
        let valid = queries.iter().filter_map(|query| query.as_ref().ok());
        let subjects = valid.map(|query| query.subjects);
        let consistency = Consistency::default();
        let evaluated = self.checks.each(subjects, &consistency).await?;
        let (evaluation, mut evaluated) = (self.checks.context(), evaluated.iter());
        let (mut decisions, mut yielding) =
            (Vec::with_capacity(queries.len()), CooperativeYield::default());
        for query in queries {
            let (permitted, decision) = match query {
                Ok(query) => {
                    let evaluated =
                        evaluated.next().expect("`each` returns one entry for each valid query");
                    let (subjects, question) = (query.subjects, query.question);
                    let answer = self.checks.answer(&evaluation, evaluated, subjects, &question);
                    yielding.answered(evaluated.items()).await;
                    (answer.allowed, response(&answer))
                }
                Err(message) => {
                    let error = json!({ "status": 400, "message": message });
                    (false, json!({ "decision": false, "context": { "error": error } }))
                }
            };
            decisions.push(decision);
            if document.semantic.ends_after(permitted) {
                break;
            }
        }
        let answer = json_body(StatusCode::OK, &json!({ "evaluations": decisions }));
        Ok(Reply { answer, result: "evaluated" })
    }
}

/// The discovery document. Its URLs come from the settings, never from the Host header: the sender chooses that header,
/// and a cache may hand the answer to other clients.
async fn configuration(State(authzen): State<Arc<AuthZen>>) -> Result<Reply, AuthZenError> {
    let Some(base) = &authzen.public_url else {
        let reason = "ENTITLEMENTS_PUBLIC_URL is not set: set it to the URL that callers use to reach this service";
        let status = StatusCode::NOT_FOUND;
        return Err(AuthZenError { status, reason: reason.into(), result: "refused" });
    };
    let body = json!({
        "policy_decision_point": base.to_string(),
        "access_evaluation_endpoint": format!("{base}{EVALUATION}"),
        "access_evaluations_endpoint": format!("{base}{EVALUATIONS}"),
    });
    Ok(Reply { answer: json_body(StatusCode::OK, &body), result: "discovery" })
}

async fn evaluation(
    State(authzen): State<Arc<AuthZen>>,
    request: Request,
) -> Result<Reply, AuthZenError> {
    authzen.one(&document(request).await?).await
}

async fn evaluations(
    State(authzen): State<Arc<AuthZen>>,
    request: Request,
) -> Result<Reply, AuthZenError> {
    let document = document(request).await?;
    // The specification requires: without a list, the batch endpoint acts as the single one.
    if document.evaluations.is_empty() {
        authzen.one(&document).await
    } else {
        authzen.many(&document).await
    }
}

async fn document(request: Request) -> Result<Document, AuthZenError> {
    let is_json = is_json(request.headers());
    let body = body::read(request.into_body(), LARGEST_BODY).await.map_err(body_error)?;
    if !is_json {
        return Err(AuthZenError::invalid("the Content-Type header must be application/json"));
    }
    Document::parse(&body).map_err(AuthZenError::invalid)
}

/// The decision, with its explanation as context.
fn response(answer: &Explanation<'_>) -> Value {
    json!({ "decision": answer.allowed, "context": answer })
}

/// Whether exactly one `Content-Type` says JSON; parameters such as `charset` are ignored.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return false };
    let essence = content_type.to_str().unwrap_or_default().split(';').next();
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn body_error(error: BodyError) -> AuthZenError {
    AuthZenError { status: error.status(), ..AuthZenError::invalid(error.to_string()) }
}
