//! What this replica knows: accounts, read through a cache; the catalog; and how far behind it may be.
//!
//! The cache holds facts, never decisions, so time passing needs no invalidation. What must always hold:
//! **an account that a change overtook is never served.** A load may begin before a change and end after it;
//! removing the entry does not help then, because the load puts the old account back. So the epoch of the
//! subject, read before the load begins, is part of the key, and a change moves the epoch on: an overtaken
//! load lands where nobody looks.

mod epochs;
mod freshness;

pub use freshness::{Freshness, State};

use crate::{
    access::{Account, Revision, Subject},
    store::{Store, StoreError, Version},
    telemetry::{Labels, Metrics},
};
use arc_swap::ArcSwap;
use epochs::{Epochs, Key, KeyRef};
use moka::future::Cache;
use std::{sync::Arc, time::Duration};

/// An account that nobody asks for is dropped after this long.
const IDLE: Duration = Duration::from_hours(24);

/// Accounts, the catalog and their freshness.
#[derive(Debug)]
pub struct Accounts {
    store: Arc<Store>,
    cache: Cache<Key, Arc<Account>>,
    epochs: Epochs,
    catalog: ArcSwap<Version>,
    freshness: Freshness,
    metrics: Arc<Metrics>,
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
#[derive(Debug, Clone, thiserror::Error)]
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
    /// Reading failed.
    #[error("an account cannot be read")]
    Store(#[source] Arc<StoreError>),
}

impl Accounts {
    /// An empty cache of at most `cache_bytes`, and an empty catalog.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        cache_bytes: u64,
        max_staleness: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cache = Cache::builder()
            .max_capacity(cache_bytes)
            .weigher(|_, account: &Arc<Account>| weight(account))
            .time_to_idle(IDLE)
            .build();
        let catalog = ArcSwap::from_pointee(Version::none());
        let freshness = Freshness::new(max_staleness);
        Self { store, cache, epochs: Epochs::default(), catalog, freshness, metrics }
    }

    /// How far behind this replica may be.
    #[must_use]
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The catalog in use.
    #[must_use]
    pub fn catalog(&self) -> Arc<Version> {
        self.catalog.load_full()
    }

    /// Reads the catalog in force again.
    pub async fn reload_catalog(&self) -> Result<(), StoreError> {
        if let Some(version) = self.store.catalog().await? {
            self.metrics.catalog.set(i64::try_from(version.number).unwrap_or(i64::MAX));
            self.catalog.store(Arc::new(version));
        }
        Ok(())
    }

    /// A catalog that is recent enough.
    pub async fn catalog_for(&self, need: &Need) -> Result<Arc<Version>, Unavailable> {
        let wanted = need.at_least.as_ref().map_or(0, |revision| revision.catalog);
        if need.fully_consistent || self.catalog.load().number < wanted {
            self.reload_catalog().await.map_err(|e| Unavailable::Store(Arc::new(e)))?;
        }
        let catalog = self.catalog();
        if catalog.number < wanted { Err(Unavailable::NotThere) } else { Ok(catalog) }
    }

    /// An account that is recent enough.
    pub async fn get(&self, subject: &Subject, need: &Need) -> Result<Arc<Account>, Unavailable> {
        if need.fully_consistent {
            return self.read(subject).await;
        }
        let account = self.known(subject, need).await?;
        let wanted = need.at_least.as_ref().map_or(0, |revision| revision.of(subject));
        if account.revision >= wanted {
            return Ok(account);
        }
        self.forget(subject);
        let account = self.load(subject).await?;
        if account.revision >= wanted { Ok(account) } else { Err(Unavailable::NotThere) }
    }

    /// Makes sure that what was known of a subject is never served again. Call it after a change committed.
    pub fn forget(&self, subject: &Subject) {
        self.epochs.advance(subject);
    }

    /// The same for all subjects.
    pub fn forget_all(&self) {
        self.epochs.advance_all();
        self.cache.invalidate_all(); // only to free the memory: nobody asks for these keys any more
    }

    /// What is known, as recent as the state of this replica allows.
    async fn known(&self, subject: &Subject, need: &Need) -> Result<Arc<Account>, Unavailable> {
        match self.freshness.state() {
            State::Fresh => self.load(subject).await,
            State::Starting => Err(Unavailable::Starting),
            State::Unsure(age) => match self.read(subject).await {
                Ok(account) => Ok(account),
                Err(_) => self.cached_within(subject, need, age).await,
            },
            State::Stale(age) => self.cached_within(subject, need, age).await,
            State::Expired => Err(Unavailable::TooStale),
        }
    }

    async fn cached_within(
        &self,
        subject: &Subject,
        need: &Need,
        age: Duration,
    ) -> Result<Arc<Account>, Unavailable> {
        if need.max_staleness.is_some_and(|most| age > most) {
            return Err(Unavailable::TooStale);
        }
        self.cached(subject).await.ok_or(Unavailable::NotCached)
    }

    async fn cached(&self, subject: &Subject) -> Option<Arc<Account>> {
        let found = self.cache.get(&KeyRef { subject, epoch: self.epochs.of(subject) }).await;
        if found.is_some() {
            self.metrics.cache_hits.inc();
        }
        found
    }

    /// From the cache, or from the database into the cache. All who ask for the same share one load; it goes
    /// on when the caller has gone away, so that the next one profits.
    async fn load(&self, subject: &Subject) -> Result<Arc<Account>, Unavailable> {
        if let Some(found) = self.cached(subject).await {
            return Ok(found);
        }
        let key = Key { subject: subject.clone(), epoch: self.epochs.of(subject) };
        let (cache, store, metrics) =
            (self.cache.clone(), self.store.clone(), self.metrics.clone());
        let load = tokio::spawn(async move {
            let subject = key.subject.clone();
            cache.try_get_with(key, read_counted(&store, &subject, &metrics)).await
        });
        let loaded = load.await.map_err(|_| Unavailable::Starting)?; // only when the process ends
        loaded.map_err(Unavailable::Store)
    }

    /// From the database, past the cache.
    async fn read(&self, subject: &Subject) -> Result<Arc<Account>, Unavailable> {
        let read = read_counted(&self.store, subject, &self.metrics).await;
        read.map_err(|e| Unavailable::Store(Arc::new(e)))
    }
}

async fn read_counted(
    store: &Store,
    subject: &Subject,
    metrics: &Metrics,
) -> Result<Arc<Account>, StoreError> {
    let account = store.account(subject).await;
    let result = if account.is_ok() { "ok" } else { "failed" };
    metrics.cache_loads.get_or_create(&Labels([("result", result)])).inc();
    account.map(Arc::new)
}

/// About how many bytes an account takes.
fn weight(account: &Account) -> u32 {
    let items = account.items.len() * 384;
    let overrides = account.overrides.len() * 96;
    u32::try_from(256 + items + overrides).unwrap_or(u32::MAX)
}
