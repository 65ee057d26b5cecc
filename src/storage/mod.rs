//! Postgres: the source of truth, and every query of the service.
//!
//! What must always hold: a delivery is one transaction with its ledger row and its change-log row; the
//! guard that keeps older news from overriding newer stands in the SQL; nothing waits for the database
//! without a deadline, and a connection that missed one is closed, not reused.

mod accounts;
mod apply_update;
mod catalogs;
mod change_log;
mod deletions;
mod deliveries;
mod delivery_queries;
mod diagnostics;
mod error;
mod notifier;
mod pool;
mod reconciliation;
mod schema;

pub use catalogs::{Applied, Author, Version};
pub use change_log::{Change, Cursor, Here, Page};
pub use deliveries::{Delivery, Names, Outcome, Shared};
pub use delivery_queries::{Entry, Filter, Position};
pub use diagnostics::{Inspection, Migrated, Pulse};
pub use error::StoreError;
pub use notifier::{Changed, Ring};
pub use pool::Pool;
pub use reconciliation::{Backfill, Compared, UnknownPlan};
pub use schema::{NotMigrated, Schema, migrate};

use crate::domain::{Account, Catalog, Subject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use notifier::Doorbell;
use pool::{Lane, Limits, Route, twice};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgListener},
};
use std::{sync::Arc, time::Duration};

/// The database of the service. Checks, webhooks and the change log have pools of their own, so that a rush
/// of one cannot starve another.
#[derive(Debug)]
pub struct Store {
    route: Arc<Route>,
    checks: Lane,
    webhooks: Lane,
    upkeep: Lane,
    log: Lane,
    doorbell: Doorbell,
}

impl Store {
    /// Describes the pools; connections are made when they are needed.
    #[must_use]
    pub fn new(options: PgConnectOptions) -> Arc<Self> {
        let options = options.application_name("entitlements").disable_statement_logging();
        let (route, ms) = (Route::new(options), Duration::from_millis);
        let lane = |size, acquire, deadline, trusted| {
            let (acquire, deadline, trusted) = (ms(acquire), ms(deadline), ms(trusted));
            Lane::new(&route, Limits { size, acquire, deadline, trusted })
        };
        Arc::new(Self {
            // To ask each time is a third of the time of a check that is not cached. A new connection takes several round
            // trips; how long a check waits for it is for the cache to say.
            checks: lane(8, 2_000, 2_000, 1_000),
            webhooks: lane(8, 2_000, 5_000, 1_000),
            upkeep: lane(2, 1_000, 2_000, 0),
            // Together with a tick less than what freshness lasts: a hung database is noticed before it ends.
            log: lane(2, 500, 1_200, 1_000),
            doorbell: Doorbell::new(),
            route,
        })
    }

    /// Where the database is and who asks there, in words.
    #[must_use]
    pub fn place(&self) -> String {
        self.route.place()
    }

    /// Writes what a delivery says, in one transaction; when this returns, it is durable.
    pub async fn record(&self, delivery: &Delivery) -> Result<Outcome, StoreError> {
        let outcome = deliveries::record(&self.webhooks, delivery).await?;
        self.tell(&outcome, &delivery.names);
        Ok(outcome)
    }

    /// Writes what Clerk's Backend API says, if it changes something; with `dry_run` only tells what would become of it.
    pub async fn observe(&self, delivery: &Delivery, dry_run: bool) -> Result<Outcome, StoreError> {
        let observe = async |db: &mut _| deliveries::observe(db, delivery, dry_run).await;
        let outcome = self.webhooks.transact(observe).await?;
        if !dry_run {
            self.tell(&outcome, &delivery.names);
        }
        Ok(outcome)
    }

    /// Claims the backfill for a minute; `again` where it is held already.
    pub async fn claim_backfill(&self, again: bool) -> Result<Backfill, StoreError> {
        self.upkeep.run(async |db| reconciliation::claim_backfill(db, again).await).await
    }

    /// Notes that all subscriptions were taken over from Clerk.
    pub async fn backfilled(&self) -> Result<(), StoreError> {
        self.upkeep.run(reconciliation::backfilled).await
    }

    /// The known subjects after one, by id, that were not deleted.
    pub async fn subjects(&self, after: &str, limit: i64) -> Result<Vec<Subject>, StoreError> {
        self.upkeep.run(async |db| reconciliation::subjects(db, after, limit).await).await
    }

    /// How many subjects there are; reads them all.
    pub async fn count_subjects(&self) -> Result<usize, StoreError> {
        self.upkeep.run(async |db| reconciliation::count(db).await).await
    }

    /// Writes what a delivery of the ledger says by today's rules; with `dry_run` only tells what would become of it.
    pub async fn replay(&self, delivery: &Delivery, dry_run: bool) -> Result<Outcome, StoreError> {
        let replay = async |db: &mut _| delivery_queries::replay(db, delivery, dry_run).await;
        let outcome = self.webhooks.transact(replay).await?;
        if !dry_run {
            self.tell(&outcome, &delivery.names);
        }
        Ok(outcome)
    }

    /// The deliveries that fit, newest first, after a place in the list.
    pub async fn deliveries(
        &self,
        filter: &Filter,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        self.upkeep.run(async |db| delivery_queries::list(db, filter, after, limit).await).await
    }

