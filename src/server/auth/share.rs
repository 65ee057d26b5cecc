//! How much one caller may have in progress, so that it leaves room for the others.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most readings of Postgres for one caller: three quarters of those that all callers may have in progress.
const READINGS: usize = 192;
/// The most gRPC streams of one caller: three quarters of those that all may have.
const STREAMS: usize = 7_500;
/// OFREP may have a tenth as many streams as gRPC, so each counts as ten.
const OFREP_STREAM: u32 = 10;

/// The work that one caller may have in progress.
#[derive(Debug)]
pub struct Share {
    /// The name of the caller.
    pub caller: String,
    readings: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// A stream's kind, which says how much of the share it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Of flagd, or reflection.
    Grpc,
    /// Events of OFREP.
    Ofrep,
}

impl Share {
    /// The whole share of a caller.
    #[must_use]
    pub fn new(caller: &str) -> Self {
        let [readings, streams] = [READINGS, STREAMS].map(|most| Arc::new(Semaphore::new(most)));
        Self { caller: caller.into(), readings, streams }
    }

    /// The permits for the caller's readings of Postgres.
    #[must_use]
    pub fn readings(&self) -> Arc<Semaphore> {
        self.readings.clone()
    }

    /// Counts a stream until the permit is dropped. `None`: too many are open already.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> Option<OwnedSemaphorePermit> {
        let weight = match kind {
            StreamKind::Grpc => 1,
            StreamKind::Ofrep => OFREP_STREAM,
        };
        self.streams.clone().try_acquire_many_owned(weight).ok()
    }
}
