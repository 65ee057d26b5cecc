//! An unreadable part of a subscription is skipped alone, and an unreadable list ends no item.

use crate::{
    support::database::Db,
    support::service::Replica,
    support::webhook_cases::{Case, SENT, check, item, part, snapshot, with, with_text, without},
};
use entitlements::api::pb::{DeliveryFilter, ListDeliveriesRequest};
use serde_json::{Value, json};
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Faults of a listed item: name, place, text, and words of the reported detail.
const BAD: [Bad; 20] = [
    ("an empty id", "/id", "\"\"", "id"),
    ("no id", "/id", "null", "id"),
    ("a number as id", "/id", "7", "id"),
    ("an id with a NUL", "/id", r#""csub_item_\u0000""#, "id"),
    ("an id with a lone surrogate", "/id", r#""csub_item_\ud800""#, "id"),
    ("a list as id", "/id", "[\"csub_item_1\"]", "id"),
    ("a slug with a NUL", "/plan/slug", r#""p\u0000""#, "slug"),
    ("a slug with a lone surrogate", "/plan/slug", r#""p\udfff""#, "slug"),
    ("a number as slug", "/plan/slug", "7", "slug"),
    ("no status", "/status", "null", "status"),
    ("a number as status", "/status", "7", "status"),
    ("an object as status", "/status", "{}", "status"),
    ("an empty status", "/status", "\"\"", "status"),
    ("a status with a NUL", "/status", r#""active\u0000""#, "status"),
    ("a word as number of seats", "/seats", "{\"quantity\":\"many\"}", "seats"),
    ("a list as number of seats", "/seats", "{\"quantity\":[1]}", "seats"),
    ("half a seat", "/seats", "{\"quantity\":2.5}", "seats"),
    ("more seats than there are numbers", "/seats", "{\"quantity\":1e400}", "seats"),
    ("a text as seats", "/seats", "\"five\"", "seats"),
    ("true as number of seats", "/seats", "{\"quantity\":true}", "seats"),
];

type Bad = (&'static str, &'static str, &'static str, &'static str);

/// Faults that make the whole item unusable, because its id or its status is unreadable.
fn lost() -> impl Iterator<Item = (usize, Bad)> {
    BAD.into_iter().enumerate().filter(|(_, (_, place, ..))| ["/id", "/status"].contains(place))
}

/// A snapshot of a good and a bad item, without an item that was stored before.
fn beside(n: usize, name: &str, listed: [Value; 2], edit: (&str, &str), words: &[&str]) -> Case {
    let subject = format!("user_part_{n}");
    let known = item(&subject, part(&format!("csub_item_known_{n}"), "active", "max"));
    let event = snapshot(&subject, "active", Vec::from(listed));
    Case::new(name, &subject)
        .sends(&known, "applied")
        .sends(&with_text(event, edit.0, edit.1), "applied")
        .explained(words)
        .then("export", "PLAN")
        .then("ai_assistant", "PLAN")
}

fn bad_items() -> Vec<Case> {
    let mut cases = Vec::new();
    let long = format!("\"{}\"", "p".repeat(200));
    let longer = format!("\"{}\"", "i".repeat(10_000));
    let mut all = BAD.to_vec();
    all.push(("a slug of 200 bytes", "/plan/slug", &long, "slug"));
    all.push(("an id of 10,000 bytes", "/id", &longer, "id"));
    for (n, (name, place, text, word)) in all.into_iter().enumerate() {
        for first in [true, false] {
            let n = 2 * n + usize::from(first);
            let good = part(&format!("csub_item_good_{n}"), "active", "pro");
            let bad_id = format!("csub_item_bad_{n}");
            let bad = part(&bad_id, "active", "free_user");
            let at = usize::from(!first);
            let listed = if first { [bad, good] } else { [good, bad] };
            let place = format!("/data/items/{at}{place}");
            cases.push(beside(n, name, listed, (&place, text), &[word, &bad_id]));
        }
    }
    cases
}

#[tokio::test]
async fn an_item_that_cannot_be_parsed_is_skipped_alone_and_nothing_is_withdrawn() {
    check(&bad_items()).await;
}

#[tokio::test]
async fn an_item_that_is_not_an_object_is_skipped_alone_and_nothing_is_withdrawn() {
    let mut cases = Vec::new();
    for (n, text) in ["null", "7", "\"pro\"", "[]", "true", "1e400"].into_iter().enumerate() {
        let n = 100 + n;
        let good = part(&format!("csub_item_good_{n}"), "active", "pro");
        let edit = ("/data/items/0", text);
        cases.push(beside(n, text, [json!({ "id": "csub_item_none" }), good], edit, &["item"]));
    }
    check(&cases).await;
}

#[tokio::test]
async fn a_stored_item_with_a_part_that_cannot_be_parsed_stays_as_it_is() {
    let mut cases = Vec::new();
    for (n, (name, place, text, _)) in lost() {
        let (subject, id) = (format!("user_kept_{n}"), format!("csub_item_kept_{n}"));
        let good = part(&format!("csub_item_kept_good_{n}"), "active", "free_user");
        let bad = with(part(&id, "ended", "pro"), "/updated_at", SENT + 4);
        let event = snapshot(&subject, "active", vec![good, bad]);
        let case = Case::new(name, &subject)
            .sends(&item(&subject, part(&id, "active", "pro")), "applied")
            .sends(&with_text(event, &format!("/data/items/1{place}"), text), "applied");
        cases.push(case.then("export", "PLAN").then("basic_reports", "PLAN"));
    }
    check(&cases).await;
}

#[tokio::test]
async fn an_item_with_an_unreadable_plan_or_seats_still_ends() {
    let mut cases = Vec::new();
    let lost: Vec<_> = lost().map(|(n, _)| n).collect();
    for (n, (name, place, text, word)) in BAD.into_iter().enumerate() {
        if lost.contains(&n) {
            continue;
        }
        let (subject, id) = (format!("user_over_{n}"), format!("csub_item_over_{n}"));
        let over = with(part(&id, "ended", "pro"), "/updated_at", SENT + 4);
        let event = snapshot(&subject, "active", vec![over]);
        let case = Case::new(name, &subject)
            .sends(&item(&subject, part(&id, "active", "pro")), "applied")
            .sends(&with_text(event, &format!("/data/items/0{place}"), text), "applied");
        cases.push(case.explained(&[word, &id]).then("export", "ENDED"));
    }
    check(&cases).await;
}

#[tokio::test]
async fn a_subscription_without_a_readable_item_is_parked() {
    let mut cases = Vec::new();
    for (n, (name, place, text, _)) in lost() {
        let (subject, id) = (format!("user_none_{n}"), format!("csub_item_none_{n}"));
        let bad = part(&format!("csub_item_none_bad_{n}"), "active", "free_user");
        let event = snapshot(&subject, "active", vec![bad]);
        let case = Case::new(name, &subject)
            .sends(&item(&subject, part(&id, "active", "pro")), "applied")
            .sends(&with_text(event, &format!("/data/items/0{place}"), text), "parked");
        cases.push(case.then("export", "PLAN"));
    }
    check(&cases).await;
}

#[tokio::test]
async fn the_ledger_names_the_skipped_items() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let good = part("csub_item_good", "active", "pro");
    let bad = without(part("csub_item_bad", "active", "max"), "/status");
    let event = snapshot("user_ledger", "active", vec![good, bad]).to_string();
    assert_eq!(replica.send(&event).await.result(), "applied");
    let filter = DeliveryFilter { subject: "user_ledger".into(), ..Default::default() };
    let request = ListDeliveriesRequest { filter: Some(filter), ..Default::default() };
    let mut admin = replica.admin();
    let listed = admin.list_deliveries(request).await.unwrap().into_inner().deliveries;
    let found: Vec<_> = listed.iter().map(|one| (&*one.result, &*one.detail)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "applied");
    assert!(found[0].1.contains("status") || found[0].1.contains("csub_item_bad"), "{found:?}");
}

/// A stored item of `pro`, followed by a subscription whose list cannot be used.
fn shapes() -> Vec<Case> {
    let mut cases = Vec::new();
    let lists = [
        ("empty", Some(("items", json!([])))),
        ("null", Some(("items", Value::Null))),
        ("absent", None),
        ("an object", Some(("items", json!({})))),
        ("a text", Some(("items", json!("pro")))),
        ("under `lines`", Some(("lines", json!([part("csub_item_x", "ended", "pro")])))),
        ("under `subscriptionItems`", Some(("subscriptionItems", json!([])))),
        ("empty under `subscription_items`", Some(("subscription_items", json!([])))),
        ("null under `subscription_items`", Some(("subscription_items", Value::Null))),
    ];
    for status in ["active", "past_due", "paused", "trialing", "renewed"] {
        for (n, (name, list)) in lists.iter().enumerate() {
            let (subject, id) = (format!("user_{status}_{n}"), format!("csub_item_{status}_{n}"));
            let mut event = without(snapshot(&subject, status, vec![]), "/data/items");
            if let Some((key, value)) = list {
                event["data"][*key] = value.clone();
            }
            let case = Case::new(format!("{status}, list {name}"), &subject)
                .sends(&item(&subject, part(&id, "active", "pro")), "applied")
                .sends(&event, "parked");
            cases.push(case.then("export", "PLAN"));
        }
    }
    cases
}

#[tokio::test]
async fn a_live_or_unknown_subscription_that_lists_nothing_is_parked_and_ends_nothing() {
    check(&shapes()).await;
}

#[tokio::test]
async fn a_list_is_read_under_the_name_that_the_api_has_for_it() {
    let moved = |subject: &str, listed: Vec<Value>, items: Option<Value>| {
        let mut event = snapshot(subject, "active", vec![]);
        event["data"]["subscription_items"] = json!(listed);
        match items {
            Some(value) => with(event, "/data/items", value),
            None => without(event, "/data/items"),
        }
    };
    let case = |subject: &str, status: &str, items: Option<Value>, reason| {
        let id = format!("csub_item_{subject}");
        let changed = with(part(&id, status, "pro"), "/updated_at", SENT + 5);
        Case::new(subject, subject)
            .sends(&item(subject, part(&id, "active", "pro")), "applied")
            .sends(&moved(subject, vec![changed], items), "applied")
            .then("export", reason)
    };
    let other = moved("user_alias_5", vec![part("csub_item_alias_5b", "active", "max")], None);
    let other = Case::new("one that is not listed", "user_alias_5")
        .sends(&item("user_alias_5", part("csub_item_alias_5", "active", "pro")), "applied")
        .sends(&other, "applied")
        .then("ai_assistant", "PLAN");
    let fresh = moved("user_alias_6", vec![part("csub_item_alias_6", "active", "pro")], None);
    let fresh = Case::new("of somebody new", "user_alias_6").sends(&fresh, "applied");
    check(&[
        case("user_alias_1", "ended", None, "ENDED"),
        case("user_alias_2", "canceled", None, "CANCELED_BUT_PAID"),
        case("user_alias_3", "past_due", Some(Value::Null), "PAST_DUE_IN_GRACE"),
        case("user_alias_4", "ended", Some(Value::Null), "ENDED"),
        other,
        fresh.then("export", "PLAN"),
    ])
    .await;
}

/// Sends a request with a body of this size, and reads the response to the orderly end of the connection.
async fn oversized(to: SocketAddr, size: usize) -> io::Result<String> {
    let mut peer = TcpStream::connect(to).await?;
    let head = "POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    peer.write_all(format!("{head}content-length: {size}\r\n\r\n").as_bytes()).await?;
    for _ in 0..size / 1024 {
        peer.write_all(&[b'x'; 1024]).await?;
    }
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_body_over_the_limit_is_rejected_so_that_the_sender_reads_the_response() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for size in [513 * 1024, 600 * 1024, 1024 * 1024, 2 * 1024 * 1024] {
        for _ in 0..4 {
            let answer = oversized(replica.bound.webhook, size).await;
            let is_refusal = |answer: &String| answer.starts_with("HTTP/1.1 413");
            assert!(answer.as_ref().is_ok_and(is_refusal), "{size}: {answer:?}");
        }
        let answer = replica.post(&[], "x".repeat(size)).await;
        assert_eq!(answer.status, 413, "{size}: {answer:?}");
    }
}
