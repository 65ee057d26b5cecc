//! Probes and the metrics page.

use crate::{
    replica::{Accounts, State},
    server::{
        auth::Callers,
        http::response::{Answer, with_type},
    },
    storage::Store,
    telemetry::{Labels, Metrics},
};
use chrono::{DateTime, Utc};
use http::StatusCode;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What probes and scrapes look at.
pub struct Probed {
    /// Whether questions can be answered.
    pub accounts: Arc<Accounts>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whose connections are told of.
    pub store: Arc<Store>,
    /// How many gRPC calls were not answered yet.
    pub calls_in_progress: Box<dyn Fn() -> usize + Send + Sync>,
    /// When the first of the listeners' certificates expires, if they have any.
    pub certificate_expires_at: Box<dyn Fn() -> Option<DateTime<Utc>> + Send + Sync>,
    /// Who may call, if that is restricted.
    pub callers: Option<Arc<Callers>>,
    /// Set once the service was asked to stop.
    pub draining: CancellationToken,
}

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
    look(probed);
    let tasks = Handle::current().metrics().num_alive_tasks();
    probed.metrics.tasks.set(whole(tasks as u64));
    with_type(StatusCode::OK, OPEN_METRICS, probed.metrics.encode())
}

/// What is known only when it is asked for.
fn look(probed: &Probed) {
    let gauges = &probed.metrics.gauges;
    let (entries, bytes) = probed.accounts.cache_size();
    gauges.cache_entries.set(whole(entries));
    gauges.cache_bytes.set(whole(bytes));
    gauges.calls_in_progress.set(whole((probed.calls_in_progress)() as u64));
    let expires_at = (probed.certificate_expires_at)();
    gauges.certificate_expires_at.set(expires_at.map_or(0, |at| at.timestamp()));
    let callers = probed.callers.as_ref();
    let in_force = callers.and_then(|callers| callers.in_force());
    gauges.callers_in_force.set(whole(in_force.unwrap_or(0)));
    let is_broken = callers.is_some_and(|callers| callers.is_broken());
    gauges.callers_broken.set(i64::from(is_broken));
    for (lane, pool) in probed.store.pools() {
        let labels = Labels([("lane", lane)]);
        gauges.pool_size.get_or_create(&labels).set(pool.size.into());
        gauges.pool_idle.get_or_create(&labels).set(whole(pool.idle as u64));
        gauges.pool_limit.get_or_create(&labels).set(pool.limit.into());
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn plain(status: StatusCode, text: String) -> Answer {
    with_type(status, "text/plain; charset=utf-8", text)
}
