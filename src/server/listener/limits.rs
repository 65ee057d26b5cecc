//! What limits a connection from outside: how long it lasts, and how many there can be.

use hyper_util::server::graceful::GracefulConnection;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{
    hash::{BuildHasher, RandomState},
    pin::pin,
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a connection that was told to go because of its age may take to finish what it is doing.
const GOES_WITHIN: Duration = Duration::from_secs(30);
/// How many file descriptors are left for Postgres, Clerk and files.
const SPARE: u64 = 64;
/// How many listeners share the others.
const LISTENERS: u64 = 3;

/// Runs a connection to its end. It is told to go once it is `age` old, a little more or less so that not all go at
/// once, and cut off if it does not; whoever takes no answers cannot hold them for longer. It is told as well when
/// `told` fires.
pub(super) async fn watch<C: GracefulConnection>(
    connection: C,
    age: Duration,
    told: CancellationToken,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    let age = age.mul_f64(0.9 + 0.2 * chance());
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = told.cancelled() => {
            connection.as_mut().graceful_shutdown();
            return connection.await;
        }
        () = sleep(age) => connection.as_mut().graceful_shutdown(),
    }
    timeout(GOES_WITHIN, connection).await.unwrap_or(Ok(()))
}

/// Between 0 and 1.
fn chance() -> f64 {
    f64::from(u16::try_from(RandomState::new().hash_one(0) & 0xffff).unwrap_or_default()) / 65_535.0
}

/// The most connections that a listener may have: `most`, or its share of the file descriptors that this process can
/// open, so that a crowd cannot take those that Postgres needs. As many are taken as the system allows.
pub(super) fn connections(most: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // what it is then is what counts
    let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = (open.saturating_sub(SPARE) / LISTENERS).max(1);
    most.min(usize::try_from(share).unwrap_or(usize::MAX))
}
