//! The change log, read by transaction: rows of transactions that were still open at the last reading are
//! looked at again, so that one that commits late is not missed.

use super::StoreError;
use crate::domain::Subject;
use sqlx::PgConnection;

/// How many rows a page has at most.
const PAGE: i64 = 1_000;

/// A place in the change log: after this row of this transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The transaction's id.
    pub tx: i64,
    /// The row's id; 0: before all rows of the transaction.
    pub id: i64,
}

/// One row of the change log.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where it stands.
    pub at: Cursor,
    /// Who changed; `None`: the catalog did.
    pub subject: Option<Subject>,
    /// Its revision since, where that is told.
    pub revision: Option<u64>,
    /// How long ago it was written, in seconds, by the clock of the database.
    pub age: f64,
}

/// What a reading of the database found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// All transactions before this one were over: no row before it can appear any more.
    pub horizon: Cursor,
    /// Which history this is: another one after a fail-over, and after a restore from a backup.
    pub history: String,
}

/// Some rows, and what was settled when they were read.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows, in the order of their cursors.
    pub rows: Vec<Change>,
    /// Where they were read.
    pub here: Here,
    /// Whether there may be more rows after these.
    pub more: bool,
}

/// Where reading must begin to miss nothing that commits from now on.
pub(super) async fn here(db: &mut PgConnection) -> Result<Here, StoreError> {
    let nothing = Cursor { tx: i64::MAX, id: 0 };
    Ok(page(db, nothing).await?.here)
}

/// Reads on after a cursor.
pub(super) async fn page(db: &mut PgConnection, after: Cursor) -> Result<Page, StoreError> {
    let rows = sqlx::query!(
        r#"
        with reading as (
            select
                pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint as horizon,
                history() as history
        )
        select
            reading.horizon as "horizon!",
            reading.history as "history!",
            c.id as "id?",
            c.tx::text::bigint as tx,
            c.subject,
            c.revision,
            extract(epoch from pg_catalog.clock_timestamp() - c.at)::float8 as age
        from reading
        left join lateral (
            select id, tx, subject, revision, at from change
            where (tx, id) > ($1::text::xid8, $2)
            order by tx, id
            limit $3
        ) c on true
        "#,
        after.tx.to_string(),
        after.id,
        PAGE,
    )
    .fetch_all(db)
    .await?;

    let first = rows.first().ok_or_else(|| StoreError::Corrupt("an empty reading".into()))?;
    let horizon = Cursor { tx: first.horizon, id: 0 };
    let here = Here { horizon, history: first.history.clone() };
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(id), Some(tx), Some(age)) = (row.id, row.tx, row.age) else { continue };
        let subject = row.subject.map(|s| s.parse()).transpose();
        let subject =
            subject.map_err(|_| StoreError::Corrupt(format!("change.subject of {id}")))?;
        let revision = row.revision.and_then(|revision| u64::try_from(revision).ok());
        changes.push(Change { at: Cursor { tx, id }, subject, revision, age });
    }
    let more = i64::try_from(changes.len()).is_ok_and(|n| n == PAGE);
    Ok(Page { rows: changes, here, more })
}

/// Removes what is older than a day: a replica that has not read for so long forgets everything instead. And what a
/// backup brought here from another cluster, whose transactions are yet to come in this one: it would be read again
/// with every reading.
pub(super) async fn prune(db: &mut PgConnection) -> Result<u64, StoreError> {
    let pruned = sqlx::query!(
        "
        delete from change where id in (
            select id from (
                select id from change where at < pg_catalog.now() - interval '24 hours'
                order by at limit 10000 for update skip locked
            ) old
            union all
            select id from (
                select id from change where tx >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                order by tx limit 10000 for update skip locked
            ) elsewhere
        )
        "
    )
    .execute(db)
    .await?;
    Ok(pruned.rows_affected())
}
