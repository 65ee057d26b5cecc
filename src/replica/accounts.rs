//! What this replica knows: accounts, read through a cache; the catalog; and how far behind it may be.
//!
//! The cache holds facts, never decisions, so time passing needs no invalidation. What must always hold:
//! **an account that a change overtook is never served.** A load may begin before a change and end after it;
//! removing the entry does not help then, because the load puts the old account back. So an entry bears the epoch
//! of its subject before the load began, and a change moves the epoch on: an overtaken load is kept, and never
//! served. And reads of one subject take turns, so that none brings back what a later one
//! has replaced. `tests/it/model.rs` searches all interleavings of this protocol.

#[cfg(test)]
mod tests;

use super::{
    Freshness, Shares, State, Watch,
    change_feed::{Touched, Watchers},
    epochs::Epochs,
};
use crate::{
    domain::{Account, Id, Revision, Subject},
    storage::{Store, StoreError, Version},
    telemetry::{Labels, Metrics},
};
use arc_swap::{ArcSwap, Guard};
use moka::sync::Cache;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinError,
    time::timeout,
};

/// An account that nobody asks for is dropped after this long.
const IDLE: Duration = Duration::from_hours(24);

/// The most readings that wait for the database at once: more than it answers while their callers wait would be read
/// for nobody.
const WAITING: usize = 256;

/// How many turns there are, a power of two: two subjects that share one only wait for each other.
const TURNS: usize = 16_384;

/// Accounts, the catalog and their freshness.
#[derive(Debug)]
pub struct Accounts {
    store: Arc<Store>,
    cache: Cache<Subject, Entry>,
    epochs: Epochs,
    /// Whoever reads a subject holds its turn.
    turns: Box<[Mutex<()>]>,
    waiting: Arc<Semaphore>,
    watchers: Watchers,
    catalog: ArcSwap<Version>,
    freshness: Freshness,
    /// What was loaded before is to be confirmed, in nanoseconds after `born`.
    doubted: AtomicU64,
    born: Instant,
    patience: Duration,
    metrics: Arc<Metrics>,
}

/// An account in the cache.
#[derive(Debug, Clone)]
struct Entry {
    account: Arc<Account>,
    /// The subject's epoch before reading it began.
    epoch: u32,
    /// When reading it began, in nanoseconds after the cache was made.
    loaded: u64,
}

/// An account, and how far behind it may be; `None`: not at all.
#[derive(Debug, Clone)]
pub struct Known {
    /// What is known of the subject.
    pub account: Arc<Account>,
    /// How long ago this replica last heard all changes, where that matters.
    pub stale_for: Option<Duration>,
}

/// How recent an answer must be.
#[derive(Debug, Clone, Default)]
pub struct Need {
    /// At least this state.
    pub at_least: Option<Revision>,
    /// The state that Postgres has now.
    pub fully_consistent: bool,
    /// No further behind than this, while Postgres cannot be reached.
    pub max_staleness: Option<Duration>,
}

/// Why no answer of the wanted freshness can be given. All of them may pass.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Nothing was heard of the database yet.
    #[error("this replica is starting and has not read the database yet")]
    Starting,
    /// The database is away, and has been for longer than the caller or the service accepts.
    #[error("the database cannot be reached, and what is cached is older than accepted")]
    TooStale,
    /// The database is away, and the account is not in the cache.
    #[error("the database cannot be reached, and the account is not cached")]
    NotCached,
    /// The state asked for is not to be had here.
    #[error("the state asked for in `at_least` is not known to this replica")]
    NotThere,
    /// Too many wait for the database already.
    #[error("too many calls wait for the database; ask again later")]
    Crowded,
    /// The database is slower than a check waits; the reading goes on.
    #[error("the database did not answer within {} ms; ask again", .0.as_millis())]
    Slow(Duration),
    /// Reading ended with a panic.
    #[error("an account could not be read because of a fault in this service: see its log")]
    Internal,
    /// Reading failed.
    #[error("an account cannot be read")]
    Store(#[source] StoreError),
}

