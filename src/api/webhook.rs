//! `POST /webhooks/clerk`: receives one delivery. A 2xx means that it is durable and processed, not that it is queued.
//!
//! Any peer may post here, so an unverified request gets few resources: its headers and timestamp are checked before
//! its body is read, its body counts against a budget of bytes, and only a delivery with a valid signature takes a slot
//! for database work and starts a span.

use crate::{
    clerk::{SignatureError, Verified, Verifier},
    domain::{CatalogState, Revision},
    ingest::Deliveries,
    server::{
        http::{
            HttpConnection,
            body::{self, BodyError},
            response::{json_body, refuse},
        },
        listener::ConnectionSlot,
    },
    storage::{Outcome, StoreError},
    telemetry::{Labels, SampleRate, Sampler, Telemetry, log_chain},
};
use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use std::{sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::yield_now};

/// The largest body, in bytes. Svix sends up to about 350 kB.
pub(super) const MAX_WEBHOOK_LEN: usize = 512 * 1024;
/// The maximum number of verified deliveries in progress.
const MAX_IN_PROGRESS: usize = 64;
/// The maximum number of rejections that are logged per second; all are counted.
const MAX_LOGGED: u32 = 10;
/// The value of `Retry-After`, in seconds: the delay of Svix's first retry.
const RETRY_AFTER: &str = "5";

/// The webhook endpoint.
pub struct Webhooks {
    verifier: Verifier,
    deliveries: Arc<Deliveries>,
    telemetry: Telemetry,
    slots: Semaphore,
    /// Samples the log of rejections, because any peer may cause as many as it likes.
    logged: Sampler,
}

impl Webhooks {
    /// Creates the endpoint, which records the deliveries that `verifier` accepts.
    #[must_use]
    pub fn new(verifier: Verifier, deliveries: Arc<Deliveries>, telemetry: Telemetry) -> Self {
        let logged = Sampler::new(SampleRate::PerSecond(MAX_LOGGED));
        Self { verifier, deliveries, telemetry, slots: Semaphore::new(MAX_IN_PROGRESS), logged }
    }

    /// Reads, verifies and records a delivery. The body is read unless the headers cannot be those of a valid delivery,
    /// or the body is too large.
    async fn deliver(
        &self,
        headers: &HeaderMap,
        body: Body,
        slot: &ConnectionSlot,
    ) -> Result<Response, Refusal> {
        if !body::is_too_large(&body, MAX_WEBHOOK_LEN)
            && let Err(error) = self.verifier.check_headers(headers, Utc::now().timestamp())
        {
            body::ignore(body);
            return Err(error.into());
        }
        let body = body::read_counted(body, MAX_WEBHOOK_LEN, |bytes| slot.hold(bytes)).await?;
        let verified = self.verifier.verify(headers, &body, Utc::now().timestamp())?;
        slot.verified();
        let trace = self.telemetry.traces.request("POST /webhooks/clerk", headers);
        let answer = trace.run(self.record(&verified, body)).await;
        trace.note("http.response.status_code", i64::from(answer.status().as_u16()));
        Ok(answer)
    }

    async fn record(&self, verified: &Verified, body: Bytes) -> Response {
        let Ok(_slot) = self.slots.try_acquire() else {
            let reason = "too many deliveries at once".into();
            return self.refuse(&Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason });
        };
        match self.deliveries.take(verified, body, Utc::now()).await {
            Ok(outcome) => {
                yield_now().await; // lets the task that notifies other replicas run before the answer is written
                accepted(&outcome)
            }
            Err(error) => failed(&verified.id, &error),
        }
    }

    /// Logs and renders a rejection. Nothing in the request can be trusted, so the line has only the reason.
    fn refuse(&self, Refusal { status, reason }: &Refusal) -> Response {
        if self.logged.takes() {
            tracing::warn!(refusal = reason, "refused a webhook");
        }
        match *status {
            StatusCode::SERVICE_UNAVAILABLE => busy(reason),
            status => refuse(status, reason),
        }
    }
}

/// Why a request is rejected.
struct Refusal {
    status: StatusCode,
    reason: String,
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        let status = match error {
            SignatureError::Malformed(_) => StatusCode::BAD_REQUEST,
            SignatureError::Unverified(_) => StatusCode::UNAUTHORIZED,
        };
        Self { status, reason: error.to_string() }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self { status: error.status(), reason: error.to_string() }
    }
}

/// Answers one request.
pub(super) async fn take(
    State(webhooks): State<Arc<Webhooks>>,
    Extension(HttpConnection { slot, .. }): Extension<HttpConnection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (began, metrics) = (Instant::now(), &webhooks.telemetry.metrics);
    let delivered = webhooks.deliver(&headers, body, &slot).await;
    let answer = delivered.unwrap_or_else(|refusal| webhooks.refuse(&refusal));
    slot.release();
    if !answer.status().is_success() {
        metrics.refused.get_or_create(&Labels([("status", status(&answer))])).inc();
    }
    let took = metrics.webhook_duration.get_or_create(&Labels([("answer", kind(&answer))]));
    took.observe(began.elapsed().as_secs_f64());
    answer
}

/// Renders the outcome. Svix shows it on the page of the endpoint in Clerk's dashboard.
fn accepted(outcome: &Outcome) -> Response {
    let mut body = json!({ "result": outcome.name() });
    if let Some((subject, revision)) = outcome.changed() {
        body["subject"] = subject.as_str().into();
        body["revision"] = Revision::token(CatalogState::default(), [(subject, revision)]).into();
    }
    if let Some(detail) = outcome.detail() {
        body["detail"] = detail.into();
    }
    json_body(StatusCode::OK, &body)
}

fn failed(svix_id: &str, error: &StoreError) -> Response {
    tracing::error!(svix_id, error = log_chain(error), "cannot record a delivery");
    if error.is_transient() {
        busy("the database is unavailable: nothing was recorded; send the delivery again")
    } else {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "the delivery cannot be recorded: see the log")
    }
}

fn busy(reason: &str) -> Response {
    let answer = refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    ([(header::RETRY_AFTER, RETRY_AFTER)], answer).into_response()
}

/// The class of the status, as a label of the metric.
fn kind(answer: &Response) -> &'static str {
    match answer.status().as_u16() / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// The status, as a label of the metric with few values.
fn status(answer: &Response) -> &'static str {
    match answer.status() {
        StatusCode::BAD_REQUEST => "400",
        StatusCode::UNAUTHORIZED => "401",
        StatusCode::REQUEST_TIMEOUT => "408",
        StatusCode::PAYLOAD_TOO_LARGE => "413",
        StatusCode::SERVICE_UNAVAILABLE => "503",
        _ => "500",
    }
}
