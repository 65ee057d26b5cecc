//! Start-up: waits for the database, migrates it if configured, and puts the catalog file in force.

use super::catalog_file::CatalogFile;
use crate::{
    storage::{Schema, Store, StoreError, migrate},
    telemetry::log_chain,
};
use anyhow::{Context, ensure};
use sqlx::postgres::PgConnectOptions;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval between two attempts to reach the database.
const DATABASE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The schema of the database does not match this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongSchema {
    /// Migrations are missing.
    #[error("the database is not migrated: run `entitlements migrate`, or start with --migrate")]
    Behind,
    /// A newer release has migrated the database too far for this build.
    #[error(
        "the database was migrated by a newer release, too far for this build: deploy that release"
    )]
    Ahead,
}

/// The preparation of the database, before the other tasks use it.
pub(super) struct Startup {
    pub store: Arc<Store>,
    /// The connection options for migrating; `None` if migrating is not configured.
    pub migrate: Option<PgConnectOptions>,
    /// The catalog file, if one is set.
    pub catalog: Option<Arc<CatalogFile>>,
}

impl Startup {
    /// Prepares the database, cancels `prepared`, and returns at `stop`.
    pub async fn run(
        self,
        prepared: CancellationToken,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let (file, store) = (self.catalog.clone(), self.store.clone());
        if let Some(done) = stop.run_until_cancelled(self.prepare()).await {
            done?;
            prepared.cancel();
            if let Some(file) = file {
                stop.run_until_cancelled(file.follow(&store)).await;
            }
            stop.cancelled().await;
        }
        Ok(())
    }

    async fn prepare(self) -> anyhow::Result<()> {
        match (retry_while_unavailable(&self.store, || self.store.schema()).await?, self.migrate) {
            (Schema::Fits, _) => {}
            (Schema::Behind, Some(database)) => {
                let newest = migrate(&database).await.context("cannot migrate the database")?;
                tracing::info!(newest, "migrated the database");
            }
            (Schema::Behind, None) => return Err(WrongSchema::Behind.into()),
            (Schema::Ahead, _) => return Err(WrongSchema::Ahead.into()),
        }
        let missing = retry_while_unavailable(&self.store, || self.store.missing_rights()).await?;
        ensure!(
            missing.is_empty(),
            "the role of DATABASE_URL lacks rights: as the owner of the tables, run `entitlements migrate --grant-to \
             ROLE`, or: {}",
            missing.join("; ")
        );
        wait_until_writable(&self.store).await?;
        retry_while_unavailable(&self.store, || self.store.complete_catalog_rows()).await?;
        match &self.catalog {
            Some(file) => retry_while_unavailable(&self.store, || file.start(&self.store)).await?,
            None => warn_without_catalog(&self.store).await?,
        }
        Ok(())
    }
}

/// Retries a query until the database answers, and logs the cause once. A database that denies access is an error,
/// which ends the start.
async fn retry_while_unavailable<T, F>(store: &Store, ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut has_logged = false;
    loop {
        match ask().await {
            Err(error @ StoreError::AccessDenied(_)) => return Err(error),
            Err(error) if error.is_transient() => {
                if !has_logged {
                    tracing::error!(
                        database = store.describe_database(),
                        error = log_chain(&error),
                        "waiting for the database of DATABASE_URL: run `entitlements doctor` to find the fix"
                    );
                }
                has_logged = true;
                sleep(DATABASE_RETRY_INTERVAL).await;
            }
            answer => return answer,
        }
    }
}

/// Waits until the database accepts writes, as after the promotion of a standby; logs once that it does not.
async fn wait_until_writable(store: &Store) -> Result<(), StoreError> {
    let mut has_logged = false;
    while retry_while_unavailable(store, || store.is_read_only()).await? {
        if !has_logged {
            tracing::error!(
                database = store.describe_database(),
                "the database accepts no writes, waiting: DATABASE_URL leads to a standby, or \
                 default_transaction_read_only is on"
            );
        }
        has_logged = true;
        sleep(DATABASE_RETRY_INTERVAL).await;
    }
    Ok(())
}

async fn warn_without_catalog(store: &Store) -> Result<(), StoreError> {
    if retry_while_unavailable(store, || store.catalog()).await?.is_none() {
        tracing::warn!(
            "there is no catalog: every feature is unknown; set ENTITLEMENTS_CATALOG to a catalog file"
        );
    }
    Ok(())
}
