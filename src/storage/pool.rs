//! Connection pools with a deadline for all work on them, directly to Postgres or through a transaction-mode pooler.

use super::{StoreError, connect::Connector};
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions,
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// The settings of every session. Even if a deadline here fails, the server itself ends the work. Queries name the
/// schema of every object; the search path keeps operators of other roles out of reach.
const SESSION: &str = "
    set search_path = pg_catalog, pg_temp;
    set synchronous_commit = on;
    set lock_timeout = '3s';
    set statement_timeout = '5s';
    set idle_in_transaction_session_timeout = '10s'";
/// A transaction-mode pooler assigns a session for one transaction only: earlier settings and prepared statements are
/// lost, and prepared statements of other clients collide with new ones.
const BEGIN_POOLED: &str = "
    begin;
    set local search_path = pg_catalog, pg_temp;
    set local synchronous_commit = on;
    set local lock_timeout = '3s';
    set local statement_timeout = '5s';
    set local idle_in_transaction_session_timeout = '10s';
    deallocate all";

/// How long a connection stays in the hot list. Then it returns to its sqlx pool, which replaces old connections.
const MAX_CHECKOUT: Duration = Duration::from_mins(1);
/// A connection that was idle for longer is closed: a firewall may have dropped it silently.
const MAX_IDLE: Duration = Duration::from_mins(10);

/// A pool of connections for one kind of work. Its hot list is written by hand because sqlx's pool pings a connection
/// on release, without a time limit. A pool of `deadpool` was neither shorter nor measurably faster: see
/// docs/design-notes.md.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Arc<Connector>,
    direct: PgPool,
    /// Used behind a transaction-mode pooler: without session settings and without a cache of prepared statements.
    pooled: PgPool,
    /// One permit for each connection in use, so that no caller waits in a sqlx pool for a connection of the hot list.
    permits: Semaphore,
    /// Direct connections that were released a short time ago, the latest last.
    hot: Mutex<Vec<IdleConnection>>,
    limits: PoolLimits,
}

/// The limits of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolLimits {
    /// The maximum number of connections.
    pub size: u32,
    /// How long work waits for a connection.
    pub acquire: Duration,
    /// How long work may take on its connection.
    pub deadline: Duration,
    /// A connection that was idle for less is reused without a ping. This is safe for reads, which [`retry_once`]
    /// repeats, and for transactions, whose BEGIN fails first and is repeated.
    pub skip_ping_below: Duration,
}

/// A connection, when it was taken from its sqlx pool, and when it was last used.
#[derive(Debug)]
struct IdleConnection {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
    used_at: Instant,
}

impl Pool {
    pub(super) fn new(connector: &Arc<Connector>, limits: PoolLimits) -> Self {
        let PoolLimits { size, acquire, .. } = limits;
        let pool = || PgPoolOptions::new().max_connections(size).acquire_timeout(acquire);
        let direct = pool()
            .after_connect(|db, _| {
                Box::pin(async { sqlx::raw_sql(SESSION).execute(db).await.map(drop) })
            })
            .connect_lazy_with(connector.options.clone());
        let options = connector.options.clone().statement_cache_capacity(0);
        let pooled = pool().connect_lazy_with(options);
        let permits = Semaphore::new(size as usize);
        Self {
            connector: connector.clone(),
            direct,
            pooled,
            permits,
            hot: Mutex::default(),
            limits,
        }
    }

