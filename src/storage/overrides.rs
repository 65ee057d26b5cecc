//! Overrides: sets, ends, reads and lists them. A row is never changed, except that its end is noted once.

use super::{
    Store, StoreError,
    apply_update::{LockedSubject, lock},
    change_log::log_change,
    observations,
    override_rows::{find, insert, list, note_end},
    pool::TxOutcome,
};
use crate::domain::{
    Actor, Effect, OverrideEnd, OverrideId, OverrideNote, OverrideRecord, Revision, Subject,
    SubjectHistory, Until,
};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// The most overrides of a subject that have neither ended nor been replaced: every check reads them.
const MAX_OPEN: i64 = 1_000;

/// An override to set.
#[derive(Debug, Clone)]
pub struct NewOverride {
    /// The subject; Clerk need not have reported it.
    pub subject: Subject,
    /// The grant or denial.
    pub effect: Effect,
    /// The first instant at which it is in force; `None`: when it is set.
    pub from: Option<DateTime<Utc>>,
    /// The instant from which on it is no longer in force.
    pub until: Until,
    /// The people behind it and their reasons.
    pub note: OverrideNote,
    /// The caller.
    pub set_by: Actor,
    /// The override that this one extends or corrects.
    pub replaces: Option<OverrideId>,
    /// Identifies the request, so that a retry sets nothing twice.
    pub key: Option<IdempotencyKey>,
}

/// The key of a request, and the SHA-256 of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key, unique for its caller.
    pub key: String,
    /// The digest.
    pub digest: Vec<u8>,
}

/// An override to end before its time.
#[derive(Debug, Clone)]
pub struct EndOverride {
    /// The override.
    pub id: OverrideId,
    /// The caller.
    pub by: Actor,
    /// The reason.
    pub reason: String,
}

/// The conditions of a change.
#[derive(Debug, Clone, Default)]
pub struct ChangeConditions {
    /// The change is rejected unless this is the newest revision of the subject.
    pub if_revision: Option<Revision>,
    /// Whether everything is rolled back.
    pub dry_run: bool,
}

/// A changed override.
#[derive(Debug)]
pub struct ChangedOverride {
    /// The record after the change.
    pub record: OverrideRecord,
    /// The history of the subject with the change.
    pub history: SubjectHistory,
    /// The revision of the change.
    pub revision: u64,
}

/// Why an override cannot be set or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideRejection {
    /// The subject was deleted.
    #[error("was deleted by Clerk: a deleted user or organization is denied everything")]
    SubjectDeleted,
    /// The key belongs to another request.
    #[error(
        "was used for another request: use a new key for each request, and the same one only for retries"
    )]
    KeyReused,
    /// The subject has changed.
    #[error(
        "is not the newest revision of the subject: read the overrides again, and decide again"
    )]
    RevisionPassed,
    /// There is no such override.
    #[error("there is no override {0}")]
    NotFound(OverrideId),
    /// The override is of another subject, or of another feature or plan.
    #[error("override {0} is of another subject, feature or plan: end it, and set a new one")]
    OtherTarget(OverrideId),
    /// The override was replaced.
    #[error("override {0} was replaced by {1}: use that one")]
    Replaced(OverrideId, OverrideId),
    /// The override was ended.
    #[error("override {0} was ended at {1}: set a new one")]
    Ended(OverrideId, String),
    /// The override is over.
    #[error("override {0} expired at {1}: nothing is left to end")]
    Expired(OverrideId, String),
    /// The end is not after the start.
    #[error("is not after the start, {0}")]
    EndsBeforeStart(String),
    /// The subject has too many overrides.
    #[error("has {MAX_OPEN} overrides already, the maximum: end some")]
    TooMany,
}

/// The result of a change: the changed override, or why there is none.
pub type OverrideOutcome = Result<ChangedOverride, OverrideRejection>;

/// Selects overrides; an absent field selects all.
#[derive(Debug, Clone, Default)]
pub struct OverrideFilter {
    /// With this id.
    pub id: Option<OverrideId>,
    /// Of this subject.
    pub subject: Option<Subject>,
    /// Of this feature.
    pub feature: Option<String>,
    /// Of this plan.
    pub plan: Option<String>,
    /// Of this owner.
    pub owner: Option<String>,
    /// That expire until this instant.
    pub expires_until: Option<DateTime<Utc>>,
    /// Also those that have expired, ended or been replaced.
    pub with_ended: bool,
}

