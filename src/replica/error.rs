//! The error for an account or a catalog that this replica cannot provide.

use crate::storage::StoreError;
use std::time::Duration;

/// Why an account or a catalog that is recent enough cannot be provided. Only [`Self::Internal`] and a permanent
/// [`Self::Store`] need an operator; all others pass by themselves.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// This replica has not read the database yet.
    #[error("this replica is starting and has not read the database yet")]
    Starting,
    /// The database is away, and has been for longer than the caller or the service accepts.
    #[error("the database cannot be reached, and the cached state is older than accepted")]
    TooStale,
    /// The database is away, and the account is not in the cache.
    #[error("the database cannot be reached, and the account is not cached")]
    NotCached,
    /// The database does not have the state that `at_least` names.
    #[error("`at_least` names a state that is newer than the database's; retry, or omit it")]
    Unreachable,
    /// Too many calls wait for the database already.
    #[error("too many calls wait for the database; retry later")]
    Overloaded,
    /// The database did not answer within the timeout of a check. The load continues in the background.
    #[error("the database did not answer within {} ms; retry", .0.as_millis())]
    Timeout(Duration),
    /// The load panicked.
    #[error(
        "loading an account or the catalog failed because of a fault in this service; see its log"
    )]
    Internal,
    /// The load failed.
    #[error("cannot load an account or the catalog")]
    Store(#[source] StoreError),
}

impl Unavailable {
    /// Whether a load that failed like this shows that the database is away.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Store(error) => error.is_transient(),
            Self::Starting
            | Self::TooStale
            | Self::NotCached
            | Self::Unreachable
            | Self::Overloaded
            | Self::Internal => false,
        }
    }
}
