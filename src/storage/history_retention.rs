//! Removes old observations, and the histories of deleted subjects.
//!
//! An observation that is older than the retention is removed unless an account depends on it: each part of an account
//! comes from the newest observation that has this part, however old it is. So every account as it was known since the
//! beginning of the retention can still be derived.

use super::{Store, StoreError, observations, pool::TxOutcome};
use crate::domain::{Subject, needed};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

/// The number of subjects whose observations one transaction thins out.
const SUBJECTS_AT_ONCE: u16 = 100;

/// The length of the period whose subjects are looked for at once.
const PERIOD: TimeDelta = TimeDelta::hours(1);

impl Store {
    /// Removes observations recorded before an instant that no later account depends on, of some subjects. Returns whether
    /// there may be more.
    pub async fn thin_histories(&self, before: DateTime<Utc>) -> Result<bool, StoreError> {
        self.background.transact(async |tx| thin(tx, before).await).await
    }

    /// Removes the observations of some subjects that were deleted before an instant; returns the number of subjects.
    pub async fn remove_histories(&self, deleted_before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.background.run(async |db| remove_histories(db, deleted_before).await).await
    }

    /// The instant from which on each account, as it was known then, can be derived; `None`: from the first one.
    pub async fn history_complete_from(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.background.run(complete_from).await
    }
}

async fn complete_from(db: &mut PgConnection) -> Result<Option<DateTime<Utc>>, StoreError> {
    let from = sqlx::query_scalar!(
        "
        select case when complete_from > '-infinity' then complete_from end
        from entitlements.history_retention
        "
    );
    Ok(from.fetch_optional(db).await?.flatten())
}

/// One step. Replicas that do this at the same time skip each other's locked row.
async fn thin(tx: &mut PgConnection, before: DateTime<Utc>) -> Result<TxOutcome<bool>, StoreError> {
    let position = sqlx::query!(
        "select thinned_to, after_key from entitlements.history_retention for update skip locked"
    );
    let Some(position) = position.fetch_optional(&mut *tx).await? else {
        return Ok(TxOutcome::RollBack(false));
    };
    if position.thinned_to >= before {
        return Ok(TxOutcome::RollBack(false));
    }
    let until = before.min(position.thinned_to + PERIOD);
    let keys = keys(tx, position.thinned_to, until, position.after_key).await?;
    for (key, subject) in &keys {
        thin_one(tx, *key, subject, before).await?;
    }
    let last = keys.last().filter(|_| keys.len() == usize::from(SUBJECTS_AT_ONCE));
    let (thinned_to, after_key) = last.map_or((until, 0), |(key, _)| (position.thinned_to, *key));
    sqlx::query!(
        "
        update entitlements.history_retention set thinned_to = $1, after_key = $2,
            complete_from = case when $4 then greatest(complete_from, $3) else complete_from end
        ",
        thinned_to,
        after_key,
        before,
        !keys.is_empty(),
    )
    .execute(tx)
    .await?;
    Ok(TxOutcome::Commit(true))
}

/// The subjects with observations that were recorded in a period, after a key.
async fn keys(
    tx: &mut PgConnection,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    after_key: i64,
) -> Result<Vec<(i64, Subject)>, StoreError> {
    let rows = sqlx::query!(
        "
        select s.key, s.id from entitlements.subject s
        where s.key in (
            select subject_key from entitlements.observation
            where known_at >= $1 and known_at < $2 and subject_key > $3
        )
        order by s.key limit $4
        ",
        from,
        until,
        after_key,
        i64::from(SUBJECTS_AT_ONCE),
    );
    let subject = |id: &str| id.parse().map_err(|_| StoreError::Corrupt(format!("subject {id}")));
    let rows = rows.fetch_all(tx).await?.into_iter();
    rows.map(|row| Ok((row.key, subject(&row.id)?))).collect()
}

async fn thin_one(
    tx: &mut PgConnection,
    key: i64,
    subject: &Subject,
    before: DateTime<Utc>,
) -> Result<(), StoreError> {
    let observations = observations::read(tx, subject).await?;
    let old = observations.iter().take_while(|observation| observation.known_at < before);
    let needed = needed(old.clone());
    let removed: Vec<_> = old.map(|old| old.id).filter(|id| !needed.contains(id)).collect();
    sqlx::query!(
        "delete from entitlements.observation where subject_key = $1 and id = any ($2)",
        key,
        &removed,
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn remove_histories(
    db: &mut PgConnection,
    deleted_before: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let removed = sqlx::query!(
        "
        with chosen as (
            select key from entitlements.subject
            where deleted_at < $1 and history_removed_at is null
            order by deleted_at limit 100 for update skip locked
        ), removed as (
            delete from entitlements.observation where subject_key in (select key from chosen)
        )
        update entitlements.subject set history_removed_at = pg_catalog.now()
        where key in (select key from chosen)
        ",
        deleted_before,
    );
    Ok(removed.execute(db).await?.rows_affected())
}
