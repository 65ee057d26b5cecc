//! How fast Clerk's Backend API is asked: at most at half of what an instance may, so that the rest is left to the
//! applications that share its key.
//!
//! Source: <https://clerk.com/docs/guides/how-clerk-works/system-limits>: 1,000 requests in 10 s for a production
//! instance, 100 for a development one.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// Hands out turns.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time between two turns in the long run.
    gap: Duration,
    /// How many turns may be saved up and taken at once.
    burst: u32,
    next: Mutex<Instant>,
}

impl Pace {
    /// For the instance that a key belongs to.
    pub(super) fn of(key: &str) -> Self {
        let per_window = if key.starts_with("sk_live_") { 1000 } else { 100 };
        Self {
            gap: Duration::from_secs(20) / per_window,
            burst: per_window * 2 / 5,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until the next request may be sent.
    pub(super) async fn turn(&self) {
        sleep_until(self.take(Instant::now())).await;
    }

    /// When the next turn is, if it is asked for now.
    pub(super) fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let saved_up = now.checked_sub(self.gap * self.burst).unwrap_or(now);
        let turn = (*next).max(saved_up);
        *next = turn + self.gap;
        turn
    }
}
