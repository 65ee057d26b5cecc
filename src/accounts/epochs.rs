//! Epochs: what tells an account loaded before a change from one loaded after it.

use crate::access::{Id, Subject};
use moka::Equivalent;
use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
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

/// A subject at an epoch.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) subject: Subject,
    pub(super) epoch: u32,
}

/// The same, borrowed.
pub(super) struct KeyRef<'a> {
    pub(super) id: Id<'a>,
    pub(super) epoch: u32,
}

// Only the subject is hashed: all epochs of one share its popularity in moka's frequency sketch.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.subject.id().hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.subject == other.subject
    }
}

impl Eq for Key {}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.epoch == key.epoch && self.id == key.subject.id()
    }
}
