//! Epochs: what tells an account loaded before a change from one loaded after it.

use crate::access::Subject;
use moka::Equivalent;
use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// How many counters there are, a power of two. Two subjects that share one only cost each other a needless
/// load.
const STRIPES: usize = 16_384;

/// Counters of changes: one for some subjects each, and one for all.
#[derive(Debug)]
pub(super) struct Epochs {
    stripes: Box<[AtomicU64]>,
    all: AtomicU64,
    hasher: RandomState,
}

impl Default for Epochs {
    fn default() -> Self {
        let stripes = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { stripes, all: AtomicU64::new(0), hasher: RandomState::new() }
    }
}

impl Epochs {
    /// The epoch of a subject. Both its parts only grow, so it never comes back to an old value.
    pub(super) fn of(&self, subject: &Subject) -> u64 {
        self.stripe(subject).load(Ordering::SeqCst) + self.all.load(Ordering::SeqCst)
    }

    pub(super) fn advance(&self, subject: &Subject) {
        self.stripe(subject).fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn advance_all(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn stripe(&self, subject: &Subject) -> &AtomicU64 {
        &self.stripes[self.hasher.hash_one(subject.as_str()) as usize & (STRIPES - 1)]
    }
}

/// A subject at an epoch.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) subject: Subject,
    pub(super) epoch: u64,
}

/// The same, borrowed.
pub(super) struct KeyRef<'a> {
    pub(super) subject: &'a Subject,
    pub(super) epoch: u64,
}

// Only the subject is hashed: all epochs of one share its popularity in moka's frequency sketch.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.subject.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.subject.hash(state);
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
        self.epoch == key.epoch && *self.subject == key.subject
    }
}
