//! Epochs: a counter that distinguishes an account loaded before a change from one loaded after it.

use crate::domain::SubjectRef;
use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU32, Ordering},
};

/// The number of counters, a power of two. A change of a subject costs each subject with the same counter a needless
/// load; at four bytes a counter, there are enough to make that rare for a million cached subjects.
const STRIPES: usize = 1 << 20;

/// Counters of changes, each shared by a few subjects.
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
    /// The epoch of a subject. It grows with each change, and wraps after four billion changes.
    pub(super) fn of(&self, id: SubjectRef<'_>) -> u32 {
        if cfg!(naive_cache) {
            return 1;
        }
        self.stripe(id).load(Ordering::SeqCst)
    }

    pub(super) fn advance(&self, id: SubjectRef<'_>) {
        self.stripe(id).fetch_add(1, Ordering::SeqCst);
    }

    /// The index of a subject's counter.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub(super) fn index(&self, id: SubjectRef<'_>) -> usize {
        self.hasher.hash_one(id) as usize & (STRIPES - 1)
    }

    fn stripe(&self, id: SubjectRef<'_>) -> &AtomicU32 {
        &self.stripes[self.index(id)]
    }
}
