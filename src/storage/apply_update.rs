//! Writes a subscription update into the tables. Only newer state is written, in any order of arrival.

use super::{
    Delivery, Names, Outcome, SharedItem, StoreError, deletions,
    deliveries::{LedgerEntry, LedgerRow},
    observations, reconciliation,
};
use crate::domain::{ObservedItem, Payment, Snapshot, Subject, SubscriptionUpdate};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Writes an update, and plan names that were not seen before, in the transaction of the delivery. Inserts the ledger row
/// with the observations, except if this is a replay, the subject is deleted, or the update has no statement.
pub(super) async fn apply(
    tx: &mut PgConnection,
    delivery: &Delivery,
    update: &SubscriptionUpdate,
    is_replay: bool,
) -> Result<(Outcome, LedgerEntry), StoreError> {
    let subject = update.subject();
    let locked = lock(tx, subject).await?;
    if locked.deleted_at.is_some() {
        let detail = format!("the {} was deleted, and Clerk never reuses an id", subject.kind());
        let outcome = Outcome::Superseded { subject: subject.clone(), revision: None, detail };
        return Ok((outcome, LedgerEntry::NotTried));
    }
    let mut shared = Vec::new();
    let written = match update {
        SubscriptionUpdate::Deleted { at, .. } => {
            deletions::delete(tx, subject, *at).await?;
            Written::State
        }
        SubscriptionUpdate::Items { items, snapshot, .. } => {
            let (message, snapshot) = (&delivery.svix_id, snapshot.as_ref());
            let written = write_newer(tx, subject, message, items, snapshot, &mut shared).await?;
            remember_names(tx, subject, &delivery.names).await?;
            if !update.left_out().is_empty() {
                reconciliation::want(tx, subject, "a part of a delivery was left out").await?;
            }
            written
        }
    };
    // The row is locked, and only `record` increments its revision.
    let revision = (written != Written::Nothing).then(|| locked.revision + 1);
    let revision = revision.map(u64::try_from).transpose();
    let revision = revision.map_err(|_| StoreError::Corrupt("revision".into()))?;
    let outcome = outcome(update, written, revision, shared);
    let (message, is_change) = (&delivery.svix_id, revision.is_some());
    let row = (!is_replay).then(|| LedgerRow::new(delivery, &outcome));
    let entry = observations::record(tx, locked.key, message, update, is_change, row).await?;
    Ok((outcome, entry))
}

/// The row of a subject, which is locked until the transaction ends.
pub(super) struct LockedSubject {
    /// The short key, which observations have.
    pub key: i64,
    /// The revision before this transaction.
    pub revision: i64,
    /// When the subject was deleted; `None`: it was not.
    pub deleted_at: Option<DateTime<Utc>>,
}

fn outcome(
    update: &SubscriptionUpdate,
    written: Written,
    revision: Option<u64>,
    shared: Vec<SharedItem>,
) -> Outcome {
    let (subject, note) = (update.subject().clone(), update.note());
    match (written, revision) {
        (Written::State, Some(revision)) => {
            Outcome::Applied { subject, revision, remark: note, shared }
        }
        (Written::Nothing | Written::History | Written::State, revision) => {
            let known = Some("the same or a newer state is known".to_owned());
            let detail = known.into_iter().chain(note).collect::<Vec<_>>().join("; ");
            Outcome::Superseded { subject, revision, detail }
        }
    }
}

/// The changes of an update in the tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Written {
    /// Nothing: the same or a newer state was stored.
    Nothing,
    /// Only details of earlier states, or items that a newer snapshot had already withdrawn.
    History,
    /// The current state of the account.
    State,
}

