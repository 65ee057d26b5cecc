//! OFREP, `OpenFeature`'s remote evaluation protocol, version 0.3: features as flags.
//!
//! Source: `service/openapi.yaml` of <https://github.com/open-feature/protocol>. A flag's value is always a boolean;
//! a feature's number is the flag's metadata `limit`, because a request does not say which type it wants. What must
//! always hold: a `variant` is there, and the reason is `TARGETING_MATCH`, or providers would put their caller's
//! default, or another subject's answer, in the place of ours.

mod context;
mod events;
mod flags;

use super::http_protocols::{Gate, LARGEST_BODY, Reply, refusal};
use crate::{
    check::{Checks, Facts, Failure, FailureKind, Whom},
    domain::Question,
    replica::Need,
    server::http::{
        Cors,
        body::{self, Unread},
        response::{Answer, empty, json_body, not_allowed},
    },
};
use events::Streams;
use flags::{flag, flags, revision, tag as tag_of};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const FLAGS: &str = "/ofrep/v1/evaluate/flags";
const EVENTS: &str = "/ofrep/v1/events";
/// When to try again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Answers OFREP requests.
pub struct Ofrep {
    checks: Arc<Checks>,
    cors: Cors,
    streams: Streams,
}

/// Why a request is not answered, as OFREP says it.
struct Fault {
    status: StatusCode,
    code: Option<&'static str>,
    details: String,
    result: &'static str,
}

impl Fault {
    /// A request that cannot be meant so.
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

    fn tell(self, key: Option<&str>) -> Reply {
        let mut body = json!({ "errorDetails": self.details });
        if let Some(code) = self.code {
            body["errorCode"] = code.into();
            if let Some(key) = key {
                body["key"] = key.into();
            }
        }
        let mut answer = json_body(self.status, &body);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        Reply { answer, result: self.result }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        if failure.kind == FailureKind::Crowded {
            return Self::overloaded(&failure.reason);
        }
        let details = failure.reason;
        let (status, result) = (StatusCode::INTERNAL_SERVER_ERROR, "unavailable");
        Self { status, code: None, details, result }
    }
}

impl From<Unread> for Fault {
    fn from(unread: Unread) -> Self {
        let (status, code) = (unread.status(), Some("PARSE_ERROR"));
        Self { status, code, details: unread.to_string(), result: "parse_error" }
    }
}

impl Ofrep {
    /// Answers what these checks decide, to browsers of these origins too; streams end when `draining` begins.
    #[must_use]
    pub fn new(checks: Arc<Checks>, cors: Cors, draining: CancellationToken) -> Self {
        let streams = Streams::new(checks.clone(), draining);
        Self { checks, cors, streams }
    }

    /// Whether the answer at this path goes on for longer than a request may take.
    pub(super) fn is_stream(path: &str) -> bool {
        path == EVENTS
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>, gate: Gate) -> Reply {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut reply = match (self.cors.preflight(&request), gate) {
            (Some(answer), _) => Reply { answer, result: "preflight" },
            (None, Gate::Open) => self.route(request).await,
            (None, Gate::Closed(why)) => {
                let (status, result) = refusal(why);
                let mut answer = empty(status);
                if status == StatusCode::TOO_MANY_REQUESTS {
                    answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
                }
                Reply { answer, result }
            }
        };
        self.cors.mark(origin.as_ref(), &mut reply.answer);
        reply
    }

    async fn route(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let key = path.strip_prefix(FLAGS).and_then(|rest| rest.strip_prefix('/'));
        match (request.method(), key, &*path) {
            (&Method::POST, Some(key), _) if !key.is_empty() => self.one(key, request).await,
            (&Method::POST, Some(_), _) | (&Method::POST, _, FLAGS) => self.all(request).await,
            (&Method::GET, _, EVENTS) => match self.streams.open(&request) {
                Ok(answer) => Reply { answer, result: "stream" },
                Err(fault) => fault.tell(None),
            },
            (_, Some(_), _) | (_, _, FLAGS) => refused(not_allowed("POST, OPTIONS")),
            (_, _, EVENTS) => refused(not_allowed("GET, OPTIONS")),
            _ => refused(json_body(
                StatusCode::NOT_FOUND,
                &json!({ "errorDetails": format!("OFREP is at {FLAGS} and {FLAGS}/{{key}}") }),
            )),
        }
    }

