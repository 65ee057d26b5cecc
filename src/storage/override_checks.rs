//! The conditions under which an override can be set or ended.

use super::{
    ChangeConditions, NewOverride, StoreError, apply_update::LockedSubject, override_rows::find,
};
use crate::domain::{OverrideEnd, OverrideId, Subject, Until};
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::PgConnection;

/// The most overrides of a subject that have neither ended nor been replaced: every check reads them.
const MAX_OPEN: i64 = 1_000;

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
    #[error("override {0} expired at {1}: nothing is left to end or to replace")]
    Expired(OverrideId, String),
    /// The override would end before its replacement starts.
    #[error(
        "override {0} would end now, and this one starts later: let it start now, or set it without `replaces`"
    )]
    Gap(OverrideId),
    /// The end is not after the start.
    #[error("is not after the start, {0}")]
    EndsBeforeStart(String),
    /// The subject has too many overrides.
    #[error("has {MAX_OPEN} overrides already, the maximum: end some")]
    TooMany,
}

/// Whether a new override can be set.
pub(super) async fn check_new(
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
        return Ok(Err(OverrideRejection::EndsBeforeStart(text_of(from))));
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
    Ok(match (&record.end, record.found.until) {
        (Some(end), _) => Err(ended(replaced, end)),
        (None, Until::Instant(until)) if until <= set_at => {
            Err(OverrideRejection::Expired(replaced, text_of(until)))
        }
        (None, _) if new.from.is_some_and(|from| from > record.found.begins_at().max(set_at)) => {
            Err(OverrideRejection::Gap(replaced))
        }
        (None, Until::Instant(_) | Until::Forever) => Ok(()),
    })
}

/// Whether the subject has changed since the caller read it.
pub(super) fn is_passed(
    subject: &Subject,
    locked: &LockedSubject,
    ChangeConditions { if_revision, .. }: &ChangeConditions,
) -> bool {
    let newest = u64::try_from(locked.revision).ok();
    if_revision.as_ref().is_some_and(|wanted| wanted.of(subject.id()) != newest)
}

pub(super) fn ended(id: OverrideId, end: &OverrideEnd) -> OverrideRejection {
    match end.replaced_by {
        Some(by) => OverrideRejection::Replaced(id, by),
        None => OverrideRejection::Ended(id, text_of(end.at)),
    }
}

pub(super) fn text_of(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
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