impl Store {
    /// Sets an override, in one transaction with its change-log row.
    pub async fn set_override(
        &self,
        new: &NewOverride,
        conditions: &ChangeConditions,
    ) -> Result<OverrideOutcome, StoreError> {
        let set = || self.background.transact(async |tx| set(tx, new, conditions).await);
        let outcome = match set().await {
            // A concurrent request with this key about another subject was first.
            Err(StoreError::Rejected(_)) if new.key.is_some() => set().await,
            outcome => outcome,
        };
        self.notify_of(outcome, conditions)
    }

    /// Ends an override. One that was ended already stays as it is, so that a retry succeeds.
    pub async fn end_override(
        &self,
        end: &EndOverride,
        conditions: &ChangeConditions,
    ) -> Result<OverrideOutcome, StoreError> {
        let outcome = self.background.transact(async |tx| self::end(tx, end, conditions).await);
        self.notify_of(outcome.await, conditions)
    }

    fn notify_of(
        &self,
        outcome: Result<OverrideOutcome, StoreError>,
        conditions: &ChangeConditions,
    ) -> Result<OverrideOutcome, StoreError> {
        if let (Ok(Ok(changed)), false) = (&outcome, conditions.dry_run) {
            self.notifier.changed(&changed.record.subject, changed.revision);
        }
        outcome
    }

    /// Some overrides, the newest first, before this one.
    pub async fn overrides(
        &self,
        filter: &OverrideFilter,
        before: Option<OverrideId>,
        count: i64,
    ) -> Result<Vec<OverrideRecord>, StoreError> {
        self.background.run(async |db| list(db, filter, before, count).await).await
    }

    /// The revision of a subject; 0: the database has no row for it.
    pub async fn revision(&self, subject: &Subject) -> Result<u64, StoreError> {
        let revision = async |db: &mut PgConnection| {
            sqlx::query_scalar!(
                "select revision from entitlements.subject where id = $1",
                subject.as_str()
            )
            .fetch_optional(db)
            .await
        };
        let revision = self.background.run(revision).await?.unwrap_or(0);
        u64::try_from(revision).map_err(|_| StoreError::Corrupt(format!("revision {revision}")))
    }
}

/// Rolls back with a rejection.
fn reject(why: OverrideRejection) -> TxOutcome<OverrideOutcome> {
    TxOutcome::RollBack(Err(why))
}

async fn set(
    tx: &mut PgConnection,
    new: &NewOverride,
    conditions: &ChangeConditions,
) -> Result<TxOutcome<OverrideOutcome>, StoreError> {
    let locked = lock(tx, &new.subject).await?;
    if let Some(key) = &new.key
        && let Some((id, digest)) = find_key(tx, &new.set_by.caller, &key.key).await?
    {
        return Ok(match find(tx, id).await? {
            Some(record) if digest == key.digest && record.subject == new.subject => {
                let revision = record.revision;
                let history = observations::history(tx, &record.subject).await?;
                TxOutcome::RollBack(Ok(ChangedOverride { record, history, revision }))
            }
            Some(_) | None => reject(OverrideRejection::KeyReused),
        });
    }
    let set_at = now(tx).await?;
    if let Err(why) = check_new(tx, new, &locked, conditions, set_at).await? {
        return Ok(reject(why));
    }
    let id = OverrideId(Uuid::now_v7());
    let revision = log_change(tx, locked.key).await?;
    if let Some(replaced) = new.replaces {
        note_end(tx, replaced, &new.set_by, &new.note.reason, revision, set_at).await?;
    }
    insert(tx, id, new, revision, set_at).await?;
    changed(tx, id, revision, conditions).await
}

/// Whether a new override can be set.
async fn check_new(
    tx: &mut PgConnection,
    new: &NewOverride,
    locked: &LockedSubject,
    conditions: &ChangeConditions,
    set_at: DateTime<Utc>,
) -> Result<Result<(), OverrideRejection>, StoreError> {
    if locked.deleted_at.is_some() {
        return Ok(Err(OverrideRejection::SubjectDeleted));
    }
    if is_passed(&new.subject, locked, conditions) {
        return Ok(Err(OverrideRejection::RevisionPassed));
    }
    let from = new.from.unwrap_or(set_at);
    if new.until <= Until::Instant(from) {
        return Ok(Err(OverrideRejection::EndsBeforeStart(from.to_rfc3339())));
    }
    let Some(replaced) = new.replaces else {
        let is_full = count_open(tx, &new.subject).await? >= MAX_OPEN;
        return Ok(if is_full { Err(OverrideRejection::TooMany) } else { Ok(()) });
    };
    let Some(record) = find(tx, replaced).await? else {
        return Ok(Err(OverrideRejection::NotFound(replaced)));
    };
    if record.subject != new.subject || record.found.effect.target() != new.effect.target() {
        return Ok(Err(OverrideRejection::OtherTarget(replaced)));
    }
    Ok(record.end.map_or(Ok(()), |end| Err(ended(replaced, &end))))
}

