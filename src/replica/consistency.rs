//! The consistency that a caller requires of an answer.

use crate::domain::Revision;
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
