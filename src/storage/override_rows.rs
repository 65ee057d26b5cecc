//! The rows of overrides, and their form in Rust.

use super::{NewOverride, OverrideCounts, OverrideFilter, StoreError};
use crate::domain::{
    Actor, Amount, Effect, Override, OverrideEnd, OverrideId, OverrideNote, OverrideRecord, Slug,
    Subject, Until,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use std::num::TryFromIntError;
use uuid::Uuid;

/// The columns of an override that decisions use.
#[derive(Debug, Deserialize)]
pub(super) struct OverrideRow {
    id: Uuid,
    feature: Option<String>,
    plan: Option<String>,
    effect: String,
    limit: Option<u64>,
    starts_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    set_at: DateTime<Utc>,
}

impl TryFrom<&OverrideRow> for Override {
    type Error = StoreError;

    fn try_from(row: &OverrideRow) -> Result<Self, StoreError> {
        let corrupt = || StoreError::Corrupt(format!("override {}", row.id));
        Ok(Self {
            id: OverrideId(row.id),
            effect: row.effect().ok_or_else(corrupt)?,
            from: row.starts_at,
            until: row.expires_at.map_or(Until::Forever, Until::Instant),
            set_at: row.set_at,
        })
    }
}

impl OverrideRow {
    fn effect(&self) -> Option<Effect> {
        let slug = |text: &Option<String>| text.as_deref()?.parse::<Slug>().ok();
        if let Some(plan) = slug(&self.plan) {
            return match &*self.effect {
                "deny" => Some(Effect::DenyPlan(plan)),
                "grant" => Some(Effect::GrantPlan(plan)),
                _ => None,
            };
        }
        let feature = slug(&self.feature)?;
        let amount = match &*self.effect {
            "deny" => return Some(Effect::DenyFeature(feature)),
            "grant" => Amount::Plain,
            "unlimited" => Amount::Unlimited,
            "at_least" => Amount::AtLeast(self.limit?),
            "exactly" => Amount::Exactly(self.limit?),
            _ => return None,
        };
        Some(Effect::GrantFeature(feature, amount))
    }
}

/// The columns `effect` and `limit`.
fn columns(effect: &Effect) -> (&'static str, Option<u64>) {
    match effect {
        Effect::DenyFeature(_) | Effect::DenyPlan(_) => ("deny", None),
        Effect::GrantPlan(_) | Effect::GrantFeature(_, Amount::Plain) => ("grant", None),
        Effect::GrantFeature(_, Amount::Unlimited) => ("unlimited", None),
        Effect::GrantFeature(_, Amount::AtLeast(limit)) => ("at_least", Some(*limit)),
        Effect::GrantFeature(_, Amount::Exactly(limit)) => ("exactly", Some(*limit)),
    }
}

/// A whole row, and the override that replaced it.
struct RecordRow {
    id: Uuid,
    subject: String,
    feature: Option<String>,
    plan: Option<String>,
    effect: String,
    limit: Option<i64>,
    starts_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    owner: String,
    reason: String,
    reference: String,
    replaces: Option<Uuid>,
    set_by: String,
    on_behalf_of: String,
    set_at: DateTime<Utc>,
    revision: i64,
    ended_at: Option<DateTime<Utc>>,
    ended_by: Option<String>,
    ended_on_behalf_of: Option<String>,
    ended_reason: Option<String>,
    ended_revision: Option<i64>,
    replaced_by: Option<Uuid>,
}

impl RecordRow {
    fn record(self) -> Result<OverrideRecord, StoreError> {
        let corrupt =
            |column: &str| StoreError::Corrupt(format!("override.{column} of {}", self.id));
        let limit = self.limit.map(u64::try_from).transpose().map_err(|_| corrupt("limit"))?;
        let row = OverrideRow {
            id: self.id,
            feature: self.feature.clone(),
            plan: self.plan.clone(),
            effect: self.effect.clone(),
            limit,
            starts_at: self.starts_at,
            expires_at: self.expires_at,
            set_at: self.set_at,
        };
        let end = self.ended_at.map(|at| self.end(at)).transpose();
        Ok(OverrideRecord {
            found: Override::try_from(&row)?,
            subject: self.subject.parse().map_err(|_| corrupt("subject"))?,
            revision: u64::try_from(self.revision).map_err(|_| corrupt("revision"))?,
            end: end.map_err(|_| corrupt("ended_revision"))?,
            note: OverrideNote {
                owner: self.owner,
                reason: self.reason,
                reference: self.reference,
            },
            set_by: Actor { caller: self.set_by, on_behalf_of: self.on_behalf_of },
            replaces: self.replaces.map(OverrideId),
        })
    }

    fn end(&self, at: DateTime<Utc>) -> Result<OverrideEnd, TryFromIntError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (caller, on_behalf_of) = (text(&self.ended_by), text(&self.ended_on_behalf_of));
        Ok(OverrideEnd {
            at,
            by: Actor { caller, on_behalf_of },
            reason: text(&self.ended_reason),
            replaced_by: self.replaced_by.map(OverrideId),
            revision: self.ended_revision.unwrap_or_default().try_into()?,
        })
    }
}

/// The override with this id.
pub(super) async fn find(
    db: &mut PgConnection,
    id: OverrideId,
) -> Result<Option<OverrideRecord>, StoreError> {
    let filter = OverrideFilter { id: Some(id), with_ended: true, ..OverrideFilter::default() };
    Ok(list(db, &filter, None, 1).await?.pop())
}