impl Accounts {
    /// An empty cache of at most `cache_bytes`, and an empty catalog. A check waits `patience` for the database.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        cache_bytes: u64,
        max_staleness: Duration,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cache = Cache::builder()
            .max_capacity(cache_bytes)
            .weigher(|_, entry: &Entry| weight(&entry.account))
            .time_to_idle(IDLE)
            .build();
        Self {
            store,
            cache,
            epochs: Epochs::default(),
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            watchers: Watchers::default(),
            catalog: ArcSwap::from_pointee(Version::none()),
            freshness: Freshness::new(max_staleness),
            doubted: AtomicU64::new(0),
            born: Instant::now(),
            patience,
            metrics,
        }
    }

    /// How far behind this replica may be.
    #[must_use]
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// How many accounts are cached, and about how many bytes they take.
    #[must_use]
    pub fn cache_size(&self) -> (u64, u64) {
        (self.cache.entry_count(), self.cache.weighted_size())
    }

    /// The catalog in use.
    #[must_use]
    pub fn catalog(&self) -> Guard<Arc<Version>> {
        self.catalog.load()
    }

    /// Reads the catalog in force again. Of two readings at once, the newer version stays.
    pub async fn reload_catalog(&self) -> Result<(), StoreError> {
        let Some(version) = self.store.catalog().await? else { return Ok(()) };
        let version = Arc::new(version);
        let newer = |now: &Arc<Version>| version.is_newer_than(now);
        let before = self.catalog.rcu(|now| if newer(now) { version.clone() } else { now.clone() });
        if newer(&before) {
            self.watchers.tell(Touched::All);
        }
        let number = self.catalog.load().number;
        self.metrics.catalog.set(i64::try_from(number).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Sees to it that the catalog in use is recent enough.
    pub async fn ensure_catalog(&self, need: &Need) -> Result<(), Unavailable> {
        let wanted = need.at_least.as_ref().map_or(0, |revision| revision.catalog);
        if need.fully_consistent || self.catalog.load().number < wanted {
            let _permits = Shares::permits(&self.waiting)?;
            // In a box, as the wait below: each call takes along what it may need, and is moved several times.
            Box::pin(self.reload_catalog()).await.map_err(Unavailable::Store)?;
        }
        if self.catalog.load().number < wanted { Err(Unavailable::NotThere) } else { Ok(()) }
    }

    /// An account that is recent enough.
    pub async fn get(self: &Arc<Self>, id: Id<'_>, need: &Need) -> Result<Known, Unavailable> {
        if need.fully_consistent {
            return self.reread(id).await.map(Known::current);
        }
        let known = self.known(id, need).await?;
        let wanted = need.at_least.as_ref().map_or(0, |revision| revision.of(id));
        if known.account.revision >= wanted {
            return Ok(known);
        }
        let account = self.reread(id).await?;
        if account.revision < wanted {
            return Err(Unavailable::NotThere);
        }
        Ok(Known::current(account))
    }

    /// Makes sure that what was known of a subject is never served again. Call it after a change committed.
    pub fn forget(&self, subject: &Subject) {
        self.epochs.advance(subject.id());
        self.watchers.tell(Touched::Subject(subject.clone()));
        #[cfg(feature = "naive-cache")]
        self.remove(subject);
    }

    /// The same for a change that was heard of, unless what is known has it already, as after an own write.
    pub fn changed(&self, subject: &Subject, revision: Option<u64>) {
        let has_it = |entry: Entry| revision.is_some_and(|since| entry.account.revision >= since);
        if self.found(subject.id()).is_some_and(has_it) {
            self.watchers.tell(Touched::Subject(subject.clone()));
        } else {
            self.forget(subject);
        }
    }

    /// Makes sure that nothing known by now is served as current before it was read again. It still counts as
    /// known while the database is away.
    pub fn doubt_all(&self) {
        self.doubted.store(self.now(), Ordering::SeqCst);
        self.watchers.tell(Touched::All);
    }

    /// Hears from now on of what may be known in another way.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watchers.watch()
    }

    /// The same for a database that may have lost what was read of it: its catalog counts, even if it is older.
    pub async fn start_over(&self) -> Result<(), StoreError> {
        self.doubt_all();
        self.catalog.store(Arc::new(self.store.catalog().await?.unwrap_or_else(Version::none)));
        self.watchers.tell(Touched::All);
        Ok(())
    }

    /// What is known, as recent as the state of this replica allows.
    async fn known(self: &Arc<Self>, id: Id<'_>, need: &Need) -> Result<Known, Unavailable> {
        match self.freshness.state() {
            State::Fresh => match self.cached(id) {
                Some(entry) if self.is_sure(&entry) => Ok(Known::current(entry.account)),
                Some(_) => self.confirmed(id, need).await,
                None => self.fetch(id, 0).await.map(Known::current),
            },
            State::Starting => Err(Unavailable::Starting),
            State::Unsure(_) => self.confirmed(id, need).await,
            State::Stale(age) => self.cached_within(id, need, age),
            State::Expired => Err(Unavailable::TooStale),
        }
    }

    /// Read anew; what is cached only if that fails, and then no longer as current.
    async fn confirmed(self: &Arc<Self>, id: Id<'_>, need: &Need) -> Result<Known, Unavailable> {
        match self.reread(id).await {
            Ok(account) => Ok(Known::current(account)),
            Err(error) => {
                if !matches!(error, Unavailable::Crowded) {
                    self.freshness.lost();
                }
                let age = self.freshness.age().unwrap_or_default().max(Duration::from_millis(1));
                self.cached_within(id, need, age).map_err(|_| error)
            }
        }
    }

    fn cached_within(&self, id: Id<'_>, need: &Need, age: Duration) -> Result<Known, Unavailable> {
        if need.max_staleness.is_some_and(|most| age > most) {
            return Err(Unavailable::TooStale);
        }
        let entry = self.cached(id).ok_or(Unavailable::NotCached)?;
        Ok(Known { account: entry.account, stale_for: Some(age) })
    }

    fn cached(&self, id: Id<'_>) -> Option<Entry> {
        let found = self.found(id);
        if found.is_some() {
            self.metrics.cache_hits.inc();
        }
        found
    }

    /// What is cached and was not overtaken.
    fn found(&self, id: Id<'_>) -> Option<Entry> {
        self.cache.get(id.as_str()).filter(|entry| entry.epoch == self.epochs.of(id))
    }

    /// The account as Postgres has it at some instant after this call.
    async fn reread(self: &Arc<Self>, id: Id<'_>) -> Result<Arc<Account>, Unavailable> {
        self.fetch(id, self.now()).await
    }

    /// An account that was read since an instant. Those who ask at the same time take turns, and share what the one
    /// before read. The reading goes on when the caller has gone away or waits no longer, so that the next one
    /// profits.
    async fn fetch(self: &Arc<Self>, id: Id<'_>, since: u64) -> Result<Arc<Account>, Unavailable> {
        let (this, subject) = (self.clone(), Subject::from(id));
        let asked_at = self.metrics.traces.here();
        let permits = Shares::permits(&self.waiting)?;
        let fetch = tokio::spawn(async move {
            let _permits = permits;
            let _turn = this.turns[this.epochs.index(subject.id()) % TURNS].lock().await;
            let known = this.found(subject.id());
            if let Some(entry) = known.filter(|entry| entry.loaded >= since) {
                return Ok(entry.account);
            }
            let (epoch, loaded) = (this.epochs.of(subject.id()), this.now());
            let trace = this.metrics.traces.work_at("load an account", asked_at);
            let account = trace.run(this.read(&subject)).await?;
            drop(trace);
            this.cache.insert(subject, Entry { account: account.clone(), epoch, loaded });
            Ok(account)
        });
        let done = Box::pin(timeout(self.patience, fetch)).await;
        let done = done.map_err(|_| Unavailable::Slow(self.patience))?;
        let done = done.map_err(|lost| lost_load(&lost))?;
        done.map_err(Unavailable::Store)
    }

    /// A reading that the database has left hanging would hold its subject's turn until its deadline; it is begun
    /// anew when the database is back.
    async fn read(&self, subject: &Subject) -> Result<Arc<Account>, StoreError> {
        let account = loop {
            tokio::select! {
                account = self.store.account(subject) => break account,
                () = self.freshness.back() => {}
            }
        };
        let result = if account.is_ok() { "ok" } else { "failed" };
        self.metrics.cache_loads.get_or_create(&Labels([("result", result)])).inc();
        account.map(Arc::new)
    }

    /// What forgetting would be without epochs.
    #[cfg(feature = "naive-cache")]
    fn remove(&self, subject: &Subject) {
        self.cache.invalidate(subject.as_str());
    }

    fn is_sure(&self, entry: &Entry) -> bool {
        entry.loaded >= self.doubted.load(Ordering::SeqCst)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Why a load has no result: it panicked, or the process is ending.
fn lost_load(lost: &JoinError) -> Unavailable {
    if lost.is_panic() {
        tracing::error!("loading an account ended with a panic");
        Unavailable::Internal
    } else {
        Unavailable::NotCached
    }
}

impl Known {
    fn current(account: Arc<Account>) -> Self {
        Self { account, stale_for: None }
    }
}

/// About how many bytes an account without items or overrides takes, with its place in the cache.
const ENTRY: usize = 512;

/// About how many bytes an account takes.
fn weight(account: &Account) -> u32 {
    let overrides = account.overrides.len() * 96;
    u32::try_from(ENTRY + account.items.bytes() + overrides).unwrap_or(u32::MAX)
}
