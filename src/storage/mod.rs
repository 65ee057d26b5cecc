//! Postgres: the source of truth, and every query of the service.
//!
//! Invariants: a delivery, its ledger row and its change-log row are written in one transaction; the condition
//! that keeps an older update from overwriting a newer one is part of the SQL; every wait for the database has a
//! deadline, and a connection that missed its deadline is closed, not reused.

mod accounts;
mod apply_update;
mod backfill;
mod catalog_history;
mod catalog_origin;
mod catalog_rows;
mod catalogs;
mod change_log;
mod connect;
mod deletions;
mod deliveries;
mod delivery_queries;
mod diagnostics;
mod error;
mod history_retention;
mod holders;
mod notifier;
mod observations;
mod other_roles;
mod override_checks;
mod override_dump;
mod override_rows;
mod overrides;
mod pool;
mod reconciliation;
mod records;
mod rights;
mod schema;
mod sql_rights;

pub use backfill::Backfill;
pub use catalog_history::CatalogPoint;
pub use catalog_origin::{Author, Origin};
pub use catalogs::{Applied, CatalogVersion, PlannedCatalog};
pub use change_log::{Change, ChangeCursor, ChangePage, LogEnd};
pub use deliveries::{Delivery, Names, Outcome, SharedItem, WriteMode};
pub use delivery_queries::{DeliveryEntry, DeliveryFilter, DeliveryPosition};
pub use diagnostics::{DatabaseStats, Inspection, Migrated, OverrideCounts};
pub use error::StoreError;
pub use notifier::{Changed, Notification};
pub use other_roles::{OtherRoles, Stranger};
pub use override_checks::OverrideRejection;
pub use override_dump::Imported;
pub use overrides::{
    ChangeConditions, ChangedOverride, EndOverride, IdempotencyKey, NewOverride, OverrideFilter,
    OverrideOutcome,
};
pub use pool::PoolStatus;
pub use reconciliation::{Compared, UnknownPlan};
pub use records::Records;
pub use schema::{Grantees, NotMigrated, Schema, migrate, migrate_and_grant};

use connect::Connector;
use notifier::Notifier;
use pool::{Pool, PoolLimits};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use std::{sync::Arc, time::Duration};

/// The service's database. Checks, webhooks, background work and the change log have separate connection pools, so
/// that load on one cannot starve another.
#[derive(Debug)]
pub struct Store {
    connector: Arc<Connector>,
    checks: Pool,
    webhooks: Pool,
    background: Pool,
    log: Pool,
    notifier: Notifier,
}

impl Store {
    /// Configures the pools. Connections are opened on demand.
    #[must_use]
    pub fn new(options: PgConnectOptions) -> Arc<Self> {
        let options = options.application_name("entitlements").disable_statement_logging();
        let (connector, ms) = (Connector::new(options), Duration::from_millis);
        let pool = |size, acquire, deadline, skip_ping_below| {
            let (acquire, deadline) = (ms(acquire), ms(deadline));
            let skip_ping_below = ms(skip_ping_below);
            Pool::new(&connector, PoolLimits { size, acquire, deadline, skip_ping_below })
        };
        Arc::new(Self {
            // A ping before each use would be a third of the time of an uncached check. Opening a connection takes
            // several round trips; the account cache limits how long a check waits for it.
            checks: pool(8, 2_000, 2_000, 1_000),
            webhooks: pool(8, 2_000, 5_000, 1_000),
            background: pool(2, 1_000, 2_000, 0),
            // Both timeouts and one read interval together are shorter than the 3 s for which a replica counts as
            // fresh: a hung database is detected before freshness ends.
            log: pool(2, 500, 1_200, 1_000),
            notifier: Notifier::new(),
            connector,
        })
    }

    /// Names the database, its host and port, and the user, without the password.
    #[must_use]
    pub fn describe_database(&self) -> String {
        self.connector.describe()
    }

    /// Whether the connection goes through a transaction-mode pooler, which does not support LISTEN/NOTIFY.
    pub async fn is_pooled(&self) -> Result<bool, StoreError> {
        self.connector.is_pooled().await
    }

    /// The name and the connection counts of each pool.
    #[must_use]
    pub fn pools(&self) -> [(&'static str, PoolStatus); 4] {
        let Self { checks, webhooks, background, log, .. } = self;
        let pools =
            [("checks", checks), ("webhooks", webhooks), ("background", background), ("log", log)];
        pools.map(|(name, pool)| (name, pool.pool()))
    }

    /// Closes all connections. Those in use get 2 s to finish.
    pub async fn close(&self) {
        let close = async {
            let Self { checks, webhooks, background, log, .. } = self;
            tokio::join!(checks.close(), webhooks.close(), background.close(), log.close());
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), close).await;
    }
}
