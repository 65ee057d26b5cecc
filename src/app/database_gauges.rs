//! Looks now and then at what only Postgres can tell: its clock, its queue of notifications, what is parked.

use crate::{
    storage::Store,
    telemetry::{Metrics, chain},
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::sleep;

/// How often.
const EVERY: Duration = Duration::from_secs(15);
/// How far two clocks may be apart, in seconds, before somebody should know.
const SKEW: f64 = 2.0;

/// Keeps the gauges true, for ever; says when the clocks part and when they agree again.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>) -> Infallible {
    let mut is_skewed = false;
    loop {
        match store.pulse().await {
            Ok(pulse) => {
                metrics.gauges.clock_skew.set(pulse.skew);
                metrics.gauges.notification_queue.set(pulse.queue);
                metrics.gauges.parked.set(pulse.parked);
                if is_skewed != (pulse.skew.abs() > SKEW) {
                    is_skewed = !is_skewed;
                    tell(is_skewed, pulse.skew);
                }
            }
            // That the database is away is told where changes are heard.
            Err(error) => tracing::debug!(error = chain(&error), "cannot look at the database"),
        }
        sleep(EVERY).await;
    }
}

fn tell(is_skewed: bool, skew_s: f64) {
    if is_skewed {
        tracing::warn!(
            skew_s,
            "the clock of Postgres is {skew_s:.1} s ahead of this machine's (behind, if negative): paid \
             periods end and signatures expire by them; set both by NTP"
        );
    } else {
        tracing::info!(skew_s, "the clocks of Postgres and this machine agree again");
    }
}
