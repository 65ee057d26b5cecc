//! The share of one caller, which leaves room for others.

use crate::{
    support::callers_file::CallersFile,
    support::database::Db,
    support::service::{ADA, eventually},
};
use entitlements::{
    api::pb::{CheckFeatureRequest, entitlements_client::EntitlementsClient},
    server::auth::{CallerShare, Scope, StreamKind},
};
use futures_util::future::join_all;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

/// Checks a feature for a user.
async fn ask(channel: &Channel, key: &str, user: &str) -> Result<(), Status> {
    let mut request = Request::new(CheckFeatureRequest {
        user_id: user.into(),
        feature: "export".into(),
        ..Default::default()
    });
    request.metadata_mut().insert("authorization", key.parse().unwrap());
    EntitlementsClient::new(channel.clone()).check_feature(request).await.map(drop)
}

fn refused(answers: &[Result<(), Status>]) -> usize {
    let crowded = |answer: &&Result<(), Status>| {
        answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted)
    };
    answers.iter().filter(crowded).count()
}

#[tokio::test]
async fn a_caller_whose_loads_wait_for_postgres_leaves_room_for_the_others() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let [busy, other] = ["busy", "other"].map(|name| file.create(name, &[Scope::Check]));
    let replica = file.replica(&db).await;
    let mut channels = Vec::new();
    for _ in 0..3 {
        let endpoint = Endpoint::from_shared(format!("http://{}", replica.bound.api)).unwrap();
        channels.push(endpoint.connect().await.unwrap());
    }
    ask(&channels[0], &busy, ADA).await.unwrap(); // fills the cache
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table entitlements.subject, entitlements.item, entitlements.override")
        .execute(&mut *tx)
        .await
        .unwrap();

    // Fewer than the limit of all callers together.
    let strangers: Vec<_> = (0..250).map(|n| format!("user_stranger{n}")).collect();
    let (many, few) = strangers.split_at(230);
    let many = many.iter().zip(channels.iter().cycle());
    let many = join_all(many.map(|(user, channel)| ask(channel, &busy, user)));
    let few = join_all(few.iter().map(|user| ask(&channels[0], &other, user)));
    let (many, few) = tokio::join!(many, few);
    assert!(refused(&many) > 0, "{many:?}");
    assert_eq!(refused(&few), 0, "{few:?}");
    // Cached accounts need no load, with any number of calls.
    let cached = (0..300).zip(channels.iter().cycle());
    let cached = join_all(cached.map(|(_, channel)| ask(channel, &busy, ADA))).await;
    assert!(cached.iter().all(Result::is_ok), "{cached:?}");
    tx.rollback().await.unwrap();
    eventually("load slots are free again", async || {
        ask(&channels[0], &busy, "user_stranger0").await.is_ok()
    })
    .await;
}

#[test]
fn a_caller_has_three_quarters_of_the_streams_and_those_that_end_are_free_again() {
    for (kind, most) in [(StreamKind::Grpc, 7_500), (StreamKind::Ofrep, 750)] {
        let share = CallerShare::new("backend");
        let open = || share.stream(kind);
        let mut all: Vec<_> = (0..most).map(|_| open().expect("there is room")).collect();
        assert!(open().is_none(), "{kind:?}");
        all.pop();
        assert!(open().is_some(), "{kind:?}");
    }
}
