//! The probes `/livez` and `/readyz`, and `/metrics`.

use crate::{
    domain::Catalog,
    replica::{Accounts, FreshnessState},
    server::auth::Callers,
    storage::Store,
    telemetry::{Labels, Metrics},
};
use axum::{extract::State, response::IntoResponse};
use chrono::{DateTime, Utc};
use http::{StatusCode, header};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The state that probes and scrapes report.
pub struct ProbeState {
    /// The account cache, with its freshness.
    pub accounts: Arc<Accounts>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The store, for the gauges of its connection pools.
    pub store: Arc<Store>,
    /// The number of gRPC calls in progress.
    pub calls_in_progress: Box<dyn Fn() -> usize + Send + Sync>,
    /// The earliest expiry of the listeners' certificates; `None` without any.
    pub certificate_expires_at: Box<dyn Fn() -> Option<DateTime<Utc>> + Send + Sync>,
    /// The catalog file of this replica, if it has one.
    pub catalog_file: Box<dyn Fn() -> Option<Arc<Catalog>> + Send + Sync>,
    /// The callers, if they are authenticated.
    pub callers: Option<Arc<Callers>>,
    /// Cancelled when the service begins to stop.
    pub draining: CancellationToken,
}

/// Reports that the process runs. It does not depend on the database, or an orchestrator would restart replicas in an
/// outage that a restart cannot end.
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// Reports whether this replica can answer checks, or why not.
pub(super) async fn readyz(State(probed): State<Arc<ProbeState>>) -> (StatusCode, String) {
    let (ready, not_ready) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
    if probed.draining.is_cancelled() {
        return (not_ready, "stopping\n".into());
    }
    match probed.accounts.freshness().state() {
        FreshnessState::Fresh => (ready, "ready\n".into()),
        FreshnessState::Unconfirmed(age) | FreshnessState::Stale(age) => {
            (ready, format!("ready, but {} ms behind the database\n", age.as_millis()))
        }
        FreshnessState::Starting => (not_ready, "has not read the database yet\n".into()),
        FreshnessState::Expired => (not_ready, "cut off from the database for too long\n".into()),
    }
}

/// Renders all metrics in the OpenMetrics format.
pub(super) async fn metrics(State(probed): State<Arc<ProbeState>>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let now = probed.accounts.freshness().state().name();
    for state in FreshnessState::NAMES {
        let gauge = probed.metrics.freshness.get_or_create(&Labels([("state", state)]));
        gauge.set(i64::from(state == now));
    }
    refresh_gauges(&probed);
    let tasks = Handle::current().metrics().num_alive_tasks();
    probed.metrics.tasks.set(whole(tasks as u64));
    ([(header::CONTENT_TYPE, OPEN_METRICS)], probed.metrics.encode())
}

/// Sets the gauges whose values are read at each scrape.
fn refresh_gauges(probed: &ProbeState) {
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
    let in_force = probed.accounts.catalog();
    let differs = (probed.catalog_file)()
        .is_some_and(|file| in_force.number > 0 && in_force.differs_from_file(&file));
    gauges.catalog_file_differs.set(i64::from(differs));
    for (name, pool) in probed.store.pools() {
        let labels = Labels([("pool", name)]);
        gauges.pool_size.get_or_create(&labels).set(pool.size.into());
        gauges.pool_idle.get_or_create(&labels).set(whole(pool.idle as u64));
        gauges.pool_limit.get_or_create(&labels).set(pool.limit.into());
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
