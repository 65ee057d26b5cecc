//! Broadcasts within this replica that an account or the catalog may have changed.

use crate::domain::Subject;
use tokio::sync::broadcast;

/// How many changes a subscriber may lag. Beyond that, it treats everything as changed.
const FEED_CAPACITY: usize = 1024;

/// A notice that cached state may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChangeNotice {
    /// The account of one subject.
    Subject(Subject),
    /// The catalog, or everything.
    All,
}

/// The sender of change notices.
#[derive(Debug)]
pub(super) struct ChangeFeed(broadcast::Sender<ChangeNotice>);

impl Default for ChangeFeed {
    fn default() -> Self {
        Self(broadcast::Sender::new(FEED_CAPACITY))
    }
}

impl ChangeFeed {
    pub(super) fn publish(&self, notice: ChangeNotice) {
        let _ = self.0.send(notice); // fails only without subscribers
    }

    pub(super) fn subscribe(&self) -> ChangeSubscription {
        ChangeSubscription(self.0.subscribe())
    }
}

/// A subscription to change notices, from its creation on.
#[derive(Debug)]
pub struct ChangeSubscription(broadcast::Receiver<ChangeNotice>);

impl ChangeSubscription {
    /// Waits until the catalog or the account of a subject that `concerns` accepts may have changed.
    pub async fn changed(&mut self, concerns: impl Fn(&Subject) -> bool) {
        loop {
            match self.0.recv().await {
                Ok(ChangeNotice::Subject(subject)) if !concerns(&subject) => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
