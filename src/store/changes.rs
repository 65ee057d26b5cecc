//! The change log, read by transaction: rows of transactions that were still open at the last reading are
//! looked at again, so that one that commits late is not missed.

use super::StoreError;
use crate::access::Subject;
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
    /// How long ago it was written, in seconds, by the clock of the database.
    pub age: f64,
}

/// Some rows, and what was settled when they were read.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows, in the order of their cursors.
    pub rows: Vec<Change>,
    /// All transactions before this one were over: no row before it can appear any more.
    pub horizon: Cursor,
    /// Whether there may be more rows after these.
    pub more: bool,
}

/// Where reading must begin to miss nothing that commits from now on.
pub(super) async fn cursor(db: &mut PgConnection) -> Result<Cursor, StoreError> {
    let tx = sqlx::query_scalar!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as "tx!""#
    )
    .fetch_one(db)
    .await?;
    Ok(Cursor { tx, id: 0 })
}

/// Reads on after a cursor.
pub(super) async fn page(db: &mut PgConnection, after: Cursor) -> Result<Page, StoreError> {
    let rows = sqlx::query!(
        r#"
        with reading as (
            select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as horizon
        )
        select
            reading.horizon as "horizon!",
            c.id as "id?",
            c.tx::text::bigint as tx,
            c.subject,
            extract(epoch from clock_timestamp() - c.at)::float8 as age
        from reading
        left join lateral (
            select id, tx, subject, at from change
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

    let horizon = rows.first().map_or(after.tx, |row| row.horizon);
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(id), Some(tx), Some(age)) = (row.id, row.tx, row.age) else { continue };
        let subject = row.subject.map(|s| s.parse()).transpose();
        let subject =
            subject.map_err(|_| StoreError::Corrupt(format!("change.subject of {id}")))?;
        changes.push(Change { at: Cursor { tx, id }, subject, age });
    }
    let more = i64::try_from(changes.len()).is_ok_and(|n| n == PAGE);
    Ok(Page { rows: changes, horizon: Cursor { tx: horizon, id: 0 }, more })
}

/// Removes what is older than a day. A replica that has not read for so long forgets everything instead.
pub(super) async fn prune(db: &mut PgConnection) -> Result<u64, StoreError> {
    let pruned = sqlx::query!(
        "
        delete from change where id in (
            select id from change where at < now() - interval '24 hours'
            order by at limit 10000 for update skip locked
        )
        "
    )
    .execute(db)
    .await?;
    Ok(pruned.rows_affected())
}
