//! Freshness: how long ago this replica last read all changes, and what it may therefore answer.
//!
//! The age is measured by the monotonic clock, so that it includes a pause of the process.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// If all changes were read within this time, the cache counts as current.
const FRESH_FOR: Duration = Duration::from_secs(3);

/// The freshness of a replica: it decides what may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshnessState {
    /// The replica has not read the database yet.
    Starting,
    /// The replica reads all changes.
    Fresh,
    /// The replica has not read the changes for this long, but the database answers: accounts are loaded before use.
    Unconfirmed(Duration),
    /// The replica has not read the changes for this long, and the database is away: cached accounts are used.
    Stale(Duration),
    /// The replica has not read the changes for longer than the maximum staleness: nothing is answered.
    Expired,
}

/// When this replica last read all changes, and whether the database answers.
#[derive(Debug)]
pub struct Freshness {
    started_at: Instant,
    max_staleness: Duration,
    /// Milliseconds after `started_at`, plus one; 0: never.
    caught_up_at: AtomicU64,
    reachable: AtomicBool,
    reconnected: Notify,
}

impl FreshnessState {
    /// The metric labels of all states.
    pub const NAMES: [&str; 5] = ["starting", "fresh", "unconfirmed", "stale", "expired"];

    /// The label of the state in metrics and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Fresh => "fresh",
            Self::Unconfirmed(_) => "unconfirmed",
            Self::Stale(_) => "stale",
            Self::Expired => "expired",
        }
    }
}

impl Freshness {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self {
            started_at: Instant::now(),
            max_staleness,
            caught_up_at: AtomicU64::new(0),
            reachable: AtomicBool::new(true),
            reconnected: Notify::new(),
        }
    }

    /// Records that all changes committed by `then` were applied, and that the database answers.
    pub fn caught_up(&self, then: Instant) {
        let ms = then.saturating_duration_since(self.started_at).as_millis();
        self.caught_up_at
            .fetch_max(u64::try_from(ms).unwrap_or(u64::MAX - 1) + 1, Ordering::SeqCst);
        if !self.reachable.swap(true, Ordering::SeqCst) {
            self.reconnected.notify_waiters();
        }
    }

    /// Resolves when the database answers again after an outage.
    pub(super) async fn reconnected(&self) {
        self.reconnected.notified().await;
    }

    /// Records that the database did not answer.
    pub fn disconnected(&self) {
        self.reachable.store(false, Ordering::SeqCst);
    }

    /// How long ago all changes were read; `None`: never yet.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let caught_up_at = self.caught_up_at.load(Ordering::SeqCst).checked_sub(1)?;
        Some(self.started_at.elapsed().saturating_sub(Duration::from_millis(caught_up_at)))
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> FreshnessState {
        match self.age() {
            None => FreshnessState::Starting,
            Some(age) if age <= FRESH_FOR => FreshnessState::Fresh,
            Some(age) if age > self.max_staleness => FreshnessState::Expired,
            Some(age) if self.reachable.load(Ordering::SeqCst) => FreshnessState::Unconfirmed(age),
            Some(age) => FreshnessState::Stale(age),
        }
    }

    /// Whether this replica can answer checks.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        !matches!(self.state(), FreshnessState::Starting | FreshnessState::Expired)
    }
}
