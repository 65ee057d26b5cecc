//! A pool and the deadline of everything that runs on it; with a transaction-mode pooler in between, too.

use super::StoreError;
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Row,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OnceCell, Semaphore, SemaphorePermit},
    time::timeout,
};

/// What every session is set to: whatever else fails, the server itself gives up.
const SESSION: &str = "
    set synchronous_commit = on;
    set lock_timeout = '3s';
    set statement_timeout = '5s';
    set idle_in_transaction_session_timeout = '10s'";
/// Behind a transaction-mode pooler a session is lent for one transaction: nothing set or prepared before it
/// can be relied on, and what others prepared is in the way.
const BEGIN_POOLED: &str = "
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

    /// A session of one's own remembers what was set on it last. A pooler lends sessions to whoever comes next, and others
    /// come at the same time: it takes several rounds until a value of somebody else shows, or none.
    async fn find_out(&self) -> Result<bool, sqlx::Error> {
        const ROUNDS: usize = 9;
        let one = PgConnection::connect_with(&self.options).await?;
        let other = PgConnection::connect_with(&self.options).await?;
        let mut ends = [one, other].map(|end| (end, RandomState::new().hash_one(()).to_string()));
        let mut found = false;
        for round in 0..ROUNDS {
            for (end, own) in &mut ends {
                let last = replaced(end, own).await?;
                found |= round > 0 && last.as_ref() != Some(own);
            }
        }
        let [(one, _), (other, _)] = ends;
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

/// Sets a value on the session that a connection has now; returns the one before it.
async fn replaced(end: &mut PgConnection, by: &str) -> Result<Option<String>, sqlx::Error> {
    let replace = format!(
        "select pg_catalog.current_setting('entitlements.probe', true),
            pg_catalog.set_config('entitlements.probe', '{by}', false)"
    );
    Ok(sqlx::raw_sql(sqlx::AssertSqlSafe(replace)).fetch_one(end).await?.get(0))
}

/// How long a connection is kept at hand; then it goes back to its pool, which replaces those that are too old.
const SHIFT: Duration = Duration::from_mins(1);
/// One that nobody used for so long may have been cut off silently on the way; it is closed.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// A pool of connections for one kind of work.
#[derive(Debug)]
pub(super) struct Lane {
    route: Arc<Route>,
    direct: PgPool,
    /// The same through a pooler: nothing is remembered from one transaction to the next.
    pooled: PgPool,
    /// One for each connection that may be lent, so that none waits in a pool for what is kept at hand.
    places: Semaphore,
    /// Direct connections that were used just now, the last one last.
    at_hand: Mutex<Vec<Used>>,
    limits: Limits,
}

/// The limits of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most connections.
    pub size: u32,
    /// How long work waits for one.
    pub acquire: Duration,
    /// How long it may take then.
    pub deadline: Duration,
    /// A connection that was idle for less is lent again as it is, without asking whether it lives: for reads that are done
    /// [`twice`], and for transactions, whose beginning tells.
    pub trusted: Duration,
}

/// A connection, since when it is away from its pool, and when it was used.
#[derive(Debug)]
struct Used {
    connection: PoolConnection<Postgres>,
    away_since: Instant,
    at: Instant,
}

impl Lane {
    pub(super) fn new(route: &Arc<Route>, limits: Limits) -> Self {
        let Limits { size, acquire, .. } = limits;
        let pool = || PgPoolOptions::new().max_connections(size).acquire_timeout(acquire);
        let direct = pool()
            .after_connect(|db, _| {
                Box::pin(async { sqlx::raw_sql(SESSION).execute(db).await.map(drop) })
            })
            .connect_lazy_with(route.options.clone());
        let pooled = pool().connect_lazy_with(route.options.clone().statement_cache_capacity(0));
        let places = Semaphore::new(size as usize);
        Self { route: route.clone(), direct, pooled, places, at_hand: Mutex::default(), limits }
    }

