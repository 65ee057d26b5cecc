//! What stands between a connection and the services, tried with services that misbehave.

use crate::raw::{self, Http2};
use entitlements::grpc::{self, Calls, Door};
use futures_util::future::join_all;
use http::{Request, Response};
use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body, server::NamedService, service::Routes};
use tower_service::Service;

/// A service that panics, or never answers, as the method's name says.
#[derive(Clone)]
struct Misbehaving;

impl NamedService for Misbehaving {
    const NAME: &'static str = "test.Misbehaving";
}

impl Service<Request<Body>> for Misbehaving {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        Box::pin(async move {
            if path.ends_with("Panic") { panic!("on purpose") } else { pending().await }
        })
    }
}

async fn misbehaving() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(grpc::serve(
        listener.into(),
        Door::default(),
        Routes::new(Misbehaving),
        Arc::new(Calls::new(Arc::default())),
        CancellationToken::new(),
    ));
    address
}

async fn call(connection: &Http2, method: &str, timeout: Option<&str>) -> Code {
    let headers: Vec<_> = timeout.map(|timeout| ("grpc-timeout", timeout)).into_iter().collect();
    raw::grpc(connection, &format!("/test.Misbehaving/{method}"), &headers, vec![]).await.1.code()
}

#[tokio::test]
async fn a_panic_costs_one_call() {
    let connection = raw::http2(misbehaving().await).await;
    assert_eq!(call(&connection, "Panic", None).await, Code::Internal);
    assert_eq!(call(&connection, "Wait", Some("10m")).await, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_ends_when_its_caller_or_the_service_says() {
    let connection = raw::http2(misbehaving().await).await;
    let timeouts = [Some("1u"), Some("10m"), None, Some("1H"), Some("nonsense")];
    let codes = join_all(timeouts.map(|timeout| call(&connection, "Wait", timeout))).await;
    assert_eq!(codes, [Code::DeadlineExceeded; 5]);
}

#[tokio::test]
async fn too_many_calls_in_progress_are_refused_at_once() {
    let address = misbehaving().await;
    // One connection has at most 256 calls in progress.
    let connections = join_all((0..5).map(|_| raw::http2(address))).await;
    let calls = (0..1100).map(|i| call(&connections[i % 5], "Wait", None));
    let codes = join_all(calls).await;
    let count = |code| codes.iter().filter(|found| **found == code).count();
    assert_eq!((count(Code::DeadlineExceeded), count(Code::ResourceExhausted)), (1024, 76));
}
