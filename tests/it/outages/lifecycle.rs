//! Health, reflection, probes and metrics, and the start and stop of a replica.

use crate::{
    support::database::Db,
    support::proxy::{Link, Proxy},
    support::raw_socket,
    support::service::{ADA, Replica, config, payload},
};
use insta::assert_snapshot;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tonic_reflection::pb::{v1, v1alpha};

const SERVICE: &str = "entitlements.v1.Entitlements";

#[tokio::test]
async fn health_is_reported_for_the_process_and_for_the_service_by_name() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut health = HealthClient::new(replica.channel.clone());
    for service in ["", SERVICE] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "other".into() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_its_versions() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(replica.channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answers = client.server_reflection_info(tokio_stream_of(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    let others = [
        "flagd.evaluation.v1.Service",
        "flagd.sync.v1.FlagSyncService",
        "envoy.service.auth.v3.Authorization",
    ];
    for service in [SERVICE].into_iter().chain(others) {
        assert!(names.contains(&service.to_owned()), "{service} in {names:?}");
    }

    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(replica.channel.clone());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "google.rpc.BadRequest".into(),
            ),
        ),
    };
    let answers = client.server_reflection_info(tokio_stream_of(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert!(matches!(
        answer.message_response,
        Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));
}

fn tokio_stream_of<T: Send + 'static>(one: T) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::once(async { one })
}

#[tokio::test]
async fn metrics_count_deliveries_checks_and_loads_and_are_served_only_internally() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.caught_up().await;
    replica.check(ADA, "", "export").await;
    replica.check(ADA, "", "sso").await;
    let (status, metrics) = replica.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "entitlements_deliveries_total{result=\"applied\"} 1",
        "entitlements_checks_total{reason=\"REASON_PLAN\"} 1",
        "entitlements_checks_total{reason=\"REASON_NOT_IN_PLAN\"} 1",
        "entitlements_cache_hits_total 1",
        "entitlements_cache_loads_total{result=\"ok\"} 1",
        "entitlements_change_lag_seconds_count",
        "entitlements_changes_heard_at_seconds",
        "entitlements_catalog_version 1",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} in:\n{metrics}");
    }
    assert_eq!(replica.get("/livez").await, (200, "alive\n".into()));
    assert_eq!(replica.get("/readyz").await, (200, "ready\n".into()));
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 404)] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = raw_socket::exchange(replica.bound.webhook, request).await;
        assert_eq!(raw_socket::status(&answer), status, "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_replica_waits_for_its_database_and_serves_when_it_comes() {
    let db = Db::absent();
    db.create_empty().await;
    let proxy = Proxy::before(&db.url).await;
    proxy.set(Link::Cut);
    let mut config = config(&db);
    config.database = proxy.url(db.name()).parse().unwrap();
    config.migrate = true;
    let replica = Replica::launch(config).await;
    let answer = replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    proxy.set(Link::Whole);
    replica.serving().await;
    assert_eq!(replica.send(&payload("subscriptionItem.active")).await.result(), "applied");
    assert!(replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn a_replica_ends_if_the_schema_does_not_fit() {
    let db = Db::absent();
    db.create_empty().await;
    let error = Replica::launch(config(&db)).await.ended().await.unwrap_err();
    assert_snapshot!(error, @"the database is not migrated: run `entitlements migrate`, or start with --migrate");

    let db = Db::new().await;
    let insert =
        "insert into entitlements._sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'from the future', true, '', 0)";
    sqlx::raw_sql(insert).execute(&db.pool().await).await.unwrap();
    let error = Replica::launch(config(&db)).await.ended().await.unwrap_err();
    assert_snapshot!(error, @"the database was migrated by a newer release, too far for this build: deploy that release");
}

#[tokio::test]
async fn cached_accounts_are_answered_during_a_database_outage_and_others_are_unavailable() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.caught_up().await;
    assert!(replica.check(ADA, "", "export").await.allowed);
    db.drop_by_force().await;
    let mut client = replica.client.clone();
    let request = entitlements::api::pb::CheckFeatureRequest {
        user_id: "user_stranger".into(),
        feature: "export".into(),
        ..Default::default()
    };
    let status = client.check_feature(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    crate::support::service::eventually("answers say how stale they are", async || {
        let answer = replica.check(ADA, "", "export").await;
        assert!(answer.allowed, "{answer:?}");
        answer.stale_for.is_some()
    })
    .await;
    let answer = replica.send(&payload("subscriptionItem.ended")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
}

#[tokio::test]
async fn stopping_ends_open_watches_and_idle_connections_and_refuses_new_ones() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut health = HealthClient::new(replica.channel.clone());
    let mut states = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = states.message().await.unwrap().unwrap();
    assert_eq!(first.status, ServingStatus::Serving as i32);
    let idle = raw_socket::http2(replica.bound.api).await;
    let silent = tokio::net::TcpStream::connect(replica.bound.webhook).await.unwrap();
    let (http, grpc) = (replica.bound.webhook, replica.bound.api);

    let stopped = timeout(Duration::from_secs(20), replica.stop()).await;
    stopped.expect("stopped in time").unwrap();
    let last = states.message().await;
    let not_serving = ServingStatus::NotServing as i32;
    assert!(!matches!(last, Ok(Some(state)) if state.status != not_serving));
    for address in [http, grpc] {
        tokio::net::TcpStream::connect(address).await.unwrap_err();
    }
    drop((idle, silent));
}
