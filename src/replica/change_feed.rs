//! Tells whoever wants to know that something may be known in another way now.

use crate::domain::Subject;
use tokio::sync::broadcast;

/// How many changes a watcher may be behind before it is told that anything may have changed.
const BEHIND: usize = 1024;

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touched {
    /// What is known of one subject.
    Subject(Subject),
    /// The catalog, or everything.
    All,
}

/// Those who want to know.
#[derive(Debug)]
pub(super) struct Watchers(broadcast::Sender<Touched>);

impl Default for Watchers {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Watchers {
    pub(super) fn tell(&self, touched: Touched) {
        let _ = self.0.send(touched); // nobody may be watching
    }

    pub(super) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }
}

/// Hears of changes from when it was made.
#[derive(Debug)]
pub struct Watch(broadcast::Receiver<Touched>);

impl Watch {
    /// Waits until answers about the subjects that concern the watcher, or the catalog, may have changed.
    pub async fn touched(&mut self, concerns: impl Fn(&Subject) -> bool) {
        loop {
            match self.0.recv().await {
                Ok(Touched::Subject(subject)) if !concerns(&subject) => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
