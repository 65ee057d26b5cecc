//! The consistency that a caller requires of an answer.

use crate::domain::{CatalogState, Revision, SubjectRef};
use std::time::Duration;

/// How recent the accounts and the catalog of an answer must be.
#[derive(Debug, Clone, Default)]
pub struct Consistency {
    /// The answer reflects at least this state.
    pub at_least: Option<Revision>,
    /// The answer reflects the state of Postgres at the time of the call.
    pub fully_consistent: bool,
    /// The longest accepted staleness while Postgres cannot be reached; `None`: what the service accepts.
    pub max_staleness: Option<Duration>,
}

impl Consistency {
    /// The oldest accepted state of the catalog.
    #[must_use]
    pub fn catalog(&self) -> CatalogState {
        self.at_least.as_ref().map_or_else(CatalogState::default, |revision| revision.catalog)
    }

    /// The oldest accepted revision of a subject; 0: any.
    #[must_use]
    pub fn revision(&self, id: SubjectRef<'_>) -> u64 {
        self.at_least.as_ref().and_then(|revision| revision.of(id)).unwrap_or(0)
    }
}
