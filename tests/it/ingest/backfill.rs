//! The backfill imports all of Clerk's data once, regardless of earlier deliveries and interruptions.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY, item},
    support::service::{ACME, ADA, Replica, config, eventually, payload},
};
use entitlements::api::pb::Reason;
use serde_json::{Value, json};
use std::time::Instant;

/// This many users with the plan `pro`.
fn users(count: usize) -> Vec<Value> {
    let one = item(&payload("subscriptionItem.active"));
    let of = |n: usize| {
        let mut item = one.clone();
        item["id"] = json!(format!("csub_item_{n}"));
        item["payer"] = json!({ "user_id": format!("user_{n}") });
        item
    };
    (0..count).map(of).collect()
}

#[tokio::test]
async fn an_empty_database_is_backfilled_from_clerk() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().items = [
        "subscriptionItem.canceled",
        "subscriptionItem.upcoming.free-default",
        "subscriptionItem.active.free-trial",
        "subscriptionItem.active.plan-swap",
        "subscriptionItem.active.org-seats",
    ]
    .map(|name| item(&payload(name)))
    .to_vec();
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("Clerk's items are here", async || {
        replica.check("", ACME, "sso").await.allowed
            && replica.check(ADA, "", "export").await.reason() == Reason::CanceledButPaid
    })
    .await;
}

#[tokio::test]
async fn a_delivery_that_comes_first_does_not_keep_the_backfill_from_being_done() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    Replica::start(&db).await.send(&payload("subscription.active.user-pro")).await;
    clerk.state.lock().unwrap().items = users(1);
    let _replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("Clerk's item is here too", async || db.count("subject").await == 2).await;
}

#[tokio::test]
async fn a_backfill_that_was_cut_short_is_done_by_another_replica_and_then_never_again() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().items = users(9);
    let pool = db.pool().await;
    let run = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.unwrap();
    };
    // The state after a replica started the backfill and was killed.
    run("insert into entitlements.backfill (claimed_until) values (now() + interval '1 minute')")
        .await;
    let mut with_key = config(&db);
    with_key.backend_api = Some(clerk.access(KEY));
    let replica = Replica::start_with(with_key).await;
    eventually("it asked Clerk for something", async || clerk.state.lock().unwrap().requests > 3)
        .await;
    assert_eq!(db.count("subject").await, 0, "another replica has claimed it");
    drop(replica);

    run("update entitlements.backfill set claimed_until = now() - interval '1 second'").await;
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("everything is imported", async || db.count("subject").await == 9).await;
    eventually("it is noted", async || db.count("backfill where done_at is not null").await == 1)
        .await;
    drop(replica);

    clerk.state.lock().unwrap().items = users(12);
    let asked = clerk.state.lock().unwrap().requests;
    let _replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("Clerk is asked for its plans again", async || {
        clerk.state.lock().unwrap().requests > asked + 2
    })
    .await;
    assert_eq!(db.count("subject").await, 9);
}

/// `BACKFILL=100000` sets the number of subjects. The fake answers at most 1,000 requests in 10 s.
#[tokio::test]
async fn a_backfill_imports_every_page() {
    let count = std::env::var("BACKFILL").ok().and_then(|n| n.parse().ok()).unwrap_or(1_200);
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().items = users(count);
    let started = Instant::now();
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("all subjects are imported", async || db.count("subject").await >= count).await;
    let requests = clerk.state.lock().unwrap().requests;
    println!("{count} subjects imported in {:?}, {requests} requests", started.elapsed());
    for n in [0, count / 2, count - 1] {
        assert!(replica.check(&format!("user_{n}"), "", "export").await.allowed, "user_{n}");
    }
}
