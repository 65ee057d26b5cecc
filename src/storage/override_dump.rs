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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// The number of overrides that were added.
    pub added: usize,
    /// The number of overrides whose end was noted.
    pub ended: usize,
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
    let key = lock(tx, subject).await?.key;
    let mut done = Imported::default();
    let revision = log_change(tx, key).await?;
    for row in rows {
        done.added += usize::from(import(tx, row, revision).await?);
    }
    let revision = log_change(tx, key).await?;
    for row in rows {
        done.ended += usize::from(import_end(tx, row, revision).await?);
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

/// Adds a row of an export without its end, unless it is there; returns whether it was added.
async fn import(tx: &mut PgConnection, row: &Value, revision: u64) -> Result<bool, StoreError> {
    let added = sqlx::query!(
        "
        insert into entitlements.override
        select (pg_catalog.jsonb_populate_record(null::entitlements.override, $1::jsonb
            || pg_catalog.jsonb_build_object('revision', $2::bigint, 'ended_at', null, 'ended_by', null,
                'ended_on_behalf_of', null, 'ended_reason', null, 'ended_revision', null))).*
        on conflict (id) do nothing
        ",
        row,
        stored(revision)
    );
    Ok(added.execute(tx).await?.rows_affected() > 0)
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
