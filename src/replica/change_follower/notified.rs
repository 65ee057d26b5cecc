//! The names in notifications. Every role that can connect to the database may NOTIFY, as much as it likes: what it sends
//! must not cost more than so much memory and work, and what it names need not be true.

use crate::storage::Changed;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How many names are taken in one [`PERIOD`]: more than Postgres commits on ordinary disks.
const MOST: usize = 4_096;
/// After this, as many are taken again.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a name is remembered: until the log was read, which has it once more.
const REMEMBERED: Duration = Duration::from_secs(3);

/// Which changes notifications named lately, and when.
#[derive(Debug)]
pub(super) struct Notified {
    changes: HashMap<Changed, Instant>,
    period_began: Instant,
    taken: usize,
}

impl Notified {
    pub(super) fn new(now: Instant) -> Self {
        Self { changes: HashMap::new(), period_began: now, taken: 0 }
    }

    /// Whether the names of one more notification are taken; if not, it counts as one without names.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        if now.duration_since(self.period_began) >= PERIOD {
            (self.period_began, self.taken) = (now, 0);
            self.changes.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        }
        self.taken < MOST
    }

    pub(super) fn add(&mut self, changed: Vec<Changed>, now: Instant) {
        self.taken += changed.len();
        self.changes.extend(changed.into_iter().map(|change| (change, now)));
    }

    /// How long ago a change was named, if it was.
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
    fn a_flood_of_names_takes_a_bounded_place_and_a_second_later_names_are_taken_again() {
        let start = Instant::now();
        let (mut notified, mut refused) = (Notified::new(start), 0);
        for n in 0..200_u32 {
            let (now, first) = (start + n * PERIOD / 20, n as usize * 800);
            if notified.has_room(now) {
                notified.add(changes(first..first + 800), now);
            } else {
                refused += 1;
            }
            let most = 4 * (MOST + 800);
            assert!(notified.changes.len() <= most, "{}", notified.changes.len());
        }
        assert_eq!(refused, 200 - 10 * 6, "six notifications of 800 names fit in a second");
        assert!(notified.has_room(start + 10 * PERIOD));
        assert!(notified.since(&changes(0..1)[0]).is_none(), "it was forgotten");
    }
}
