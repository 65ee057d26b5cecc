//! flagd's protocols, so that any OpenFeature SDK with a flagd provider can ask, with no library of ours:
//! `flagd.evaluation` answers each question here, `flagd.sync` sends one subject's answers to be given there.
//!
//! What must always hold: **no answer is `STATIC`.** Providers keep such an answer by the flag's key alone, and
//! would give one customer's to another. And every answer has a variant: without one, a caller's own default counts.

mod context;
mod evaluation;
mod events;
mod flag_set;
mod flags;
mod metadata;
pub mod pb;
mod sync;

use super::{LARGEST_REQUEST, entitlements::response};
use crate::{
    check::Checks,
    replica::{State, Unavailable},
    telemetry::{Labels, Metrics},
};
use pb::{
    sync::flag_sync_service_server::FlagSyncServiceServer, v1::service_server::ServiceServer as V1,
    v2::service_server::ServiceServer as V2,
};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, service::Routes};
use tonic_reflection::server::Builder;

/// The most streams open at once, of all callers.
const STREAMS: usize = 10_000;

/// flagd's protocols, as far as they are served.
pub struct Flagd {
    answers: Answers,
    /// Whether evaluation is served.
    pub evaluation: bool,
    /// Whether sync is served.
    pub sync: bool,
}

/// Answers in flagd's words.
#[derive(Clone)]
struct Answers {
    checks: Arc<Checks>,
    draining: CancellationToken,
    metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
}

impl Flagd {
    /// Answers what these checks decide, and ends its streams when the service is `draining`; serves nothing yet.
    #[must_use]
    pub fn new(checks: Arc<Checks>, draining: CancellationToken, metrics: Arc<Metrics>) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        let answers = Answers { checks, draining, metrics, streams };
        Self { answers, evaluation: false, sync: false }
    }

    /// Adds the services to those of ours.
    pub(super) fn add_to(&self, mut routes: Routes) -> Routes {
        let answers = || self.answers.clone();
        if self.evaluation {
            routes = routes
                .add_service(V1::new(answers()).max_decoding_message_size(LARGEST_REQUEST))
                .add_service(V2::new(answers()).max_decoding_message_size(LARGEST_REQUEST));
        }
        if self.sync {
            let sync = FlagSyncServiceServer::new(answers());
            routes = routes.add_service(sync.max_decoding_message_size(LARGEST_REQUEST));
        }
        routes
    }

    /// Adds the services to what reflection tells.
    pub(super) fn describe<'b>(&self, builder: Builder<'b>) -> Builder<'b> {
        let served = [(self.evaluation, pb::EVALUATION), (self.sync, pb::SYNC)];
        let served = served.into_iter().filter_map(|(is, descriptor)| is.then_some(descriptor));
        served.fold(builder, Builder::register_encoded_file_descriptor_set)
    }
}

impl Answers {
    /// The right to one more stream.
    fn slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        if self.draining.is_cancelled() {
            return Err(stopping());
        }
        let unavailable = match self.checks.accounts().freshness().state() {
            State::Starting => Some(Unavailable::Starting),
            State::Expired => Some(Unavailable::TooStale),
            State::Fresh | State::Unsure(_) | State::Stale(_) => None,
        };
        if let Some(unavailable) = unavailable {
            return Err(response::status(self.checks.failure(&unavailable)));
        }
        let slot = self.streams.clone().try_acquire_owned();
        slot.map_err(|_| Status::resource_exhausted("too many streams are open"))
    }

    /// Counts what became of a call, `result` if it went well.
    fn counted<T>(
        &self,
        protocol: &'static str,
        result: &'static str,
        answer: Result<T, Status>,
    ) -> Result<T, Status> {
        let result = match answer.as_ref().map_err(Status::code) {
            Ok(_) => result,
            Err(Code::NotFound) => "flag_not_found",
            Err(Code::InvalidArgument) => "invalid",
            Err(Code::ResourceExhausted) => "overloaded",
            Err(_) => "unavailable",
        };
        let labels = Labels([("protocol", protocol), ("result", result)]);
        self.metrics.protocol_requests.get_or_create(&labels).inc();
        answer
    }
}

/// How streams end. It must be an error: Node's provider does not come back after a stream that ended well.
fn stopping() -> Status {
    Status::unavailable("this replica is stopping: connect again, to another one")
}
