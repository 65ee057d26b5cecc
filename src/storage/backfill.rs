//! The backfill: importing all subscriptions from Clerk once, by one replica at a time.

use super::{Store, StoreError};
use sqlx::PgConnection;

/// The state of the backfill, as a replica that claims it finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backfill {
    /// The backfill is complete.
    Done,
    /// The caller holds the claim for 1 minute from this call.
    Ours,
    /// Another replica holds the claim.
    Theirs,
}

impl Store {
    /// Claims the backfill for 1 minute. `again`: the caller holds the claim and renews it.
    pub async fn claim_backfill(&self, again: bool) -> Result<Backfill, StoreError> {
        self.background.run(async |db| claim_backfill(db, again).await).await
    }

    /// Records that the backfill is complete.
    pub async fn backfilled(&self) -> Result<(), StoreError> {
        self.background.run(backfilled).await
    }
}

async fn claim_backfill(db: &mut PgConnection, again: bool) -> Result<Backfill, StoreError> {
    let found = sqlx::query!(
        r#"
        with claim as (
            insert into entitlements.backfill (claimed_until)
            values (pg_catalog.now() + interval '1 minute')
            on conflict (singleton) do update set claimed_until = excluded.claimed_until
            where backfill.done_at is null and ($1 or backfill.claimed_until < pg_catalog.now())
            returning true
        )
        select
            exists (select from claim) as "ours!",
            exists (select from entitlements.backfill where done_at is not null) as "done!"
        "#,
        again
    )
    .fetch_one(db)
    .await?;
    Ok(match (found.done, found.ours) {
        (true, _) => Backfill::Done,
        (false, true) => Backfill::Ours,
        (false, false) => Backfill::Theirs,
    })
}

async fn backfilled(db: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "
        insert into entitlements.backfill (claimed_until, done_at)
        values (pg_catalog.now(), pg_catalog.clock_timestamp())
        on conflict (singleton) do update set done_at = excluded.done_at
        "
    )
    .execute(db)
    .await?;
    Ok(())
}
