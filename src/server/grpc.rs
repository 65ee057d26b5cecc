//! gRPC over HTTP/2: the server loop, deadlines, recovery from panics, and metrics of calls.

mod call_metrics;
pub(crate) mod codec;
mod deadline;
mod inline_executor;
mod revocation;

pub use call_metrics::CallMetrics;
pub use deadline::Deadline;
pub use revocation::end_when_revoked;

use super::listener::{self, Listener, Peer};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use inline_executor::{InlineConnection, InlineExecutor};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The maximum number of open connections.
const MAX_CONNECTIONS: usize = 10_000;

/// The flow-control window of a stream, in bytes: the largest request with its frame.
const STREAM_WINDOW_LEN: u32 = 66 * 1024;

/// Serves calls on this listener until `stop`; connections are closed at about `age`. `authenticate` makes the service
/// of a connection. All limits against hostile peers are explicit, even if they equal a library's default.
pub async fn serve<S, A>(
    listener: Listener,
    services: S,
    calls: Arc<CallMetrics>,
    authenticate: impl Fn(Deadline<S>, &Peer) -> A,
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
    let with_deadline = Deadline::new(services, calls);
    let mut builder = http2::Builder::new(InlineExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_local_error_reset_streams(1024)
        .max_pending_accept_reset_streams(20)
        .max_header_list_size(16 * 1024)
        // Unread bytes are limited to one request of maximum size per stream, and four per connection.
        .initial_stream_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(4 * STREAM_WINDOW_LEN)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let connect = |io: TokioIo<Peer>| {
        let service = authenticate(with_deadline.clone(), io.inner());
        builder.serve_connection(io, service)
    };
    let limits = listener::ListenerLimits { connections: MAX_CONNECTIONS, age, unverified: None };
    listener::serve(listener, limits, stop, connect, InlineConnection).await;
}
