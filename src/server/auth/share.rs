//! The limits of one caller, so that it leaves capacity for the others.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The maximum number of account loads of one caller in progress: three quarters of the 256 of a replica.
const MAX_LOADS_PER_CALLER: usize = 192;
/// The maximum number of open gRPC streams of one caller: three quarters of the 10,000 of a replica.
const MAX_STREAMS_PER_CALLER: usize = 7_500;
/// The weight of an OFREP stream: a replica allows about a tenth as many of them as gRPC streams.
const OFREP_STREAM_WEIGHT: u32 = 10;

/// The permits of one caller.
#[derive(Debug)]
pub struct CallerShare {
    /// The name of the caller.
    pub caller: String,
    loads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// The kind of a stream, which determines how much of the share it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A gRPC stream of flagd or reflection.
    Grpc,
    /// An OFREP event stream.
    Ofrep,
}

impl CallerShare {
    /// Creates the share of a caller, with all permits available.
    #[must_use]
    pub fn new(caller: &str) -> Self {
        let [loads, streams] = [MAX_LOADS_PER_CALLER, MAX_STREAMS_PER_CALLER]
            .map(|most| Arc::new(Semaphore::new(most)));
        Self { caller: caller.into(), loads, streams }
    }

    /// The permits for the caller's account loads.
    #[must_use]
    pub fn loads(&self) -> Arc<Semaphore> {
        self.loads.clone()
    }

    /// Counts a stream until the permit is dropped; `None` if too many are open.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> Option<OwnedSemaphorePermit> {
        let weight = match kind {
            StreamKind::Grpc => 1,
            StreamKind::Ofrep => OFREP_STREAM_WEIGHT,
        };
        self.streams.clone().try_acquire_many_owned(weight).ok()
    }
}
