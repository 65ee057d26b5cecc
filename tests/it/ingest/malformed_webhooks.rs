//! Signed bodies with unusual content: bodies that cannot be parsed are parked and reported, the others are applied.

use crate::{
    support::database::Db,
    support::service::{ACME, ADA, Replica, payload},
};
use entitlements::api::pb::Reason;
use serde_json::{Value, json};

/// An event about Ada's item, for tests to modify.
fn item() -> Value {
    serde_json::from_str(&payload("subscriptionItem.active")).unwrap()
}

/// An event about Ada's subscription.
fn subscription() -> Value {
    serde_json::from_str(&payload("subscription.active.user-pro")).unwrap()
}

/// An event with one value replaced, by JSON pointer.
fn with(mut event: Value, place: &str, value: Value) -> String {
    let (parent, key) = place.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap()[key] = value;
    event.to_string()
}

/// Sends bodies that change only the ledger, by one row each.
async fn check_kept(result: &str, bodies: Vec<(String, &str)>) {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let unchanged = ["item", "snapshot", "override"];
    for (n, (body, words)) in bodies.into_iter().enumerate() {
        let answer = replica.send(&body).await;
        let body: String = body.chars().take(200).collect();
        assert_eq!((answer.status, answer.result()), (200, result), "{body}: {answer:?}");
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(words), "{body}: {detail}");
        assert_eq!(db.count("delivery").await, n + 1, "{body}");
        for table in unchanged {
            assert_eq!(db.count(table).await, 0, "{table} after {body}");
        }
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_parsed_is_parked() {
    let bodies = vec![
        (String::new(), "empty"),
        ("not json".into(), "not JSON"),
        ("{\"type\":\"subscription.updated\",".into(), "not JSON"),
        (format!("{} x", payload("subscriptionItem.active")), "not JSON"),
        ("[\"subscription.updated\",1,{}]".into(), "not an event"),
        ("\"subscription.updated\"".into(), "not an event"),
        ("{\"data\":{}}".into(), "`type`"),
        (with(item(), "/type", Value::Null), "`type`"),
        (with(item(), "/type", json!(7)), "`type`"),
        (with(item(), "/type", json!("t".repeat(10_000))), "`type` is longer"),
        (with(subscription(), "/data", Value::Null), "`data`"),
        (with(subscription(), "/data", json!({})), "`data`"),
        (with(subscription(), "/data", json!([])), "`data`"),
        (with(item(), "/data/payer", Value::Null), "no payer"),
        (with(item(), "/data/payer/user_id", json!("")), "no payer"),
        (with(item(), "/data/payer", json!({})), "no payer"),
        (with(item(), "/data/payer", json!(["user_1", ""])), "no payer"),
        (with(item(), "/data/payer/user_id", json!("org_1")), "must be a Clerk user id"),
        (with(item(), "/data/payer/user_id", json!("user_ 1")), "must be a Clerk user id"),
        (with(item(), "/data/id", json!("")), "no id"),
        (with(item(), "/data/status", Value::Null), "no status"),
        (with(item(), "/data/status", json!(7)), "`status` is not a string"),
        (with(item(), "/timestamp", json!(4_070_908_800_000_i64)), "`timestamp`"),
        (with(item(), "/data/updated_at", json!(4_070_908_800_000_i64)), "`updated_at`"),
        (with(subscription(), "/data/items", json!([])), "is `active`, and lists no item"),
        (with(subscription(), "/data/items", json!("none")), "`items` is not a list"),
        (with(subscription(), "/data/items", json!([7])), "an item is not an object"),
        (
            with(serde_json::from_str(&payload("user.deleted")).unwrap(), "/data/id", Value::Null),
            "names no id",
        ),
    ];
    check_kept("parked", bodies).await;
}

#[tokio::test]
async fn an_event_that_does_not_concern_billing_is_ignored() {
    let bodies = vec![
        (
            with(item(), "/data", json!({})).replace("subscriptionItem.active", "foo.bar"),
            "`foo.bar`",
        ),
        (
            json!({"type": "session.created", "data": {"id": 7, "status": ["x"]}}).to_string(),
            "`session.created`",
        ),
        (
            json!({"type": "role.deleted", "data": {"deleted": true, "id": "role_1"}}).to_string(),
            "`role.deleted`",
        ),
        (json!({"type": "user.created"}).to_string(), "`user.created`"),
        (payload("paymentAttempt.updated.paid"), "`paymentAttempt.updated`"),
        (payload("organizationMembership.created"), "`organizationMembership.created`"),
    ];
    check_kept("ignored", bodies).await;
}

/// Sends one body to a fresh service, and checks the reason of the answer about Ada.
async fn check_applied(body: &str, feature: &str, reason: Reason) {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let answer = replica.send(body).await;
    assert_eq!(answer.result(), "applied", "{body}: {answer:?}");
    let check = replica.check(ADA, "", feature).await;
    assert_eq!(check.reason(), reason, "{body}: {check:?}");
}

#[tokio::test]
async fn an_unusual_body_that_can_be_parsed_is_applied() {
    let seconds = with(item(), "/timestamp", json!(1_792_497_600));
    for (body, reason) in [
        (seconds, Reason::Plan),
        (with(item(), "/type", json!("subscriptionItem.past_due")), Reason::Plan),
        (with(subscription(), "/type", json!("subscription.past_due")), Reason::Plan),
        (with(subscription(), "/type", json!("foo.bar")), Reason::Plan),
        (with(item(), "/object", Value::Null), Reason::Plan),
        (with(item(), "/data/object", json!("something_else")), Reason::Plan),
        (with(item(), "/data/status", json!("paused")), Reason::UnknownStatus),
        (with(item(), "/data/plan", Value::Null), Reason::UnknownPlan),
        (with(item(), "/data/plan/slug", json!("gold")), Reason::UnknownPlan),
        (with(item(), "/data/payer/organization_id", Value::Null), Reason::Plan),
        (with(item(), "/data/updated_at", Value::Null), Reason::Plan),
        (with(item(), "/timestamp", Value::Null), Reason::Plan),
        (with(item(), "/data/period_end", Value::Null), Reason::Plan),
        (with(item(), "/data/period_end", json!(1_792_497_000_000_i64)), Reason::RenewalOverdue),
        (with(item(), "/data/canceled_at", json!(1_792_497_000_000_i64)), Reason::CanceledButPaid),
    ] {
        check_applied(&body, "export", reason).await;
    }
    let mut canceled = item();
    canceled["data"]["status"] = json!("canceled");
    check_applied(
        &with(canceled.clone(), "/data/period_end", Value::Null),
        "export",
        Reason::PeriodOver,
    )
    .await;
    let over = with(canceled, "/data/period_end", json!(1_792_000_000_000_i64));
    check_applied(&over, "export", Reason::PeriodOver).await;
}

#[tokio::test]
async fn all_examples_that_clerk_publishes_are_parsed() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut names = 0;
    for entry in std::fs::read_dir("tests/payloads/published").unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        let expected: &[&str] = match name.split('.').next().unwrap() {
            "paymentAttempt" | "organizationMembership" => &["ignored"],
            _ => &["applied", "superseded"], // the examples share one made-up item and one date
        };
        let answer = replica.send(&payload(&format!("published/{name}"))).await;
        assert!(expected.contains(&answer.result()), "{name}: {answer:?}");
        names += 1;
    }
    assert_eq!(names, 20);
}

