//! Event streams: say when all flags should be asked for again, and nothing else.
//!
//! A stream looks at the tag of its subjects whenever something of them or the catalog may have changed, when time
//! alone changes something, and with every sign of life; it tells each new tag once. So it is never wrong for longer
//! than what it looks at, whatever woke it or failed to.

use super::{
    Fault,
    flags::{next_boundary, tag},
};
use crate::{
    check::{Checks, Whom},
    domain::{Kind, Subject},
    replica::{Need, Watch},
    server::http::{
        body::{Body, Events},
        response::Answer,
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// The most streams open at once.
pub(in super::super) const STREAMS: usize = 1024;
/// How long a stream is silent at most.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How long a page may be in the background before it should hang up, in seconds.
const INACTIVITY: u64 = 120;

/// Opens streams.
pub(super) struct Streams {
    checks: Arc<Checks>,
    draining: CancellationToken,
    slots: Arc<Semaphore>,
}

/// Where the changes of these subjects are told, as an answer names it.
pub(super) fn stream(whom: &Whom) -> Value {
    let named = [("userId", whom.one(Kind::User)), ("orgId", whom.one(Kind::Organization))];
    let query: Vec<_> =
        named.into_iter().filter_map(|(name, id)| Some(format!("{name}={}", id?))).collect();
    let uri = format!("{}?{}", super::EVENTS, query.join("&"));
    json!({ "type": "sse", "endpoint": { "requestUri": uri }, "inactivityDelaySec": INACTIVITY })
}

impl Streams {
    pub(super) fn new(checks: Arc<Checks>, draining: CancellationToken) -> Self {
        Self { checks, draining, slots: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Opens the stream that a request names.
    pub(super) fn open<B>(&self, request: &Request<B>) -> Result<Answer, Fault> {
        let whom = whom(request.uri().query().unwrap_or_default())?;
        let slot = self.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| Fault::overloaded("too many event streams are open"))?;
        let following = Following {
            watch: self.checks.accounts().watch(),
            checks: self.checks.clone(),
            whom,
            told: last_told(request.headers()),
            alive: Instant::now() + SIGN_OF_LIFE,
            draining: self.draining.clone(),
            _slot: slot,
        };
        let events: Events = Box::pin(stream::unfold(following, async |mut following| {
            let event = following.next().await?;
            Some((Ok(Frame::data(Bytes::from(event))), following))
        }));
        let mut answer = Answer::new(Body::Right(StreamBody::new(events)));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would keep it back
        Ok(answer)
    }
}

/// Whom a stream is about, from the query that [`stream`] made.
fn whom(query: &str) -> Result<Whom, Fault> {
    let named = |name, kind| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let id = pairs.find(|(found, _)| *found == name).map(|(_, id)| Subject::of(kind, id));
        id.transpose().map_err(|error| {
            Fault::bad("INVALID_CONTEXT", "invalid_context", format!("{name} {error}"))
        })
    };
    let (user, organization) = (named("userId", Kind::User)?, named("orgId", Kind::Organization)?);
    Whom::of(user, organization).ok_or_else(|| {
        let details =
            "neither userId nor orgId is in the query: use the requestUri of eventStreams";
        Fault::bad("TARGETING_KEY_MISSING", "targeting_key_missing", details)
    })
}

/// The tag that a client that comes back was told last.
fn last_told(headers: &HeaderMap) -> Option<String> {
    headers.get("last-event-id")?.to_str().ok().map(str::to_owned)
}

/// One open stream.
struct Following {
    checks: Arc<Checks>,
    whom: Whom,
    watch: Watch,
    /// The tag that was told last.
    told: Option<String>,
    /// When the next sign of life is due.
    alive: Instant,
    draining: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl Following {
    /// The next event; `None` when the service stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            // While the facts cannot be read, there is nothing to tell.
            let mut boundary = None;
            if let Ok(facts) = self.checks.facts(self.whom.payers(), &Need::default()).await {
                let moment = self.checks.moment();
                let tag = tag(&moment, &facts);
                if self.told.as_ref() != Some(&tag) {
                    return Some(self.tell(tag));
                }
                boundary = next_boundary(&moment, &facts);
            }
            tokio::select! {
                () = self.draining.cancelled() => return None,
                () = self.watch.touched(|subject| self.whom.has(subject)) => {}
                () = until(boundary) => {}
                () = sleep_until(self.alive) => {
                    self.alive = Instant::now() + SIGN_OF_LIFE;
                    return Some(":\n\n".into());
                }
            }
        }
    }

    fn tell(&mut self, tag: String) -> String {
        let etag = format!("\"{tag}\"");
        let data = json!({ "type": "refetchEvaluation", "etag": etag });
        let event = format!("id: {tag}\nevent: message\ndata: {data}\n\n");
        self.told = Some(tag);
        event
    }
}

/// Waits for an instant of the wall clock; for ever without one.
async fn until(instant: Option<DateTime<Utc>>) {
    match instant.map(|at| (at - Utc::now()).to_std().unwrap_or_default()) {
        // A clock that is set is noticed with the next sign of life.
        Some(wait) => sleep(wait.min(SIGN_OF_LIFE) + Duration::from_millis(1)).await,
        None => std::future::pending().await,
    }
}