/// Locks the subject's row until the transaction ends, which serializes its deliveries. Creates the row if it is
/// missing.
pub(super) async fn lock(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<LockedSubject, StoreError> {
    for _ in 0..2 {
        let locked = sqlx::query_as!(
            LockedSubject,
            "select key, revision, deleted_at from entitlements.subject where id = $1 for update",
            subject.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(locked) = locked {
            return Ok(locked);
        }
        sqlx::query!(
            "insert into entitlements.subject (id, revision) values ($1, 0) on conflict do nothing",
            subject.as_str()
        )
        .execute(&mut *tx)
        .await?;
    }
    Err(StoreError::Corrupt(format!("the row of subject {subject} exists and cannot be locked")))
}

async fn write_newer(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    items: &[ObservedItem],
    snapshot: Option<&Snapshot>,
    shared: &mut Vec<SharedItem>,
) -> Result<Written, StoreError> {
    let mut written = Written::Nothing;
    if let Some(snapshot) = snapshot
        && write_snapshot(tx, subject, svix_id, snapshot).await?
    {
        written = Written::State;
    }
    for observation in items {
        written = written.max(write_item(tx, subject, svix_id, observation, shared).await?);
    }
    Ok(written)
}

/// Stores a snapshot if it is newer than the stored one; returns whether it was.
async fn write_snapshot(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    snapshot: &Snapshot,
) -> Result<bool, StoreError> {
    let listed: Vec<String> = snapshot.listed.iter().flatten().map(ToString::to_string).collect();
    let written = sqlx::query!(
        "
        insert into entitlements.snapshot
            (subject, has_items, item_ids, canceled, updated_at, sent_at, svix_id)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (subject, has_items) do update set
            item_ids = excluded.item_ids,
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

/// Stores an observation of an item if it is the newest. An older observation only adds the details that the newest
/// one lacks. A failed payment is stored in either case.
async fn write_item(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    observed: &ObservedItem,
    shared: &mut Vec<SharedItem>,
) -> Result<Written, StoreError> {
    let written = match write_newest(tx, subject, svix_id, observed, shared).await? {
        None => fill_in(tx, subject, observed).await?,
        Some(written) => written,
    };
    let Payment::FailedBy(failed_at) = observed.payment else { return Ok(written) };
    let failed = sqlx::query!(
        "
        insert into entitlements.failed_payment (subject, item, updated_at, failed_at)
        values ($1, $2, $3, $4)
        on conflict (subject, item, updated_at) do update set failed_at = excluded.failed_at
        where excluded.failed_at < failed_payment.failed_at
        ",
        subject.as_str(),
        &*observed.item.id,
        observed.item.updated_at,
        failed_at,
    );
    let is_new = failed.execute(tx).await?.rows_affected() > 0;
    Ok(if is_new { written.max(Written::History) } else { written })
}

/// The version of the plan's name, if the observation names the plan: its `updated_at` and time of sending.
fn named(
    ObservedItem { item, sent_at, .. }: &ObservedItem,
) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    (item.plan.is_some() || item.plan_id.is_some()).then_some((item.updated_at, *sent_at))
}

/// The time at which nothing was owed, if the observation says that payments are up to date.
fn paid(observed: &ObservedItem) -> Option<DateTime<Utc>> {
    matches!(observed.payment, Payment::UpToDate).then_some(observed.item.updated_at)
}

/// Writes an observation if it is the newest of its item; returns `None` if it is not.
async fn write_newest(
    tx: &mut PgConnection,
    subject: &Subject,
    svix_id: &str,
    observed: &ObservedItem,
    shared: &mut Vec<SharedItem>,
) -> Result<Option<Written>, StoreError> {
    let (ObservedItem { item, sent_at, .. }, named) = (observed, named(observed));
    let found = sqlx::query!(
        r#"
        insert into entitlements.item
            (subject, id, plan, plan_id, status, free_trial, period_start, period_end,
             canceled_at, past_due_at, has_seats, seats, updated_at, sent_at, rank, svix_id,
             plan_updated_at, plan_sent_at, was_active, paid_at, last_period_end, last_period_end_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
            $8, case when $8::timestamptz is not null then $13::timestamptz end)
        on conflict (subject, id) do update set
            (plan, plan_id, plan_updated_at, plan_sent_at) = (
                select * from (values
                    (item.plan, item.plan_id, item.plan_updated_at, item.plan_sent_at),
                    (excluded.plan, excluded.plan_id, excluded.plan_updated_at, excluded.plan_sent_at)
                ) as named (plan, id, updated_at, sent_at)
                order by updated_at desc nulls last, sent_at desc nulls last,
                    coalesce(id, '') collate "C" desc, coalesce(plan, '') collate "C" desc
                limit 1
            ),
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
            svix_id = excluded.svix_id,
            was_active = item.was_active or excluded.was_active,
            paid_at = greatest(item.paid_at, excluded.paid_at),
            (last_period_end, last_period_end_at) = (
                select * from (values
                    (item.last_period_end, item.last_period_end_at),
                    (excluded.last_period_end, excluded.last_period_end_at)
                ) as ends (known, at)
                order by at desc nulls last, known desc nulls last limit 1
            )
        where (excluded.updated_at, excluded.sent_at, excluded.rank, excluded.svix_id)
            > (item.updated_at, item.sent_at, item.rank, item.svix_id)
        returning exists (
            select from entitlements.snapshot
            where snapshot.subject = item.subject
                and has_items
                and not item.id = any (item_ids)
                and (item.updated_at, item.sent_at) <= (snapshot.updated_at, snapshot.sent_at)
        ) as "withdrawn!", (
            select other.subject from entitlements.item other
            where other.id = item.id and other.subject <> item.subject limit 1
        ) as other
        "#,
        subject.as_str(),
        &*item.id,
        item.plan.as_deref(),
        item.plan_id.as_deref(),
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
        named.map(|(updated_at, _)| updated_at),
        named.map(|(_, sent_at)| sent_at),
        item.was_active,
        paid(observed),
    )
    .fetch_optional(tx)
    .await?;
    let Some(found) = found else { return Ok(None) };
    if let Some(other) = found.other {
        let other = other.parse().map_err(|_| StoreError::Corrupt(format!("subject {other}")))?;
        shared.push(SharedItem { item: item.id.to_string(), other });
    }
    Ok(Some(if found.withdrawn { Written::History } else { Written::State }))
}

/// Adds the details of an older observation that the stored, newer one lacks.
async fn fill_in(
    tx: &mut PgConnection,
    subject: &Subject,
    observed: &ObservedItem,
) -> Result<Written, StoreError> {
    let (item, named) = (&observed.item, named(observed));
    let filled = sqlx::query!(
        r#"
        with said as (
            select $3::text as plan, $4::text as plan_id, $5::timestamptz as updated_at,
                $6::timestamptz as sent_at
        ), newer as (
            select item.id, said.updated_at is not null and (
                item.plan_updated_at is null
                or (said.updated_at, said.sent_at, coalesce(said.plan_id, '') collate "C",
                    coalesce(said.plan, '') collate "C")
                    > (item.plan_updated_at, item.plan_sent_at, coalesce(item.plan_id, ''),
                    coalesce(item.plan, ''))
            ) as names, $9::timestamptz is not null and (
                item.last_period_end_at is null
                or ($10::timestamptz, $9::timestamptz) > (item.last_period_end_at, item.last_period_end)
            ) as ends
            from entitlements.item, said where item.subject = $1 and item.id = $2
        )
        update entitlements.item set
            plan = case when names then said.plan else item.plan end,
            plan_id = case when names then said.plan_id else item.plan_id end,
            plan_updated_at = case when names then said.updated_at else plan_updated_at end,
            plan_sent_at = case when names then said.sent_at else plan_sent_at end,
            was_active = was_active or $7,
            paid_at = greatest(paid_at, $8),
            last_period_end = case when newer.ends then $9 else last_period_end end,
            last_period_end_at = case when newer.ends then $10 else last_period_end_at end
        from said, newer
        where item.subject = $1 and item.id = $2
            and (names or newer.ends or $7 > was_active or coalesce($8 > paid_at, $8 is not null))
        "#,
        subject.as_str(),
        &*item.id,
        item.plan.as_deref(),
        item.plan_id.as_deref(),
        named.map(|(updated_at, _)| updated_at),
        named.map(|(_, sent_at)| sent_at),
        item.was_active,
        paid(observed),
        item.period_end,
        item.updated_at,
    )
    .execute(tx)
    .await?;
    Ok(if filled.rows_affected() > 0 { Written::History } else { Written::Nothing })
}

/// Stores new plan names, and a change-log row through which every replica reads them.
async fn remember_names(
    tx: &mut PgConnection,
    subject: &Subject,
    Names { new, seen_at }: &Names,
) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let pairs = new.iter().map(|name| (name.id.to_string(), name.slug.to_string()));
    let (ids, slugs): (Vec<_>, Vec<_>) = pairs.unzip();
    if super::catalogs::insert_names(tx, subject.kind(), &ids, &slugs, *seen_at).await? {
        super::catalog_rows::write(tx).await?;
    }
    Ok(())
}
