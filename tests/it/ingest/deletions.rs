//! The deletion of a subject removes all personal data: no body about it remains, also none that arrives later.

use crate::{
    support::database::Db,
    support::service::{ADA, Answer, Replica, payload},
};
use entitlements::api::pb::ReplayDeliveriesRequest;
use futures_util::future::join_all;
use serde_json::{Value, json};

/// The deliveries whose bodies are kept, by id.
async fn kept(db: &Db) -> Vec<String> {
    let query = "select svix_id from entitlements.delivery where body is not null order by svix_id";
    sqlx::query_scalar(query).fetch_all(&db.pool().await).await.unwrap()
}

/// A payload that names its payer and cannot be parsed otherwise.
fn not_understood(payer: &str) -> String {
    let mut body: Value = serde_json::from_str(&payload("subscriptionItem.active")).unwrap();
    body["data"]["id"] = Value::Null;
    body["data"]["payer"]["user_id"] = json!(payer);
    body.to_string()
}

fn about(payload_name: &str, user: &str) -> String {
    payload(payload_name).replace(ADA, user)
}

fn membership(user: &str) -> String {
    payload("organizationMembership.created").replace("user_3RVkjAMD6tuLJUtI1bOUSpCxDTw", user)
}

#[tokio::test]
async fn a_deletion_removes_all_bodies_about_its_subject_and_later_ones_are_not_kept() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let of = async |user: &str, id: &str| -> Vec<Answer> {
        let bodies = [
            about("subscriptionItem.active", user),
            not_understood(user),
            about("paymentAttempt.created.checkout", user),
            membership(user),
        ];
        let mut answers = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            answers.push(replica.send_as(&format!("msg_{id}_{n}"), body).await);
        }
        answers
    };
    let results = |answers: &[Answer]| answers.iter().map(|a| a.result().to_owned()).collect();
    let before: Vec<String> = results(&of(ADA, "ada").await);
    assert_eq!(before, ["applied", "parked", "ignored", "ignored"]);
    of("user_other", "other").await;
    assert_eq!(kept(&db).await.len(), 8);

    let deleted = replica.send_as("msg_deleted", &payload("user.deleted")).await;
    assert_eq!(deleted.result(), "applied", "{deleted:?}");
    let others = ["msg_other_0", "msg_other_1", "msg_other_2", "msg_other_3"];
    assert_eq!(kept(&db).await, others);
    let after: Vec<String> = results(&of(ADA, "late").await);
    assert_eq!(after, ["superseded", "parked", "ignored", "ignored"]);
    assert_eq!(kept(&db).await, others);

    // Other data stays: the ledger still lists the deliveries.
    let again = replica.send_as("msg_ada_0", &about("subscriptionItem.active", ADA)).await;
    assert_eq!(again.body, json!({ "result": "duplicate" }));
    let rows =
        "select count(*) from entitlements.delivery where subject = $1 and body_sha256 is not null";
    let rows: i64 = sqlx::query_scalar(rows).bind(ADA).fetch_one(&db.pool().await).await.unwrap();
    assert_eq!(rows, 9);
}

#[tokio::test]
async fn a_replay_that_identifies_the_subject_of_a_body_deletes_it_if_the_subject_was_deleted() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
    // The row of an earlier release that could not determine the subject.
    let pool = db.pool().await;
    let unknown_subject = "update entitlements.delivery set subject = null, result = 'parked' where svix_id = 'msg_1'";
    sqlx::query(unknown_subject).execute(&pool).await.unwrap();
    replica.send_as("msg_2", &payload("user.deleted")).await;
    assert_eq!(kept(&db).await, ["msg_1"]);
    let mut admin = replica.admin();
    for (dry_run, left) in [(true, vec!["msg_1"]), (false, vec![])] {
        let request = ReplayDeliveriesRequest { dry_run, ..Default::default() };
        let replayed = admin.replay_deliveries(request).await.unwrap().into_inner().replayed;
        let after: Vec<_> = replayed.iter().map(|r| (&*r.svix_id, &*r.after)).collect();
        assert!(after.contains(&("msg_1", "superseded")), "dry run {dry_run}: {after:?}");
        assert_eq!(kept(&db).await, left, "dry run {dry_run}");
    }
}

#[tokio::test]
async fn a_body_that_arrives_during_the_deletion_is_not_kept() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for n in 0..20 {
        let user = format!("user_{n}");
        let (parked, deletion) = (not_understood(&user), about("user.deleted", &user));
        let ids = ["a", "b", "c"].map(|id| format!("msg_{n}_{id}"));
        let (one, other, deleted) = tokio::join!(
            replica.send_as(&ids[0], &parked),
            replica.send_as(&ids[1], &parked),
            replica.send_as(&ids[2], &deletion),
        );
        assert_eq!(
            [one.result(), other.result(), deleted.result()],
            ["parked", "parked", "applied"]
        );
    }
    assert_eq!(kept(&db).await, [""; 0]);
}

#[tokio::test]
async fn concurrent_deletions_and_deliveries_never_deadlock() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    // Subjects whose deletions share one lock row.
    let users = "select 'user_' || n from generate_series(1, 100000) n
        where hashtextextended('user_' || n, 0) & 1023::bigint = 7 limit 12";
    let users: Vec<String> = sqlx::query_scalar(users).fetch_all(&db.pool().await).await.unwrap();
    assert_eq!(users.len(), 12);
    for _ in 0..3 {
        let all = users.iter().flat_map(|user| {
            let bodies = [not_understood(user), membership(user), about("user.deleted", user)];
            bodies.into_iter().chain([about("subscriptionItem.active", user)])
        });
        let answers = join_all(all.map(async |body| replica.send(&body).await)).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    }
    assert_eq!(kept(&db).await, [""; 0]);
}
