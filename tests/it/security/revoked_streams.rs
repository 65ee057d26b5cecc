//! Streams of every protocol end when their caller's key or scope is removed.

use crate::{
    support::callers_file::CallersFile,
    support::certificates::{Authority, Name, connect_tls},
    support::database::Db,
    support::grpc_methods::methods,
    support::http_client::HttpClient,
    support::service::{ADA, Replica, config, eventually},
};
use entitlements::{
    api::flagd::pb::{
        sync::{SyncFlagsRequest, flag_sync_service_client::FlagSyncServiceClient as Sync},
        v1::{self, service_client::ServiceClient as V1},
        v2::{self, service_client::ServiceClient as V2},
    },
    config::{Config, ListenerFiles},
    server::auth::Scope,
};
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use std::{
    fs,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

/// Longer than the reload of a callers file (1 s), shorter than the life of a stream (10 min).
const TIMEOUT: Duration = Duration::from_secs(10);

/// The status code at the end of an open stream.
type End = Pin<Box<dyn Future<Output = Code> + Send>>;

/// Reads a stream to its end, after its first message has arrived.
async fn end<T: Send + 'static>(stream: tonic::Response<Streaming<T>>) -> End {
    let mut stream = stream.into_inner();
    stream.message().await.unwrap().expect("the stream is open");
    Box::pin(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    })
}

/// Opens a stream of every gRPC method that has one, by name.
async fn open(channel: &Channel, key: Option<&str>) -> Vec<(&'static str, End)> {
    let request = |mut metadata: tonic::metadata::MetadataMap| {
        if let Some(key) = key {
            metadata.insert("authorization", key.parse().unwrap());
        }
        metadata.insert("flagd-selector", format!("userId={ADA}").parse().unwrap());
        metadata
    };
    macro_rules! with {
        ($message:expr) => {{
            let mut with = Request::new($message);
            *with.metadata_mut() = request(Default::default());
            with
        }};
    }
    let on = || channel.clone();
    let services = MessageRequest::ListServices(String::new());
    let asked = ServerReflectionRequest { message_request: Some(services), ..Default::default() };
    let asked = stream::iter([asked]).chain(stream::pending());
    let mut reflection = ServerReflectionClient::new(on());
    vec![
        (
            "/flagd.evaluation.v1.Service/EventStream",
            end(V1::new(on()).event_stream(with!(v1::EventStreamRequest {})).await.unwrap()).await,
        ),
        (
            "/flagd.evaluation.v2.Service/EventStream",
            end(V2::new(on()).event_stream(with!(v2::EventStreamRequest {})).await.unwrap()).await,
        ),
        (
            "/flagd.sync.v1.FlagSyncService/SyncFlags",
            end(Sync::new(on()).sync_flags(with!(SyncFlagsRequest::default())).await.unwrap())
                .await,
        ),
        ("reflection", end(reflection.server_reflection_info(with!(asked)).await.unwrap()).await),
    ]
}

/// Checks that all these streams end with the error of a rejected caller.
async fn check_ended(streams: Vec<(&'static str, End)>) {
    let begun = Instant::now();
    join_all(streams.into_iter().map(async |(name, end)| {
        let code = timeout(TIMEOUT, end).await;
        assert_eq!(code, Ok(Code::Unauthenticated), "{name}");
        eprintln!("{name} ended {} ms after the change", begun.elapsed().as_millis());
    }))
    .await;
}

#[tokio::test]
async fn every_stream_ends_when_its_key_is_revoked_and_no_other_one() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let revoked = file.create("revoked", &[Scope::Check]);
    let kept = file.create("kept", &[Scope::Check]);
    let replica = file.replica(&db).await;
    let (mine, mut theirs) =
        (open(&replica.channel, Some(&revoked)).await, open(&replica.channel, Some(&kept)).await);
    let tested: Vec<_> = mine.iter().map(|(name, _)| *name).collect();
    for method in methods().into_iter().filter(|method| method.is_stream) {
        assert!(tested.contains(&&*method.path), "{} is not tested", method.path);
    }
    let streams = mine.len();
    file.revoke("revoked");
    check_ended(mine).await;
    let (_, metrics) = replica.get("/metrics").await;
    let count = format!("entitlements_calls_refused_total{{cause=\"wrong_key\"}} {streams}");
    assert!(metrics.contains(&count), "{count} in:\n{metrics}");
    for (name, end) in &mut theirs {
        assert_eq!(end.now_or_never(), None, "{name} of another key goes on");
    }

    let text = fs::read_to_string(file.path()).unwrap();
    fs::write(file.path(), text.replace("[\"check\"]", "[\"admin\"]")).unwrap();
    let reflection = theirs.pop().unwrap();
    check_ended(theirs).await;
    assert_eq!(reflection.1.now_or_never(), None, "reflection needs no certain scope");
}