    /// Runs work that only reads, or writes with one statement. Behind a transaction-mode pooler it runs in a
    /// transaction, so that all of the work has the same session.
    pub(super) async fn run<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        if self.is_pooled().await? {
            return self.transact(async |db| Ok(TxOutcome::Commit(work(db).await?))).await;
        }
        let guard = timeout(self.limits.acquire, self.acquire(false)).await;
        let mut guard = guard.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let done = timeout(self.limits.deadline, work(guard.connection())).await;
        let result = done.map_err(|_| StoreError::Timeout(self.limits.deadline))?;
        let result = result.map_err(StoreError::from);
        guard.release(is_reusable(&result));
        result
    }

    /// Runs work in one transaction.
    pub(super) async fn transact<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<TxOutcome<T>, E>,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        let mut guard = retry_once(|| self.begin()).await?;
        let done = timeout(self.limits.deadline, finish(guard.connection(), work)).await;
        let (result, has_ended) = done.map_err(|_| StoreError::Timeout(self.limits.deadline))?;
        if has_ended {
            guard.release(is_reusable(&result));
        } else {
            self.close_hot(); // `guard` closes its own connection on drop
        }
        result
    }

    /// Acquires a connection and begins a transaction on it.
    async fn begin(&self) -> Result<PooledConnection<'_>, StoreError> {
        let is_pooled = self.is_pooled().await?;
        let begun = async {
            let mut guard = self.acquire(is_pooled).await?;
            let begin = if is_pooled { BEGIN_POOLED } else { "begin" };
            let done = sqlx::raw_sql(begin).execute(guard.connection()).await;
            if done.is_err() {
                guard.release(false);
            }
            done.map(|_| guard)
        };
        let guard = timeout(self.limits.acquire, begun).await;
        Ok(guard.map_err(|_| sqlx::Error::PoolTimedOut)??)
    }

    async fn is_pooled(&self) -> Result<bool, StoreError> {
        let deadline = self.limits.deadline;
        let found = timeout(deadline, self.connector.is_pooled()).await;
        found.map_err(|_| StoreError::Timeout(deadline))?
    }

    /// Takes a connection from the hot list, else one from the sqlx pool.
    async fn acquire(&self, is_pooled: bool) -> Result<PooledConnection<'_>, sqlx::Error> {
        let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let mut guard =
            PooledConnection { pool: self, connection: None, is_pooled, _permit: permit };
        while let Some(hot) = self.take_hot() {
            let idle = hot.used_at.elapsed();
            let hot = guard.connection.insert(hot);
            if idle < self.limits.skip_ping_below
                || idle < MAX_IDLE && hot.connection.ping().await.is_ok()
            {
                return Ok(guard);
            }
            guard.close();
        }
        let pool = if is_pooled { &self.pooled } else { &self.direct };
        guard.connection = Some(IdleConnection::new(pool.acquire().await?));
        Ok(guard)
    }

    fn take_hot(&self) -> Option<IdleConnection> {
        self.hot().pop()
    }

    fn hot(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections of the hot list, without a ping: one that is dead would not answer it.
    fn close_hot(&self) {
        for mut hot in self.hot().drain(..) {
            hot.connection.close_on_drop();
        }
    }

    /// The numbers of open and idle connections, and their limit.
    pub(super) fn pool(&self) -> PoolStatus {
        let pools = [&self.direct, &self.pooled];
        let idle: usize = pools.iter().map(|pool| pool.num_idle()).sum();
        PoolStatus {
            size: pools.iter().map(|pool| pool.size()).sum(),
            idle: idle + self.hot().len(),
            limit: self.limits.size,
        }
    }

    pub(super) async fn close(&self) {
        self.permits.close();
        self.close_hot();
        tokio::join!(self.direct.close(), self.pooled.close());
    }
}

/// Runs work that changes nothing, and retries it once if the connection was dead. After a pool timeout it is not
/// retried: a second wait would only hide the outage for longer.
pub(super) async fn retry_once<T, F>(work: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match work().await {
        Err(StoreError::Unavailable(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => {
            work().await
        }
        done => done,
    }
}

/// The connection counts of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// The number of open connections.
    pub size: u32,
    /// The number of open connections that are not in use.
    pub idle: usize,
    /// The maximum number of open connections.
    pub limit: u32,
}

/// How a transaction ends.
pub(super) enum TxOutcome<T> {
    Commit(T),
    RollBack(T),
}

/// Runs the work and ends its transaction. Returns the result, and whether the transaction has ended; if not, the
/// connection must not be reused.
async fn finish<T, E>(
    db: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<TxOutcome<T>, E>,
) -> (Result<T, StoreError>, bool)
where
    StoreError: From<E>,
{
    let (end, result) = match work(db).await {
        Ok(TxOutcome::Commit(done)) => ("commit", Ok(done)),
        Ok(TxOutcome::RollBack(done)) => ("rollback", Ok(done)),
        Err(error) => ("rollback", Err(StoreError::from(error))),
    };
    let ended = sqlx::raw_sql(end).execute(db).await;
    let has_ended = ended.is_ok();
    let ended = ended.map_err(<StoreError as From<sqlx::Error>>::from);
    (result.and_then(|done| ended.map(|_| done)), has_ended)
}

/// Whether the connection that returned this result can be reused.
fn is_reusable<T>(result: &Result<T, StoreError>) -> bool {
    result.as_ref().err().is_none_or(|error| !error.is_about_the_connection())
}

/// A connection that is closed on drop, unless it was released.
struct PooledConnection<'a> {
    pool: &'a Pool,
    connection: Option<IdleConnection>,
    is_pooled: bool,
    _permit: SemaphorePermit<'a>,
}

impl PooledConnection<'_> {
    fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection.as_mut().expect("it is set until release or drop").connection
    }

    /// Puts the connection on the hot list, if its pool uses one: a return to the sqlx pool costs a ping, a round trip
    /// during which the connection cannot be used. After an error of the connection itself, it is closed, and so are the
    /// other hot connections, which may be dead as well.
    fn release(&mut self, is_reusable: bool) {
        if !is_reusable {
            self.pool.close_hot();
            return self.close();
        }
        let Some(connection) = self.connection.take() else { return };
        let Pool { permits, limits, .. } = self.pool;
        let uses_hot_list = !self.is_pooled && !limits.skip_ping_below.is_zero();
        let is_young = connection.taken_at.elapsed() < MAX_CHECKOUT;
        if uses_hot_list && !permits.is_closed() && is_young {
            self.pool.hot().push(IdleConnection { used_at: Instant::now(), ..connection });
        }
    }

    fn close(&mut self) {
        if let Some(mut closed) = self.connection.take() {
            closed.connection.close_on_drop();
        }
    }
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

impl IdleConnection {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        let now = Instant::now();
        Self { connection, taken_at: now, used_at: now }
    }
}
