//! Retention: deletes old change-log rows and old bodies of deliveries. Every replica runs it.

use crate::storage::{Store, StoreError};
use crate::telemetry::log_chain;
use chrono::{Duration, Utc};
use std::{convert::Infallible, sync::Arc};
use tokio::time::sleep;

/// Interval between two runs.
const DELETION_INTERVAL: std::time::Duration = std::time::Duration::from_mins(10);

/// Deletes old change-log rows, and bodies older than the retention, for ever.
pub async fn run(store: Arc<Store>, body_retention: Duration) -> Infallible {
    loop {
        if let Err(error) = once(&store, body_retention).await {
            tracing::warn!(
                error = log_chain(&error),
                "retention: cannot delete old rows and bodies"
            );
        }
        sleep(DELETION_INTERVAL).await;
    }
}

async fn once(store: &Store, body_retention: Duration) -> Result<(), StoreError> {
    let changes = until_none(|| store.prune_changes()).await?;
    let before = Utc::now() - body_retention;
    let bodies = until_none(|| store.redact_bodies(before)).await?;
    if changes + bodies > 0 {
        tracing::info!(
            changes,
            bodies,
            "retention: deleted old change-log rows and delivery bodies"
        );
    }
    Ok(())
}

/// Repeats a step until it finds nothing to delete, so that no transaction is long; returns the total.
async fn until_none<F>(step: impl Fn() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut all = 0;
    loop {
        match step().await? {
            0 => return Ok(all),
            some => all += some,
        }
    }
}
