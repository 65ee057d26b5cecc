//! Limits the rate of requests to Clerk's Backend API to half of the instance's limit, so that the other half is left
//! to applications that use the same instance.
//!
//! Source: <https://clerk.com/docs/guides/how-clerk-works/system-limits>: 1,000 requests in 10 s for a production
//! instance, 100 for a development one.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// Assigns each request a time at which it may be sent.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// The average time between two requests.
    gap: Duration,
    /// How many requests may be sent at once after an idle time.
    burst: u32,
    next: Mutex<Instant>,
}

impl RateLimit {
    /// The limit of the instance that a key belongs to, by the prefix of the key.
    pub(super) fn of(key: &str) -> Self {
        let per_window = if key.starts_with("sk_live_") { 1000 } else { 100 };
        Self {
            gap: Duration::from_secs(20) / per_window,
            burst: per_window * 2 / 5,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until the next request may be sent.
    pub(super) async fn wait(&self) {
        sleep_until(self.take(Instant::now())).await;
    }

    /// Reserves the next time at which a request may be sent.
    pub(super) fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(self.gap * self.burst).unwrap_or(now);
        let slot = (*next).max(earliest);
        *next = slot + self.gap;
        slot
    }
}