/// Whether the subject has changed since the caller read it.
fn is_passed(
    subject: &Subject,
    locked: &LockedSubject,
    ChangeConditions { if_revision, .. }: &ChangeConditions,
) -> bool {
    let newest = u64::try_from(locked.revision).ok();
    if_revision.as_ref().is_some_and(|wanted| wanted.of(subject.id()) != newest)
}

fn ended(id: OverrideId, end: &OverrideEnd) -> OverrideRejection {
    match end.replaced_by {
        Some(by) => OverrideRejection::Replaced(id, by),
        None => OverrideRejection::Ended(id, end.at.to_rfc3339()),
    }
}

async fn end(
    tx: &mut PgConnection,
    end: &EndOverride,
    conditions: &ChangeConditions,
) -> Result<TxOutcome<OverrideOutcome>, StoreError> {
    let Some(record) = find(tx, end.id).await? else {
        return Ok(reject(OverrideRejection::NotFound(end.id)));
    };
    let locked = lock(tx, &record.subject).await?;
    let (record, ended_at) = (existing(tx, end.id).await?, now(tx).await?);
    match (&record.end, record.found.until) {
        (Some(was), _) if was.replaced_by.is_some() => return Ok(reject(ended(end.id, was))),
        (Some(was), _) => {
            let revision = was.revision;
            let history = observations::history(tx, &record.subject).await?;
            return Ok(TxOutcome::RollBack(Ok(ChangedOverride { record, history, revision })));
        }
        (None, Until::Instant(until)) if until <= ended_at => {
            return Ok(reject(OverrideRejection::Expired(end.id, until.to_rfc3339())));
        }
        (None, Until::Instant(_) | Until::Forever) => {}
    }
    if is_passed(&record.subject, &locked, conditions) {
        return Ok(reject(OverrideRejection::RevisionPassed));
    }
    let revision = log_change(tx, locked.key).await?;
    note_end(tx, end.id, &end.by, &end.reason, revision, ended_at).await?;
    changed(tx, end.id, revision, conditions).await
}

/// The end of a transaction that changed an override.
async fn changed(
    tx: &mut PgConnection,
    id: OverrideId,
    revision: u64,
    conditions: &ChangeConditions,
) -> Result<TxOutcome<OverrideOutcome>, StoreError> {
    let record = existing(tx, id).await?;
    let history = observations::history(tx, &record.subject).await?;
    let changed = Ok(ChangedOverride { record, history, revision });
    Ok(if conditions.dry_run { TxOutcome::RollBack(changed) } else { TxOutcome::Commit(changed) })
}

async fn existing(tx: &mut PgConnection, id: OverrideId) -> Result<OverrideRecord, StoreError> {
    let missing = || StoreError::Corrupt(format!("override {id} is missing"));
    find(tx, id).await?.ok_or_else(missing)
}

/// The time of the database, in whole milliseconds.
async fn now(tx: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    let now = sqlx::query_scalar!(
        r#"select pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp()) as "now!""#
    );
    Ok(now.fetch_one(tx).await?)
}

async fn find_key(
    tx: &mut PgConnection,
    caller: &str,
    key: &str,
) -> Result<Option<(OverrideId, Vec<u8>)>, StoreError> {
    let found = sqlx::query!(
        r#"
        select id, request_sha256 as "digest!" from entitlements.override
        where set_by = $1 and idempotency_key = $2
        "#,
        caller,
        key
    );
    Ok(found.fetch_optional(tx).await?.map(|row| (OverrideId(row.id), row.digest)))
}

async fn count_open(tx: &mut PgConnection, subject: &Subject) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"
        select pg_catalog.count(*) as "count!" from entitlements.override
        where subject = $1 and ended_at is null
            and (expires_at is null or expires_at > pg_catalog.now())
        "#,
        subject.as_str()
    );
    Ok(count.fetch_one(tx).await?)
}
