//! One caller leaves room for the others.

use crate::{
    callers::CallersFile,
    db::Db,
    service::{Replica, config},
};
use entitlements::{
    callers::{Scope, Share, StreamKind},
    config::Config,
    grpc::pb::{CheckFeatureRequest, entitlements_client::EntitlementsClient},
};
use futures_util::{StreamExt, stream};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

/// Asks about a user whose account is not cached.
async fn ask(channel: &Channel, key: &str, user: usize) -> Result<(), Status> {
    let mut request = Request::new(CheckFeatureRequest {
        user_id: format!("user_stranger{user}"),
        feature: "export".into(),
        ..Default::default()
    });
    request.metadata_mut().insert("authorization", key.parse().unwrap());
    EntitlementsClient::new(channel.clone()).check_feature(request).await.map(drop)
}

#[tokio::test]
async fn a_caller_whose_calls_wait_for_postgres_leaves_room_for_the_others() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let [busy, other] = ["busy", "other"].map(|name| file.create(name, &[Scope::Check]));
    let replica = Replica::launch(Config { locks: file.locks(), ..config(&db) }).await;
    replica.serving().await;
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table subject, item, override").execute(&mut *tx).await.unwrap();

    let mut channels = Vec::new();
    for _ in 0..2 {
        let endpoint = Endpoint::from_shared(format!("http://{}", replica.bound.grpc)).unwrap();
        channels.push(endpoint.connect().await.unwrap());
    }
    let calls = (0..300).map(|n| ask(&channels[n % 2], &busy, n));
    let mut calls = stream::iter(calls).buffer_unordered(300);
    // The first to be answered are those that are not let wait.
    for _ in 0..300 - 192 {
        let refused = calls.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("the caller has too many"), "{refused:?}");
    }
    let others = (300..340).map(|n| ask(&channels[0], &other, n));
    let others = stream::iter(others).buffer_unordered(40).collect::<Vec<_>>();
    let waiting = calls.collect::<Vec<_>>();
    let release = async {
        tx.rollback().await.unwrap();
    };
    let (others, waiting, ()) = tokio::join!(others, waiting, release);
    let is_crowded = |answer: &&Result<(), Status>| {
        answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted)
    };
    assert_eq!(others.iter().filter(is_crowded).count(), 0, "{others:?}");
    assert_eq!(waiting.iter().filter(is_crowded).count(), 0, "{waiting:?}");
    // What they held is free again.
    assert!(ask(&channels[0], &busy, 400).await.is_ok());
    let (_, metrics) = replica.get("/metrics").await;
    assert!(
        metrics.contains("entitlements_calls_refused_total{cause=\"too_many\"} 108"),
        "{metrics}"
    );
}

#[test]
fn a_caller_has_three_quarters_of_the_streams_and_those_that_end_are_free_again() {
    for (kind, most) in [(StreamKind::Grpc, 7_500), (StreamKind::Ofrep, 750)] {
        let share = Share::default();
        let mut open: Vec<_> =
            (0..most).map(|_| share.stream(kind).expect("there is room")).collect();
        assert!(share.stream(kind).is_none(), "{kind:?}");
        open.pop();
        assert!(share.stream(kind).is_some(), "{kind:?}");
    }
}