/// Some overrides, the newest first, before this one.
pub(super) async fn list(
    db: &mut PgConnection,
    filter: &OverrideFilter,
    before: Option<OverrideId>,
    count: i64,
) -> Result<Vec<OverrideRecord>, StoreError> {
    let rows = sqlx::query_as!(
        RecordRow,
        r#"
        select o.id, o.subject, o.feature, o.plan, o.effect, o."limit", o.starts_at, o.expires_at, o.owner,
            o.reason, o.reference, o.replaces, o.set_by, o.on_behalf_of, o.set_at, o.revision, o.ended_at,
            o.ended_by, o.ended_on_behalf_of, o.ended_reason, o.ended_revision, newer.id as "replaced_by?"
        from entitlements.override o left join entitlements.override newer on newer.replaces = o.id
        where ($1::text is null or o.subject = $1)
            and ($2::text is null or o.feature = $2)
            and ($3::text is null or o.plan = $3)
            and ($4::text is null or o.owner = $4)
            and ($5::timestamptz is null or o.expires_at <= $5)
            and ($6 or o.ended_at is null and (o.expires_at is null or o.expires_at > pg_catalog.now()))
            and ($7::uuid is null or o.id < $7)
            and ($8::uuid is null or o.id = $8)
        order by o.id desc limit $9
        "#,
        filter.subject.as_ref().map(Subject::as_str),
        filter.feature.as_ref().map(Slug::as_str),
        filter.plan.as_ref().map(Slug::as_str),
        filter.owner,
        filter.expires_until,
        filter.with_ended,
        before.map(|id| id.0),
        filter.id.map(|id| id.0),
        count,
    );
    rows.fetch_all(db).await?.into_iter().map(RecordRow::record).collect()
}

/// All overrides of a subject, in the order of their setting.
pub(super) async fn of_subject(
    db: &mut PgConnection,
    subject: &Subject,
) -> Result<Vec<OverrideRecord>, StoreError> {
    let filter = OverrideFilter {
        subject: Some(subject.clone()),
        with_ended: true,
        ..OverrideFilter::default()
    };
    let mut records = list(db, &filter, None, i64::MAX).await?;
    records.sort_by_key(|record| record.found.age());
    Ok(records)
}

/// Counts the overrides in force.
pub(super) async fn count(db: &mut PgConnection) -> Result<OverrideCounts, StoreError> {
    let counts = sqlx::query_as!(
        OverrideCounts,
        r#"
        select
            pg_catalog.count(*) filter (where effect <> 'deny') as "grants!",
            pg_catalog.count(*) filter (where effect = 'deny') as "denials!",
            pg_catalog.count(*) filter (where expires_at <= pg_catalog.now() + interval '7 days')
                as "expiring_soon!"
        from (
            select effect, expires_at from entitlements.override
            where ended_at is null and (starts_at is null or starts_at <= pg_catalog.now())
                and (expires_at is null or expires_at > pg_catalog.now())
            limit 100000
        ) as in_force
        "#
    );
    Ok(counts.fetch_one(db).await?)
}

pub(super) async fn insert(
    tx: &mut PgConnection,
    id: OverrideId,
    new: &NewOverride,
    revision: u64,
    set_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let (effect, limit) = columns(&new.effect);
    let expires_at = new.until.instant();
    sqlx::query!(
        r#"
        insert into entitlements.override
            (id, subject, feature, plan, effect, "limit", starts_at, expires_at, permanent, owner, reason,
             reference, replaces, set_by, on_behalf_of, set_at, revision, idempotency_key, request_sha256)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
        "#,
        id.0,
        new.subject.as_str(),
        new.effect.feature().map(Slug::as_str),
        new.effect.plan().map(Slug::as_str),
        effect,
        limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)),
        new.from,
        expires_at,
        expires_at.is_none(),
        new.note.owner,
        new.note.reason,
        new.note.reference,
        new.replaces.map(|id| id.0),
        new.set_by.caller,
        new.set_by.on_behalf_of,
        set_at,
        stored(revision),
        new.key.as_ref().map(|key| &*key.key),
        new.key.as_ref().map(|key| &*key.digest),
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) fn stored(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// Notes the end of an override.
pub(super) async fn note_end(
    tx: &mut PgConnection,
    id: OverrideId,
    by: &Actor,
    reason: &str,
    revision: u64,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "
        update entitlements.override set
            ended_at = greatest($2, set_at), ended_by = $3, ended_on_behalf_of = $4, ended_reason = $5, ended_revision = $6
        where id = $1 and ended_at is null
        ",
        id.0,
        at,
        by.caller,
        by.on_behalf_of,
        reason,
        stored(revision),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends all overrides of a subject that is deleted, unless they have expired: the revision of the deletion is the next one.
pub(super) async fn end_all(tx: &mut PgConnection, subject: &Subject) -> Result<(), StoreError> {
    sqlx::query!(
        "
        update entitlements.override o set
            ended_at = greatest(pg_catalog.statement_timestamp(), set_at), ended_by = '', ended_on_behalf_of = '',
            ended_reason = 'Clerk deleted the subject', ended_revision = s.revision + 1
        from entitlements.subject s
        where s.id = $1 and o.subject = s.id and o.ended_at is null
            and (o.expires_at is null or o.expires_at > pg_catalog.now())
        ",
        subject.as_str()
    )
    .execute(tx)
    .await?;
    Ok(())
}
