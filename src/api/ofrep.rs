//! OFREP, `OpenFeature`'s remote evaluation protocol, version 0.3: features as flags.
//!
//! Source: `service/openapi.yaml` of <https://github.com/open-feature/protocol>. A flag's value is always a boolean;
//! the limit of a feature is in the flag's metadata, because a request does not say which type it wants. Invariants:
//! every answer has a `variant`, or providers would replace it by the caller's default; and its reason is
//! `TARGETING_MATCH`, or providers could return another subject's cached answer.

mod context;
mod events;
mod flags;

use super::http_protocols::{LARGEST_BODY, ProtocolLayers, Reply, refusal};
use crate::{
    check::{CheckError, CheckErrorKind, EvaluatedAccounts, Evaluator, SubjectsBuf},
    domain::Question,
    replica::Consistency,
    server::{
        auth::{AuthError, CredentialSource, StreamKind},
        http::{
            Cors,
            body::{self, BodyError},
            response::json_body,
        },
    },
    telemetry::Metrics,
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use bytes::Bytes;
use events::Streams;
use flags::{flag, flags, revision, tag as tag_of};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use std::{convert::Infallible, sync::Arc};
use tokio_util::sync::CancellationToken;

const FLAGS: &str = "/ofrep/v1/evaluate/flags";
const EVENTS: &str = "/ofrep/v1/events";
/// The value of `Retry-After`, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Implements OFREP.
pub struct Ofrep {
    checks: Arc<Evaluator>,
    cors: Cors,
    streams: Streams,
}

/// Why a request fails, with OFREP's error code and the label of the metric.
struct OfrepError {
    status: StatusCode,
    code: Option<&'static str>,
    details: String,
    result: &'static str,
}

impl OfrepError {
    fn bad(code: &'static str, result: &'static str, details: impl Into<String>) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self { status, code: Some(code), details: details.into(), result }
    }

    fn not_found(key: &str) -> Self {
        let details = format!("no plan of the catalog has the feature `{key}`");
        let (status, code) = (StatusCode::NOT_FOUND, Some("FLAG_NOT_FOUND"));
        Self { status, code, details, result: "flag_not_found" }
    }

    fn overloaded(details: &str) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self { status, code: None, details: details.into(), result: "overloaded" }
    }

    /// The answer to a rejected caller, which has no body.
    fn refused(why: AuthError) -> Reply {
        let (status, result) = refusal(why);
        Reply { answer: retry_later(status.into_response()), result }
    }

    fn reply(self, key: Option<&str>) -> Reply {
        let mut body = json!({ "errorDetails": self.details });
        if let Some(code) = self.code {
            body["errorCode"] = code.into();
            if let Some(key) = key {
                body["key"] = key.into();
            }
        }
        Reply { answer: retry_later(json_body(self.status, &body)), result: self.result }
    }
}

