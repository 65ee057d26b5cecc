//! A callers file with API keys.

use crate::{
    support::database::Db,
    support::service::{Replica, config},
};
use entitlements::{
    config::{Config, ListenerFiles},
    server::auth::{KeyFile, Scope},
};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// A callers file.
pub struct CallersFile {
    folder: TempDir,
}

impl CallersFile {
    pub fn new() -> Self {
        let file = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(file.path(), "").unwrap();
        file
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("callers.toml")
    }

    /// Creates a key, and returns it as a value of `authorization`.
    pub fn create(&self, name: &str, scopes: &[Scope]) -> String {
        format!("Bearer {}", KeyFile::open(&self.path()).unwrap().create(name, scopes).unwrap())
    }

    pub fn revoke(&self, name: &str) {
        KeyFile::open(&self.path()).unwrap().revoke(name).unwrap();
    }

    pub fn listeners(&self) -> ListenerFiles {
        ListenerFiles { callers: Some(self.path()), ..ListenerFiles::default() }
    }

    /// Starts a replica with this file. It waits until the health service answers, which needs no key.
    pub async fn replica(&self, db: &Db) -> Replica {
        Replica::start_with(Config { listeners: self.listeners(), ..config(db) }).await
    }
}
