//! flagd's protocols, for any OpenFeature SDK with a flagd provider: `flagd.evaluation` evaluates flags in this
//! service, `flagd.sync` sends the flag set of one subject to an evaluator elsewhere.
//!
//! Invariants: **no answer has the reason `STATIC`**, because providers cache such an answer by the flag's key alone
//! and would return one customer's answer to another. Every answer has a variant, because providers replace an answer
//! without one by the caller's default.

mod context;
mod evaluation;
mod events;
mod flag_set;
mod flags;
pub mod pb;
mod sync;

use super::{LARGEST_REQUEST, entitlements::response};
use crate::{
    check::Evaluator,
    replica::{FreshnessState, Unavailable},
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

/// The maximum number of open streams of all callers together.
const MAX_FLAGD_STREAMS: usize = 10_000;

/// flagd's protocols, each of which is served only if its flag is set.
pub struct Flagd {
    answers: Answers,
    /// Whether evaluation is served.
    pub evaluation: bool,
    /// Whether sync is served.
    pub sync: bool,
}

/// Implements flagd's services.
#[derive(Clone)]
struct Answers {
    checks: Arc<Evaluator>,
    draining: CancellationToken,
    metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
}

impl Flagd {
    /// Creates the protocols on this evaluator, none of them served yet. Streams end when `draining` is cancelled.
    #[must_use]
    pub fn new(checks: Arc<Evaluator>, draining: CancellationToken, metrics: Arc<Metrics>) -> Self {
        let streams = Arc::new(Semaphore::new(MAX_FLAGD_STREAMS));
        let answers = Answers { checks, draining, metrics, streams };
        Self { answers, evaluation: false, sync: false }
    }

    /// Adds the enabled services to the routes.
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

    /// Adds the descriptors of the enabled services to reflection.
    pub(super) fn describe<'b>(&self, builder: Builder<'b>) -> Builder<'b> {
        let served = [(self.evaluation, pb::EVALUATION), (self.sync, pb::SYNC)];
        let served = served.into_iter().filter_map(|(is, descriptor)| is.then_some(descriptor));
        served.fold(builder, Builder::register_encoded_file_descriptor_set)
    }
}

impl Answers {
    /// Acquires a permit for one more stream; fails while this replica cannot answer.
    fn slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        if self.draining.is_cancelled() {
            return Err(stopping());
        }
        let unavailable = match self.checks.accounts().freshness().state() {
            FreshnessState::Starting => Some(Unavailable::Starting),
            FreshnessState::Expired => Some(Unavailable::TooStale),
            FreshnessState::Fresh | FreshnessState::Unconfirmed(_) | FreshnessState::Stale(_) => {
                None
            }
        };
        if let Some(unavailable) = unavailable {
            return Err(response::status(self.checks.error(&unavailable)));
        }
        let slot = self.streams.clone().try_acquire_owned();
        slot.map_err(|_| Status::resource_exhausted("too many streams are open"))
    }

    /// Counts a call by its outcome; `result` is the label of a successful one.
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

/// The status that ends a stream. It must be an error: Node's provider does not reconnect after a stream that ended
/// with OK.
fn stopping() -> Status {
    Status::unavailable("this replica is stopping: reconnect to another replica")
}
