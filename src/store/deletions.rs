//! Deleting a subject, and keeping one from being deleted meanwhile.

use super::StoreError;
use crate::access::Subject;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Keeps a subject from being deleted by others until the transaction ends, also one of whom nothing is known yet: a
/// body that is entered meanwhile would outlive the deletion.
pub(super) async fn put_off_deletion(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<(), StoreError> {
    let id = subject.as_str();
    sqlx::query!("select pg_advisory_xact_lock_shared(hashtextextended($1, 0)) as lock", id)
        .execute(tx)
        .await?;
    Ok(())
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
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0)) as lock", id)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("update delivery set body = null where subject = $1 and body is not null", id)
        .execute(tx)
        .await?;
    Ok(())
}
