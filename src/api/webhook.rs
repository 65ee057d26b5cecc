//! `POST /webhooks/clerk`: receives one delivery. A 2xx means that it is durable and processed, not that it is queued.
//!
//! Any peer may post here, so an unverified request gets few resources: its headers and timestamp are checked before
//! its body is read, its body counts against a budget of bytes, and only a delivery with a valid signature takes a slot
//! for database work and starts a span.

use crate::{
    clerk::{SignatureError, Verified, Verifier},
    domain::Revision,
    ingest::Deliveries,
    server::{
        http::{
            body,
            response::{Answer, json_body, refuse},
        },
        listener::ConnectionSlot,
    },
    storage::{Outcome, StoreError},
    telemetry::{Labels, SampleRate, Sampler, Telemetry, log_chain},
};
use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use std::{sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::yield_now};

/// The largest body, in bytes. Svix sends up to about 350 kB.
pub(super) const LARGEST_BODY: usize = 512 * 1024;
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

    /// Answers one request on the connection with this slot.
    pub(super) async fn take(&self, request: Request<Incoming>, slot: &ConnectionSlot) -> Answer {
        let began = Instant::now();
        let answer = self.deliver(request, slot).await.unwrap_or_else(|refused| *refused);
        slot.release();
        if !answer.status().is_success() {
            self.telemetry
                .metrics
                .refused
                .get_or_create(&Labels([("status", status(&answer))]))
                .inc();
        }
        let took = self
            .telemetry
            .metrics
            .webhook_duration
            .get_or_create(&Labels([("answer", kind(&answer))]));
        took.observe(began.elapsed().as_secs_f64());
        answer
    }

    async fn deliver(
        &self,
        request: Request<Incoming>,
        slot: &ConnectionSlot,
    ) -> Result<Answer, Box<Answer>> {
        let (head, body) = request.into_parts();
        let body = self.read(&head.headers, body, slot).await?;
        let verified = self.verify(&head.headers, &body)?;
        slot.verified();
        let trace = self.telemetry.traces.request("POST /webhooks/clerk", &head.headers);
        let answer = trace.run(self.record(&verified, body)).await;
        trace.note("http.response.status_code", i64::from(answer.status().as_u16()));
        Ok(answer)
    }

    /// Reads the body, unless the headers cannot be those of a valid delivery or the body is too large.
    async fn read(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        slot: &ConnectionSlot,
    ) -> Result<Bytes, Box<Answer>> {
        if !body::is_too_large(&body, LARGEST_BODY)
            && let Err(refusal) = self.verifier.judge(headers, Utc::now().timestamp())
        {
            body::ignore(body);
            return Err(self.refused(&refusal));
        }
        let read = body::read_counted(body, LARGEST_BODY, |bytes| slot.hold(bytes)).await;
        read.map_err(|error| {
            let reason = error.to_string();
            self.log(&reason);
            Box::new(match error.status() {
                StatusCode::SERVICE_UNAVAILABLE => busy(&reason),
                status => refuse(status, &reason),
            })
        })
    }

    async fn record(&self, verified: &Verified, body: Bytes) -> Answer {
        let Ok(_slot) = self.slots.try_acquire() else {
            let reason = "too many deliveries at once";
            self.log(reason);
            return busy(reason);
        };
        match self.deliveries.take(verified, body, Utc::now()).await {
            Ok(outcome) => {
                yield_now().await; // so that other replicas are notified before the answer is written
                accepted(&outcome)
            }
            Err(error) => failed(&verified.id, &error),
        }
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Box<Answer>> {
        let verified = self.verifier.verify(headers, body, Utc::now().timestamp());
        verified.map_err(|refusal| self.refused(&refusal))
    }

    fn refused(&self, refusal: &SignatureError) -> Box<Answer> {
        let status = match refusal {
            SignatureError::Malformed(_) => StatusCode::BAD_REQUEST,
            SignatureError::Unverified(_) => StatusCode::UNAUTHORIZED,
        };
        let reason = refusal.to_string();
        self.log(&reason);
        Box::new(refuse(status, &reason))
    }

    /// Logs a rejected request. Nothing in it can be trusted, so the line has only the reason.
    fn log(&self, refusal: &str) {
        if self.logged.takes() {
            tracing::warn!(refusal, "refused a webhook");
        }
    }
}

/// Renders the outcome. Svix shows it on the page of the endpoint in Clerk's dashboard.
fn accepted(outcome: &Outcome) -> Answer {
    let mut body = json!({ "result": outcome.word() });
    if let Some((subject, revision)) = outcome.changed() {
        body["subject"] = subject.as_str().into();
        body["revision"] = Revision::token(0, [(subject, revision)]).into();
    }
    if let Some(detail) = outcome.detail() {
        body["detail"] = detail.into();
    }
    json_body(StatusCode::OK, &body)
}

fn failed(svix_id: &str, error: &StoreError) -> Answer {
    tracing::error!(svix_id, error = log_chain(error), "cannot record a delivery");
    if error.is_transient() {
        busy("the database is unavailable: nothing was recorded; send the delivery again")
    } else {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "the delivery cannot be recorded: see the log")
    }
}

fn busy(reason: &str) -> Answer {
    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    answer
}

/// The class of the status, as a label of the metric.
fn kind(answer: &Answer) -> &'static str {
    match answer.status().as_u16() / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// The status, as a label of the metric with few values.
fn status(answer: &Answer) -> &'static str {
    match answer.status() {
        StatusCode::BAD_REQUEST => "400",
        StatusCode::UNAUTHORIZED => "401",
        StatusCode::REQUEST_TIMEOUT => "408",
        StatusCode::PAYLOAD_TOO_LARGE => "413",
        StatusCode::SERVICE_UNAVAILABLE => "503",
        _ => "500",
    }
}
