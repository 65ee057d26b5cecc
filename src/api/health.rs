//! gRPC health: serving as long as questions can be answered.

use super::pb;
use crate::replica::{Accounts, State};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

/// How often the state is looked at.
const TICK: Duration = Duration::from_millis(50);
/// The whole process, and the service by name.
const NAMES: [&str; 2] = ["", pb::entitlements_server::SERVICE_NAME];
/// Serving while this replica hears all changes: for callers that would rather go elsewhere.
const FRESHNESS: &str = "freshness";

/// Keeps health true until `stop`; while `draining` nothing is served any more. It is the only writer.
pub async fn watch(
    reporter: HealthReporter,
    accounts: Arc<Accounts>,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let (mut told, mut before) = (None, State::Starting.word());
    while !stop.is_cancelled() {
        let freshness = accounts.freshness();
        let draining_now = draining.is_cancelled();
        let serving = freshness.can_answer() && !draining_now;
        let state = freshness.state();
        let fresh = state == State::Fresh && !draining_now;
        if state.word() != before {
            log(before, state);
            before = state.word();
        }
        if told != Some((serving, fresh)) {
            set(&reporter, serving).await;
            reporter.set_service_status(FRESHNESS, status(fresh)).await;
            told = Some((serving, fresh));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = draining.cancelled(), if !draining.is_cancelled() => {}
            () = sleep(TICK) => {}
        }
    }
    // Ends every open Health/Watch, which would keep its connection from draining.
    let mut reporter = reporter;
    for name in NAMES.into_iter().chain([FRESHNESS]) {
        reporter.clear_service_status(name).await;
    }
}

/// A reporter that says that nothing is served yet, and the service that tells it.
pub async fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    set(&reporter, false).await;
    (reporter, server)
}

/// Says that nothing is served, or that everything is.
async fn set(reporter: &HealthReporter, serving: bool) {
    for name in NAMES {
        reporter.set_service_status(name, status(serving)).await;
    }
}

/// One line for each change of state.
fn log(before: &'static str, now: State) {
    let freshness = now.word();
    match now {
        State::Starting => {}
        State::Fresh => {
            tracing::info!(before, freshness, "fresh: answers are as Postgres has them");
        }
        State::Unsure(_) => tracing::warn!(
            before,
            freshness,
            "unsure: changes are not heard; accounts are read anew for each answer"
        ),
        State::Stale(_) => tracing::warn!(
            before,
            freshness,
            "stale: Postgres is away; answers come from memory and say so"
        ),
        State::Expired => tracing::error!(
            before,
            freshness,
            "expired: Postgres was away for longer than MAX_STALENESS; nothing is answered"
        ),
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
