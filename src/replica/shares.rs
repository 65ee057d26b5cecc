//! Shares of the readings of Postgres: each caller and each protocol has a share of those in progress, so that it leaves
//! room for the others. A reading counts until Postgres has answered, also when the call has ended before.

use super::Unavailable;
use std::sync::Arc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::futures::TaskLocalFuture,
    task_local,
};

task_local! {
    static SHARES: Shares;
}

/// The shares that the readings of a call count in.
#[derive(Debug, Clone, Default)]
pub struct Shares {
    /// Of the caller, if it is known.
    pub caller: Option<Arc<Semaphore>>,
    /// Of the protocol, where it has one.
    pub protocol: Option<Arc<Semaphore>>,
}

/// Held as long as a reading is in progress.
pub(super) type Permits = [Option<OwnedSemaphorePermit>; 3];

impl Shares {
    /// Runs a call whose readings count in these shares.
    pub fn scope<F: Future>(self, call: F) -> TaskLocalFuture<Self, F> {
        SHARES.scope(self, call)
    }

    /// Permits for one reading, of all that may be in progress and of the shares of the call that asks.
    pub(super) fn permits(all: &Arc<Semaphore>) -> Result<Permits, Unavailable> {
        let Self { caller, protocol } = SHARES.try_with(Self::clone).unwrap_or_default();
        let permit = |share: Option<Arc<Semaphore>>| match share {
            Some(share) => share.try_acquire_owned().map(Some).map_err(|_| Unavailable::Crowded),
            None => Ok(None),
        };
        Ok([permit(caller)?, permit(protocol)?, permit(Some(all.clone()))?])
    }
}
