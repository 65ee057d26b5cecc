//! A pool and the deadline of everything that runs on it; with a transaction-mode pooler in between, too.

use super::StoreError;
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Row,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::OnceCell, time::timeout};

/// What every session is set to: whatever else fails, the server itself gives up.
const SESSION: &str = "
    set synchronous_commit = on;
    set lock_timeout = '3s';
    set statement_timeout = '5s';
    set idle_in_transaction_session_timeout = '10s'";
/// Behind a transaction-mode pooler a session is lent for one transaction: nothing set or prepared before it
/// can be relied on, and what others prepared is in the way.
const BEGIN: &str = "
    begin;
    set local synchronous_commit = on;
    set local lock_timeout = '3s';
    set local statement_timeout = '5s';
    set local idle_in_transaction_session_timeout = '10s';
    deallocate all";

/// The way to the database.
#[derive(Debug)]
pub(super) struct Route {
    options: PgConnectOptions,
    is_pooled: OnceCell<bool>,
}

impl Route {
    pub(super) fn new(options: PgConnectOptions) -> Arc<Self> {
        // Poolers refuse start-up parameters that they do not know.
        let options = options.extra_float_digits(None);
        Arc::new(Self { options, is_pooled: OnceCell::new() })
    }

    /// Where it leads and as whom, in words; a password is never among them.
    pub(super) fn place(&self) -> String {
        let to = &self.options;
        let host = match to.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => to.get_host().to_owned(),
        };
        let (port, user) = (to.get_port(), to.get_username());
        let name = to.get_database().unwrap_or(user);
        format!("database `{name}` at {host}:{port}, as `{user}`")
    }

    /// Whether a transaction-mode pooler is in between. It is found out once, before anything else is done.
    pub(super) async fn is_pooled(&self) -> Result<bool, StoreError> {
        Ok(*self.is_pooled.get_or_try_init(|| self.find_out()).await?)
    }

    /// A pooler lends the session of one connection to another as soon as it is idle: what is set on the one then
    /// shows on the other.
    async fn find_out(&self) -> Result<bool, sqlx::Error> {
        const ROUNDS: usize = 4;
        let mut one = PgConnection::connect_with(&self.options).await?;
        let mut other = PgConnection::connect_with(&self.options).await?;
        let mut found = false;
        for round in 0..ROUNDS {
            let set = format!("select set_config('entitlements.probe', '{round}', false)");
            sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut one).await?;
            let read = "select current_setting('entitlements.probe', true)";
            let row = sqlx::raw_sql(read).fetch_one(&mut other).await?;
            found |= row.get::<Option<String>, _>(0).is_some_and(|set| set == round.to_string());
        }
        tokio::try_join!(one.close(), other.close())?;
        if found {
            tracing::warn!(
                "DATABASE_URL leads through a transaction-mode pooler: every query takes a transaction of its \
                 own, and the change log is polled because notifications do not come through; connect \
                 directly for speed"
            );
        }
        Ok(found)
    }

    /// A listening session on a connection of its own: a pool of one that nobody else uses, because a listener
    /// first sends UNLISTEN when it is dropped, which on a dead connection would hold a shared place for ever.
    pub(super) async fn listen(&self, channel: &str) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(2))
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    }
}

/// A pool of connections for one kind of work.
#[derive(Debug)]
pub(super) struct Lane {
    route: Arc<Route>,
    direct: PgPool,
    /// The same through a pooler: nothing is remembered from one transaction to the next.
    pooled: PgPool,
    deadline: Duration,
}

impl Lane {
    /// At most `size` connections; waits for one at most `acquire`, for the work at most `deadline`. One that was idle
    /// for `rested` is asked whether it lives before it is lent.
    pub(super) fn new(
        route: &Arc<Route>,
        size: u32,
        acquire: Duration,
        deadline: Duration,
        rested: Duration,
    ) -> Self {
        let pool = || {
            PgPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(acquire)
                .test_before_acquire(false)
                .before_acquire(move |db, lent| {
                    Box::pin(async move {
                        if lent.idle_for >= rested {
                            db.ping().await?;
                        }
                        Ok(true)
                    })
                })
        };
        let direct = pool()
            .after_connect(|db, _| {
                Box::pin(async { sqlx::raw_sql(SESSION).execute(db).await.map(drop) })
            })
            .connect_lazy_with(route.options.clone());
        let pooled = pool().connect_lazy_with(route.options.clone().statement_cache_capacity(0));
        Self { route: route.clone(), direct, pooled, deadline }
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
        let missed = |_| StoreError::Timeout(self.deadline);
        let is_pooled = timeout(self.deadline, self.route.is_pooled()).await.map_err(missed)??;
        let pool = if is_pooled { &self.pooled } else { &self.direct };
        let mut lent = Lent { connection: Some(pool.acquire().await?) };
        let connection = lent.connection.as_mut().expect("taken only when the work is over");
        let done = async {
            if is_pooled {
                in_transaction(connection, work).await
            } else {
                Ok(work(connection).await?)
            }
        };
        let result = timeout(self.deadline, done).await.map_err(missed)?;
        drop(lent.connection.take()); // the work came to its end: back to the pool
        result
    }

    /// How many connections there are, and at most.
    pub(super) fn pool(&self) -> Pool {
        let pools = [&self.direct, &self.pooled];
        Pool {
            size: pools.iter().map(|pool| pool.size()).sum(),
            idle: pools.iter().map(|pool| pool.num_idle()).sum(),
            limit: self.direct.options().get_max_connections(),
        }
    }

    pub(super) async fn close(&self) {
        tokio::join!(self.direct.close(), self.pooled.close());
    }
}

/// Does what only reads; once more, if the connection that was lent unasked is dead. Where there was none, another wait
/// would only hide the outage for longer.
pub(super) async fn twice<T, F>(read: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match read().await {
        Err(StoreError::Unavailable(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => {
            read().await
        }
        done => done,
    }
}

/// The connections of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// How many are open.
    pub size: u32,
    /// How many of them nobody uses.
    pub idle: usize,
    /// The most that there may be.
    pub limit: u32,
}

/// Keeps the session that the pooler lends until all of the work is done.
async fn in_transaction<T, E>(
    connection: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, StoreError>
where
    StoreError: From<E>,
{
    let mut tx = connection.begin_with(BEGIN).await?;
    match work(&mut tx).await {
        Ok(done) => {
            tx.commit().await?;
            Ok(done)
        }
        Err(error) => {
            tx.rollback().await?;
            Err(error.into())
        }
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
