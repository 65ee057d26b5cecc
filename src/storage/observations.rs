//! The history of a subject: appends observations and reads them.

use super::{Outcome, StoreError, accounts::OverrideRow, apply_update::LockedSubject};
use crate::domain::{
    Item, Observation, ObservedItem, Override, Payment, Seats, Snapshot, Statement, Status,
    Subject, SubjectHistory, SubscriptionUpdate,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};

/// The cause of the observations of one transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause<'a> {
    /// The `svix-id` of the delivery, or the id of an answer of Clerk's Backend API.
    pub message: &'a str,
    /// Whether a replay of the ledger recorded them.
    pub is_replay: bool,
}

/// Everything that was recorded about a subject.
pub(super) async fn history(
    db: &mut PgConnection,
    subject: &Subject,
) -> Result<SubjectHistory, StoreError> {
    let row = sqlx::query!(
        r#"
        select
            r.complete_from,
            s.revision as "revision?",
            s.history_removed_at as "removed_at?",
            (select pg_catalog.json_agg(o) from entitlements.override o where o.subject = s.id)
                as "overrides: Json<Vec<OverrideRow>>"
        from entitlements.history_retention r left join entitlements.subject s on s.id = $1
        "#,
        subject.as_str()
    );
    let row = row.fetch_one(&mut *db).await?;
    let overrides = row.overrides.iter().flat_map(|Json(rows)| rows);
    let overrides = overrides.map(|row| Ok((row.set_at, Override::try_from(row)?)));
    Ok(SubjectHistory {
        subject: subject.clone(),
        is_known: row.revision.is_some(),
        revision: row.revision.and_then(|revision| revision.try_into().ok()).unwrap_or(0),
        overrides: overrides.collect::<Result<_, StoreError>>()?,
        observations: read(db, subject).await?,
        complete_from: row.complete_from,
        removed_at: row.removed_at,
    })
}

/// A row to append. A statement has only some of the columns.
#[derive(Default, Serialize)]
struct NewRow<'a> {
    kind: &'static str,
    updated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<DateTime<Utc>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    item: Option<NewItem<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_ids: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canceled: Option<bool>,
}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are columns of the table")]
struct NewItem<'a> {
    item: &'a str,
    plan: Option<&'a str>,
    plan_id: Option<&'a str>,
    status: &'a str,
    free_trial: bool,
    was_active: bool,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    canceled_at: Option<DateTime<Utc>>,
    past_due_at: Option<DateTime<Utc>>,
    failed_at: Option<DateTime<Utc>>,
    is_paid: bool,
    has_seats: bool,
    seats: Option<u64>,
}

impl<'a> NewRow<'a> {
    fn of(update: &'a SubscriptionUpdate) -> Vec<Self> {
        match update {
            SubscriptionUpdate::Deleted { at, .. } => {
                vec![Self { kind: "deletion", updated_at: *at, ..Self::default() }]
            }
            SubscriptionUpdate::Items { items, snapshot, .. } => snapshot
                .iter()
                .map(Self::of_snapshot)
                .chain(items.iter().map(Self::of_item))
                .collect(),
        }
    }

    fn of_snapshot(snapshot: &'a Snapshot) -> Self {
        let listed = snapshot.listed.as_ref();
        Self {
            kind: "snapshot",
            updated_at: snapshot.updated_at,
            sent_at: Some(snapshot.sent_at),
            item_ids: listed.map(|ids| ids.iter().map(|id| &**id).collect()),
            canceled: Some(snapshot.canceled),
            item: None,
        }
    }

    fn of_item(ObservedItem { item, payment, sent_at }: &'a ObservedItem) -> Self {
        let (is_paid, failed_at) = match payment {
            Payment::UpToDate => (true, None),
            Payment::FailedBy(at) => (false, Some(*at)),
            Payment::Unknown => (false, None),
        };
        let new = NewItem {
            item: &item.id,
            plan: item.plan.as_deref(),
            plan_id: item.plan_id.as_deref(),
            status: item.status.as_str(),
            free_trial: item.free_trial,
            was_active: item.was_active,
            period_start: item.period_start,
            period_end: item.period_end,
            canceled_at: item.canceled_at,
            past_due_at: item.past_due_at,
            failed_at,
            is_paid,
            has_seats: item.seats.is_some(),
            seats: item.seats.and_then(|seats| seats.0),
        };
        let (updated_at, sent_at) = (item.updated_at, Some(*sent_at));
        Self { kind: "item", updated_at, sent_at, item: Some(new), ..Self::default() }
    }
}

/// Appends the statements of an update, in the transaction of its delivery. A replay that changed nothing adds no row: the
/// first delivery of the message usually did.
pub(super) async fn append(
    tx: &mut PgConnection,
    locked: &LockedSubject,
    cause: Cause<'_>,
    update: &SubscriptionUpdate,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    let changed = outcome.stored_revision();
    if cause.is_replay && changed.is_none() {
        return Ok(());
    }
    let revision = changed.unwrap_or(locked.revision);
    insert(tx, locked.key, revision, cause, &NewRow::of(update)).await?;
    if locked.oldest_observed_at.is_none() {
        mark_oldest(tx, locked.key).await?;
    }
    Ok(())
}

