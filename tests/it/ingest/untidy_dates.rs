//! Impossible dates and numbers of seats, and events of other kinds with impossible values.

use crate::{
    support::database::Db,
    support::service::Replica,
    support::webhook_cases::{Case, SENT, check, item, part, snapshot, with, with_text, without},
};
use chrono::{Duration, Utc};
use serde_json::{Value, json};

/// JSON texts that are not dates.
const NO_DATES: [&str; 10] =
    ["0", "-1", "-62135596800000", "-1e400", "\"soon\"", "\"\"", "true", "{}", "[]", "null"];

/// JSON texts of dates at and beyond the limit of storable dates.
const FAR_AWAY: [&str; 6] = [
    "7258118400001",
    "253402300799000",
    "9223372036854775807",
    "9223372036854775808",
    "1e300",
    "1e400",
];

/// Creates one case for each text at a place of an item.
fn dated(place: &str, status: &str, texts: &[&str], reason: &'static str) -> Vec<Case> {
    let key = place.trim_start_matches("/data/");
    let cases = texts.iter().enumerate().map(|(n, text)| {
        let subject = format!("user_{key}_{status}_{n}");
        let id = format!("csub_item_{key}_{status}_{n}");
        let body = with_text(item(&subject, part(&id, status, "pro")), place, text);
        let case = Case::new(format!("{status}, {key} is {text}"), &subject);
        case.sends(&body, "applied").then("export", reason)
    });
    cases.collect()
}

#[tokio::test]
async fn a_date_of_an_item_that_is_not_positive_is_absent() {
    let mut cases = dated("/data/period_end", "active", &NO_DATES, "PLAN");
    cases.extend(dated("/data/period_start", "active", &NO_DATES, "PLAN"));
    cases.extend(dated("/data/canceled_at", "active", &NO_DATES, "PLAN"));
    cases.extend(dated("/data/past_due_at", "active", &NO_DATES, "PLAN"));
    cases.extend(dated("/data/ended_at", "active", &NO_DATES, "PLAN"));
    cases.extend(dated("/data/created_at", "active", &NO_DATES, "PLAN"));
    cases.extend(dated("/data/past_due_at", "past_due", &NO_DATES, "PAST_DUE_IN_GRACE"));
    let unreadable = |text: &&str| ["\"soon\"", "true", "{}", "[]"].contains(text);
    let none: Vec<_> = NO_DATES.into_iter().filter(|text| !unreadable(text)).collect();
    cases.extend(dated("/data/period_end", "canceled", &none, "PERIOD_OVER"));
    cases.extend(dated("/data/period_start", "canceled", &NO_DATES, "CANCELED_BUT_PAID"));
    cases.extend(dated("/data/canceled_at", "canceled", &NO_DATES, "CANCELED_BUT_PAID"));
    cases.extend(dated("/data/period_end", "ended", &NO_DATES, "ENDED"));
    cases.extend(dated("/data/period_start", "ended", &NO_DATES, "ENDED"));
    cases.extend(dated("/data/period_start", "upcoming", &NO_DATES, "NOT_STARTED"));
    check(&cases).await;
}

