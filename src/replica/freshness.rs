//! How long ago this replica last heard all changes, and what follows from it.
//!
//! Measured by the monotonic clock, so that a paused process knows that it was away.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// While the changes were heard this recently, the cache is as good as the database.
const FRESH: Duration = Duration::from_secs(3);

/// What a replica may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not read the database yet.
    Starting,
    /// It hears all changes.
    Fresh,
    /// It has not heard the changes for this long, though the database answers: accounts are read anew.
    Unsure(Duration),
    /// It has not heard the changes for this long, and the database is away: it answers what it has.
    Stale(Duration),
    /// It has been cut off for longer than it may answer.
    Expired,
}

/// When the changes were last heard.
#[derive(Debug)]
pub struct Freshness {
    born: Instant,
    max_staleness: Duration,
    /// Milliseconds after `born`, plus one; 0: never.
    heard: AtomicU64,
    reachable: AtomicBool,
    back: Notify,
}

impl State {
    /// The words for all states.
    pub const WORDS: [&str; 5] = ["starting", "fresh", "unsure", "stale", "expired"];

    /// The one word for it, in metrics and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Fresh => "fresh",
            Self::Unsure(_) => "unsure",
            Self::Stale(_) => "stale",
            Self::Expired => "expired",
        }
    }
}

impl Freshness {
    pub(super) fn new(max_staleness: Duration) -> Self {
        let (heard, reachable) = (AtomicU64::new(0), AtomicBool::new(true));
        Self { born: Instant::now(), max_staleness, heard, reachable, back: Notify::new() }
    }

    /// All changes that had committed by then were heard.
    pub fn heard(&self, then: Instant) {
        let ms = then.saturating_duration_since(self.born).as_millis();
        self.heard.fetch_max(u64::try_from(ms).unwrap_or(u64::MAX - 1) + 1, Ordering::SeqCst);
        if !self.reachable.swap(true, Ordering::SeqCst) {
            self.back.notify_waiters();
        }
    }

    /// Resolves when the database answers that did not answer before.
    pub(super) async fn back(&self) {
        self.back.notified().await;
    }

    /// The database did not answer.
    pub fn lost(&self) {
        self.reachable.store(false, Ordering::SeqCst);
    }

    /// How long ago the changes were heard; `None`: never yet.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::SeqCst).checked_sub(1)?;
        Some(self.born.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// What may be answered now.
    #[must_use]
    pub fn state(&self) -> State {
        match self.age() {
            None => State::Starting,
            Some(age) if age <= FRESH => State::Fresh,
            Some(age) if age > self.max_staleness => State::Expired,
            Some(age) if self.reachable.load(Ordering::SeqCst) => State::Unsure(age),
            Some(age) => State::Stale(age),
        }
    }

    /// Whether questions can be answered at all.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        !matches!(self.state(), State::Starting | State::Expired)
    }
}