    /// Runs work that only reads, or writes with one statement. Through a pooler it takes a transaction, which keeps the
    /// session that the pooler lends until all of the work is done.
    pub(super) async fn run<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        if self.is_pooled().await? {
            return self.transact(async |db| Ok(End::Commit(work(db).await?))).await;
        }
        let lent = timeout(self.limits.acquire, self.lend(false)).await;
        let mut lent = lent.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let done = timeout(self.limits.deadline, work(lent.connection())).await;
        let result = done.map_err(|_| StoreError::Timeout(self.limits.deadline))?;
        let result = result.map_err(StoreError::from);
        lent.hand_back(is_well(&result));
        result
    }

    /// Runs work in one transaction.
    pub(super) async fn transact<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<End<T>, E>,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        let mut lent = twice(|| self.begin()).await?;
        let done = timeout(self.limits.deadline, to_its_end(lent.connection(), work)).await;
        let (result, has_ended) = done.map_err(|_| StoreError::Timeout(self.limits.deadline))?;
        if has_ended {
            lent.hand_back(is_well(&result));
        } else {
            self.at_hand().clear(); // and `lent` is closed
        }
        result
    }

    /// A connection on which a transaction has begun.
    async fn begin(&self) -> Result<Lent<'_>, StoreError> {
        let is_pooled = self.is_pooled().await?;
        let begun = async {
            let mut lent = self.lend(is_pooled).await?;
            let how = if is_pooled { BEGIN_POOLED } else { "begin" };
            let done = sqlx::raw_sql(how).execute(lent.connection()).await;
            if done.is_err() {
                lent.hand_back(false);
            }
            done.map(|_| lent)
        };
        let lent = timeout(self.limits.acquire, begun).await;
        Ok(lent.map_err(|_| sqlx::Error::PoolTimedOut)??)
    }

    async fn is_pooled(&self) -> Result<bool, StoreError> {
        let deadline = self.limits.deadline;
        let found = timeout(deadline, self.route.is_pooled()).await;
        found.map_err(|_| StoreError::Timeout(deadline))?
    }

    /// One that was used just now; or one of which it is known that it lives.
    async fn lend(&self, is_pooled: bool) -> Result<Lent<'_>, sqlx::Error> {
        let place = self.places.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let mut lent = Lent { lane: self, used: None, is_pooled, _place: place };
        while let Some(used) = self.take_at_hand() {
            let idle = used.at.elapsed();
            let used = lent.used.insert(used);
            if idle < self.limits.trusted
                || idle < FORGOTTEN && used.connection.ping().await.is_ok()
            {
                return Ok(lent);
            }
            lent.close();
        }
        let pool = if is_pooled { &self.pooled } else { &self.direct };
        lent.used = Some(Used::new(pool.acquire().await?));
        Ok(lent)
    }

    fn take_at_hand(&self) -> Option<Used> {
        self.at_hand().pop()
    }

    fn at_hand(&self) -> MutexGuard<'_, Vec<Used>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are, and at most.
    pub(super) fn pool(&self) -> Pool {
        let pools = [&self.direct, &self.pooled];
        let idle: usize = pools.iter().map(|pool| pool.num_idle()).sum();
        Pool {
            size: pools.iter().map(|pool| pool.size()).sum(),
            idle: idle + self.at_hand().len(),
            limit: self.limits.size,
        }
    }

    pub(super) async fn close(&self) {
        self.places.close();
        self.at_hand().clear();
        tokio::join!(self.direct.close(), self.pooled.close());
    }
}

/// Does what changes nothing; once more, if the connection that was lent unasked is dead. Where there was none, another wait
/// would only hide the outage for longer.
pub(super) async fn twice<T, F>(work: impl Fn() -> F) -> Result<T, StoreError>
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

/// How a transaction ends.
pub(super) enum End<T> {
    Commit(T),
    RollBack(T),
}

/// What came of the work, and whether the transaction has ended: a connection on which it has not must not be used
/// again.
async fn to_its_end<T, E>(
    db: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<End<T>, E>,
) -> (Result<T, StoreError>, bool)
where
    StoreError: From<E>,
{
    let (end, done) = match work(db).await {
        Ok(End::Commit(done)) => ("commit", Ok(done)),
        Ok(End::RollBack(done)) => ("rollback", Ok(done)),
        Err(error) => ("rollback", Err(StoreError::from(error))),
    };
    let ended = sqlx::raw_sql(end).execute(db).await;
    let has_ended = ended.is_ok();
    let ended = ended.map_err(<StoreError as From<sqlx::Error>>::from);
    (done.and_then(|done| ended.map(|_| done)), has_ended)
}

/// Whether the connection that gave this result can be used again as it is.
fn is_well<T>(result: &Result<T, StoreError>) -> bool {
    result.as_ref().err().is_none_or(|error| !error.is_about_the_connection())
}

/// A connection that is closed on drop, unless it was handed back before.
struct Lent<'a> {
    lane: &'a Lane,
    used: Option<Used>,
    is_pooled: bool,
    _place: SemaphorePermit<'a>,
}

impl Lent<'_> {
    fn connection(&mut self) -> &mut PgConnection {
        &mut self.used.as_mut().expect("it was lent just now").connection
    }

    /// The work came to its end. sqlx asks a connection that goes back to its pool whether it lives, which is a round trip
    /// during which nobody can use it; where connections are trusted, it is kept at hand instead. Where one failed
    /// by itself, and not by its work, the others may be dead as well: all go back.
    fn hand_back(&mut self, well: bool) {
        let Some(used) = self.used.take() else { return };
        let Lane { places, limits, .. } = self.lane;
        let is_trusted = !self.is_pooled && !limits.trusted.is_zero();
        if !well {
            self.lane.at_hand().clear();
        } else if is_trusted && !places.is_closed() && used.away_since.elapsed() < SHIFT {
            self.lane.at_hand().push(Used { at: Instant::now(), ..used });
        }
    }

    fn close(&mut self) {
        if let Some(mut used) = self.used.take() {
            used.connection.close_on_drop();
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Used {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        let now = Instant::now();
        Self { connection, away_since: now, at: now }
    }
}
