//! A pool and the deadline of everything that runs on it.

use super::StoreError;
use sqlx::{
    PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::time::Duration;
use tokio::time::timeout;

/// What every session is set to: whatever else fails, the server itself gives up.
const SESSION: &str = "
    set synchronous_commit = on;
    set lock_timeout = '3s';
    set statement_timeout = '5s';
    set idle_in_transaction_session_timeout = '10s'";

/// A pool of connections for one kind of work.
#[derive(Debug)]
pub(super) struct Lane {
    pool: PgPool,
    deadline: Duration,
}

impl Lane {
    /// At most `size` connections; waits for one at most `acquire`, for the work at most `deadline`.
    pub(super) fn new(
        options: &PgConnectOptions,
        size: u32,
        acquire: Duration,
        deadline: Duration,
    ) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(acquire)
            .after_connect(|db, _| {
                Box::pin(async { sqlx::raw_sql(SESSION).execute(db).await.map(drop) })
            })
            .connect_lazy_with(options.clone());
        Self { pool, deadline }
    }

    /// Runs work on a connection. If it misses the deadline, or nobody waits for it any more, the connection
    /// is closed: to hand back one that hangs would block its place in the pool for ever.
    pub(super) async fn run<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        let mut lent = Lent { connection: Some(self.pool.acquire().await?) };
        let connection = lent.connection.as_mut().expect("taken only when the work is over");
        let done = timeout(self.deadline, work(connection)).await;
        let result = done.map_err(|_| StoreError::Timeout(self.deadline))?;
        drop(lent.connection.take()); // the work came to its end: back to the pool
        Ok(result?)
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection that is closed on drop, unless it was taken out before.
struct Lent {
    connection: Option<PoolConnection<Postgres>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

/// A listening session on a connection of its own: a pool of one that nobody else uses, because a listener
/// first sends UNLISTEN when it is dropped, which on a dead connection would hold a shared place for ever.
pub(super) async fn listen(
    options: &PgConnectOptions,
    channel: &str,
) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(2))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}
