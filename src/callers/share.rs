//! How much one caller may have in progress, so that it leaves room for the others.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most gRPC calls of one caller that wait: three quarters of the readings of Postgres that all callers may have in
/// progress. What is cached is answered without waiting.
const WAITING: usize = 192;
/// The most gRPC streams of one caller: three quarters of those that all may have.
const STREAMS: usize = 7_500;
/// OFREP may have a tenth as many streams as gRPC, so each counts as ten.
const OFREP_STREAM: u32 = 10;

/// What one caller may have in progress.
#[derive(Debug, Clone)]
pub struct Share {
    waiting: Arc<Semaphore>,
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

/// One waiting call or stream; its part of the share is free again when it is dropped.
#[derive(Debug)]
pub struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Default for Share {
    fn default() -> Self {
        let [waiting, streams] = [WAITING, STREAMS].map(|most| Arc::new(Semaphore::new(most)));
        Self { waiting, streams }
    }
}

impl Share {
    /// Counts a call that waits. `None`: too many wait already.
    #[must_use]
    pub fn wait(&self) -> Option<Taken> {
        self.waiting.clone().try_acquire_owned().ok().map(|permit| Taken { _permit: permit })
    }

    /// Counts a stream. `None`: too many are open already.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> Option<Taken> {
        let weight = match kind {
            StreamKind::Grpc => 1,
            StreamKind::Ofrep => OFREP_STREAM,
        };
        self.streams
            .clone()
            .try_acquire_many_owned(weight)
            .ok()
            .map(|permit| Taken { _permit: permit })
    }
}
