//! Retention: deletes old change-log rows, old bodies of deliveries, old observations, and the histories of subjects that
//! were deleted some time ago. Every replica runs it.

use crate::{
    config::Retention,
    storage::{Store, StoreError},
    telemetry::log_chain,
};
use chrono::Utc;
use std::{convert::Infallible, sync::Arc};
use tokio::time::sleep;

/// Interval between two runs.
const DELETION_INTERVAL: std::time::Duration = std::time::Duration::from_mins(10);

/// Deletes what is older than its retention, for ever.
pub async fn run(store: Arc<Store>, retention: Retention) -> Infallible {
    loop {
        if let Err(error) = once(&store, retention).await {
            tracing::warn!(
                error = log_chain(&error),
                "retention: cannot delete old rows and bodies"
            );
        }
        sleep(DELETION_INTERVAL).await;
    }
}

async fn once(store: &Store, retention: Retention) -> Result<(), StoreError> {
    let now = Utc::now();
    let changes = until_none(|| store.prune_changes()).await?;
    let bodies = until_none(|| store.redact_bodies(now - retention.bodies)).await?;
    let deleted_before = now - retention.history_after_deletion;
    let histories = until_none(|| store.remove_histories(deleted_before)).await?;
    let thinned = match retention.history {
        Some(history) => until_none(|| store.thin_history(now - history)).await?,
        None => 0,
    };
    if changes + bodies + histories + thinned > 0 {
        tracing::info!(
            changes,
            bodies,
            histories,
            thinned,
            "retention: deleted old change-log rows, bodies and observations, and histories of deleted subjects"
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
