//! Carries overrides from one database to another: rows as JSON, in all columns.

use super::{
    Store, StoreError, apply_update::lock, change_log::log_change, override_rows::stored,
    pool::TxOutcome,
};
use crate::domain::Subject;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// The changes of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// The number of overrides that were added.
    pub added: usize,
    /// The number of overrides whose end was noted.
    pub ended: usize,
    /// The number of overrides that were there already.
    pub known: usize,
    /// Overrides that cannot be added: the subject was deleted, the row has another content, a later request has the key, or another override replaces
    /// the same one, or the replaced one is missing.
    pub conflicting: Vec<Uuid>,
}

impl Store {
    /// The next overrides as rows in JSON, the oldest first, after this one; at most 1,000.
    pub async fn export_overrides(
        &self,
        after: Option<Uuid>,
    ) -> Result<Vec<(Uuid, Value)>, StoreError> {
        self.background.run(async |db| export(db, after).await).await
    }

    /// Adds the exported overrides of a subject that are missing, and the ends of those that are there. Their revisions are
    /// new: the restored subject may have had fewer changes than the exported one.
    pub async fn import_overrides(
        &self,
        subject: &Subject,
        rows: &[Value],
    ) -> Result<Imported, StoreError> {
        self.background.transact(async |tx| import_all(tx, subject, rows).await).await
    }
}

async fn import_all(
    tx: &mut PgConnection,
    subject: &Subject,
    rows: &[Value],
) -> Result<TxOutcome<Imported>, StoreError> {
    let locked = lock(tx, subject).await?;
    let (mut done, mut present, mut lost) = (Imported::default(), Vec::new(), Vec::new());
    let revision = log_change(tx, locked.key).await?;
    for row in rows {
        let (id, is_added) = import(tx, row, revision, locked.deleted_at.is_some()).await?;
        if is_added {
            done.added += 1;
        } else if is_known(tx, id, row).await? {
            done.known += 1;
        } else {
            done.conflicting.push(id);
            lost.push(&row["replaces"]);
            continue;
        }
        present.push(row);
    }
    // An override that a conflicting one replaced does not end.
    present.retain(|row| !lost.contains(&&row["id"]));
    if present.iter().any(|row| !row["ended_at"].is_null()) {
        let revision = log_change(tx, locked.key).await?;
        for row in present {
            done.ended += usize::from(import_end(tx, row, revision).await?);
        }
    }
    let is_changed = done.added + done.ended > 0;
    Ok(if is_changed { TxOutcome::Commit(done) } else { TxOutcome::RollBack(done) })
}

/// The next rows as JSON, the oldest first, after this one.
async fn export(
    db: &mut PgConnection,
    after: Option<Uuid>,
) -> Result<Vec<(Uuid, Value)>, StoreError> {
    let rows = sqlx::query!(
        r#"
        select id, pg_catalog.to_jsonb(o) as "row!: Value" from entitlements.override o
        where $1::uuid is null or id > $1 order by id limit 1000
        "#,
        after
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    Ok(rows.map(|row| (row.id, row.row)).collect())
}

/// Adds a row of an export without its end, unless the subject `is_deleted` or the row conflicts with another one; returns
/// its id and whether it was added.
async fn import(
    tx: &mut PgConnection,
    row: &Value,
    revision: u64,
    is_deleted: bool,
) -> Result<(Uuid, bool), StoreError> {
    let added = sqlx::query!(
        r#"
        with given as (
            select (pg_catalog.jsonb_populate_record(null::entitlements.override, $1::jsonb
                || pg_catalog.jsonb_build_object('revision', $2::bigint, 'ended_at', null, 'ended_by', null,
                    'ended_on_behalf_of', null, 'ended_reason', null, 'ended_revision', null))).*
        ), added as (
            insert into entitlements.override
            select * from given
            where not $3 and (replaces is null or exists (
                select from entitlements.override older
                where older.id = given.replaces and older.subject = given.subject
            ))
            on conflict do nothing
            returning id
        )
        select given.id, added.id is not null as "is_added!" from given left join added on true
        "#,
        row,
        stored(revision),
        is_deleted,
    );
    let added = added.fetch_one(tx).await?;
    let id = added.id.ok_or_else(|| StoreError::Corrupt("an override without an id".into()))?;
    Ok((id, added.is_added))
}

/// Whether the table has the row, apart from its revisions and its end.
async fn is_known(tx: &mut PgConnection, id: Uuid, row: &Value) -> Result<bool, StoreError> {
    let is_known = sqlx::query_scalar!(
        r#"
        with ignored as (
            select '{revision,ended_at,ended_by,ended_on_behalf_of,ended_reason,ended_revision}'::text[] as fields
        )
        select exists (
            select from entitlements.override o, ignored
            where id = $1 and pg_catalog.to_jsonb(o) - fields = $2::jsonb - fields
        ) as "is_known!"
        "#,
        id,
        row
    );
    Ok(is_known.fetch_one(tx).await?)
}

/// Notes the end that a row of an export has, unless it is noted; returns whether it was noted.
async fn import_end(tx: &mut PgConnection, row: &Value, revision: u64) -> Result<bool, StoreError> {
    let noted = sqlx::query!(
        "
        update entitlements.override o set
            ended_at = e.ended_at, ended_by = e.ended_by, ended_on_behalf_of = e.ended_on_behalf_of,
            ended_reason = e.ended_reason, ended_revision = $2
        from pg_catalog.jsonb_populate_record(null::entitlements.override, $1::jsonb) e
        where o.id = e.id and o.ended_at is null and e.ended_at is not null
        ",
        row,
        stored(revision)
    );
    Ok(noted.execute(tx).await?.rows_affected() > 0)
}
