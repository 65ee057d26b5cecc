//! The layers between a connection and the services, tested with services that misbehave.

use crate::{
    support::database::Db,
    support::raw_socket::{self, Http2},
    support::service::{ADA, Replica, eventually, payload},
};
use entitlements::{
    api::{
        self, AuthLayer, Protocols,
        pb::{self, CheckFeatureRequest},
    },
    server::grpc::CallMetrics,
    telemetry::{Metrics, Telemetry, log_panics},
};
use futures_util::future::join_all;
use http::{Request, Response};
use prost::Message;
use serde_json::Value;
use std::{
    convert::Infallible,
    future::pending,
    io::{self, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body, server::NamedService, service::Routes};
use tower_service::Service;
use tracing_subscriber::util::SubscriberInitExt;

/// A service that panics or never answers, depending on the method's name.
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
    let telemetry = Telemetry::default();
    let api = api::Api {
        services: Routes::new(Misbehaving),
        auth_layer: AuthLayer::default(),
        protocols: Protocols::none(None, None, telemetry.metrics.clone()),
        calls: Arc::new(CallMetrics::new(telemetry, pb::DESCRIPTOR)),
        age: Duration::from_mins(1),
    };
    tokio::spawn(api.serve(listener.into(), CancellationToken::new()));
    address
}

async fn call(connection: &Http2, method: &str, timeout: Option<&str>) -> Code {
    let headers: Vec<_> = timeout.map(|timeout| ("grpc-timeout", timeout)).into_iter().collect();
    raw_socket::grpc(connection, &format!("/test.Misbehaving/{method}"), &headers, vec![])
        .await
        .1
        .code()
}

#[tokio::test]
async fn a_panic_costs_one_call() {
    let connection = raw_socket::http2(misbehaving().await).await;
    assert_eq!(call(&connection, "Panic", None).await, Code::Internal);
    assert_eq!(call(&connection, "Wait", Some("10m")).await, Code::DeadlineExceeded);
}

/// Collects the log of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number of panics in this process.
fn panics() -> u64 {
    let page = Metrics::default().encode();
    let line = page.lines().find_map(|line| line.strip_prefix("entitlements_panics_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_panic_is_an_event_of_the_log_and_counted() {
    log_panics();
    let log = Log::default();
    let writer = log.clone();
    let logs = tracing_subscriber::fmt().json().flatten_event(true);
    let _guard = logs.with_writer(move || writer.clone()).set_default();
    let connection = raw_socket::http2(misbehaving().await).await;
    let mut count = panics();
    let mut is_counted = || {
        let before = std::mem::replace(&mut count, panics());
        count > before
    };
    assert_eq!(call(&connection, "Panic", None).await, Code::Internal);
    assert!(is_counted());
    assert!(tokio::spawn(async { panic!("of a {}", "task") }).await.is_err());
    assert!(is_counted());
    let of_a_value = async { std::panic::panic_any(42) };
    assert!(tokio::spawn(of_a_value).await.is_err());
    assert!(is_counted());
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let panics: Vec<_> =
        lines.iter().filter(|line| line["message"] == "a part of the service panicked").collect();
    let causes: Vec<_> = panics.iter().map(|line| line["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["on purpose", "of a task", "a value that is not text"]);
    for panic in panics {
        assert_eq!(panic["level"], "ERROR");
        assert!(
            panic["location"].as_str().unwrap().contains("misbehaving_services.rs:"),
            "{panic}"
        );
    }
}

#[tokio::test]
async fn a_call_ends_at_the_deadline_of_its_caller_or_of_the_service() {
    let connection = raw_socket::http2(misbehaving().await).await;
    let timeouts = [Some("1u"), Some("10m"), None, Some("1H"), Some("nonsense")];
    let codes = join_all(timeouts.map(|timeout| call(&connection, "Wait", timeout))).await;
    assert_eq!(codes, [Code::DeadlineExceeded; 5]);
}

#[tokio::test]
async fn excess_calls_that_wait_for_the_database_are_rejected_at_once_and_others_are_answered() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.caught_up().await; // otherwise a late change could invalidate the cached account
    assert!(replica.check(ADA, "", "export").await.allowed);
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table entitlements.subject in access exclusive mode")
        .execute(&mut *tx)
        .await
        .unwrap();
    let connections = join_all((0..5).map(|_| raw_socket::http2(replica.bound.api))).await;
    eventually("one is refused", async || {
        let calls = (0..1250).map(|i| cold_check(&connections[i % 5], i));
        let codes = join_all(calls).await;
        assert!(codes.iter().all(|c| matches!(c, Code::ResourceExhausted | Code::Unavailable)));
        codes.contains(&Code::ResourceExhausted)
    })
    .await;
    assert!(replica.check(ADA, "", "export").await.allowed);
    tx.rollback().await.unwrap();
}

/// Checks a subject that is not cached.
async fn cold_check(connection: &Http2, number: usize) -> Code {
    let (user_id, feature) = (format!("user_{number}"), "export".into());
    let request = CheckFeatureRequest { user_id, feature, ..Default::default() };
    let message = request.encode_to_vec();
    let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    body.extend(message);
    let path = "/entitlements.v1.Entitlements/CheckFeature";
    raw_socket::grpc(connection, path, &[], body).await.1.code()
}
