//! The account cache, the catalog in use, and how far both may be behind the database.
//!
//! The cache holds facts, never decisions, so the passage of time needs no invalidation. Invariant: **an account that
//! was loaded before a change is never served after the change was applied here.** A load may begin before a change and
//! end after it. Removing the entry does not help, because the load puts the old account back. So each entry stores
//! the epoch that its subject had before the load began, and a change advances the epoch: an entry with an older epoch
//! is never served. Loads of the same subject are serialized by a lock, so a slow load cannot overwrite a newer one.
//! `tests/it/replication/cache_model.rs` searches all interleavings of this protocol.

#[cfg(test)]
mod tests;

use super::{
    ChangeSubscription, Consistency, Freshness, FreshnessState, LoadLimits, Unavailable,
    catalog_in_use::CatalogInUse,
    change_feed::{ChangeFeed, ChangeNotice},
    epochs::Epochs,
};
use crate::{
    domain::{Account, Subject, SubjectRef},
    storage::{CatalogVersion, Store, StoreError},
    telemetry::{Labels, Telemetry},
};
use arc_swap::Guard;
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
    task::{JoinError, JoinHandle},
    time::timeout,
};

/// An account is evicted after this long without a check.
const CACHE_IDLE_TIMEOUT: Duration = Duration::from_hours(24);

/// The maximum number of loads in progress. The database would finish further ones only after their callers timed out.
const MAX_LOADS: usize = 256;

/// The number of load locks, a power of two. Two subjects that share a lock only wait for each other.
const LOAD_LOCKS: usize = 16_384;

/// The accounts and the catalog of this replica, and their freshness.
#[derive(Debug)]
pub struct Accounts {
    store: Arc<Store>,
    cache: Cache<Subject, CacheEntry>,
    epochs: Epochs,
    /// A load holds the lock of its subject.
    load_locks: Box<[Mutex<()>]>,
    load_permits: Arc<Semaphore>,
    change_feed: ChangeFeed,
    catalog: CatalogInUse,
    freshness: Freshness,
    /// Entries loaded before this must be loaded again, in nanoseconds after `started_at`.
    revalidate_after: AtomicU64,
    started_at: Instant,
    timeout: Duration,
    telemetry: Telemetry,
}

/// An account in the cache.
#[derive(Debug, Clone)]
struct CacheEntry {
    account: Arc<Account>,
    /// The subject's epoch before the load began.
    epoch: u32,
    /// When the load began, in nanoseconds after `started_at`.
    loaded: u64,
}

/// An account, and how far it may be behind the database.
#[derive(Debug, Clone)]
pub struct CachedAccount {
    /// The account of the subject.
    pub account: Arc<Account>,
    /// How long ago this replica last read all changes, if the account may be outdated; `None`: it is current.
    pub stale_for: Option<Duration>,
}

