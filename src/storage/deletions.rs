//! Deleting a subject, and keeping one from being deleted meanwhile.

use super::{Store, StoreError, apply_update::log_change, pool::End};
use crate::domain::Subject;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

impl Store {
    /// Takes back a deletion: the subject is known again, and has nothing. `false`: it was not deleted.
    pub async fn undelete(&self, subject: &Subject) -> Result<bool, StoreError> {
        self.upkeep.transact(async |tx| undelete(tx, subject).await).await
    }
}

async fn undelete(tx: &mut PgConnection, subject: &Subject) -> Result<End<bool>, StoreError> {
    let undeleted = sqlx::query!(
        "update subject set deleted_at = null where subject = $1 and deleted_at is not null",
        subject.as_str()
    );
    if undeleted.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(End::RollBack(false));
    }
    log_change(tx, subject).await?;
    Ok(End::Commit(true))
}

/// Keeps a subject from being deleted by others until the transaction ends, also one of whom nothing is known yet: a
/// body that is entered meanwhile would outlive the deletion. A row of `deletion_lock` is locked, because a role without
/// rights on the table cannot do that, while every role can take any advisory lock. Several transactions share the lock.
pub(super) async fn put_off_deletion(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<(), StoreError> {
    let slot = sqlx::query_scalar!(
        "
        select slot from deletion_lock
        where slot = pg_catalog.hashtextextended($1, 0) & 1023::bigint for share
        ",
        subject.as_str()
    );
    locked(slot.fetch_optional(tx).await?)
}

/// Waits until no transaction puts off the deletion of this subject any more, and lets no new one do so.
async fn lock_deletion(tx: &mut PgConnection, subject: &Subject) -> Result<(), StoreError> {
    let slot = sqlx::query_scalar!(
        "
        select slot from deletion_lock
        where slot = pg_catalog.hashtextextended($1, 0) & 1023::bigint for update
        ",
        subject.as_str()
    );
    locked(slot.fetch_optional(tx).await?)
}

/// Without the row, nothing would be locked.
fn locked(slot: Option<i64>) -> Result<(), StoreError> {
    let missing = || StoreError::Corrupt("deletion_lock lacks a slot from 0 to 1023".into());
    slot.map(drop).ok_or_else(missing)
}

/// Ends everything for a subject, for good, and lets go of the bodies that told of it: they hold names and addresses.
pub(super) async fn delete(
    tx: &mut PgConnection,
    subject: &Subject,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let id = subject.as_str();
    sqlx::query!("update subject set deleted_at = $2 where subject = $1", id, at)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from failed_payment where subject = $1", id).execute(&mut *tx).await?;
    sqlx::query!("delete from item where subject = $1", id).execute(&mut *tx).await?;
    sqlx::query!("delete from snapshot where subject = $1", id).execute(&mut *tx).await?;
    sqlx::query!("delete from override where subject = $1", id).execute(&mut *tx).await?;
    lock_deletion(&mut *tx, subject).await?;
    sqlx::query!("update delivery set body = null where subject = $1 and body is not null", id)
        .execute(tx)
        .await?;
    Ok(())
}
