//! Removes old observations, and the histories of deleted subjects.
//!
//! An observation that is older than the retention is removed unless a later account still uses it: each part of an
//! account comes from the newest observation that has this part, however old it is. So the items of a subject, as they
//! were known since the beginning of the retention, can still be derived.

use super::{Store, StoreError, observations, pool::TxOutcome};
use crate::{
    domain::{Subject, still_used},
    telemetry::log_chain,
};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// The number of deleted subjects whose histories one statement removes.
const REMOVED_AT_ONCE: i64 = 100;

impl Store {
    /// Removes the observations of one subject that were recorded before an instant and that no later account uses.
    /// Returns the number of subjects that were looked at: 1, or 0 if no subject has older observations.
    pub async fn thin_history(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.background.transact(async |tx| thin(tx, before).await).await
    }

    /// Removes the observations, except the deletions, and the overrides of some subjects that were deleted before an instant;
    /// returns the number of subjects.
    pub async fn remove_histories(&self, deleted_before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.background.run(async |db| remove_histories(db, deleted_before).await).await
    }
}

/// Thins out the subject with the oldest observation. Other replicas skip its locked row.
async fn thin(tx: &mut PgConnection, before: DateTime<Utc>) -> Result<TxOutcome<u64>, StoreError> {
    let subject = sqlx::query!(
        "
        select key, id from entitlements.subject where oldest_observed_at < $1
        order by oldest_observed_at limit 1 for update skip locked
        ",
        before
    );
    let Some(row) = subject.fetch_optional(&mut *tx).await? else {
        return Ok(TxOutcome::RollBack(0));
    };
    let subject = row.id.parse().map_err(|_| StoreError::Corrupt(format!("subject {}", row.id)))?;
    let (removed, next) = match split(tx, &subject, before).await {
        Ok(found) => found,
        Err(error @ StoreError::Corrupt(_)) => {
            // The subject is visited again after another retention; the others are not held up.
            let error = log_chain(&error);
            tracing::error!(subject = row.id, error, "retention: a history cannot be read");
            (Vec::new(), Some(Utc::now()))
        }
        Err(error) => return Err(error),
    };
    delete(tx, row.key, &removed).await?;
    sqlx::query!(
        "update entitlements.subject set oldest_observed_at = $2 where key = $1",
        row.key,
        next
    )
    .execute(&mut *tx)
    .await?;
    if !removed.is_empty() {
        sqlx::query!(
            "
            update entitlements.history_retention set complete_from = $1 where complete_from < $1
            ",
            before
        )
        .execute(tx)
        .await?;
    }
    Ok(TxOutcome::Commit(1))
}

/// The ids of the old observations that no later account uses, and when the oldest of the others was recorded.
async fn split(
    tx: &mut PgConnection,
    subject: &Subject,
    before: DateTime<Utc>,
) -> Result<(Vec<i64>, Option<DateTime<Utc>>), StoreError> {
    let observations = observations::read(tx, subject).await?.observations;
    let old = observations.iter().take_while(|observation| observation.known_at < before);
    let used = still_used(old.clone());
    let removed = old.map(|old| old.id).filter(|id| !used.contains(id)).collect();
    let next = observations.iter().find(|observation| observation.known_at >= before);
    Ok((removed, next.map(|next| next.known_at)))
}

async fn delete(tx: &mut PgConnection, key: i64, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from entitlements.observation where subject_key = $1 and id = any ($2)",
        key,
        ids,
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
            select key, id from entitlements.subject
            where deleted_at < $1 and (history_removed_at is null or history_removed_at < deleted_at)
            order by deleted_at limit $2 for update skip locked
        ), removed as (
            delete from entitlements.observation
            where subject_key in (select key from chosen) and kind <> 'deletion'
        ), without_overrides as (
            delete from entitlements.override where subject in (select id from chosen)
        )
        update entitlements.subject
        set history_removed_at = greatest(pg_catalog.now(), deleted_at), oldest_observed_at = null
        where key in (select key from chosen)
        ",
        deleted_before,
        REMOVED_AT_ONCE,
    );
    Ok(removed.execute(db).await?.rows_affected())
}
