//! Probes and the metrics page.

use super::{Answer, Probed, with_type};
use crate::{accounts::State, telemetry::Labels};
use http::StatusCode;
use tokio::runtime::Handle;

/// Says that the process runs; it does not depend on the database, or a restart would be the answer to an
/// outage that a restart cannot end.
pub(super) fn livez() -> Answer {
    plain(StatusCode::OK, "alive\n".into())
}

/// Says whether calls should be sent here, and why not.
pub(super) fn readyz(probed: &Probed) -> Answer {
    if probed.draining.is_cancelled() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
    }
    match probed.accounts.freshness().state() {
        State::Fresh => plain(StatusCode::OK, "ready\n".into()),
        State::Unsure(age) | State::Stale(age) => plain(
            StatusCode::OK,
            format!("ready, but {} ms behind the database\n", age.as_millis()),
        ),
        State::Starting => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "has not read the database yet\n".into())
        }
        State::Expired => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "cut off from the database for too long\n".into(),
        ),
    }
}

/// Everything that is counted.
pub(super) fn metrics(probed: &Probed) -> Answer {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let now = probed.accounts.freshness().state().word();
    for state in State::WORDS {
        let gauge = probed.metrics.freshness.get_or_create(&Labels([("state", state)]));
        gauge.set(i64::from(state == now));
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    probed.metrics.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    with_type(StatusCode::OK, OPEN_METRICS, probed.metrics.encode())
}

fn plain(status: StatusCode, text: String) -> Answer {
    with_type(status, "text/plain; charset=utf-8", text)
}