impl Accounts {
    /// An empty cache of at most `cache_bytes`, and an empty catalog. A check waits for the database for `time_limit`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        cache_bytes: u64,
        max_staleness: Duration,
        time_limit: Duration,
        telemetry: Telemetry,
    ) -> Self {
        let cache = Cache::builder()
            .max_capacity(cache_bytes)
            .weigher(|_, entry: &CacheEntry| weight(&entry.account))
            .time_to_idle(CACHE_IDLE_TIMEOUT)
            .build();
        Self {
            store,
            cache,
            epochs: Epochs::default(),
            load_locks: (0..LOAD_LOCKS).map(|_| Mutex::default()).collect(),
            load_permits: Arc::new(Semaphore::new(MAX_LOADS)),
            change_feed: ChangeFeed::default(),
            catalog: CatalogInUse::empty(),
            freshness: Freshness::new(max_staleness),
            revalidate_after: AtomicU64::new(0),
            started_at: Instant::now(),
            timeout: time_limit,
            telemetry,
        }
    }

    /// How far this replica may be behind the database.
    #[must_use]
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The approximate number of cached accounts, and their size in bytes.
    #[must_use]
    pub fn cache_size(&self) -> (u64, u64) {
        (self.cache.entry_count(), self.cache.weighted_size())
    }

    /// The catalog in use.
    #[must_use]
    pub fn catalog(&self) -> Guard<Arc<CatalogVersion>> {
        self.catalog.version()
    }

    /// Loads the catalog in force from Postgres.
    pub async fn reload_catalog(&self) -> Result<(), StoreError> {
        self.use_catalog(self.store.catalog().await?);
        Ok(())
    }

    fn use_catalog(&self, loaded: Option<CatalogVersion>) {
        if loaded.is_some_and(|version| self.catalog.advance(version)) {
            self.change_feed.publish(ChangeNotice::All);
        }
        let number = self.catalog().number;
        self.telemetry.metrics.catalog.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Makes sure that the catalog in use is recent enough.
    pub async fn ensure_catalog(
        self: &Arc<Self>,
        consistency: &Consistency,
    ) -> Result<(), Unavailable> {
        let wanted = consistency.catalog();
        if consistency.fully_consistent || self.catalog().state() < wanted {
            Box::pin(self.load_catalog()).await?;
        }
        if self.catalog().state() < wanted { Err(Unavailable::Unreachable) } else { Ok(()) }
    }

    /// Loads the catalog for a check, or waits for a load that began after this call. If the caller is cancelled or times
    /// out, the load continues for others.
    async fn load_catalog(self: &Arc<Self>) -> Result<(), Unavailable> {
        let (this, permits) = (self.clone(), LoadLimits::permits(&self.load_permits)?);
        let load = tokio::spawn(async move {
            let _permits = permits;
            let load = async || {
                this.use_catalog(this.store.catalog_for_check().await?);
                Ok(())
            };
            this.catalog.load_shared(load).await
        });
        self.loaded(load).await
    }

    /// Waits for the task of a load, at most for the timeout of a check.
    async fn loaded<T>(&self, load: JoinHandle<Result<T, StoreError>>) -> Result<T, Unavailable> {
        let done = timeout(self.timeout, load).await;
        let done = done.map_err(|_| Unavailable::Timeout(self.timeout))?;
        done.map_err(|error| load_task_error(&error))?.map_err(Unavailable::Store)
    }

    /// Returns an account that is recent enough: from the cache, or loaded from Postgres.
    pub async fn get(
        self: &Arc<Self>,
        id: SubjectRef<'_>,
        consistency: &Consistency,
    ) -> Result<CachedAccount, Unavailable> {
        if consistency.fully_consistent {
            return self.reload(id).await.map(CachedAccount::current);
        }
        let found = self.within_consistency(id, consistency).await?;
        let wanted = consistency.revision(id);
        if found.account.revision >= wanted {
            return Ok(found);
        }
        let account = self.reload(id).await?;
        if account.revision < wanted {
            return Err(Unavailable::Unreachable);
        }
        Ok(CachedAccount::current(account))
    }

    /// Makes sure that the cached account of a subject is never served again. Call it after the commit of a change.
    pub fn invalidate(&self, subject: &Subject) {
        self.epochs.advance(subject.id());
        self.change_feed.publish(ChangeNotice::Subject(subject.clone()));
        #[cfg(naive_cache)]
        self.remove(subject);
    }

    /// Invalidates a subject after a change in the change log or a notification, unless the cached account already has
    /// this revision, for example because this replica made the change. Subscribers are notified in both cases.
    pub fn changed(&self, subject: &Subject, revision: Option<u64>) {
        let has_change =
            |entry: CacheEntry| revision.is_some_and(|since| entry.account.revision >= since);
        if self.valid_entry(subject.id()).is_some_and(has_change) {
            self.change_feed.publish(ChangeNotice::Subject(subject.clone()));
        } else {
            self.invalidate(subject);
        }
    }

    /// Marks every cached account for revalidation: it must be loaded again before it is served as current. While the
    /// database is away, it is still served, as stale.
    pub fn mark_all_stale(&self) {
        self.revalidate_after.store(self.now(), Ordering::SeqCst);
        self.change_feed.publish(ChangeNotice::All);
    }

    /// Subscribes to changes of accounts and of the catalog, from now on.
    #[must_use]
    pub fn watch(&self) -> ChangeSubscription {
        self.change_feed.subscribe()
    }

    /// Resets this replica after a failover, in which commits may be lost: marks every account for revalidation, and
    /// adopts the database's catalog even if its number is lower.
    pub async fn reset(&self) -> Result<(), StoreError> {
        self.mark_all_stale();
        self.catalog.reset(self.store.catalog().await?.unwrap_or_else(CatalogVersion::none));
        self.change_feed.publish(ChangeNotice::All);
        Ok(())
    }

    /// The account, as recent as the freshness of this replica allows.
    async fn within_consistency(
        self: &Arc<Self>,
        id: SubjectRef<'_>,
        consistency: &Consistency,
    ) -> Result<CachedAccount, Unavailable> {
        match self.freshness.state() {
            FreshnessState::Fresh => match self.cached(id) {
                Some(entry) if self.is_confirmed(&entry) => {
                    Ok(CachedAccount::current(entry.account))
                }
                Some(_) => self.revalidated(id, consistency).await,
                None => self.load_shared(id, 0).await.map(CachedAccount::current),
            },
            FreshnessState::Starting => Err(Unavailable::Starting),
            FreshnessState::Unconfirmed(_) => self.revalidated(id, consistency).await,
            FreshnessState::Stale(age) => self.cached_within(id, consistency, age),
            FreshnessState::Expired => Err(Unavailable::TooStale),
        }
    }

    /// Loads the account again. If that fails, returns the cached account as stale.
    async fn revalidated(
        self: &Arc<Self>,
        id: SubjectRef<'_>,
        consistency: &Consistency,
    ) -> Result<CachedAccount, Unavailable> {
        match self.reload(id).await {
            Ok(account) => Ok(CachedAccount::current(account)),
            Err(error) => {
                if error.is_outage() {
                    self.freshness.disconnected();
                }
                let age = self.freshness.age().unwrap_or_default().max(Duration::from_millis(1));
                self.cached_within(id, consistency, age).map_err(|_| error)
            }
        }
    }

    fn cached_within(
        &self,
        id: SubjectRef<'_>,
        consistency: &Consistency,
        age: Duration,
    ) -> Result<CachedAccount, Unavailable> {
        if consistency.max_staleness.is_some_and(|most| age > most) {
            return Err(Unavailable::TooStale);
        }
        let entry = self.cached(id).ok_or(Unavailable::NotCached)?;
        Ok(CachedAccount { account: entry.account, stale_for: Some(age) })
    }

    fn cached(&self, id: SubjectRef<'_>) -> Option<CacheEntry> {
        let found = self.valid_entry(id);
        if found.is_some() {
            self.telemetry.metrics.cache_hits.inc();
        }
        found
    }

    /// The cached account, unless its subject has changed since the load began.
    fn valid_entry(&self, id: SubjectRef<'_>) -> Option<CacheEntry> {
        self.cache.get(id.as_str()).filter(|entry| entry.epoch == self.epochs.of(id))
    }

    /// The account as Postgres has it at some instant after this call.
    async fn reload(self: &Arc<Self>, id: SubjectRef<'_>) -> Result<Arc<Account>, Unavailable> {
        self.load_shared(id, self.now()).await
    }

    /// Loads an account, or reuses a load that began at `since` or later. Loads of the same subject are serialized by a
    /// lock, and concurrent callers share a result. If the caller is cancelled or times out, the load continues in the
    /// background for the next caller.
    async fn load_shared(
        self: &Arc<Self>,
        id: SubjectRef<'_>,
        since: u64,
    ) -> Result<Arc<Account>, Unavailable> {
        let (this, subject) = (self.clone(), Subject::from(id));
        let caller_span = self.telemetry.traces.here();
        let permits = LoadLimits::permits(&self.load_permits)?;
        let fetch = tokio::spawn(async move {
            let _permits = permits;
            let _lock = this.load_locks[this.epochs.index(subject.id()) % LOAD_LOCKS].lock().await;
            let cached = this.valid_entry(subject.id());
            if let Some(entry) = cached.filter(|entry| entry.loaded >= since) {
                return Ok(entry.account);
            }
            let (epoch, loaded) = (this.epochs.of(subject.id()), this.now());
            let trace = this.telemetry.traces.work_at("load an account", caller_span);
            let account = trace.run(this.load(&subject)).await?;
            drop(trace);
            this.cache.insert(subject, CacheEntry { account: account.clone(), epoch, loaded });
            Ok(account)
        });
        // Boxed: the rarely used future would enlarge the future of every call.
        Box::pin(self.loaded(fetch)).await
    }

    /// Loads an account from Postgres. When the database is reachable again after an outage, the load is restarted: a
    /// load that hangs on a dead connection would hold the subject's lock until its deadline.
    async fn load(&self, subject: &Subject) -> Result<Arc<Account>, StoreError> {
        let account = loop {
            tokio::select! {
                account = self.store.account(subject) => break account,
                () = self.freshness.reconnected() => {}
            }
        };
        let result = if account.is_ok() { "ok" } else { "failed" };
        self.telemetry.metrics.cache_loads.get_or_create(&Labels([("result", result)])).inc();
        account.map(Arc::new)
    }

    /// Invalidation without epochs: wrong on purpose, to prove that a test notices.
    #[cfg(naive_cache)]
    fn remove(&self, subject: &Subject) {
        self.cache.invalidate(subject.as_str());
    }

    fn is_confirmed(&self, entry: &CacheEntry) -> bool {
        entry.loaded >= self.revalidate_after.load(Ordering::SeqCst)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Maps the error of a load task: it panicked, or the process is ending.
fn load_task_error(error: &JoinError) -> Unavailable {
    if error.is_panic() {
        tracing::error!("loading an account or the catalog ended with a panic");
        Unavailable::Internal
    } else {
        Unavailable::NotCached
    }
}

impl CachedAccount {
    fn current(account: Arc<Account>) -> Self {
        Self { account, stale_for: None }
    }
}

/// The approximate size of a cache entry without items or overrides, in bytes.
const ENTRY_OVERHEAD: usize = 512;

/// The approximate size of a cache entry, in bytes.
fn weight(account: &Account) -> u32 {
    let overrides = account.overrides.len() * 96;
    u32::try_from(ENTRY_OVERHEAD + account.items.bytes() + overrides).unwrap_or(u32::MAX)
}
