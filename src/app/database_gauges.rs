//! Refreshes the gauges that only Postgres can report: clock skew, notification queue, parked deliveries, overrides.

use crate::{
    storage::{OverrideCounts, Store},
    telemetry::{Labels, Metrics, log_chain},
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::sleep;

/// Interval between two refreshes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(15);
/// Clock skew, in seconds, above which a warning is logged.
pub const MAX_CLOCK_SKEW_S: f64 = 2.0;

/// Refreshes the gauges for ever; logs when the clock skew exceeds [`MAX_CLOCK_SKEW_S`] and when it no longer does.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>) -> Infallible {
    let mut is_skewed = false;
    loop {
        match store.database_stats().await {
            Ok(stats) => {
                metrics.gauges.clock_skew.set(stats.skew);
                metrics.gauges.notification_queue.set(stats.queue);
                metrics.gauges.parked.set(stats.parked);
                if is_skewed != (stats.skew.abs() > MAX_CLOCK_SKEW_S) {
                    is_skewed = !is_skewed;
                    log_skew(is_skewed, stats.skew);
                }
            }
            // Not a warning: the change follower logs that the database is away.
            Err(error) => {
                tracing::debug!(error = log_chain(&error), "cannot refresh the database gauges");
            }
        }
        match store.override_counts().await {
            Ok(counts) => show_overrides(counts, &metrics),
            Err(error) => tracing::debug!(error = log_chain(&error), "cannot count the overrides"),
        }
        sleep(REFRESH_INTERVAL).await;
    }
}

fn show_overrides(counts: OverrideCounts, metrics: &Metrics) {
    let OverrideCounts { grants, denials, expiring_soon } = counts;
    for (effect, count) in [("grant", grants), ("deny", denials)] {
        metrics.gauges.overrides.get_or_create(&Labels([("effect", effect)])).set(count);
    }
    metrics.gauges.overrides_expiring_soon.set(expiring_soon);
}

fn log_skew(is_skewed: bool, skew_s: f64) {
    if is_skewed {
        tracing::warn!(
            skew_s,
            "the clock of Postgres is {skew_s:.1} s ahead of this machine's (behind, if negative): clocks \
             determine when paid periods end and signatures expire; synchronize both by NTP"
        );
    } else {
        tracing::info!(skew_s, "the clocks of Postgres and this machine agree again");
    }
}