#[tokio::test]
async fn a_cancellation_whose_end_cannot_be_parsed_is_parked_and_removes_nothing() {
    let cases =
        ["\"soon\"", "true", "{}", "[]", "1792497600"].into_iter().enumerate().map(|(n, text)| {
            let (subject, id) = (format!("user_end_{n}"), format!("csub_item_end_{n}"));
            let canceled = item(&subject, part(&id, "canceled", "pro"));
            let case = Case::new(format!("period_end is {text}"), &subject)
                .sends(&item(&subject, part(&id, "active", "pro")), "applied")
                .sends(&with_text(canceled, "/data/period_end", text), "parked");
            case.then("export", "PLAN")
        });
    check(&cases.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_date_of_an_item_beyond_the_calendar_is_the_far_future() {
    let mut cases = dated("/data/period_end", "active", &FAR_AWAY, "PLAN");
    cases.extend(dated("/data/period_start", "active", &FAR_AWAY, "ALLOWED"));
    cases.extend(dated("/data/canceled_at", "active", &FAR_AWAY, "ALLOWED"));
    cases.extend(dated("/data/past_due_at", "active", &FAR_AWAY, "PLAN"));
    cases.extend(dated("/data/period_end", "canceled", &FAR_AWAY, "CANCELED_BUT_PAID"));
    cases.extend(dated("/data/period_end", "past_due", &FAR_AWAY, "PAST_DUE_IN_GRACE"));
    cases.extend(dated("/data/period_end", "ended", &FAR_AWAY, "ENDED"));
    check(&cases).await;
}

#[tokio::test]
async fn the_dates_of_a_dead_item_do_not_spoil_a_live_one() {
    let mut cases = Vec::new();
    for (n, text) in NO_DATES.iter().chain(&FAR_AWAY).enumerate() {
        for (m, key) in ["period_end", "period_start", "canceled_at"].into_iter().enumerate() {
            let subject = format!("user_dead_{n}_{m}");
            let dead = part(&format!("csub_item_dead_{n}_{m}"), "ended", "free_user");
            let live = part(&format!("csub_item_live_{n}_{m}"), "active", "pro");
            let event = snapshot(&subject, "active", vec![dead, live]);
            let body = with_text(event, &format!("/data/items/0/{key}"), text);
            let case = Case::new(format!("{key} is {text}"), subject).sends(&body, "applied");
            cases.push(case.then("export", "PLAN"));
        }
    }
    check(&cases).await;
}

#[tokio::test]
async fn an_impossible_updated_at_counts_as_absent() {
    let mut cases = Vec::new();
    for (n, text) in ["null", "0", "-1", "\"x\"", "1000", "{}"].into_iter().enumerate() {
        let (subject, id) = (format!("user_version_{n}"), format!("csub_item_version_{n}"));
        let event = |status: &str, sent: i64| {
            let event = item(&subject, part(&id, status, "pro"));
            with_text(with(event, "/timestamp", sent), "/data/updated_at", text)
        };
        let case = |name: &str, body: String, result| {
            Case::new(format!("updated_at is {text}, {name}"), &subject).sends(&body, result)
        };
        cases.push(case("first", event("active", SENT), "applied").then("export", "PLAN"));
        let older = case("older", event("ended", SENT - 1000), "superseded");
        cases.push(older.then("export", "PLAN"));
        cases.push(case("newer", event("ended", SENT + 1000), "applied").then("export", "ENDED"));
        let listed = part(&id, "active", "pro");
        let listed = with(snapshot(&subject, "active", vec![listed]), "/timestamp", SENT + 9000);
        let listed = without(listed, "/data/items/0/updated_at");
        let listed = with_text(listed, "/data/updated_at", text);
        cases.push(case("in a list", listed, "applied").then("export", "PLAN"));
    }
    check(&cases).await;
}

#[tokio::test]
async fn an_impossible_timestamp_counts_as_absent() {
    let mut cases = Vec::new();
    for (n, text) in ["null", "0", "-1", "\"x\"", "{}", "-1e400"].into_iter().enumerate() {
        let (subject, id) = (format!("user_sent_{n}"), format!("csub_item_sent_{n}"));
        let event = item(&subject, part(&id, "active", "pro"));
        let case = Case::new(format!("timestamp is {text}"), subject);
        cases.push(
            case.sends(&with_text(event, "/timestamp", text), "applied").then("export", "PLAN"),
        );
    }
    check(&cases).await;
}

#[tokio::test]
async fn an_updated_at_of_more_than_a_day_ahead_is_parked() {
    let ahead = |hours| (Utc::now() + Duration::hours(hours)).timestamp_millis();
    let case = |name: &str, updated_at: i64, result, reason| {
        let (subject, id) = (format!("user_ahead_{name}"), format!("csub_item_ahead_{name}"));
        let event = item(&subject, with(part(&id, "active", "pro"), "/updated_at", updated_at));
        let event = with(event, "/timestamp", SENT);
        Case::new(name, subject).sends(&event, result).then("export", reason)
    };
    check(&[
        case("12h", ahead(12), "applied", "PLAN"),
        case("30h", ahead(30), "parked", "NOT_IN_PLAN"),
        case("300h", ahead(300), "parked", "NOT_IN_PLAN"),
        case("2099", 4_070_908_800_000, "parked", "NOT_IN_PLAN"),
    ])
    .await;
}

#[tokio::test]
async fn numbers_of_seats_are_read_in_every_spelling_and_a_negative_one_is_absent() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut failed = Vec::new();
    for (n, (text, expected)) in [
        ("{\"quantity\":5}", Some(Some(5))),
        ("{\"quantity\":\"5\"}", Some(Some(5))),
        ("{\"quantity\":5.0}", Some(Some(5))),
        ("{\"quantity\":5e0}", Some(Some(5))),
        ("{\"quantity\":0}", Some(Some(0))),
        ("{\"quantity\":null}", Some(None)),
        ("{\"quantity\":-1}", None),
        ("{\"quantity\":-5.0}", None),
        ("{\"quantity\":\"-1\"}", None),
        ("null", None),
    ]
    .into_iter()
    .enumerate()
    {
        let (subject, id) = (format!("org_seats_{n}"), format!("csub_item_seats_{n}"));
        let body = with_text(item(&subject, part(&id, "active", "team")), "/data/seats", text);
        let answer = replica.send(&body).await;
        let items = replica.account(&subject).await.items;
        let found = items.first().map(|item| item.seats.map(|seats| seats.quantity));
        let granted = replica.check("", &subject, "sso").await.allowed;
        if (answer.result(), found, granted) != ("applied", Some(expected), true) {
            failed.push(format!("{text}: {found:?}, granted: {granted}, {answer:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test]
async fn an_event_that_does_not_concern_billing_is_ignored_with_any_dates() {
    let mut cases = Vec::new();
    let kinds = ["user.updated", "session.created", "organization.created", "email.created"];
    let ahead = (Utc::now() + Duration::hours(90)).timestamp_millis().to_string();
    let dates = ["0", "-1", "1e400", "\"x\"", "null", "{}", "1000", "4070908800000", &*ahead];
    for kind in kinds {
        for text in dates {
            let event = json!({
                "object": "event", "type": kind, "timestamp": SENT, "instance_id": "ins_1",
                "data": { "object": "user", "id": "user_elsewhere", "updated_at": SENT },
            });
            for place in ["/timestamp", "/data/updated_at", "/data/created_at"] {
                let body = with_text(event.clone(), place, text);
                let name = format!("{kind}, {place} is {text}");
                cases.push(Case::new(name, "user_elsewhere").sends(&body, "ignored"));
            }
        }
    }
    check(&cases).await;
}

#[tokio::test]
async fn a_payment_attempt_changes_nothing_with_any_content() {
    let paid = crate::support::service::payload("published/paymentAttempt.updated");
    let paid: Value = serde_json::from_str(&paid).unwrap();
    let subject = "user_2g7np7Hrk0SN6kj5EDMLDaKNL0S";
    let mut cases = Vec::new();
    for kind in ["created", "updated", "failed", "paid", "refunded"] {
        let event = with(paid.clone(), "/type", format!("paymentAttempt.{kind}"));
        for (place, text) in [
            ("/timestamp", "1e400"),
            ("/timestamp", "0"),
            ("/data/updated_at", "-1"),
            ("/data/status", "\"active\""),
            ("/data/items", "[]"),
            ("/data/zz", "\"\\u0000\\ud800\""),
        ] {
            let name = format!("paymentAttempt.{kind}, {place} is {text}");
            let case =
                Case::new(name, subject).sends(&with_text(event.clone(), place, text), "ignored");
            cases.push(case.then("export", "NOT_IN_PLAN"));
        }
    }
    check(&cases).await;
}

#[tokio::test]
async fn a_deletion_counts_with_any_dates() {
    let mut cases = Vec::new();
    for (n, text) in ["null", "0", "-1", "\"x\"", "{}", "1e-400"].into_iter().enumerate() {
        let (subject, id) = (format!("user_gone_{n}"), format!("csub_item_gone_{n}"));
        let event = json!({
            "object": "event", "type": "user.deleted", "timestamp": SENT,
            "data": { "object": "user", "id": subject, "deleted": true, "slug": "x" },
        });
        let case = Case::new(format!("timestamp is {text}"), &subject)
            .sends(&item(&subject, part(&id, "active", "pro")), "applied")
            .sends(&with_text(event, "/timestamp", text), "applied");
        cases.push(case.then("export", "SUBJECT_DELETED"));
    }
    check(&cases).await;
}
