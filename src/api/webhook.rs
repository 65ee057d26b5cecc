//! `POST /webhooks/clerk`: one delivery. A 2xx means that it is durable and applied, not that it is queued.
//!
//! Anybody may post here, so a request holds no more than it has proved: its headers and timestamp are judged before its
//! body is read, the bytes of its body count against a budget, and only a signed delivery takes one of the slots for
//! database work and begins a span.

use crate::{
    clerk::{Refusal, Verified, Verifier},
    domain::Revision,
    ingest::Deliveries,
    server::{
        http::{
            body,
            response::{Answer, json_body, refuse},
        },
        listener::Place,
    },
    storage::{Outcome, StoreError},
    telemetry::{Labels, Metrics, Sampler, Share, chain},
};
use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use std::{sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::yield_now};

/// Svix sends up to about 350 kB.
pub(super) const LARGEST_BODY: usize = 512 * 1024;
/// The most signed deliveries in progress.
const IN_PROGRESS: usize = 64;
/// The most refusals that are logged in a second; all are counted.
const LOGGED: u32 = 10;
/// When to try again, in seconds; Svix's first retry comes after 5 s as well.
const RETRY_AFTER: &str = "5";

/// Takes deliveries.
pub struct Webhooks {
    verifier: Verifier,
    deliveries: Arc<Deliveries>,
    metrics: Arc<Metrics>,
    slots: Semaphore,
    /// Which refusals are logged: anybody may post here as often as they like.
    logged: Sampler,
}

impl Webhooks {
    /// Takes what `verifier` accepts.
    #[must_use]
    pub fn new(verifier: Verifier, deliveries: Arc<Deliveries>, metrics: Arc<Metrics>) -> Self {
        let logged = Sampler::new(Share::PerSecond(LOGGED));
        Self { verifier, deliveries, metrics, slots: Semaphore::new(IN_PROGRESS), logged }
    }

    /// Answers one request on a connection with this place.
    pub(super) async fn take(&self, request: Request<Incoming>, place: &Place) -> Answer {
        let began = Instant::now();
        let answer = self.deliver(request, place).await.unwrap_or_else(|refused| *refused);
        place.release();
        if !answer.status().is_success() {
            self.metrics.refused.get_or_create(&Labels([("status", status(&answer))])).inc();
        }
        let took =
            self.metrics.webhook_duration.get_or_create(&Labels([("answer", kind(&answer))]));
        took.observe(began.elapsed().as_secs_f64());
        answer
    }

    async fn deliver(
        &self,
        request: Request<Incoming>,
        place: &Place,
    ) -> Result<Answer, Box<Answer>> {
        let (head, body) = request.into_parts();
        let body = self.read(&head.headers, body, place).await?;
        let verified = self.verify(&head.headers, &body)?;
        place.verified();
        let trace = self.metrics.traces.request("POST /webhooks/clerk", &head.headers);
        let answer = trace.run(self.record(&verified, body)).await;
        trace.note("http.response.status_code", i64::from(answer.status().as_u16()));
        Ok(answer)
    }

    /// The body, if its headers can be those of a delivery and it is not too large.
    async fn read(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        place: &Place,
    ) -> Result<Bytes, Box<Answer>> {
        if !body::is_too_large(&body, LARGEST_BODY)
            && let Err(refusal) = self.verifier.judge(headers, Utc::now().timestamp())
        {
            body::ignore(body);
            return Err(self.refused(&refusal));
        }
        let read = body::read_counted(body, LARGEST_BODY, |bytes| place.hold(bytes)).await;
        read.map_err(|unread| {
            let reason = unread.to_string();
            self.log(&reason);
            Box::new(match unread.status() {
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
                yield_now().await; // other replicas are told before the answer is written
                tell(&outcome)
            }
            Err(error) => failed(&verified.id, &error),
        }
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Box<Answer>> {
        let verified = self.verifier.verify(headers, body, Utc::now().timestamp());
        verified.map_err(|refusal| self.refused(&refusal))
    }

    fn refused(&self, refusal: &Refusal) -> Box<Answer> {
        let status = match refusal {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Unverified(_) => StatusCode::UNAUTHORIZED,
        };
        let reason = refusal.to_string();
        self.log(&reason);
        Box::new(refuse(status, &reason))
    }

    /// A line for a request that is no delivery: nothing in it is to be believed, so it says only what is wrong.
    fn log(&self, refusal: &str) {
        if self.logged.takes() {
            tracing::warn!(refusal, "refused a webhook");
        }
    }
}

/// What became of it: Svix shows this to whoever looks at the endpoint in Clerk's dashboard.
fn tell(outcome: &Outcome) -> Answer {
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
    tracing::error!(svix_id, error = chain(error), "cannot record a delivery");
    if error.is_transient() {
        busy("the database is unavailable: nothing was recorded, deliver again")
    } else {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "the delivery cannot be recorded: see the log")
    }
}

fn busy(reason: &str) -> Answer {
    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    answer
}

/// The kind of answer as a label.
fn kind(answer: &Answer) -> &'static str {
    match answer.status().as_u16() / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// The status as a label of few values.
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
