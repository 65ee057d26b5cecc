//! The catalog file of a replica: compared with the catalog in force, at start and whenever the file changes. Only `dev`
//! puts it in force.

use crate::{
    config::{CatalogUse, Config, parse_catalog},
    domain::{Catalog, ChangeKind},
    server::reload::HotReload,
    storage::{Applied, Author, CatalogVersion, Origin, Store, StoreError},
    telemetry::log_chain,
};
use anyhow::Context;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::sleep;

const SETTING: &str = "ENTITLEMENTS_CATALOG";
/// Interval between two attempts to use a changed file while the database is unreachable.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The catalog file, which is read again whenever it changes.
pub(super) struct CatalogFile {
    name: String,
    first: Arc<Catalog>,
    /// The file on disk; `None` in tests.
    on_disk: Option<HotReload<Catalog>>,
    /// Whether each change of the file is put in force.
    applies: bool,
}

impl CatalogFile {
    /// Opens the file, if one is set.
    pub(super) fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some((first, name)) = config.catalog.clone() else { return Ok(None) };
        let (path, applies) = match &config.catalog_use {
            CatalogUse::Start => (None, false),
            CatalogUse::Compare(path) => (Some(path), false),
            CatalogUse::Apply(path) => (Some(path), true),
        };
        let on_disk = path.map(|path| reload(path)).transpose()?;
        Ok(Some(Self { name, first: first.into(), on_disk, applies }))
    }

    /// The newest valid content.
    pub(super) fn current(&self) -> Arc<Catalog> {
        self.on_disk.as_ref().map_or_else(|| self.first.clone(), HotReload::current)
    }

    /// Puts the file in force if there is no catalog at all, or in `dev`; else compares it with the catalog in force. A
    /// deployment applies a new file, forward and back alike (`entitlements catalog apply`): replicas of two releases
    /// would otherwise replace each other's catalog.
    pub(super) async fn start(&self, store: &Store) -> Result<(), StoreError> {
        let author = if self.applies { Author::Operator(None) } else { Author::Replica };
        match self.apply(store, author).await? {
            Applied::New(_) => Ok(()),
            Applied::InForce(number) => {
                tracing::info!(number, source = self.name, "the catalog file is in force");
                Ok(())
            }
            Applied::Differs(_) => self.compare(store).await,
        }
    }

    /// Watches the file for ever: puts each change in force, or compares it with the catalog in force. A content that is
    /// invalid is logged, and changes nothing.
    pub(super) async fn follow(&self, store: &Store) {
        let Some(on_disk) = &self.on_disk else { return };
        let mut changes = on_disk.changes();
        let read_each = async {
            while changes.changed().await.is_ok() {
                while let Err(error) = self.read_again(store).await {
                    let (name, is_transient) = (&self.name, error.is_transient());
                    let error = log_chain(&error);
                    tracing::error!(error, "cannot use the changed catalog file {name}");
                    if !is_transient {
                        break;
                    }
                    sleep(RETRY_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            never = on_disk.watch() => match never {},
            () = read_each => {}
        }
    }

    async fn read_again(&self, store: &Store) -> Result<(), StoreError> {
        if self.applies {
            self.apply(store, Author::Operator(None)).await.map(drop)
        } else {
            self.compare(store).await
        }
    }

    /// Applies the file as this author, and logs how it differs from the catalog before.
    async fn apply(&self, store: &Store, author: Author) -> Result<Applied, StoreError> {
        let (file, source) = (self.current(), &*self.name);
        let planned = store.planned_catalog(author, &file).await?;
        let applied = store.apply_catalog(author, &file, Origin::service(source)).await?;
        if let Applied::New(number) = applied {
            let [added, removed, changed] =
                ChangeKind::counts(&planned.now.catalog.changes(&planned.after));
            tracing::info!(number, source, added, removed, changed, "a new catalog is in force");
        }
        Ok(applied)
    }

    /// Warns if another catalog is in force than the file.
    async fn compare(&self, store: &Store) -> Result<(), StoreError> {
        let file = self.current();
        let planned = store.planned_catalog(Author::Operator(None), &file).await?;
        let (CatalogVersion { number, .. }, name) = (&planned.now, &self.name);
        if !planned.now.differs_from_file(&file) {
            tracing::info!(number, source = name, "the catalog file is in force");
            return Ok(());
        }
        let [added, removed, changed] =
            ChangeKind::counts(&planned.now.catalog.changes(&planned.after));
        tracing::warn!(
            number,
            added,
            removed,
            changed,
            "{name} differs from catalog {number}, which stays in force: `entitlements catalog plan` shows the difference, \
             `entitlements catalog apply` applies the file"
        );
        Ok(())
    }
}

fn reload(file: &Path) -> anyhow::Result<HotReload<Catalog>> {
    let name = file.display().to_string();
    let parse = move |contents: &[Vec<u8>]| {
        let text = str::from_utf8(contents.first().map_or(&[], Vec::as_slice));
        parse_catalog(text.with_context(|| name.clone())?, &name)
    };
    HotReload::new(SETTING, vec![(SETTING, file.to_owned())], Box::new(parse))
}
