//! Event streams: notify clients when to fetch all flags again.
//!
//! A stream computes the tag of its subjects when their accounts or the catalog may have changed, at the instant at
//! which time alone changes a flag, and with every keep-alive; it sends each new tag once. A missed wake-up therefore
//! delays an event by at most one keep-alive interval.

use super::{
    OfrepError,
    flags::{next_boundary, tag},
};
use crate::{
    check::{Evaluator, SubjectsBuf, SubjectsParser},
    domain::Kind,
    replica::{ChangeSubscription, Consistency},
};
use axum::{
    extract::Request,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use chrono::{DateTime, Utc};
use futures_util::stream;
use http::{HeaderMap, HeaderName, header};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// The maximum number of open streams.
pub(in super::super) const MAX_EVENT_STREAMS: usize = 1024;
/// The longest time without a byte on a stream.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a page may be in the background before it should close its stream, in seconds.
const INACTIVITY: u64 = 120;

/// Opens event streams, up to a maximum.
pub(super) struct Streams {
    checks: Arc<Evaluator>,
    draining: CancellationToken,
    slots: Arc<Semaphore>,
}

/// The stream of these subjects, as an entry of `eventStreams` in an answer.
pub(super) fn stream(subjects: &SubjectsBuf) -> Value {
    let named = [("userId", subjects.one(Kind::User)), ("orgId", subjects.one(Kind::Organization))];
    let query: Vec<_> =
        named.into_iter().filter_map(|(name, id)| Some(format!("{name}={}", id?))).collect();
    let uri = format!("{}?{}", super::EVENTS, query.join("&"));
    json!({ "type": "sse", "endpoint": { "requestUri": uri }, "inactivityDelaySec": INACTIVITY })
}

impl Streams {
    pub(super) fn new(checks: Arc<Evaluator>, draining: CancellationToken) -> Self {
        Self { checks, draining, slots: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)) }
    }

    /// Opens the stream of the subjects in the query.
    pub(super) fn open(&self, request: &Request) -> Result<Response, OfrepError> {
        let subjects = subjects(request.uri().query().unwrap_or_default())?;
        let slot = self.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| OfrepError::overloaded("too many event streams are open"))?;
        let stream = EventStream {
            watch: self.checks.accounts().watch(),
            checks: self.checks.clone(),
            subjects,
            sent_tag: last_event_id(request.headers()),
            keep_alive_at: Instant::now() + KEEP_ALIVE_INTERVAL,
            draining: self.draining.clone(),
            _slot: slot,
        };
        let events = stream::unfold(stream, async |mut stream| {
            let event = stream.next().await?;
            Some((Ok::<_, Infallible>(event), stream))
        });
        let headers = [
            (header::CACHE_CONTROL, "no-store"),
            (HeaderName::from_static("x-accel-buffering"), "no"), // or nginx would buffer it
        ];
        Ok((headers, Sse::new(events)).into_response())
    }
}

/// The subjects of a stream, from a query that [`stream`] made.
fn subjects(query: &str) -> Result<SubjectsBuf, OfrepError> {
    let mut parser = SubjectsParser::default();
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    for (name, id) in pairs.iter().filter(|(_, id)| !id.is_empty()) {
        let kind = match &**name {
            "userId" => Kind::User,
            "orgId" => Kind::Organization,
            _ => continue,
        };
        parser.add(Some(kind), id).map_err(|error| {
            OfrepError::bad("INVALID_CONTEXT", "invalid_context", format!("{name} {error}"))
        })?;
    }
    parser.subjects().map(Into::into).ok_or_else(|| {
        let details = "the query has neither userId nor orgId: use the requestUri of eventStreams";
        OfrepError::bad("TARGETING_KEY_MISSING", "targeting_key_missing", details)
    })
}

/// The last tag that a reconnecting client received.
fn last_event_id(headers: &HeaderMap) -> Option<String> {
    headers.get("last-event-id")?.to_str().ok().map(str::to_owned)
}

/// The state of one open stream.
struct EventStream {
    checks: Arc<Evaluator>,
    subjects: SubjectsBuf,
    watch: ChangeSubscription,
    /// The tag that was sent last.
    sent_tag: Option<String>,
    /// When the next keep-alive is due.
    keep_alive_at: Instant,
    draining: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl EventStream {
    /// The next event; `None` when the service stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            // No event while the accounts cannot be loaded.
            let mut boundary = None;
            if let Ok(evaluated) = self
                .checks
                .evaluated_accounts(self.subjects.as_subjects(), &Consistency::default())
                .await
            {
                let evaluation = self.checks.context();
                let tag = tag(&evaluation, &evaluated);
                if self.sent_tag.as_ref() != Some(&tag) {
                    return Some(self.event(tag));
                }
                boundary = next_boundary(&evaluation, &evaluated);
            }
            tokio::select! {
                () = self.draining.cancelled() => return None,
                () = self.watch.changed(|subject| self.subjects.has(subject)) => {}
                () = until(boundary) => {}
                () = sleep_until(self.keep_alive_at) => {
                    self.keep_alive_at = Instant::now() + KEEP_ALIVE_INTERVAL;
                    return Some(Event::DEFAULT_KEEP_ALIVE);
                }
            }
        }
    }

    fn event(&mut self, tag: String) -> Event {
        let etag = format!("\"{tag}\"");
        let data = json!({ "type": "refetchEvaluation", "etag": etag });
        let event = Event::default().id(&tag).event("message").data(data.to_string());
        self.sent_tag = Some(tag);
        event
    }
}

/// Waits for an instant of the wall clock; forever without one.
async fn until(instant: Option<DateTime<Utc>>) {
    match instant.map(|at| (at - Utc::now()).to_std().unwrap_or_default()) {
        // Waits in steps, so that a change of the clock is noticed.
        Some(wait) => sleep(wait.min(KEEP_ALIVE_INTERVAL) + Duration::from_millis(1)).await,
        None => std::future::pending().await,
    }
}
