//! Notifies all replicas of changes by Postgres NOTIFY, with the subjects and their revisions, so that they invalidate
//! cached accounts before they read the change log. A notification can be lost, and names subjects only while they fit
//! into its payload; the change log is authoritative.

use super::{Store, StoreError, pool::retry_once};
use crate::domain::Subject;
use sqlx::{PgConnection, postgres::PgListener};
use std::{
    fmt::Write,
    mem,
    sync::{Mutex, PoisonError},
};
use tokio::sync::Notify;

/// The channel for LISTEN and NOTIFY.
pub(super) const CHANNEL: &str = "entitlements_change";

/// The longest payload, in bytes. Postgres accepts fewer than 8,000.
/// Source: <https://www.postgresql.org/docs/current/sql-notify.html>.
const MAX_PAYLOAD: usize = 7_999;

/// A subject that changed, and its new revision.
pub type Changed = (Subject, u64);

/// A parsed notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// This replica changed these subjects.
    Own(Vec<Changed>),
    /// Another replica changed these subjects.
    Others(Vec<Changed>),
    /// The notification does not name the changes; the change log has them.
    ReadLog,
}

/// Collects the changes of this replica until they are sent in a notification.
#[derive(Debug)]
pub(super) struct Notifier {
    /// Identifies this replica in payloads, to recognize its own notifications.
    name: String,
    pending: Mutex<Pending>,
    wake: Notify,
}

/// Changes that were not sent yet.
#[derive(Debug, Default)]
struct Pending {
    changed: Vec<Changed>,
    read_log: bool,
}

impl Notifier {
    pub(super) fn new() -> Self {
        let name = format!("{:x}", fastrand::u64(..));
        Self { name, pending: Mutex::default(), wake: Notify::new() }
    }

    /// Queues a changed subject.
    pub(super) fn changed(&self, subject: &Subject, revision: u64) {
        self.add(|pending| pending.changed.push((subject.clone(), revision)));
    }

    /// Queues a change that only the change log describes, such as one of the catalog.
    pub(super) fn read_log(&self) {
        self.add(|pending| pending.read_log = true);
    }

    fn add(&self, add: impl FnOnce(&mut Pending)) {
        add(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// Waits until a change is queued.
    pub(super) async fn pending(&self) {
        self.wake.notified().await;
    }

    /// Empties the queue and returns a payload for it. The payload is empty if only the change log describes a change,
    /// or if the names do not fit.
    pub(super) fn take_payload(&self) -> String {
        let pending = mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let mut payload = self.name.clone();
        for (subject, revision) in &pending.changed {
            let _ = write!(payload, " {subject} {revision}"); // writing to a String cannot fail
        }
        let is_named = !pending.read_log && !pending.changed.is_empty();
        if is_named && payload.len() <= MAX_PAYLOAD { payload } else { String::new() }
    }

    /// Parses a payload. Other releases of this service and other roles may send anything, so an unknown form means
    /// [`Notification::ReadLog`].
    pub(super) fn parse(&self, payload: &str) -> Notification {
        let mut words = payload.split_ascii_whitespace();
        let (name, mut changed) = (words.next(), Vec::new());
        while let Some(subject) = words.next() {
            match (subject.parse(), words.next().map(str::parse)) {
                (Ok(subject), Some(Ok(revision))) => changed.push((subject, revision)),
                _ => return Notification::ReadLog,
            }
        }
        match name {
            _ if changed.is_empty() => Notification::ReadLog,
            Some(name) if name == self.name => Notification::Own(changed),
            _ => Notification::Others(changed),
        }
    }
}

impl Store {
    /// Waits until this replica has written a change that no notification was sent for yet.
    pub async fn pending_notifications(&self) {
        self.notifier.pending().await;
    }

    /// Notifies all replicas of the queued changes. If that fails, the changes are not queued again: every replica
    /// reads the change log each second anyway.
    pub async fn notify(&self) -> Result<(), StoreError> {
        let payload = self.notifier.take_payload();
        retry_once(|| self.log.run(async |db| notify(db, &payload).await)).await
    }

    /// Parses the payload of a notification.
    #[must_use]
    pub fn parse_notification(&self, payload: &str) -> Notification {
        self.notifier.parse(payload)
    }

    /// Opens a LISTEN session on a connection of its own. Drop it at its first error: a listener that reconnects by
    /// itself can lose notifications silently.
    pub async fn listen(&self) -> Result<PgListener, StoreError> {
        Ok(self.connector.listen(CHANNEL).await?)
    }
}

/// Sends a NOTIFY in its own transaction, because a NOTIFY in the transaction that writes would serialize commits.
async fn notify(db: &mut PgConnection, payload: &str) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "select pg_catalog.pg_notify($1, $2) from pg_catalog.set_config('synchronous_commit', 'off', true)",
        CHANNEL,
        payload,
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
