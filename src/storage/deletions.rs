//! Deletes subjects, and locks them against deletion.

use super::{Store, StoreError, observations, override_rows, pool::TxOutcome};
use crate::domain::Subject;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

impl Store {
    /// Reverts a deletion: the subject accepts updates again, and has no items. Returns `false` if it was not deleted.
    pub async fn undelete(&self, subject: &Subject) -> Result<bool, StoreError> {
        self.background.transact(async |tx| undelete(tx, subject).await).await
    }
}

async fn undelete(tx: &mut PgConnection, subject: &Subject) -> Result<TxOutcome<bool>, StoreError> {
    let undeleted = sqlx::query_scalar!(
        "
        update entitlements.subject set deleted_at = null
        where id = $1 and deleted_at is not null returning key
        ",
        subject.as_str()
    );
    let Some(key) = undeleted.fetch_optional(&mut *tx).await? else {
        return Ok(TxOutcome::RollBack(false));
    };
    observations::record_undeletion(tx, key).await?;
    Ok(TxOutcome::Commit(true))
}

/// Blocks other transactions from deleting a subject until this one ends, also if the subject has no row yet: a body
/// inserted during a deletion would survive it. The lock is a row of `deletion_lock`, because only a role with rights
/// on the table can take it, while any role can take any advisory lock. Several transactions can hold it at a time.
pub(super) async fn lock_against_deletion(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<(), StoreError> {
    let slot = sqlx::query_scalar!(
        "
        select slot from entitlements.deletion_lock
        where slot = pg_catalog.hashtextextended($1, 0) & 1023::bigint for share
        ",
        subject.as_str()
    );
    require_slot(slot.fetch_optional(tx).await?)
}

/// Takes the lock for a deletion: waits for all holders of [`lock_against_deletion`], and blocks new ones.
async fn lock_deletion(tx: &mut PgConnection, subject: &Subject) -> Result<(), StoreError> {
    let slot = sqlx::query_scalar!(
        "
        select slot from entitlements.deletion_lock
        where slot = pg_catalog.hashtextextended($1, 0) & 1023::bigint for update
        ",
        subject.as_str()
    );
    require_slot(slot.fetch_optional(tx).await?)
}

/// Without the row, nothing would be locked.
fn require_slot(slot: Option<i64>) -> Result<(), StoreError> {
    let missing = || StoreError::Corrupt("deletion_lock lacks a slot from 0 to 1023".into());
    slot.map(drop).ok_or_else(missing)
}

/// Deletes a subject permanently, and removes the delivery bodies about it, because they hold names and addresses.
pub(super) async fn delete(
    tx: &mut PgConnection,
    subject: &Subject,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let id = subject.as_str();
    sqlx::query!("update entitlements.subject set deleted_at = $2 where id = $1", id, at)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from entitlements.failed_payment where subject = $1", id)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from entitlements.item where subject = $1", id).execute(&mut *tx).await?;
    sqlx::query!("delete from entitlements.snapshot where subject = $1", id)
        .execute(&mut *tx)
        .await?;
    override_rows::end_all(&mut *tx, subject).await?;
    lock_deletion(&mut *tx, subject).await?;
    sqlx::query!(
        "update entitlements.delivery set body = null where subject = $1 and body is not null",
        id
    )
    .execute(tx)
    .await?;
    Ok(())
}
