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

/// Runs a connection to its end. At `age`, with 10 % jitter so that not all end at once, it is shut down gracefully,
/// and aborted after [`GRACEFUL_CLOSE_TIMEOUT`], so that a peer that reads no answers cannot hold it longer. When
/// `drain` is cancelled, it is shut down gracefully without that timeout.
pub(super) async fn watch<C: GracefulConnection>(
    connection: C,
    age: Duration,
    drain: CancellationToken,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    let age = age.mul_f64(0.9 + 0.2 * fastrand::f64());
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            return connection.await;
        }
        () = sleep(age) => connection.as_mut().graceful_shutdown(),
    }
    timeout(GRACEFUL_CLOSE_TIMEOUT, connection).await.unwrap_or(Ok(()))
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