#[tokio::test]
async fn an_item_that_names_a_user_and_an_organization_belongs_to_the_organization() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let both = with(item(), "/data/payer/organization_id", json!(ACME));
    let answer = replica.send(&both).await;
    assert_eq!((answer.result(), &answer.body["subject"]), ("applied", &json!(ACME)));
    assert_eq!(answer.body["detail"], "both payer ids are filled: the organization pays");
    assert!(replica.account(ADA).await.items.is_empty());
}

#[tokio::test]
async fn a_subscription_without_items_is_read_by_its_own_status() {
    for (status, items, reason) in [
        ("active", Value::Null, Reason::Plan),
        ("past_due", Value::Null, Reason::Plan),
        ("canceled", Value::Null, Reason::CanceledButPaid),
        ("canceled", json!([]), Reason::CanceledButPaid),
        ("ended", Value::Null, Reason::Ended),
        ("ended", json!([]), Reason::Ended),
        ("abandoned", Value::Null, Reason::Ended),
        ("incomplete", Value::Null, Reason::Ended),
        ("paused", Value::Null, Reason::Plan),
        ("active", json!([]), Reason::Plan),
    ] {
        let mut without = subscription();
        without["data"]["status"] = json!(status);
        let without = with(without, "/data/items", items);
        for item_first in [true, false] {
            let db = Db::new().await;
            let replica = Replica::start(&db).await;
            let item = item().to_string();
            let (first, second) = if item_first { (&item, &without) } else { (&without, &item) };
            replica.send(first).await;
            replica.send(second).await;
            let check = replica.check(ADA, "", "export").await;
            assert_eq!(check.reason(), reason, "{status}, item first: {item_first}: {check:?}");
        }
    }
}

#[tokio::test]
async fn a_delivery_is_recorded_once_and_another_body_under_its_id_is_rejected() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let active = payload("subscriptionItem.active");
    assert_eq!(replica.send_as("msg_1", &active).await.result(), "applied");
    let before = db.fingerprint().await;

    let again = replica.send_as("msg_1", &active).await;
    assert_eq!((again.status, again.result()), (200, "duplicate"));
    let reused = replica.send_as("msg_1", &payload("subscriptionItem.ended")).await;
    assert_eq!((reused.status, reused.result()), (200, "duplicate"));
    assert!(reused.body["detail"].as_str().unwrap().contains("another body"), "{reused:?}");
    let reused = replica.send_as("msg_1", &payload("subscription.created.free-org")).await;
    assert_eq!(reused.result(), "duplicate");
    assert_eq!(db.fingerprint().await, before);
    assert!(replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn an_older_update_is_superseded_by_a_newer_one() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    assert_eq!(replica.send(&payload("subscriptionItem.canceled")).await.result(), "applied");
    let older = replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!((older.status, older.result()), (200, "superseded"));
    let check = replica.check(ADA, "", "export").await;
    assert_eq!(check.reason(), Reason::CanceledButPaid);
}