/// Whether an event stream ends within the timeout.
async fn is_closed(mut events: reqwest::Response) -> bool {
    timeout(TIMEOUT, async { while events.chunk().await.unwrap().is_some() {} }).await.is_ok()
}

#[tokio::test]
async fn event_streams_over_http_are_closed_when_their_key_is_revoked() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let key = file.create("revoked", &[Scope::Check]);
    let kept = file.create("kept", &[Scope::Check]);
    let replica = file.replica(&db).await;
    let http_client = HttpClient::of(&replica);
    let uri = format!("{}/ofrep/v1/events?userId={ADA}", http_client.base);
    let ask = async |key: &str| {
        http_client.client.get(&uri).header("authorization", key).send().await.unwrap()
    };
    let (mut mine, mut theirs) = (ask(&key).await, ask(&kept).await);
    assert!(mine.chunk().await.unwrap().is_some() && theirs.chunk().await.unwrap().is_some());
    file.revoke("revoked");
    let begun = Instant::now();
    assert!(is_closed(mine).await, "the stream goes on");
    eprintln!("OFREP events ended {} ms after the change", begun.elapsed().as_millis());
    assert_eq!(ask(&key).await.status(), 401);
    assert!(theirs.chunk().now_or_never().is_none(), "that of another key goes on");
    file.revoke("kept");
    assert!(is_closed(theirs).await);
}

#[tokio::test]
async fn streams_of_a_certificate_end_when_its_scopes_are_removed() {
    let (db, authority, file) = (Db::new().await, Authority::new(), CallersFile::new());
    let listeners = ListenerFiles {
        api: Some(authority.listener()),
        client_ca: Some(authority.client_ca()),
        ..file.listeners()
    };
    let replica = Replica::launch(Config { listeners, ..config(&db) }).await;
    let identity = || Some(authority.issue(&[Name::Uri("spiffe://test/backend")]));
    let http_client = HttpClient::by_tls(&replica, &authority, identity());
    eventually("the replica is ready", async || replica.get("/readyz").await.0 == 200).await;
    let grpc = connect_tls(replica.bound.api, authority.client(identity())).await.unwrap();
    let mut streams = open(&grpc, None).await;
    let uri = format!("{}/ofrep/v1/events?userId={ADA}", http_client.base);
    let mut events = http_client.client.get(&uri).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());

    let other = "[certificates.\"spiffe://test/other\"]\nscopes = []\n";
    fs::write(file.path(), other).unwrap();
    let probe = HttpClient::by_tls(
        &replica,
        &authority,
        Some(authority.issue(&[Name::Uri("spiffe://test/other")])),
    );
    eventually("the other one is rejected", async || {
        let path = format!("{}/ofrep/v1/events?userId={ADA}", probe.base);
        probe.client.get(path).send().await.unwrap().status() == 403
    })
    .await;
    for (name, end) in &mut streams {
        assert_eq!(end.now_or_never(), None, "{name} of another certificate goes on");
    }
    fs::write(file.path(), other.replace("other", "backend")).unwrap();
    check_ended(streams).await;
    assert!(is_closed(events).await);
}
