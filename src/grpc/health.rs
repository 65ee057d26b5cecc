//! gRPC health: serving as long as questions can be answered.

use super::pb;
use crate::accounts::Accounts;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often the state is looked at.
const TICK: Duration = Duration::from_millis(50);
/// The whole process, and the service by name.
const NAMES: [&str; 2] = ["", pb::entitlements_server::SERVICE_NAME];

/// Keeps health true until `stop`; while `draining` nothing is served any more. It is the only writer.
pub async fn watch(
    reporter: HealthReporter,
    accounts: Arc<Accounts>,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let mut told = None;
    while !stop.is_cancelled() {
        let serving = accounts.freshness().can_answer() && !draining.is_cancelled();
        if told != Some(serving) {
            set(&reporter, serving).await;
            told = Some(serving);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = draining.cancelled(), if !draining.is_cancelled() => {}
            () = sleep(TICK) => {}
        }
    }
    // Ends every open Health/Watch, which would keep its connection from draining.
    let mut reporter = reporter;
    for name in NAMES {
        reporter.clear_service_status(name).await;
    }
}

/// Says that nothing is served, or that everything is.
pub async fn set(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in NAMES {
        reporter.set_service_status(name, status).await;
    }
}
