//! What any one replica does now and then: removes what nobody needs any more.

use crate::storage::{Store, StoreError};
use crate::telemetry::chain;
use chrono::{Duration, Utc};
use std::{convert::Infallible, sync::Arc};
use tokio::time::sleep;

/// How often.
const EVERY: std::time::Duration = std::time::Duration::from_mins(10);

/// Removes old rows of the change log, and bodies older than the retention, for ever.
pub async fn run(store: Arc<Store>, body_retention: Duration) -> Infallible {
    loop {
        if let Err(error) = once(&store, body_retention).await {
            tracing::warn!(error = chain(&error), "cannot remove what is old");
        }
        sleep(EVERY).await;
    }
}

async fn once(store: &Store, body_retention: Duration) -> Result<(), StoreError> {
    let changes = until_none(|| store.prune_changes()).await?;
    let before = Utc::now() - body_retention;
    let bodies = until_none(|| store.drop_bodies(before)).await?;
    if changes + bodies > 0 {
        tracing::info!(changes, bodies, "removed old change-log rows and bodies of deliveries");
    }
    Ok(())
}

/// Works in steps, so that no transaction is long.
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
