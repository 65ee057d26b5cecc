//! The catalog that this replica decides with.

use crate::storage::CatalogVersion;
use arc_swap::{ArcSwap, Guard};
use std::{sync::Arc, time::Instant};
use tokio::sync::Mutex;

/// The catalog in use. Only a newer version replaces it, except after a failover.
#[derive(Debug)]
pub(super) struct CatalogInUse {
    version: ArcSwap<CatalogVersion>,
    /// When the last shared load began; `None`: there was none. The lock is held during the load.
    last_load: Mutex<Option<Instant>>,
}

impl CatalogInUse {
    /// An empty catalog, which every version replaces.
    pub(super) fn empty() -> Self {
        let version = ArcSwap::from_pointee(CatalogVersion::none());
        Self { version, last_load: Mutex::default() }
    }

    pub(super) fn version(&self) -> Guard<Arc<CatalogVersion>> {
        self.version.load()
    }

    /// Uses this version if it is newer than the one in use. Returns whether it is.
    pub(super) fn advance(&self, version: CatalogVersion) -> bool {
        let version = Arc::new(version);
        let is_newer = |now: &Arc<CatalogVersion>| version.is_newer_than(now);
        let newer = |now: &_| if is_newer(now) { version.clone() } else { now.clone() };
        is_newer(&self.version.rcu(newer))
    }

    /// Uses this version, even if it is older than the one in use.
    pub(super) fn reset(&self, version: CatalogVersion) {
        self.version.store(Arc::new(version));
    }

    /// Runs a load, or waits for one that began after this call did, so that concurrent calls share a load.
    pub(super) async fn load_shared<E>(
        &self,
        load: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let since = Instant::now();
        let mut last_load = self.last_load.lock().await;
        if last_load.is_none_or(|began| began < since) {
            let began = Instant::now();
            load().await?;
            *last_load = Some(began);
        }
        Ok(())
    }
}