/// Adds `Retry-After` to a 429.
fn retry_later(mut answer: Response) -> Response {
    if answer.status() == StatusCode::TOO_MANY_REQUESTS {
        answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    answer
}

impl From<CheckError> for OfrepError {
    fn from(failure: CheckError) -> Self {
        if failure.kind == CheckErrorKind::Overloaded {
            return Self::overloaded(&failure.reason);
        }
        let details = failure.reason;
        let (status, result) = (StatusCode::INTERNAL_SERVER_ERROR, "unavailable");
        Self { status, code: None, details, result }
    }
}

impl From<BodyError> for OfrepError {
    fn from(error: BodyError) -> Self {
        let (status, code) = (error.status(), Some("PARSE_ERROR"));
        Self { status, code, details: error.to_string(), result: "parse_error" }
    }
}

impl Ofrep {
    /// Creates the protocol on this evaluator. `cors` names the origins of web pages that may read answers; streams end
    /// when `draining` is cancelled.
    #[must_use]
    pub fn new(checks: Arc<Evaluator>, cors: Cors, draining: CancellationToken) -> Self {
        let streams = Streams::new(checks.clone(), draining);
        Self { checks, cors, streams }
    }

    pub(super) fn router(self, metrics: &Arc<Metrics>) -> Router {
        let layers =
            ProtocolLayers::new("ofrep", CredentialSource::Either, OfrepError::refused, metrics);
        let (cors, ofrep) = (self.cors.layer(), Arc::new(self));
        let flags = Router::new()
            .route(FLAGS, post(all))
            .route(&format!("{FLAGS}/"), post(all))
            .route(&format!("{FLAGS}/{{*key}}"), post(one))
            .route("/ofrep/", any(no_such_path))
            .route("/ofrep/{*rest}", any(no_such_path));
        let events = Router::new().route(EVENTS, get(open_stream));
        let flags = layers.admit(flags.with_state(ofrep.clone()), None);
        let events = layers.admit(events.with_state(ofrep), Some(StreamKind::Ofrep));
        layers.count(flags.merge(events).layer(cors))
    }

    async fn evaluate(&self, key: &str, body: Body) -> Result<Reply, OfrepError> {
        let subjects = subjects(body).await?;
        let question = Question::feature(key).map_err(|_| OfrepError::not_found(key))?;
        let evaluated = self.evaluated_accounts(&subjects, &Consistency::default()).await?;
        let evaluation = self.checks.context();
        let answer = self.checks.answer(&evaluation, &evaluated, subjects.as_subjects(), &question);
        if answer.is_unknown_target() {
            return Err(OfrepError::not_found(key));
        }
        let result = if answer.allowed { "allowed" } else { "denied" };
        Ok(Reply { answer: json_body(StatusCode::OK, &flag(key, &answer)), result })
    }

    async fn evaluated_accounts(
        &self,
        subjects: &SubjectsBuf,
        consistency: &Consistency,
    ) -> Result<EvaluatedAccounts, OfrepError> {
        Ok(self.checks.evaluated_accounts(subjects.as_subjects(), consistency).await?)
    }

    /// Loads accounts at least as new as an event, which another replica may have sent. A tag of this service contains
    /// the revision; after a failover, the database may have lost that state, and what it has is the answer. For any
    /// other text, the accounts are read from Postgres; if that fails, `cached` is returned.
    async fn caught_up(
        &self,
        subjects: &SubjectsBuf,
        event: &str,
        cached: EvaluatedAccounts,
    ) -> Result<EvaluatedAccounts, OfrepError> {
        let newest = Consistency { fully_consistent: true, ..Consistency::default() };
        let Some(revision) = revision(event) else {
            return Ok(self.evaluated_accounts(subjects, &newest).await.unwrap_or(cached));
        };
        let consistency = Consistency { at_least: Some(revision), ..Consistency::default() };
        match self.evaluated_accounts(subjects, &consistency).await {
            Ok(evaluated) => Ok(evaluated),
            Err(_) => self.evaluated_accounts(subjects, &newest).await,
        }
    }

    /// Evaluates all flags; 304 if the caller has the current ones.
    async fn evaluate_all(&self, request: Request) -> Result<Reply, OfrepError> {
        let (held, event) = (held_tags(request.headers()), event(request.uri().query()));
        let subjects = subjects(request.into_body()).await?;
        let mut evaluated = self.evaluated_accounts(&subjects, &Consistency::default()).await?;
        let mut evaluation = self.checks.context();
        let mut tag = tag_of(&evaluation, &evaluated);
        let mut is_other = event.as_ref().is_some_and(|event| *event != tag);
        if let Some(event) = event.filter(|_| is_other) {
            evaluated = self.caught_up(&subjects, &event, evaluated).await?;
            evaluation = self.checks.context();
            tag = tag_of(&evaluation, &evaluated);
            is_other = event != tag;
        }
        let (mut answer, result) = if held.contains(&tag) && !is_other {
            (not_modified(), "not_modified")
        } else {
            let flags = flags(&self.checks, &evaluation, &evaluated, &subjects).await;
            let body = json!({
                "flags": flags,
                "metadata": { "catalog": evaluation.catalog_number(), "stale": evaluated.stale_for().is_some() },
                "eventStreams": [events::stream(&subjects)],
            });
            (json_body(StatusCode::OK, &body), "evaluated")
        };
        let etag = HeaderValue::try_from(format!("\"{tag}\"")).expect("a tag is ASCII");
        answer.headers_mut().insert(header::ETAG, etag);
        Ok(Reply { answer, result })
    }
}

/// Evaluates the flag with this key.
async fn one(
    State(ofrep): State<Arc<Ofrep>>,
    key: Result<Path<String>, PathRejection>,
    body: Body,
) -> Reply {
    // A key that is not UTF-8 names no feature.
    let key = key.map_or_else(|_| String::new(), |Path(key)| key);
    ofrep.evaluate(&key, body).await.unwrap_or_else(|fault| fault.reply(Some(&key)))
}

async fn all(State(ofrep): State<Arc<Ofrep>>, request: Request) -> Reply {
    ofrep.evaluate_all(request).await.unwrap_or_else(|fault| fault.reply(None))
}

async fn open_stream(State(ofrep): State<Arc<Ofrep>>, request: Request) -> Reply {
    match ofrep.streams.open(&request) {
        Ok(answer) => Reply { answer, result: "stream" },
        Err(fault) => fault.reply(None),
    }
}

/// A 304. For a body of known length, axum would add `Content-Length: 0`, which is not the length of the flags.
fn not_modified() -> Response {
    let nothing = stream::empty::<Result<Bytes, Infallible>>();
    (StatusCode::NOT_MODIFIED, Body::from_stream(nothing)).into_response()
}

async fn no_such_path() -> Response {
    let details = format!("OFREP is at {FLAGS} and {FLAGS}/{{key}}");
    json_body(StatusCode::NOT_FOUND, &json!({ "errorDetails": details }))
}

/// The tag of the event that made the client refetch, if the query has one.
/// Source: `flagConfigEtag` in
/// <https://github.com/open-feature/protocol/blob/main/service/adrs/0008-sse-for-bulk-evaluation-changes.md>
fn event(query: Option<&str>) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    let (_, tag) = pairs.find(|(name, _)| *name == "flagConfigEtag")?;
    Some(bare(&tag)).filter(|tag| !tag.is_empty())
}

fn bare(tag: &str) -> String {
    tag.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// The subjects that the context of a request names.
async fn subjects(body: Body) -> Result<SubjectsBuf, OfrepError> {
    let body = body::read(body, LARGEST_BODY).await?;
    context::subjects(&body)
}

/// The tags in `If-None-Match`. `*` matches no tag, because no client has all answers.
fn held_tags(headers: &HeaderMap) -> Vec<String> {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let tags = given.flat_map(|tags| tags.split(','));
    tags.map(bare).collect()
}
