//! HTTP/1.1: the server loop, and what every request must keep to.

pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod public_url;
pub(crate) mod response;

pub use cors::{Cors, InvalidOrigin};
pub use public_url::{InvalidPublicUrl, PublicUrl};

use super::listener::{self, Limits, Listener, Peer};
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

/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// Browsers take an answer for what its content type says.
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Answers requests on this listener until `stop`; `connect` makes the handler of a connection's requests.
pub(crate) async fn serve<H, F>(
    listener: Listener,
    limits: Limits,
    connect: impl Fn(&Peer) -> H,
    stop: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(64)
        .max_buf_size(16 * 1024);
    let connect = |io: TokioIo<Peer>| {
        let handle = connect(io.inner());
        let answer = move |request: Request<Incoming>| {
            let answer = match misframed(&request) {
                Some(reason) => Either::Left(ready(refuse(StatusCode::BAD_REQUEST, reason))),
                None => Either::Right(handle(request)),
            };
            answer.map(|answer| Ok::<_, Infallible>(not_sniffed(answer)))
        };
        builder.serve_connection(io, service_fn(answer))
    };
    listener::serve(listener, limits, stop, connect, |connection| connection).await;
}

/// What hyper lets pass although proxies in front may read it in another way. A message with both Content-Length and
/// Transfer-Encoding needs no rule here: hyper drops Content-Length, and reads the chunks.
fn misframed(request: &Request<Incoming>) -> Option<&'static str> {
    match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == http::Version::HTTP_11 => Some("the Host header is missing"),
        0 | 1 => None,
        _ => Some("the Host header is present twice: send one"),
    }
}

fn not_sniffed(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    answer
}
