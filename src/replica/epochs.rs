//! Epochs: what tells an account loaded before a change from one loaded after it.

use crate::domain::Id;
use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU32, Ordering},
};

/// How many counters there are, a power of two. Two subjects that share one only cost each other a needless
/// load; four bytes each make that rare for a million cached subjects.
const STRIPES: usize = 1 << 20;

/// Counters of changes, each for a few subjects.
#[derive(Debug)]
pub(super) struct Epochs {
    stripes: Box<[AtomicU32]>,
    hasher: RandomState,
}

impl Default for Epochs {
    fn default() -> Self {
        let stripes = (0..STRIPES).map(|_| AtomicU32::new(0)).collect();
        Self { stripes, hasher: RandomState::new() }
    }
}

impl Epochs {
    /// The epoch of a subject. It only grows, and comes back to an old value after four billion changes.
    pub(super) fn of(&self, id: Id<'_>) -> u32 {
        if cfg!(feature = "naive-cache") {
            return 1;
        }
        self.stripe(id).load(Ordering::SeqCst)
    }

    pub(super) fn advance(&self, id: Id<'_>) {
        self.stripe(id).fetch_add(1, Ordering::SeqCst);
    }

    /// Which counter is a subject's.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub(super) fn index(&self, id: Id<'_>) -> usize {
        self.hasher.hash_one(id) as usize & (STRIPES - 1)
    }

    fn stripe(&self, id: Id<'_>) -> &AtomicU32 {
        &self.stripes[self.index(id)]
    }
}