/// Notes that the subject has observations that grow old.
async fn mark_oldest(tx: &mut PgConnection, subject_key: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "
        update entitlements.subject
        set oldest_observed_at = coalesce(oldest_observed_at, pg_catalog.now()) where key = $1
        ",
        subject_key
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Appends that the deletion of a subject was reverted.
pub(super) async fn append_undeletion(
    tx: &mut PgConnection,
    subject_key: i64,
    revision: i64,
) -> Result<(), StoreError> {
    let cause = Cause { message: "", is_replay: false };
    let row = NewRow { kind: "undeletion", updated_at: Utc::now(), ..NewRow::default() };
    insert(tx, subject_key, revision, cause, &[row]).await?;
    mark_oldest(tx, subject_key).await
}

async fn insert(
    tx: &mut PgConnection,
    subject_key: i64,
    revision: i64,
    cause: Cause<'_>,
    rows: &[NewRow<'_>],
) -> Result<(), StoreError> {
    sqlx::query!(
        "
        insert into entitlements.observation
            (subject_key, revision, message, is_replay, kind, updated_at, sent_at, item, plan, plan_id,
             status, free_trial, was_active, period_start, period_end, canceled_at, past_due_at,
             failed_at, is_paid, has_seats, seats, item_ids, canceled)
        select $1, $2, $3, $4, kind, updated_at, sent_at, item, plan, plan_id,
            status, free_trial, was_active, period_start, period_end, canceled_at, past_due_at,
            failed_at, is_paid, has_seats, seats, item_ids, canceled
        from pg_catalog.jsonb_to_recordset($5) as fact (
            kind text, updated_at timestamptz, sent_at timestamptz, item text, plan text, plan_id text,
            status text, free_trial boolean, was_active boolean, period_start timestamptz,
            period_end timestamptz, canceled_at timestamptz, past_due_at timestamptz,
            failed_at timestamptz, is_paid boolean, has_seats boolean, seats bigint, item_ids text[],
            canceled boolean
        )
        ",
        subject_key,
        revision,
        cause.message,
        cause.is_replay,
        Json(rows) as _,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A row as it is read.
struct Row {
    id: i64,
    known_at: DateTime<Utc>,
    revision: i64,
    message: String,
    is_replay: bool,
    kind: String,
    updated_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    item: Option<String>,
    plan: Option<String>,
    plan_id: Option<String>,
    status: Option<String>,
    free_trial: Option<bool>,
    was_active: Option<bool>,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    canceled_at: Option<DateTime<Utc>>,
    past_due_at: Option<DateTime<Utc>>,
    failed_at: Option<DateTime<Utc>>,
    is_paid: Option<bool>,
    has_seats: Option<bool>,
    seats: Option<i64>,
    item_ids: Option<Vec<String>>,
    canceled: Option<bool>,
}

pub(super) async fn read(
    db: &mut PgConnection,
    subject: &Subject,
) -> Result<Vec<Observation>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "
        select o.id, known_at, o.revision, message, is_replay, kind, updated_at, sent_at, item, plan, plan_id, status,
            free_trial, was_active, period_start, period_end, canceled_at, past_due_at, failed_at,
            is_paid, has_seats, seats, item_ids, canceled
        from entitlements.observation o join entitlements.subject s on s.key = o.subject_key
        where s.id = $1
        order by o.id
        ",
        subject.as_str()
    );
    let corrupt = || StoreError::Corrupt(format!("an observation of {subject}"));
    let rows = rows.fetch_all(db).await?.into_iter();
    rows.map(|row| row.observation().ok_or_else(corrupt)).collect()
}

impl Row {
    fn observation(self) -> Option<Observation> {
        let (id, known_at, is_replay) = (self.id, self.known_at, self.is_replay);
        let message = self.message.as_str().into();
        let revision = u64::try_from(self.revision).ok()?;
        let statement = match &*self.kind {
            "item" => Statement::Item(self.item()?),
            "snapshot" => Statement::Snapshot(Snapshot {
                updated_at: self.updated_at,
                sent_at: self.sent_at?,
                listed: self.item_ids.map(|ids| ids.into_iter().map(Into::into).collect()),
                canceled: self.canceled?,
            }),
            "deletion" => Statement::Deleted(self.updated_at),
            "undeletion" => Statement::Undeleted,
            _ => return None,
        };
        Some(Observation { id, known_at, revision, message, is_replay, statement })
    }

    fn item(self) -> Option<ObservedItem> {
        let quantity = self.seats.and_then(|seats| u64::try_from(seats).ok());
        let payment = match (self.is_paid?, self.failed_at) {
            (true, _) => Payment::UpToDate,
            (false, Some(at)) => Payment::FailedBy(at),
            (false, None) => Payment::Unknown,
        };
        let item = Item {
            id: self.item?.into(),
            plan: self.plan.map(Into::into),
            plan_id: self.plan_id.map(Into::into),
            status: Status::from(&*self.status?),
            free_trial: self.free_trial?,
            period_start: self.period_start,
            period_end: self.period_end,
            canceled_at: self.canceled_at,
            past_due_at: self.past_due_at,
            was_active: self.was_active?,
            seats: self.has_seats?.then_some(Seats(quantity)),
            updated_at: self.updated_at,
        };
        Some(ObservedItem { item, payment, sent_at: self.sent_at? })
    }
}
