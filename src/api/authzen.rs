//! `AuthZEN`, the `OpenID` Foundation's Authorization API 1.0: evaluations, one or many, and discovery.
//!
//! Source: <https://openid.net/specs/authorization-api-1_0.html>. A resource of type `feature` or `plan` names what is
//! asked for by its id, whatever the action is called; with a resource of any other type, which is then one of the
//! caller's own, the action's name is the feature. What must always hold: what cannot be understood is not permitted.

mod evaluation;

use super::http_protocols::{Gate, LARGEST_BODY, Reply, explanation, refusal};
use crate::{
    check::{Checks, Facts, Failure, FailureKind, Moment, Pieces},
    domain::Decision,
    replica::Need,
    server::http::{
        PublicUrl,
        body::{self, Unread},
        response::{Answer, json_body, not_allowed},
    },
};
use evaluation::Document;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const CONFIGURATION: &str = "/.well-known/authzen-configuration";
/// What a caller knows its request by.
const REQUEST_ID: &str = "x-request-id";
/// When to try again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Answers `AuthZEN` requests.
pub struct AuthZen {
    checks: Arc<Checks>,
    /// Where callers reach it, if that is known.
    public_url: Option<PublicUrl>,
}

/// Why a request as a whole is not answered.
struct Fault {
    status: StatusCode,
    reason: String,
    result: &'static str,
}

impl Fault {
    fn invalid(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: reason.into(), result: "invalid" }
    }

    /// An error is a text, as the specification has it.
    fn tell(self) -> Reply {
        let mut answer = json_body(self.status, &Value::String(self.reason));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        Reply { answer, result: self.result }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let (status, result) = match failure.kind {
            FailureKind::Crowded => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            FailureKind::Passing => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            FailureKind::Lasting => (StatusCode::INTERNAL_SERVER_ERROR, "unavailable"),
        };
        Self { status, reason: failure.reason, result }
    }
}

impl AuthZen {
    /// Answers what these checks decide; callers reach it at `public_url`.
    #[must_use]
    pub fn new(checks: Arc<Checks>, public_url: Option<PublicUrl>) -> Self {
        Self { checks, public_url }
    }

    /// Whether a path is one of `AuthZEN`'s.
    pub(super) fn has(path: &str) -> bool {
        [EVALUATION, EVALUATIONS, CONFIGURATION].contains(&path)
    }

    /// Whether a path says only where the others are.
    pub(super) fn is_discovery(path: &str) -> bool {
        path == CONFIGURATION
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>, gate: Gate) -> Reply {
        let id = request.headers().get(REQUEST_ID).cloned();
        let mut reply = match gate {
            Gate::Open => self.route(request).await.unwrap_or_else(Fault::tell),
            Gate::Closed(why) => {
                let (status, result) = refusal(why);
                let reason = "send an API key with the scope `check` as Authorization: Bearer KEY";
                Fault { status, reason: reason.into(), result }.tell()
            }
        };
        if let Some(id) = id {
            reply.answer.headers_mut().insert(REQUEST_ID, id);
        }
        reply
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Reply, Fault> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, CONFIGURATION) => {
                let answer = json_body(StatusCode::OK, &self.configuration()?);
                Ok(Reply { answer, result: "discovery" })
            }
            (_, CONFIGURATION) => Ok(refused(not_allowed("GET"))),
            (&Method::POST, _) => {
                let is_one = path == EVALUATION;
                let is_json = is_json(request.headers());
                let body = body::read(request.into_body(), LARGEST_BODY).await.map_err(unread)?;
                if !is_json {
                    return Err(Fault::invalid("the Content-Type header must be application/json"));
                }
                let document = Document::parse(&body).map_err(Fault::invalid)?;
                // Without a list, the endpoint for many is the one for one.
                if is_one || document.evaluations.is_empty() {
                    self.one(&document).await
                } else {
                    self.many(&document).await
                }
            }
            _ => Ok(refused(not_allowed("POST"))),
        }
    }

    /// Where everything is. The request does not say: whoever sends it chooses its Host header, and a cache may hand
    /// the answer to others.
    fn configuration(&self) -> Result<Value, Fault> {
        let Some(base) = &self.public_url else {
            let reason = "set PUBLIC_URL to the URL that callers reach this service by";
            let status = StatusCode::NOT_FOUND;
            return Err(Fault { status, reason: reason.into(), result: "refused" });
        };
        Ok(json!({
            "policy_decision_point": base.to_string(),
            "access_evaluation_endpoint": format!("{base}{EVALUATION}"),
            "access_evaluations_endpoint": format!("{base}{EVALUATIONS}"),
        }))
    }

    async fn one(&self, document: &Document) -> Result<Reply, Fault> {
        let asked = document.alone().map_err(Fault::invalid)?;
        let need = Need::default();
        let facts = self.checks.facts(asked.payers, &need).await?;
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, asked.payers, &asked.question);
        let result = if decision.verdict.told().allowed { "allowed" } else { "denied" };
        let body = tell(&decision, &moment, &facts);
        Ok(Reply { answer: json_body(StatusCode::OK, &body), result })
    }

    /// Each in its turn, until the semantic has what it wants; what cannot be understood is denied by itself.
    async fn many(&self, document: &Document) -> Result<Reply, Fault> {
        let asked: Vec<_> = document.each().collect();
        let understood = asked.iter().filter_map(|asked| asked.as_ref().ok());
        let payers = understood.map(|asked| asked.payers);
        let need = Need::default();
        let facts = self.checks.each(payers, &need).await?;
        let (moment, mut facts) = (self.checks.moment(), facts.iter());
        let (mut decisions, mut pieces) = (Vec::with_capacity(asked.len()), Pieces::default());
        for asked in asked {
            let (permitted, decision) = match asked {
                Ok(asked) => {
                    let facts = facts.next().expect("there are facts for each that is understood");
                    let (payers, question) = (asked.payers, asked.question);
                    let decision = self.checks.decide(&moment, facts, payers, &question);
                    pieces.answered(facts.items()).await;
                    (decision.verdict.told().allowed, tell(&decision, &moment, facts))
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

/// A decision, and why.
fn tell(decision: &Decision<'_>, moment: &Moment, facts: &Facts) -> Value {
    let context = explanation(decision, facts, &moment.revision(facts), "valid_until");
    json!({ "decision": decision.verdict.told().allowed, "context": context })
}

/// Whether the body is said to be JSON, by one header; parameters such as `charset` do not matter.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return false };
    let essence = content_type.to_str().unwrap_or_default().split(';').next();
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn unread(unread: Unread) -> Fault {
    Fault { status: unread.status(), ..Fault::invalid(unread.to_string()) }
}

fn refused(answer: Answer) -> Reply {
    Reply { answer, result: "refused" }
}
