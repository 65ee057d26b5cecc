//! The change log, read in the order of transactions. Rows of transactions that were still open at the last read are
//! read again, so that a late commit is not missed.

use super::{Store, StoreError, pool::retry_once};
use crate::domain::Subject;
use sqlx::PgConnection;

/// The maximum number of rows in a page.
const LOG_PAGE_ROWS: i64 = 1_000;

/// A position in the change log: after this row of this transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeCursor {
    /// The id of the transaction.
    pub tx: i64,
    /// The id of the row; 0 stands before all rows of the transaction.
    pub id: i64,
}

/// One row of the change log.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The position of the row.
    pub at: ChangeCursor,
    /// The subject that changed; `None`: the catalog changed.
    pub subject: Option<Subject>,
    /// The subject's revision after the change, if the row has it.
    pub revision: Option<u64>,
    /// The age of the row in seconds, by the clock of the database.
    pub age: f64,
}

/// The end of the change log at the time of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// All transactions before this cursor have ended, so no row can still appear before it.
    pub horizon: ChangeCursor,
    /// Identifies the history of the database: it changes after a failover and after a restore from a backup.
    pub history: String,
}

/// A page of the change log, and the end of the log when the page was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangePage {
    /// The rows, in the order of their cursors.
    pub rows: Vec<Change>,
    /// The end of the log when the page was read.
    pub here: LogEnd,
    /// Whether there may be more rows after this page.
    pub more: bool,
}

impl Store {
    /// The end of the change log. Reading from its horizon misses no later change.
    pub async fn log_end(&self) -> Result<LogEnd, StoreError> {
        retry_once(|| self.log.run(log_end)).await
    }

    /// The next page of the change log after a cursor.
    pub async fn changes(&self, after: ChangeCursor) -> Result<ChangePage, StoreError> {
        retry_once(|| self.log.run(async |db| page(db, after).await)).await
    }

    /// Removes up to 20,000 change-log rows that replicas no longer need; returns the number removed.
    pub async fn prune_changes(&self) -> Result<u64, StoreError> {
        self.background.run(prune).await
    }
}

async fn log_end(db: &mut PgConnection) -> Result<LogEnd, StoreError> {
    let nothing = ChangeCursor { tx: i64::MAX, id: 0 };
    Ok(page(db, nothing).await?.here)
}

async fn page(db: &mut PgConnection, after: ChangeCursor) -> Result<ChangePage, StoreError> {
    let rows = sqlx::query!(
        r#"
        with reading as (
            select
                pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint as horizon,
                entitlements.history() as history
        )
        select
            reading.horizon as "horizon!",
            reading.history as "history!",
            c.id as "id?",
            c.tx::text::bigint as tx,
            c.subject,
            c.revision,
            extract(epoch from pg_catalog.clock_timestamp() - c.logged_at)::float8 as age
        from reading
        left join lateral (
            select id, tx, subject, revision, logged_at from entitlements.change_log
            where (tx, id) > ($1::text::xid8, $2)
            order by tx, id
            limit $3
        ) c on true
        "#,
        after.tx.to_string(),
        after.id,
        LOG_PAGE_ROWS,
    )
    .fetch_all(db)
    .await?;

    let first =
        rows.first().ok_or_else(|| StoreError::Corrupt("the change log returned no row".into()))?;
    let horizon = ChangeCursor { tx: first.horizon, id: 0 };
    let here = LogEnd { horizon, history: first.history.clone() };
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(id), Some(tx), Some(age)) = (row.id, row.tx, row.age) else { continue };
        let subject = row.subject.map(|s| s.parse()).transpose();
        let subject =
            subject.map_err(|_| StoreError::Corrupt(format!("change_log.subject of {id}")))?;
        let revision = row.revision.and_then(|revision| u64::try_from(revision).ok());
        changes.push(Change { at: ChangeCursor { tx, id }, subject, revision, age });
    }
    let more = i64::try_from(changes.len()).is_ok_and(|n| n == LOG_PAGE_ROWS);
    Ok(ChangePage { rows: changes, here, more })
}

/// Removes rows older than 24 h: a replica that last read longer ago resets its cache instead. Rows are looked for among
/// the first in the order of transactions, which is nearly the order of time, so no index on the time is needed. Rows that a
/// wrong clock dated ahead delay the removal of those behind them, and are not lost to a replica that lags.
///
/// Also removes rows that a restored backup brought from another cluster, with transaction ids that are in the future here:
/// every read would return them again.
async fn prune(db: &mut PgConnection) -> Result<u64, StoreError> {
    let pruned = sqlx::query!(
        "
        delete from entitlements.change_log where (tx, id) in (
            select tx, id from (
                select tx, id from entitlements.change_log
                where logged_at < pg_catalog.now() - interval '24 hours' and tx <= (
                    select tx from (
                        select tx from entitlements.change_log order by tx, id limit 10000
                    ) first_rows
                    order by tx desc limit 1
                )
                order by tx, id limit 10000 for update skip locked
            ) old
            union all
            select tx, id from (
                select tx, id from entitlements.change_log
                where tx >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                order by tx, id limit 10000 for update skip locked
            ) elsewhere
        )
        "
    )
    .execute(db)
    .await?;
    Ok(pruned.rows_affected())
}

/// Increments the subject's revision and writes a change-log row; returns the new revision. For changes that are no
/// observations: those count and log their change themselves.
pub(super) async fn log_change(tx: &mut PgConnection, subject_key: i64) -> Result<u64, StoreError> {
    let revision = sqlx::query_scalar!(
        r#"
        with counted as (
            update entitlements.subject set revision = revision + 1 where key = $1 returning id, revision
        )
        insert into entitlements.change_log (subject, revision) select id, revision from counted
        returning revision as "revision!"
        "#,
        subject_key
    )
    .fetch_one(tx)
    .await?;
    u64::try_from(revision).map_err(|_| StoreError::Corrupt(format!("revision {revision}")))
}