    /// One flag.
    async fn one(&self, key: &str, request: Request<Incoming>) -> Reply {
        let key = percent_decode_str(key).decode_utf8_lossy();
        self.evaluate(&key, request).await.unwrap_or_else(|fault| fault.tell(Some(&key)))
    }

    async fn evaluate(&self, key: &str, request: Request<Incoming>) -> Result<Reply, Fault> {
        let whom = whom(request).await?;
        let question = Question::feature(key).map_err(|_| Fault::not_found(key))?;
        let facts = self.facts(&whom, &Need::default()).await?;
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, whom.payers(), &question);
        if decision.verdict.is_about_nothing() {
            return Err(Fault::not_found(key));
        }
        let result = if decision.verdict.told().allowed { "allowed" } else { "denied" };
        let body = flag(key, &decision, &facts, &moment.revision(&facts));
        Ok(Reply { answer: json_body(StatusCode::OK, &body), result })
    }

    async fn facts(&self, whom: &Whom, need: &Need) -> Result<Facts, Fault> {
        Ok(self.checks.facts(whom.payers(), need).await?)
    }

    /// Every flag, unless the caller knows them all already.
    async fn all(&self, request: Request<Incoming>) -> Reply {
        self.evaluate_all(request).await.unwrap_or_else(|fault| fault.tell(None))
    }

    /// The facts at least as new as those behind an event that another replica may have sent. An event of this
    /// service names the revision. Of any other text, nothing is known: then Postgres is asked, if it answers.
    async fn caught_up(&self, whom: &Whom, event: &str, known: Facts) -> Result<Facts, Fault> {
        if let Some(revision) = revision(event) {
            let need = Need { at_least: Some(revision), ..Need::default() };
            return self.facts(whom, &need).await;
        }
        let need = Need { fully_consistent: true, ..Need::default() };
        Ok(self.facts(whom, &need).await.unwrap_or(known))
    }

    async fn evaluate_all(&self, request: Request<Incoming>) -> Result<Reply, Fault> {
        let (known, event) = (known(request.headers()), event(request.uri().query()));
        let whom = whom(request).await?;
        let mut facts = self.facts(&whom, &Need::default()).await?;
        let mut moment = self.checks.moment();
        let mut tag = tag_of(&moment, &facts);
        let mut is_other = event.as_ref().is_some_and(|event| *event != tag);
        if let Some(event) = event.filter(|_| is_other) {
            facts = self.caught_up(&whom, &event, facts).await?;
            moment = self.checks.moment();
            tag = tag_of(&moment, &facts);
            is_other = event != tag;
        }
        let (mut answer, result) = if known.contains(&tag) && !is_other {
            (empty(StatusCode::NOT_MODIFIED), "not_modified")
        } else {
            let flags = flags(&self.checks, &moment, &facts, &whom).await;
            let body = json!({
                "flags": flags,
                "metadata": { "catalog": moment.catalog_number(), "stale": facts.stale_for().is_some() },
                "eventStreams": [events::stream(&whom)],
            });
            (json_body(StatusCode::OK, &body), "evaluated")
        };
        let etag = HeaderValue::try_from(format!("\"{tag}\"")).expect("a tag is ASCII");
        answer.headers_mut().insert(header::ETAG, etag);
        Ok(Reply { answer, result })
    }
}

/// The tag that an event named, if an event is why a client asks.
/// Source: `flagConfigEtag` in <https://github.com/open-feature/protocol/blob/main/service/adrs/0008-sse-for-bulk-evaluation-changes.md>
fn event(query: Option<&str>) -> Option<String> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, tag) = pairs.find(|(name, _)| *name == "flagConfigEtag")?;
    let tag = percent_decode_str(tag).decode_utf8_lossy();
    Some(bare(&tag)).filter(|tag| !tag.is_empty())
}

fn bare(tag: &str) -> String {
    tag.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

fn refused(answer: Answer) -> Reply {
    Reply { answer, result: "refused" }
}

/// Whom the request's context names.
async fn whom(request: Request<Incoming>) -> Result<Whom, Fault> {
    let body = body::read(request.into_body(), LARGEST_BODY).await?;
    context::whom(&body)
}

/// The tags that the caller has. `*` is none of them: nobody has all answers.
fn known(headers: &HeaderMap) -> Vec<String> {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let tags = given.flat_map(|tags| tags.split(','));
    tags.map(bare).collect()
}
