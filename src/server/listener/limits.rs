//! Limits of connections: the maximum age, and the maximum number by file descriptors.

use hyper_util::server::graceful::GracefulConnection;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{pin::pin, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a connection at its maximum age may take to finish its requests.
const GRACEFUL_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of file descriptors that are reserved for Postgres, Clerk and files.
const SPARE_DESCRIPTORS: u64 = 64;
/// The number of listeners that share the remaining file descriptors.
const LISTENERS: u64 = 3;

/// When a connection has to end.
#[derive(Debug)]
pub struct Lifetime {
    age: Duration,
    drain: CancellationToken,
}

impl Lifetime {
    /// The maximum age has 10 % jitter, so that connections that began together do not end together.
    pub(super) fn new(age: Duration, drain: CancellationToken) -> Self {
        Self { age: age.mul_f64(0.9 + 0.2 * fastrand::f64()), drain }
    }

    /// Runs a connection to its end. At its maximum age, it is shut down gracefully, and aborted 30 s
    /// later, so that a peer that reads no answers cannot hold it longer. When the listener drains,
    /// it is shut down gracefully without that timeout.
    ///
    /// # Errors
    ///
    /// The error of the connection.
    pub async fn limit<C: GracefulConnection>(self, connection: C) -> Result<(), C::Error> {
        self.limit_if_begun(connection, || true).await
    }

    /// As [`limit`](Self::limit), but when the listener drains, a connection that has not begun a request is closed: hyper
    /// would wait for the rest of its first head.
    ///
    /// # Errors
    ///
    /// The error of the connection.
    pub async fn limit_if_begun<C: GracefulConnection>(
        self,
        connection: C,
        has_begun: impl Fn() -> bool,
    ) -> Result<(), C::Error> {
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = self.drain.cancelled() => {
                if !has_begun() {
                    return Ok(());
                }
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
            () = sleep(self.age) => connection.as_mut().graceful_shutdown(),
        }
        timeout(GRACEFUL_CLOSE_TIMEOUT, connection).await.unwrap_or(Ok(()))
    }
}

/// The most connections that a listener may have: `most`, or its share of the file descriptors that this process can
/// open, so that a crowd cannot take those that Postgres needs. As many are taken as the system allows.
pub(super) fn connections(most: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // if it fails, the limit that is read next applies
    let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = (open.saturating_sub(SPARE_DESCRIPTORS) / LISTENERS).max(1);
    most.min(usize::try_from(share).unwrap_or(usize::MAX))
}
