//! The history of a subject: appends observations and reads them.

use super::{
    StoreError,
    deliveries::{LedgerEntry, LedgerRow},
    override_rows,
};
use crate::domain::{
    Item, Observation, ObservedItem, Payment, Seats, Snapshot, Statement, Status, Subject,
    SubjectHistory, SubscriptionUpdate,
};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Appends rows about a subject in a transaction.
struct Recording<'a> {
    tx: &'a mut PgConnection,
    subject_key: i64,
    /// The `svix-id` of the delivery, or the id of an answer of Clerk's Backend API; empty for an undeletion.
    message: &'a str,
    /// Whether this is a replay of the ledger.
    is_replay: bool,
    /// Whether the next row gives the subject a new revision.
    is_change: bool,
    /// The time of the recording; `None`: now.
    known_at: Option<DateTime<Utc>>,
    /// The ledger row to insert with the next row.
    entry: Option<LedgerRow<'a>>,
}

/// What the database returns for an appended row.
struct Appended {
    known_at: DateTime<Utc>,
    /// Whether a ledger row was inserted: not if the ledger has its `svix-id`.
    is_entered: bool,
}

/// Everything that was recorded about a subject.
pub(super) async fn history(
    db: &mut PgConnection,
    subject: &Subject,
) -> Result<SubjectHistory, StoreError> {
    let mut history = read(db, subject).await?;
    let mut overrides = override_rows::of_subject(db, subject).await?;
    // Rows that were written since the first statement belong to later revisions.
    overrides.retain(|record| record.revision <= history.revision);
    for record in &mut overrides {
        record.end = record.end.take().filter(|end| end.revision <= history.revision);
    }
    history.overrides = overrides;
    Ok(history)
}

/// A row to append. A statement has only some of the columns.
#[derive(Default)]
struct NewRow<'a> {
    kind: &'static str,
    updated_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    item: Option<NewItem<'a>>,
    item_ids: Option<Vec<&'a str>>,
    canceled: Option<bool>,
}

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
    seats: Option<i64>,
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
            seats: item.seats.and_then(|seats| seats.0).map(|n| n.try_into().unwrap_or(i64::MAX)),
        };
        let (updated_at, sent_at) = (item.updated_at, Some(*sent_at));
        Self { kind: "item", updated_at, sent_at, item: Some(new), ..Self::default() }
    }
}

/// Appends the statements of an update, and counts and logs the change if there was one. The first statement inserts the
/// ledger row of the delivery, which a replay does not have. A replay that changed nothing appends nothing: the first
/// delivery of the message usually did.
pub(super) async fn record(
    tx: &mut PgConnection,
    subject_key: i64,
    message: &str,
    update: &SubscriptionUpdate,
    is_change: bool,
    entry: Option<LedgerRow<'_>>,
) -> Result<LedgerEntry, StoreError> {
    let (is_replay, mut entered) = (entry.is_none(), LedgerEntry::NotTried);
    if is_replay && !is_change {
        return Ok(entered);
    }
    let known_at = None;
    let mut recording =
        Recording { tx, subject_key, message, is_replay, is_change, known_at, entry };
    for row in NewRow::of(update) {
        let appended = recording.append(&row).await?;
        if recording.entry.take().is_some() {
            entered = LedgerEntry::of(appended.is_entered);
        }
        recording.is_change = false;
        recording.known_at = Some(appended.known_at);
    }
    Ok(entered)
}

/// Appends that the deletion of a subject was reverted, and counts and logs the change.
pub(super) async fn record_undeletion(
    tx: &mut PgConnection,
    subject_key: i64,
) -> Result<(), StoreError> {
    let (message, is_replay, is_change, known_at, entry) = ("", false, true, None, None);
    let mut recording =
        Recording { tx, subject_key, message, is_replay, is_change, known_at, entry };
    let row = NewRow { kind: "undeletion", updated_at: Utc::now(), ..NewRow::default() };
    recording.append(&row).await.map(drop)
}

