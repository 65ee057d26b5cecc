//! gRPC over HTTP/2: the settings of connections, deadlines, recovery from panics, and metrics of calls.

mod call_metrics;
pub(crate) mod codec;
mod deadline;
mod inline_executor;
mod revocation;

pub use call_metrics::CallMetrics;
pub use deadline::{Deadline, MAX_CALL_DURATION};
pub(super) use inline_executor::InlineConnection;
pub use revocation::end_when_revoked;

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use inline_executor::InlineExecutor;
use std::time::Duration;

/// The flow-control window of a stream, in bytes: the largest request with its frame.
const STREAM_WINDOW_LEN: u32 = 66 * 1024;

/// The settings of connections. All limits against hostile peers are explicit, even if they equal a library's default.
pub(super) fn connections() -> http2::Builder<InlineExecutor> {
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
    builder
}
