//! The changes that recent notifications named. Every role that can connect to the database may NOTIFY without limit,
//! so the memory and work for notifications are bounded here, and the names may be false.

use crate::storage::Changed;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How many names are accepted in one [`FLOOD_PERIOD`]: more than Postgres commits on ordinary disks.
const MAX_NOTIFIED: usize = 4_096;
/// The period after which the limit of names starts again.
const FLOOD_PERIOD: Duration = Duration::from_secs(1);
/// How long a name is kept: until the change log, which has it as well, was read.
const NOTIFIED_RETENTION: Duration = Duration::from_secs(3);

/// The changes that recent notifications named, with the time of each.
#[derive(Debug)]
pub(super) struct Notified {
    changes: HashMap<Changed, Instant>,
    period_began: Instant,
    accepted: usize,
}

impl Notified {
    pub(super) fn new(now: Instant) -> Self {
        Self { changes: HashMap::new(), period_began: now, accepted: 0 }
    }

    /// Whether the names of another notification are accepted. If not, treat it as one without names.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        if now.duration_since(self.period_began) >= FLOOD_PERIOD {
            (self.period_began, self.accepted) = (now, 0);
            self.changes.retain(|_, at| now.duration_since(*at) < NOTIFIED_RETENTION);
        }
        self.accepted < MAX_NOTIFIED
    }

    pub(super) fn add(&mut self, changed: Vec<Changed>, now: Instant) {
        self.accepted += changed.len();
        self.changes.extend(changed.into_iter().map(|change| (change, now)));
    }

    /// The time since a notification named a change; `None`: none did.
    pub(super) fn since(&self, change: &Changed) -> Option<Duration> {
        self.changes.get(change).map(Instant::elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(names: std::ops::Range<usize>) -> Vec<Changed> {
        names.map(|n| (format!("user_{n}").parse().expect("an id"), 1)).collect()
    }

    #[test]
    fn a_flood_of_names_uses_bounded_memory_and_names_are_accepted_again_a_second_later() {
        let start = Instant::now();
        let (mut notified, mut refused) = (Notified::new(start), 0);
        for n in 0..200_u32 {
            let (now, first) = (start + n * FLOOD_PERIOD / 20, n as usize * 800);
            if notified.has_room(now) {
                notified.add(changes(first..first + 800), now);
            } else {
                refused += 1;
            }
            let most = 4 * (MAX_NOTIFIED + 800);
            assert!(notified.changes.len() <= most, "{}", notified.changes.len());
        }
        assert_eq!(refused, 200 - 10 * 6, "six notifications of 800 names fit in a second");
        assert!(notified.has_room(start + 10 * FLOOD_PERIOD));
        assert!(notified.since(&changes(0..1)[0]).is_none(), "it was removed");
    }
}