    /// The bytes of a delivery, if they are still there.
    pub async fn body(&self, svix_id: &str) -> Result<Option<Bytes>, StoreError> {
        self.upkeep.run(async |db| delivery_queries::body(db, svix_id).await).await
    }

    /// How many deliveries are parked, at most 10,000.
    pub async fn parked(&self) -> Result<i64, StoreError> {
        self.upkeep.run(delivery_queries::parked).await
    }

    /// Lets go of some bodies received before an instant; returns how many.
    pub async fn drop_bodies(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.upkeep.run(async |db| delivery_queries::drop_bodies(db, before).await).await
    }

    /// All that is known of a subject.
    pub async fn account(&self, subject: &Subject) -> Result<Account, StoreError> {
        twice(|| self.checks.run(async |db| accounts::load(db, subject).await)).await
    }

    /// Waits until something was written here that other replicas should hear of.
    pub async fn rung(&self) {
        self.doorbell.wanted().await;
    }

    /// Rings the doorbell of all replicas, for all that was written here and not told of yet. It may be lost: the change
    /// log is the truth, and is read every second anyway.
    pub async fn notify(&self) -> Result<(), StoreError> {
        let content = self.doorbell.content();
        twice(|| self.log.run(async |db| notifier::notify(db, &content).await)).await
    }

    /// What a ring with this content says.
    #[must_use]
    pub fn ring(&self, content: &str) -> Ring {
        self.doorbell.ring(content)
    }

    fn tell(&self, outcome: &Outcome, names: &Names) {
        if !names.new.is_empty() {
            self.doorbell.unnamed();
        }
        if let Some((subject, revision)) = outcome.changed() {
            self.doorbell.changed(subject, revision);
        }
    }

    /// Opens one session that hears the doorbell. It has a connection of its own, and is to be thrown away
    /// at its first error: a listener that reconnects by itself can lose notifications silently.
    pub async fn listen(&self) -> Result<PgListener, StoreError> {
        Ok(self.route.listen(notifier::CHANNEL).await?)
    }

    /// Whether a transaction-mode pooler is in between, through which no notification comes.
    pub async fn is_pooled(&self) -> Result<bool, StoreError> {
        self.route.is_pooled().await
    }

    /// Where the change log must be read from to miss nothing from now on.
    pub async fn here(&self) -> Result<Here, StoreError> {
        twice(|| self.log.run(change_log::here)).await
    }

    /// The next page of the change log after a cursor.
    pub async fn changes(&self, after: Cursor) -> Result<Page, StoreError> {
        twice(|| self.log.run(async |db| change_log::page(db, after).await)).await
    }

    /// Removes change-log rows that every replica must have read; returns how many.
    pub async fn prune_changes(&self) -> Result<u64, StoreError> {
        self.upkeep.run(change_log::prune).await
    }

    /// The catalog in force, if there is one.
    pub async fn catalog(&self) -> Result<Option<Version>, StoreError> {
        self.upkeep.run(catalogs::newest).await
    }

    /// The newest versions of the catalog, newest first.
    pub async fn catalog_history(&self, limit: i64) -> Result<Vec<Version>, StoreError> {
        self.upkeep.run(async |db| catalogs::history(db, limit).await).await
    }

    /// What would be in force if this author said this.
    pub async fn planned_catalog(
        &self,
        author: Author,
        said: Catalog,
    ) -> Result<Catalog, StoreError> {
        self.upkeep.run(async |db| catalogs::planned(db, author, said).await).await
    }

    /// Puts in force what an author says, if that is new.
    pub async fn apply_catalog(
        &self,
        author: Author,
        said: &Catalog,
        source: &str,
    ) -> Result<Applied, StoreError> {
        let apply = async |db: &mut _| catalogs::apply(db, author, said, source).await;
        let applied = self.webhooks.transact(apply).await?;
        if matches!(applied, Applied::New(_)) {
            self.doorbell.unnamed();
        }
        Ok(applied)
    }

    /// How the database's schema relates to the one this build was made for.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        self.upkeep.run(schema::compare).await
    }

    /// What the database is, and what this role may do in it.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        self.upkeep.run(diagnostics::inspect).await
    }

    /// What only the database can tell of how things are.
    pub async fn pulse(&self) -> Result<Pulse, StoreError> {
        self.upkeep.run(diagnostics::pulse).await
    }

    /// The connections of each lane.
    #[must_use]
    pub fn pools(&self) -> [(&'static str, Pool); 4] {
        let Self { checks, webhooks, upkeep, log, .. } = self;
        let lanes = [("checks", checks), ("webhooks", webhooks), ("upkeep", upkeep), ("log", log)];
        lanes.map(|(name, lane)| (name, lane.pool()))
    }

    /// How far the database was migrated.
    pub async fn migrated(&self) -> Result<Migrated, StoreError> {
        self.upkeep.run(diagnostics::migrated).await
    }

    /// Closes all connections; those still at work get a moment to finish.
    pub async fn close(&self) {
        let close = async {
            let Self { checks, webhooks, upkeep, log, .. } = self;
            tokio::join!(checks.close(), webhooks.close(), upkeep.close(), log.close());
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), close).await;
    }
}
