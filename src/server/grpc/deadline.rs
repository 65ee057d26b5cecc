//! What stands between a connection and the services: a deadline, and a net for panics. How many calls a connection
//! has in progress is bounded by its streams; how many wait for the database, by `accounts`. A bound on all calls
//! would let a few peers that send requests by halves shut out everybody else.

use super::call_metrics::{Calls, code};
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use hyper::{body::Incoming, service::Service};
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

/// The longest a call may take, whatever its caller allows.
const LONGEST_CALL: Duration = Duration::from_secs(5);

/// Guards services.
#[derive(Clone)]
pub struct Guard<S> {
    services: S,
    calls: Arc<Calls>,
}

impl<S> Guard<S> {
    pub(super) fn new(services: S, calls: Arc<Calls>) -> Self {
        Self { services, calls }
    }
}

impl<S> Service<Request<Incoming>> for Guard<S>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let within = allowed_time(request.headers()).unwrap_or(LONGEST_CALL).min(LONGEST_CALL);
        let trace = self.calls.trace(&request);
        let (begun, method) = (self.calls.begin(), self.calls.method(request.uri().path()));
        let mut services = self.services.clone();
        let answer = async move {
            let mut call = pin!(AssertUnwindSafe(services.call(request)).catch_unwind());
            // What is answered at once needs no timer.
            let done = match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(done) => Ok(done),
                Poll::Pending => timeout(within, call).await,
            };
            let response = match done {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(_panic)) => {
                    Status::internal("the call failed by a fault in the service").into_http()
                }
                Err(_) => Status::deadline_exceeded("the call took too long").into_http(),
            };
            begun.ended(method, &response);
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

/// What the caller allows, from `grpc-timeout`; a value that is none is ignored.
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
