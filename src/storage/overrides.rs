//! Overrides: sets, ends, reads and lists them. A row is never changed, except that its end is noted once.

use super::{
    OverrideRejection, Store, StoreError, accounts,
    apply_update::lock,
    change_log::log_change,
    observations,
    override_checks::{check_new, ended, is_passed, text_of},
    override_rows::{find, insert, list, note_end},
    pool::TxOutcome,
};
use crate::domain::{
    Account, Actor, Effect, Known, OverrideId, OverrideNote, OverrideRecord, Revision, Slug,
    Subject, Until, View,
};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

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
    /// The account of the subject before and after the change; `None`: the change is so old that its history was removed.
    pub accounts: Option<[Account; 2]>,
    /// The revision of the change.
    pub revision: u64,
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
    pub feature: Option<Slug>,
    /// Of this plan.
    pub plan: Option<Slug>,
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
        let set = || self.webhooks.transact(async |tx| set(tx, new, conditions).await);
        let outcome = match set().await {
            // A concurrent request with this key about another subject was first.
            Err(StoreError::Rejected(_)) if new.key.is_some() => set().await,
            outcome => outcome,
        };
        self.notify_of(outcome, conditions)
    }

    /// Whether an earlier request with this key set an override, or why it was another request.
    pub async fn is_repeated(
        &self,
        new: &NewOverride,
    ) -> Result<Result<bool, OverrideRejection>, StoreError> {
        if new.key.is_none() {
            return Ok(Ok(false));
        }
        let found = self.webhooks.run(async |db| repeated(db, new).await).await?;
        Ok(found.transpose().map(|record| record.is_some()))
    }

    /// Ends an override. One that was ended already stays as it is, so that a retry succeeds.
    pub async fn end_override(
        &self,
        end: &EndOverride,
        conditions: &ChangeConditions,
    ) -> Result<OverrideOutcome, StoreError> {
        let outcome = self.webhooks.transact(async |tx| self::end(tx, end, conditions).await);
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
    if let Some(repeated) = repeated(tx, new).await? {
        return Ok(match repeated {
            Ok(record) if record.subject == new.subject => {
                let (revision, at) = (record.revision, record.found.set_at);
                TxOutcome::RollBack(Ok(past(tx, record, revision, at).await?))
            }
            Ok(_) => reject(OverrideRejection::KeyReused),
            Err(why) => reject(why),
        });
    }
    let set_at = next_time(tx, &new.subject).await?;
    if let Err(why) = check_new(tx, new, &locked, conditions, set_at).await? {
        return Ok(reject(why));
    }
    let before = account(tx, &new.subject).await?;
    let id = OverrideId(Uuid::now_v7());
    let revision = log_change(tx, locked.key).await?;
    if let Some(replaced) = new.replaces {
        note_end(tx, replaced, &new.set_by, &new.note.reason, revision, set_at).await?;
    }
    insert(tx, id, new, revision, set_at).await?;
    changed(tx, id, before, revision, conditions).await
}

/// The override that an earlier request with this key set, if there is one.
async fn repeated(
    tx: &mut PgConnection,
    new: &NewOverride,
) -> Result<Option<Result<OverrideRecord, OverrideRejection>>, StoreError> {
    let Some(key) = &new.key else { return Ok(None) };
    let Some((id, digest)) = find_key(tx, &new.set_by.caller, &key.key).await? else {
        return Ok(None);
    };
    let is_same = digest == key.digest;
    let record = if is_same { find(tx, id).await? } else { None };
    Ok(Some(record.ok_or(OverrideRejection::KeyReused)))
}

/// An earlier change, with the accounts of its time if they can still be derived.
async fn past(
    tx: &mut PgConnection,
    record: OverrideRecord,
    revision: u64,
    at: DateTime<Utc>,
) -> Result<ChangedOverride, StoreError> {
    let history = observations::history(tx, &record.subject).await?;
    let view = |revision| View { as_of: None, known: Known::Revision(revision, at) };
    let viewed = [revision.saturating_sub(1), revision].map(|n| history.view(view(n)));
    let accounts = match viewed {
        [Ok(before), Ok(after)] => Some([before.account, after.account]),
        [..] => None,
    };
    Ok(ChangedOverride { record, accounts, revision })
}

async fn account(tx: &mut PgConnection, subject: &Subject) -> Result<Account, StoreError> {
    let found = accounts::load_all(tx, &[subject.to_string()]).await?.pop();
    Ok(found.unwrap_or_else(|| Account::unknown(subject.clone())))
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
    let Some(record) = find(tx, end.id).await? else {
        return Ok(reject(OverrideRejection::NotFound(end.id)));
    };
    let ended_at = next_time(tx, &record.subject).await?;
    match (&record.end, record.found.until) {
        (Some(was), _) if was.replaced_by.is_some() => return Ok(reject(ended(end.id, was))),
        (Some(was), _) => {
            let (revision, at) = (was.revision, was.at);
            return Ok(TxOutcome::RollBack(Ok(past(tx, record, revision, at).await?)));
        }
        (None, Until::Instant(until)) if until <= ended_at => {
            return Ok(reject(OverrideRejection::Expired(end.id, text_of(until))));
        }
        (None, Until::Instant(_) | Until::Forever) => {}
    }
    if is_passed(&record.subject, &locked, conditions) {
        return Ok(reject(OverrideRejection::RevisionPassed));
    }
    let before = account(tx, &record.subject).await?;
    let revision = log_change(tx, locked.key).await?;
    note_end(tx, end.id, &end.by, &end.reason, revision, ended_at).await?;
    changed(tx, end.id, before, revision, conditions).await
}

/// The end of a transaction that changed an override.
async fn changed(
    tx: &mut PgConnection,
    id: OverrideId,
    before: Account,
    revision: u64,
    conditions: &ChangeConditions,
) -> Result<TxOutcome<OverrideOutcome>, StoreError> {
    let missing = || StoreError::Corrupt(format!("override {id} is missing"));
    let record = find(tx, id).await?.ok_or_else(missing)?;
    let accounts = Some([before, account(tx, &record.subject).await?]);
    let changed = Ok(ChangedOverride { record, accounts, revision });
    Ok(if conditions.dry_run { TxOutcome::RollBack(changed) } else { TxOutcome::Commit(changed) })
}

/// The time of the database in whole milliseconds, or later: after all changes of the subject's overrides, because the
/// newest exact limit counts, and the clock may have been set back.
async fn next_time(tx: &mut PgConnection, subject: &Subject) -> Result<DateTime<Utc>, StoreError> {
    let next = sqlx::query_scalar!(
        r#"
        select greatest(
            pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp()),
            pg_catalog.max(greatest(set_at, ended_at)) + interval '1 millisecond'
        ) as "next!"
        from entitlements.override where subject = $1
        "#,
        subject.as_str()
    );
    Ok(next.fetch_one(tx).await?)
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
