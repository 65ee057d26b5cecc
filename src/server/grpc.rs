//! gRPC over HTTP/2: the server loop, deadlines, a net for panics, and metrics of calls.

mod call_metrics;
pub(crate) mod codec;
mod deadline;
mod inline_executor;
mod revocation;

pub use call_metrics::Calls;
pub use deadline::Guard;
pub use revocation::bound;

use super::listener::{self, Listener, Peer};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use inline_executor::{Aside, Connection};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The most connections open at once.
const CONNECTIONS: usize = 10_000;

/// How much of a request may arrive before it is read: the largest with its frame.
const WINDOW: u32 = 66 * 1024;

/// Answers calls on this listener until `stop`, on connections that last for about `age`; `authenticate` makes the
/// service of a connection. The limits are explicit, also where a library's default is the same: they are what a
/// hostile peer meets.
pub async fn serve<S, A>(
    listener: Listener,
    services: S,
    calls: Arc<Calls>,
    authenticate: impl Fn(Guard<S>, &Peer) -> A,
    age: Duration,
    stop: CancellationToken,
) where
    S: Clone,
    A: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Send
        + 'static,
{
    let guard = Guard::new(services, calls);
    let mut builder = http2::Builder::new(Aside);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_local_error_reset_streams(1024)
        .max_pending_accept_reset_streams(20)
        .max_header_list_size(16 * 1024)
        // What may arrive before it is read: one of the largest requests, and some on one connection.
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let connect = |io: TokioIo<Peer>| {
        let service = authenticate(guard.clone(), io.inner());
        builder.serve_connection(io, service)
    };
    let limits = listener::Limits { connections: CONNECTIONS, age, unverified: None };
    listener::serve(listener, limits, stop, connect, Connection).await;
}
