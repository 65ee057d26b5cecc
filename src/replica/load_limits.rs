//! Limits on concurrent loads from Postgres, for each caller and each protocol, so that none can use up the capacity of
//! the others. A load counts until Postgres has answered, even if its call has ended before.

use super::error::Unavailable;
use std::sync::Arc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::futures::TaskLocalFuture,
    task_local,
};

task_local! {
    static CURRENT_LIMITS: LoadLimits;
}

/// The limits that the loads of a call count toward.
#[derive(Debug, Clone, Default)]
pub struct LoadLimits {
    /// The limit of the caller, if the caller is known.
    pub caller: Option<Arc<Semaphore>>,
    /// The limit of the protocol, if it has one.
    pub protocol: Option<Arc<Semaphore>>,
}

/// The permits of one load, held while it is in progress.
pub(super) type Permits = [Option<OwnedSemaphorePermit>; 3];

impl LoadLimits {
    /// Runs a call whose loads count toward these limits.
    pub fn scope<F: Future>(self, call: F) -> TaskLocalFuture<Self, F> {
        CURRENT_LIMITS.scope(self, call)
    }

    /// Acquires the permits for one load: from the total limit `all`, and from the limits of the current call.
    pub(super) fn permits(all: &Arc<Semaphore>) -> Result<Permits, Unavailable> {
        let Self { caller, protocol } = CURRENT_LIMITS.try_with(Self::clone).unwrap_or_default();
        let permit = |share: Option<Arc<Semaphore>>| match share {
            Some(share) => share.try_acquire_owned().map(Some).map_err(|_| Unavailable::Overloaded),
            None => Ok(None),
        };
        Ok([permit(caller)?, permit(protocol)?, permit(Some(all.clone()))?])
    }
}
