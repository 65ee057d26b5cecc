//! Wraps the services of a connection: enforces the deadline of each call, and turns a panic into INTERNAL.
//!
//! There is no limit on all calls together, because a few peers with half-sent requests could exhaust it. The calls of
//! a connection are limited by its streams, and the loads of accounts by `replica`.

use super::call_metrics::{CallMetrics, code};
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use hyper::service::Service;
use std::{
    convert::Infallible,
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::time::timeout;
use tonic::{Status, body::Body};

/// The maximum duration of a call with its request, even if its caller allows more.
pub const MAX_CALL_DURATION: Duration = Duration::from_secs(5);

/// Services with deadlines and recovery from panics.
#[derive(Clone)]
pub struct Deadline<S> {
    services: S,
    calls: Arc<CallMetrics>,
}

impl<S> Deadline<S> {
    /// Serves these services, and counts their calls.
    pub fn new(services: S, calls: Arc<CallMetrics>) -> Self {
        Self { services, calls }
    }
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: tower_service::Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let time_limit =
            allowed_time(request.headers()).unwrap_or(MAX_CALL_DURATION).min(MAX_CALL_DURATION);
        let trace = self.calls.trace(&request);
        let (in_flight, method) = (self.calls.begin(), self.calls.method(request.uri().path()));
        let mut services = self.services.clone();
        let answer = async move {
            let mut call = pin!(AssertUnwindSafe(services.call(request)).catch_unwind());
            // A call that is ready at the first poll needs no timer.
            let done = match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(done) => Ok(done),
                Poll::Pending => timeout(time_limit, call).await,
            };
            let response = match done {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(_panic)) => {
                    Status::internal("internal error: see the log of the service").into_http()
                }
                Err(_) => Status::deadline_exceeded("the call exceeded its deadline").into_http(),
            };
            in_flight.ended(method, &response);
            Ok(response)
        };
        if trace.is_off() {
            return Box::pin(answer);
        }
        Box::pin(async move {
            let response = trace.run(answer).await?;
            trace.note("rpc.grpc.status_code", i64::from(code(&response) as i32));
            Ok(response)
        })
    }
}

/// The timeout that the caller sends in `grpc-timeout`; an invalid value is ignored.
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
fn allowed_time(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if amount.is_empty() || amount.len() > 8 || !amount.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = amount.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}
