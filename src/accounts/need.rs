//! What callers may demand of an answer.

use crate::access::{Id, Revision};
use std::time::Duration;

/// How recent an answer must be.
#[derive(Debug, Clone, Default)]
pub struct Need {
    /// At least this state.
    pub at_least: Option<Revision>,
    /// The state that Postgres has now.
    pub fully_consistent: bool,
    /// No further behind than this, while Postgres cannot be reached.
    pub max_staleness: Option<Duration>,
}

impl Need {
    /// The revision that the subject must have at least.
    pub(super) fn revision(&self, id: Id<'_>) -> u64 {
        self.at_least.as_ref().map_or(0, |revision| revision.of(id))
    }
}
