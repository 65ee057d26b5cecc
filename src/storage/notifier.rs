//! The doorbell tells every replica at once that something changed, and who, so that none has to read the change log
//! before it stops serving what was before. It may be lost, and does not name too many: the log is the truth.

use super::StoreError;
use crate::domain::Subject;
use sqlx::PgConnection;
use std::{
    fmt::Write,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Mutex, PoisonError},
};
use tokio::sync::Notify;

/// The channel of the doorbell.
pub(super) const CHANNEL: &str = "entitlements_change";

/// The longest content, in bytes. Postgres takes fewer than 8,000.
/// Source: <https://www.postgresql.org/docs/current/sql-notify.html>.
const LONGEST: usize = 7_999;

/// A subject that changed, and its revision since.
pub type Changed = (Subject, u64);

/// What one ring says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ring {
    /// This replica rang itself: it knows that these changed.
    Own(Vec<Changed>),
    /// Another one wrote that these changed.
    Others(Vec<Changed>),
    /// What changed is in the change log.
    Unnamed,
}

/// Rings for one replica.
#[derive(Debug)]
pub(super) struct Doorbell {
    /// Tells its own rings from those of others.
    name: String,
    pending: Mutex<Pending>,
    bell: Notify,
}

/// What was written here and was not told of yet.
#[derive(Debug, Default)]
struct Pending {
    changed: Vec<Changed>,
    unnamed: bool,
}

impl Doorbell {
    pub(super) fn new() -> Self {
        let name = format!("{:x}", RandomState::new().hash_one(()));
        Self { name, pending: Mutex::default(), bell: Notify::new() }
    }

    /// Is to ring for a subject that changed.
    pub(super) fn changed(&self, subject: &Subject, revision: u64) {
        self.add(|pending| pending.changed.push((subject.clone(), revision)));
    }

    /// Is to ring for what the log tells.
    pub(super) fn unnamed(&self) {
        self.add(|pending| pending.unnamed = true);
    }

    fn add(&self, what: impl FnOnce(&mut Pending)) {
        what(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_one();
    }

    /// Waits until there is something to ring for.
    pub(super) async fn wanted(&self) {
        self.bell.notified().await;
    }

    /// What a ring says that is for all that is pending.
    pub(super) fn content(&self) -> String {
        let pending = mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let mut content = self.name.clone();
        for (subject, revision) in &pending.changed {
            let _ = write!(content, " {subject} {revision}"); // a string takes everything
        }
        let is_named = !pending.unnamed && !pending.changed.is_empty();
        if is_named && content.len() <= LONGEST { content } else { String::new() }
    }

    /// What a ring with this content says; one of another version of this service, and of people, may say anything.
    pub(super) fn ring(&self, content: &str) -> Ring {
        let mut words = content.split_ascii_whitespace();
        let (name, mut changed) = (words.next(), Vec::new());
        while let Some(subject) = words.next() {
            match (subject.parse(), words.next().map(str::parse)) {
                (Ok(subject), Some(Ok(revision))) => changed.push((subject, revision)),
                _ => return Ring::Unnamed,
            }
        }
        match name {
            _ if changed.is_empty() => Ring::Unnamed,
            Some(name) if name == self.name => Ring::Own(changed),
            _ => Ring::Others(changed),
        }
    }
}

/// Rings at every replica that listens. In a transaction of its own, because a NOTIFY inside the writing one makes commits
/// queue.
pub(super) async fn notify(db: &mut PgConnection, content: &str) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "select pg_catalog.pg_notify($1, $2) from pg_catalog.set_config('synchronous_commit', 'off', true)",
        CHANNEL,
        content,
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