impl Recording<'_> {
    /// Appends a row; for a change, also increments the subject's revision and writes a change-log row; inserts the ledger
    /// row if there is one. All in one statement, because each takes a round trip while the subject is locked. All rows of a
    /// message have the time of the first one. The ledger row is not foreign: deliveries of other instances are not observed.
    async fn append(&mut self, row: &NewRow<'_>) -> Result<Appended, StoreError> {
        let (item, entry) = (row.item.as_ref(), self.entry.as_ref());
        let appended = sqlx::query_as!(
            Appended,
            r#"
        with counted as (
            update entitlements.subject set
                revision = revision + $2::boolean::integer,
                oldest_observed_at = coalesce(oldest_observed_at, pg_catalog.now())
            where key = $1 returning key, id, revision, deleted_at
        ), logged as (
            insert into entitlements.change_log (subject, revision) select id, revision from counted where $2
        ), entered as (
            insert into entitlements.delivery
                (svix_id, event, sent_at, subject, result, detail, revision, body, body_sha256, instance, signed_at)
            select $3, $25, $26, id, $27, $28, case when $2 then revision end,
                case when deleted_at is null then $29::bytea end, $30, $31, $32
            from counted where $27::text is not null
            on conflict (svix_id) do nothing
            returning svix_id
        )
        insert into entitlements.observation
            (subject_key, revision, message, is_replay, known_at, kind, updated_at, sent_at, item_ids, canceled,
             item, plan, plan_id, status, free_trial, was_active, period_start, period_end, canceled_at,
             past_due_at, failed_at, is_paid, has_seats, seats)
        select key, revision, $3, $4, coalesce($5, pg_catalog.statement_timestamp()), $6, $7, $8, $9, $10, $11,
            $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24
        from counted
        returning known_at, exists (select from entered) as "is_entered!"
        "#,
            self.subject_key,
            self.is_change,
            self.message,
            self.is_replay,
            self.known_at,
            row.kind,
            row.updated_at,
            row.sent_at,
            row.item_ids.as_deref() as Option<&[&str]>,
            row.canceled,
            item.map(|item| item.item),
            item.and_then(|item| item.plan),
            item.and_then(|item| item.plan_id),
            item.map(|item| item.status),
            item.map(|item| item.free_trial),
            item.map(|item| item.was_active),
            item.and_then(|item| item.period_start),
            item.and_then(|item| item.period_end),
            item.and_then(|item| item.canceled_at),
            item.and_then(|item| item.past_due_at),
            item.and_then(|item| item.failed_at),
            item.map(|item| item.is_paid),
            item.map(|item| item.has_seats),
            item.and_then(|item| item.seats),
            entry.and_then(|entry| entry.delivery.event.event.as_deref()),
            entry.and_then(|entry| entry.delivery.event.sent_at),
            entry.map(|entry| entry.outcome.name()),
            entry.and_then(|entry| entry.outcome.detail()),
            entry.map(|entry| &*entry.delivery.body),
            entry.map(|entry| &entry.body_sha256[..]),
            entry.and_then(|entry| entry.delivery.event.instance.as_deref()),
            entry.and_then(|entry| entry.delivery.signed_at),
        );
        Ok(appended.fetch_one(&mut *self.tx).await?)
    }
}

/// A row as it is read: the subject, and one of its observations. A subject without observations has one row.
struct Row {
    complete_from: DateTime<Utc>,
    removed_at: Option<DateTime<Utc>>,
    subject_revision: Option<i64>,
    id: Option<i64>,
    known_at: Option<DateTime<Utc>>,
    revision: Option<i64>,
    message: Option<String>,
    is_replay: Option<bool>,
    kind: Option<String>,
    updated_at: Option<DateTime<Utc>>,
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

/// The observations of a subject, and how far back they are complete. One statement reads both, because a retention that
/// ran in between could remove observations that seem complete.
pub(super) async fn read(
    db: &mut PgConnection,
    subject: &Subject,
) -> Result<SubjectHistory, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select r.complete_from, s.history_removed_at as "removed_at?", s.revision as "subject_revision?",
            o.id as "id?", known_at as "known_at?", o.revision as "revision?", message as "message?",
            is_replay as "is_replay?", kind as "kind?", updated_at as "updated_at?", sent_at, item, plan,
            plan_id, status, free_trial, was_active, period_start, period_end, canceled_at, past_due_at,
            failed_at, is_paid, has_seats, seats, item_ids, canceled
        from entitlements.history_retention r
        left join entitlements.subject s on s.id = $1
        left join entitlements.observation o on o.subject_key = s.key
        order by o.id
        "#,
        subject.as_str()
    );
    let rows = rows.fetch_all(db).await?;
    let first = rows.first().ok_or_else(|| StoreError::Corrupt("history_retention".into()))?;
    let (complete_from, removed_at) = (first.complete_from, first.removed_at);
    let revision = first.subject_revision;
    let corrupt = || StoreError::Corrupt(format!("an observation of {subject}"));
    let observed = rows.into_iter().filter(|row| row.id.is_some());
    let observations = observed.map(|row| row.observation().ok_or_else(corrupt));
    Ok(SubjectHistory {
        subject: subject.clone(),
        is_known: revision.is_some(),
        revision: revision.and_then(|revision| revision.try_into().ok()).unwrap_or(0),
        observations: observations.collect::<Result<_, _>>()?,
        overrides: Vec::new(),
        complete_from,
        removed_at,
    })
}

impl Row {
    fn observation(self) -> Option<Observation> {
        let (id, known_at, is_replay) = (self.id?, self.known_at?, self.is_replay?);
        let message = self.message.as_deref()?.into();
        let revision = u64::try_from(self.revision?).ok()?;
        let updated_at = self.updated_at?;
        let statement = match self.kind.as_deref()? {
            "item" => Statement::Item(self.item()?),
            "snapshot" => Statement::Snapshot(Snapshot {
                updated_at,
                sent_at: self.sent_at?,
                listed: self.item_ids.map(|ids| ids.into_iter().map(Into::into).collect()),
                canceled: self.canceled?,
            }),
            "deletion" => Statement::Deleted(updated_at),
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
            updated_at: self.updated_at?,
        };
        Some(ObservedItem { item, payment, sent_at: self.sent_at? })
    }
}
