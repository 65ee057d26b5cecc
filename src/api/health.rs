//! gRPC health: `SERVING` while this replica can answer checks.

use super::pb;
use crate::replica::{Accounts, FreshnessState};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

/// The interval at which the state is polled.
const TICK: Duration = Duration::from_millis(50);
/// The names that report whether checks can be answered: the whole process (empty) and the service.
const NAMES: [&str; 2] = ["", pb::entitlements_server::SERVICE_NAME];
/// The name that is `SERVING` only while this replica is up to date, for callers that prefer another replica otherwise.
const FRESHNESS: &str = "freshness";

/// Updates the health status until `stop`; reports `NOT_SERVING` while `draining`. No other task writes it. Cancels `ready`
/// once checks can be answered.
pub async fn watch(
    reporter: HealthReporter,
    accounts: Arc<Accounts>,
    ready: CancellationToken,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let (mut last_reported, mut before) = (None, FreshnessState::Starting.name());
    while !stop.is_cancelled() {
        let freshness = accounts.freshness();
        let draining_now = draining.is_cancelled();
        let serving = freshness.can_answer() && !draining_now;
        let state = freshness.state();
        let fresh = state == FreshnessState::Fresh && !draining_now;
        if state.name() != before {
            log(before, state);
            before = state.name();
        }
        if last_reported != Some((serving, fresh)) {
            set(&reporter, serving).await;
            reporter.set_service_status(FRESHNESS, status(fresh)).await;
            last_reported = Some((serving, fresh));
            if serving {
                ready.cancel();
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = draining.cancelled(), if !draining.is_cancelled() => {}
            () = sleep(TICK) => {}
        }
    }
    // Ends every open Health/Watch stream, which would keep its connection open while the service drains.
    let mut reporter = reporter;
    for name in NAMES.into_iter().chain([FRESHNESS]) {
        reporter.clear_service_status(name).await;
    }
}

/// Creates the Health service and its reporter, with the status `NOT_SERVING`.
pub async fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    set(&reporter, false).await;
    (reporter, server)
}

/// Sets the status of the process and the service.
async fn set(reporter: &HealthReporter, serving: bool) {
    for name in NAMES {
        reporter.set_service_status(name, status(serving)).await;
    }
}

/// Logs a change of state.
fn log(before: &'static str, now: FreshnessState) {
    let freshness = now.name();
    match now {
        FreshnessState::Starting => {}
        FreshnessState::Fresh => {
            tracing::info!(before, freshness, "fresh: caught up with the change log");
        }
        FreshnessState::Unconfirmed(_) => tracing::warn!(
            before,
            freshness,
            "unconfirmed: cannot follow the change log; every check reads its accounts from Postgres"
        ),
        FreshnessState::Stale(_) => tracing::warn!(
            before,
            freshness,
            "stale: Postgres is unreachable; checks are answered from memory and marked stale"
        ),
        FreshnessState::Expired => tracing::error!(
            before,
            freshness,
            "expired: Postgres was unreachable for longer than ENTITLEMENTS_MAX_STALENESS; all checks fail"
        ),
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
