//! Secrets, signatures and parsed bodies. `tests/it/ingest/malformed_webhooks.rs` sends unusual and malformed bodies to
//! a running service.

use super::{SigningSecret, rate_limit::RateLimit, read};
use crate::domain::{ObservedItem, Parsed, Snapshot, Status, SubscriptionUpdate};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

fn secret(text: &str) -> Result<SigningSecret, super::InvalidSigningSecret> {
    SigningSecret::parse(&text.to_owned().into())
}

#[test]
fn signatures_are_those_of_svix() {
    // Sources: the first from Svix's documentation, the second from its Rust library.
    for (key, id, timestamp, body, signature) in [
        (
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
            "msg_loFOjxBNrRLzqYUf",
            1_731_705_121,
            r#"{"event_type":"ping","data":{"success":true}}"#,
            "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ] {
        assert_eq!(secret(key).unwrap().sign(id, timestamp, body), signature);
    }
}

#[test]
fn a_secret_that_can_be_guessed_is_refused() {
    for text in
        ["", "whsec_", "changeme", "whsec_AQ==", "whsec_not base64", "whsec_AAAAAAAAAAAAAAAAAAAA"]
    {
        assert!(secret(text).is_err(), "{text}");
    }
    for text in ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n", " C2FVsBQIhrscChlQIMV+b5sSYspob7oD "] {
        assert!(secret(text).is_ok(), "{text}");
    }
}

fn event(data: &Value) -> Value {
    json!({ "type": "subscription.updated", "timestamp": 1_792_497_601_000_i64, "data": data })
}

fn item(id: &str, status: &str, updated_at: i64) -> Value {
    json!({
        "id": id, "status": status, "updated_at": updated_at,
        "plan": { "id": "cplan_1", "slug": "pro" }, "period_start": 1_792_497_600_000_i64,
    })
}

const PAYER: &str = "user_ada";

fn subscription(status: &str, items: &Value) -> Value {
    json!({
        "id": "csub_1", "status": status, "updated_at": 1_792_497_600_500_i64, "items": items,
        "past_due_at": 1_792_497_600_400_i64, "payer": { "user_id": PAYER, "organization_id": "" },
    })
}

fn now() -> DateTime<Utc> {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

fn items(body: &Value) -> (Vec<ObservedItem>, Option<Snapshot>) {
    match read(body.to_string().as_bytes(), None, now()).parsed {
        Parsed::Update(SubscriptionUpdate::Items { subject, items, snapshot, .. }) => {
            assert_eq!(subject.as_str(), PAYER);
            (items, snapshot)
        }
        other => panic!("{other:?}"),
    }
}

fn ms(instant: DateTime<Utc>) -> i64 {
    instant.timestamp_millis()
}

#[test]
fn the_time_of_sending_may_be_in_seconds_or_in_milliseconds() {
    let mut body = event(&subscription("active", &json!([item("i", "active", 1_792_497_600_000)])));
    for timestamp in [1_792_497_601_000_i64, 1_792_497_601] {
        body["timestamp"] = timestamp.into();
        assert_eq!(ms(items(&body).0[0].sent_at), 1_792_497_601_000);
    }
}

#[test]
fn an_item_without_a_date_has_that_of_its_subscription_or_of_sending() {
    let mut undated = item("i", "active", 0);
    undated["updated_at"] = Value::Null;
    let mut body = event(&subscription("active", &json!([undated.clone()])));
    assert_eq!(ms(items(&body).0[0].item.updated_at), 1_792_497_600_500);
    body["data"]["updated_at"] = Value::Null;
    assert_eq!(ms(items(&body).0[0].item.updated_at), 1_792_497_601_000);
    undated["payer"] = json!({ "user_id": PAYER });
    assert_eq!(ms(items(&event(&undated)).0[0].item.updated_at), 1_792_497_601_000);
}

#[test]
fn a_past_due_item_has_its_date_from_the_subscription_and_no_other_item_has() {
    let both =
        json!([item("a", "past_due", 1_792_497_600_000), item("b", "active", 1_792_497_600_000)]);
    let (items, _) = items(&event(&subscription("past_due", &both)));
    let dates: Vec<_> = items.iter().map(|observed| observed.item.past_due_at.map(ms)).collect();
    assert_eq!(dates, [Some(1_792_497_600_400), None]);
}

#[test]
fn the_later_state_of_an_item_that_is_listed_twice_counts() {
    for (first, second) in [
        (("active", 1), ("ended", 2)),
        (("ended", 2), ("active", 1)),
        (("active", 2), ("ended", 2)),
    ] {
        let at = |ms: i64| 1_792_497_600_000 + ms;
        let twice = json!([item("i", first.0, at(first.1)), item("i", second.0, at(second.1))]);
        let (items, snapshot) = items(&event(&subscription("active", &twice)));
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].item.status, Status::Ended);
        assert_eq!(snapshot.unwrap().listed.unwrap().len(), 1);
    }
}

#[test]
fn an_ended_subscription_ends_all_its_items() {
    let (items, _) =
        items(&event(&subscription("ended", &json!([item("i", "active", 1_792_497_600_000)]))));
    assert_eq!(items[0].item.status, Status::Ended);
}

#[test]
fn an_empty_text_and_null_and_an_absent_key_are_the_same() {
    let full =
        items(&event(&subscription("active", &json!([item("i", "active", 1_792_497_600_000)]))));
    for payer in [
        json!({ "user_id": PAYER }),
        json!({ "user_id": PAYER, "organization_id": null }),
        json!({ "user_id": PAYER, "organization_id": "" }),
    ] {
        let mut body =
            event(&subscription("active", &json!([item("i", "active", 1_792_497_600_000)])));
        body["data"]["payer"] = payer;
        assert_eq!(items(&body), full);
    }
}

#[test]
fn no_window_of_ten_seconds_has_more_requests_than_the_limit() {
    for (key, limit) in [("sk_live_x", 1000), ("sk_test_x", 100)] {
        let (rate_limit, start) = (RateLimit::of(key), Instant::now() + Duration::from_mins(1));
        let mut now = start;
        let slots: Vec<_> = (0..3 * limit)
            .map(|_| {
                now = rate_limit.take(now).max(now);
                now
            })
            .collect();
        let window = Duration::from_secs(10);
        let most = slots
            .iter()
            .map(|from| slots.iter().filter(|at| *at >= from && **at < *from + window).count());
        assert!(most.max().unwrap() <= limit, "{key}");
    }
}
