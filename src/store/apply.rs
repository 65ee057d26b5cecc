//! News into rows: what is newer is written, what is older is not, in any order of arrival.

use super::{Outcome, StoreError};
use crate::access::{News, Observation, Snapshot, Subject};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Writes news within the transaction of its delivery.
pub(super) async fn apply(
    tx: &mut PgConnection,
    svix_id: &str,
    news: &News,
) -> Result<Outcome, StoreError> {
    let subject = news.subject();
    if lock(tx, subject).await?.is_some() {
        let detail = format!("the {} was deleted, and an id is never used again", subject.kind());
        return Ok(Outcome::Superseded { subject: subject.clone(), revision: None, detail });
    }
    match news {
        News::Deleted { at, .. } => {
            delete(tx, subject, *at).await?;
            let revision = log_change(tx, subject).await?;
            Ok(Outcome::Applied { subject: subject.clone(), revision, remark: None })
        }
        News::Items { items, snapshot, remark, .. } => {
            let written = write_newer(tx, subject, svix_id, items, snapshot.as_ref()).await?;
            let subject = subject.clone();
            let detail = "newer news of the same is known".into();
            Ok(match written {
                Written::Nothing => Outcome::Superseded { subject, revision: None, detail },
                Written::History => {
                    let revision = Some(log_change(tx, &subject).await?);
                    Outcome::Superseded { subject, revision, detail }
                }
                Written::News => {
                    let revision = log_change(tx, &subject).await?;
                    Outcome::Applied { subject, revision, remark: remark.map(Into::into) }
                }
            })
        }
    }
}

/// What writing came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Written {
    /// Everything was known, or is older than what is known.
    Nothing,
    /// Only items that a newer subscription had withdrawn before they were heard of.
    History,
    /// Something new.
    News,
}

/// Locks the subject until the transaction ends, so that its deliveries are written one after another;
/// returns when it was deleted, if it was.
async fn lock(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    for _ in 0..2 {
        let locked = sqlx::query_scalar!(
            "select deleted_at from subject where subject = $1 for update",
            subject.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(deleted_at) = locked {
            return Ok(deleted_at);
        }
        sqlx::query!(
            "insert into subject (subject, revision) values ($1, 0) on conflict do nothing",
            subject.as_str()
        )
        .execute(&mut *tx)
        .await?;
    }
    Err(StoreError::Corrupt(format!("{subject} is there and cannot be locked")))
}

/// Counts the change and logs it for all replicas; returns the subject's new revision.
pub(super) async fn log_change(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<u64, StoreError> {
    let revision = sqlx::query_scalar!(
        r#"
        with counted as (
            update subject set revision = revision + 1 where subject = $1 returning revision
        )
        insert into change (subject, revision) select $1, revision from counted
        returning revision as "revision!"
        "#,
        subject.as_str()
    )
    .fetch_one(tx)
    .await?;
    u64::try_from(revision).map_err(|_| StoreError::Corrupt(format!("revision {revision}")))
}

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
async fn delete(
    tx: &mut PgConnection,
    subject: &Subject,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let id = subject.as_str();
    sqlx::query!("update subject set deleted_at = $2 where subject = $1", id, at)
        .execute(&mut *tx)
        .await?;
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

async fn write_newer(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    items: &[Observation],
    snapshot: Option<&Snapshot>,
) -> Result<Written, StoreError> {
    let mut written = Written::Nothing;
    if let Some(snapshot) = snapshot
        && write_snapshot(tx, subject, svix_id, snapshot).await?
    {
        written = Written::News;
    }
    for observation in items {
        written = written.max(write_item(tx, subject, svix_id, observation).await?);
    }
    Ok(written)
}

/// Keeps the newest snapshot; false if a newer one, or this one, is known.
async fn write_snapshot(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    snapshot: &Snapshot,
) -> Result<bool, StoreError> {
    let listed: Vec<String> = snapshot.listed.iter().flatten().map(ToString::to_string).collect();
    let written = sqlx::query!(
        "
        insert into snapshot
            (subject, with_items, listed, canceled, updated_at, sent_at, svix_id)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (subject, with_items) do update set
            listed = excluded.listed,
            canceled = excluded.canceled,
            updated_at = excluded.updated_at,
            sent_at = excluded.sent_at,
            svix_id = excluded.svix_id
        where (excluded.updated_at, excluded.sent_at, excluded.svix_id)
            > (snapshot.updated_at, snapshot.sent_at, snapshot.svix_id)
        ",
        subject.as_str(),
        snapshot.listed.is_some(),
        &listed,
        snapshot.canceled,
        snapshot.updated_at,
        snapshot.sent_at,
        svix_id,
    )
    .execute(tx)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Keeps the newest observation of an item.
async fn write_item(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    Observation { item, plan_id, sent_at }: &Observation,
) -> Result<Written, StoreError> {
    let withdrawn = sqlx::query_scalar!(
        r#"
        insert into item
            (subject, id, plan, plan_id, status, free_trial, period_start, period_end,
             canceled_at, past_due_at, has_seats, seats, updated_at, sent_at, rank, svix_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        on conflict (subject, id) do update set
            plan = excluded.plan,
            plan_id = excluded.plan_id,
            status = excluded.status,
            free_trial = excluded.free_trial,
            period_start = excluded.period_start,
            period_end = excluded.period_end,
            canceled_at = excluded.canceled_at,
            past_due_at = excluded.past_due_at,
            has_seats = excluded.has_seats,
            seats = excluded.seats,
            updated_at = excluded.updated_at,
            sent_at = excluded.sent_at,
            rank = excluded.rank,
            svix_id = excluded.svix_id
        where (excluded.updated_at, excluded.sent_at, excluded.rank, excluded.svix_id)
            > (item.updated_at, item.sent_at, item.rank, item.svix_id)
        returning exists (
            select from snapshot
            where snapshot.subject = item.subject
                and with_items
                and not item.id = any (listed)
                and (item.updated_at, item.sent_at) <= (snapshot.updated_at, snapshot.sent_at)
        ) as "withdrawn!"
        "#,
        subject.as_str(),
        &*item.id,
        item.plan.as_deref(),
        plan_id.as_deref(),
        item.status.as_str(),
        item.free_trial,
        item.period_start,
        item.period_end,
        item.canceled_at,
        item.past_due_at,
        item.seats.is_some(),
        item.seats.and_then(|seats| seats.0).map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
        item.updated_at,
        sent_at,
        item.rank(),
        svix_id,
    )
    .fetch_optional(tx)
    .await?;
    Ok(match withdrawn {
        None => Written::Nothing,
        Some(true) => Written::History,
        Some(false) => Written::News,
    })
}
