//! HTTP/1.1: the server loop, and the checks that apply to every request.

pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod response;

pub use cors::Cors;

use super::listener::{self, Listener, ListenerLimits, Peer};
use futures_util::{
    FutureExt,
    future::{Either, ready},
};
use http::{HeaderValue, Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use response::{Answer, refuse};
use std::{convert::Infallible, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes browsers use the declared content type instead of guessing it.
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Serves requests on this listener until `stop`; `connect` makes the request handler of a connection.
pub(crate) async fn serve<H, F>(
    listener: Listener,
    limits: ListenerLimits,
    connect: impl Fn(&Peer) -> H,
    stop: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(64)
        .max_buf_size(16 * 1024);
    let connect = |io: TokioIo<Peer>| {
        let handle = connect(io.inner());
        let answer = move |request: Request<Incoming>| {
            let answer = match misframed(&request) {
                Some(reason) => Either::Left(ready(refuse(StatusCode::BAD_REQUEST, reason))),
                None => Either::Right(handle(request)),
            };
            answer.map(|answer| Ok::<_, Infallible>(with_nosniff(answer)))
        };
        builder.serve_connection(io, service_fn(answer))
    };
    listener::serve(listener, limits, stop, connect, |connection| connection).await;
}

/// Why a request is rejected that hyper accepts, but that a proxy in front may interpret differently. A request with
/// Content-Length and Transfer-Encoding needs no check: hyper ignores Content-Length and reads the chunks.
fn misframed(request: &Request<Incoming>) -> Option<&'static str> {
    match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == http::Version::HTTP_11 => Some("the Host header is missing"),
        0 | 1 => None,
        _ => Some("the Host header is present twice: send one"),
    }
}

fn with_nosniff(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    answer
}
