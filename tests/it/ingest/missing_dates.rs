//! Missing dates: the signed time of an attempt and the newest item of a list replace them.

use crate::{
    support::database::Db,
    support::service::{Replica, payload, secret},
    support::webhook_cases::{
        SENT, ask, check, fits, in_every_order, item, orders, part, shown, snapshot, with, without,
    },
};
use chrono::Utc;
use entitlements::api::pb::DeliveryFilter;
use serde_json::Value;

/// Delivers a body as an attempt signed this many seconds ago.
async fn attempt(replica: &Replica, id: &str, ago: i64, body: &str) -> String {
    let signed = Utc::now().timestamp() - ago;
    let headers = [
        ("svix-id", id.to_owned()),
        ("svix-timestamp", signed.to_string()),
        ("svix-signature", secret().sign(id, signed, body)),
    ];
    let answer = replica.post(&headers, body.to_owned()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.result().to_owned()
}

/// An event without any date of its own.
fn undated(subject: &str, status: &str) -> String {
    let event = item(subject, part(&format!("csub_item_{subject}"), status, "pro"));
    without(without(event, "/timestamp"), "/data/updated_at").to_string()
}

/// The undated event as a subscription that lists the item.
fn undated_list(subject: &str, status: &str) -> String {
    let listed = without(part(&format!("csub_item_{subject}"), status, "pro"), "/updated_at");
    let event = snapshot(subject, "active", vec![listed]);
    without(without(event, "/timestamp"), "/data/updated_at").to_string()
}

#[tokio::test]
async fn without_dates_the_signed_time_dates_a_delivery_in_every_order() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let story = [(200, "active", "PLAN"), (120, "canceled", ""), (40, "ended", "ENDED")];
    for (kind, body) in [("item", undated as fn(&str, &str) -> String), ("list", undated_list)] {
        for order in orders(story.len()) {
            let digits: String = order.iter().map(ToString::to_string).collect();
            let subject = format!("user_{kind}_{digits}");
            for n in order {
                let (ago, status, _) = story[n];
                let id = format!("msg_{kind}_{digits}_{n}");
                let result = attempt(&replica, &id, ago, &body(&subject, status)).await;
                assert!(["applied", "superseded"].contains(&&*result), "{subject}, {n}: {result}");
            }
            let found = ask(&replica, &subject, "export").await;
            assert!(fits(&found, "ENDED"), "{subject}: {}", shown(&found));
        }
    }
}

#[tokio::test]
async fn a_replay_and_a_second_attempt_keep_the_date_of_the_first() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let subject = "user_replayed";
    assert_eq!(attempt(&replica, "msg_1", 200, &undated(subject, "active")).await, "applied");
    assert_eq!(attempt(&replica, "msg_2", 100, &undated(subject, "ended")).await, "applied");
    assert_eq!(attempt(&replica, "msg_1", 0, &undated(subject, "active")).await, "duplicate");
    let replayed = replica.replay(DeliveryFilter::default(), false).await;
    assert!(replayed.iter().all(|(_, after)| after == "superseded"), "{replayed:?}");
    let found = ask(&replica, subject, "export").await;
    assert!(fits(&found, "ENDED"), "{}", shown(&found));
    assert_eq!(attempt(&replica, "msg_3", 50, &undated(subject, "active")).await, "applied");
    replica.replay(DeliveryFilter::default(), false).await;
    let found = ask(&replica, subject, "export").await;
    assert!(fits(&found, "PLAN"), "{}", shown(&found));
}

#[tokio::test]
async fn a_date_of_its_own_counts_before_the_signed_time() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let ended = part("csub_item_dated", "ended", "pro");
    let ended = item("user_dated", with(ended, "/updated_at", SENT + 9)).to_string();
    let active = item("user_dated", part("csub_item_dated", "active", "pro")).to_string();
    assert_eq!(attempt(&replica, "msg_1", 200, &ended).await, "applied");
    assert_eq!(attempt(&replica, "msg_2", 0, &active).await, "superseded");
    let newer = without(serde_json::from_str(&active).unwrap(), "/data/updated_at");
    let newer = with(newer, "/timestamp", SENT + 20).to_string();
    assert_eq!(attempt(&replica, "msg_3", 250, &newer).await, "applied");
    assert!(fits(&ask(&replica, "user_dated", "export").await, "PLAN"));
}

/// A snapshot with this item at this time, whose own date is before that of the item.
fn not_moved(subject: &str, items: Vec<Value>) -> String {
    with(snapshot(subject, "active", items), "/data/updated_at", SENT - 86_400_000).to_string()
}

/// An item of a subject with this date.
fn dated(subject: &str, name: &str, status: &str, plan: &str, ms: i64) -> Value {
    let part = part(&format!("csub_item_{subject}_{name}"), status, plan);
    with(part, "/updated_at", SENT + ms)
}

#[tokio::test]
async fn a_snapshot_is_at_least_as_new_as_its_newest_item_in_every_order() {
    let captured = |subject: &str| {
        [1, 2]
            .map(|n| {
                payload(&format!("field/captured/44-snapshot-date-not-moved-{n}"))
                    .replace("user_cap44", subject)
                    .replace("csub_item_cap44", &format!("csub_item_{subject}"))
            })
            .to_vec()
    };
    let answers = [("export", "DENIED"), ("basic_reports", "PLAN")];
    let mut cases = in_every_order("captured", captured, &answers);
    let replaced = |subject: &str| {
        vec![
            item(subject, dated(subject, "free", "active", "free_user", -9000)).to_string(),
            item(subject, dated(subject, "pro", "active", "pro", 0)).to_string(),
            not_moved(subject, vec![dated(subject, "free", "active", "free_user", 1000)]),
        ]
    };
    cases.extend(in_every_order("replaced", replaced, &answers));
    let upgraded = |subject: &str| {
        let pro = dated(subject, "pro", "active", "pro", 0);
        vec![
            not_moved(subject, vec![pro.clone()]),
            item(subject, pro).to_string(),
            not_moved(subject, vec![dated(subject, "max", "active", "max", 5000)]),
            item(subject, dated(subject, "max", "active", "max", 5000)).to_string(),
        ]
    };
    let answers = [("export", "PLAN"), ("ai_assistant", "PLAN")];
    cases.extend(in_every_order("upgraded", upgraded, &answers));
    check(&cases).await;
}

#[tokio::test]
async fn an_item_newer_than_every_item_of_a_snapshot_is_not_withdrawn_by_it() {
    let newer = |subject: &str| {
        vec![
            not_moved(subject, vec![dated(subject, "free", "active", "free_user", 1000)]),
            item(subject, dated(subject, "pro", "active", "pro", 2000)).to_string(),
        ]
    };
    check(&in_every_order("newer", newer, &[("export", "PLAN")])).await;
}
