//! Reconciliation continues after failures, and reports the true state of each account.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY},
    support::metrics::sample,
    support::process::Process,
    support::service::{Replica, eventually, payload},
    support::shell::Shell,
    support::webhook_cases::{FAR, SENT, ask, fits, item, part, shown, snapshot, with, without},
};
use chrono::{Duration, Utc};
use serde_json::{Value, json};

/// Permanently faulty responses about a subject.
const BROKEN: [(u16, &str); 7] = [
    (422, r#"{"errors":[{"code":"billing_disabled"}]}"#),
    (500, "{}"),
    (403, r#"{"errors":[{"code":"feature_not_enabled"}]}"#),
    (400, r#"{"errors":[{"code":"billing_not_enabled"}]}"#),
    (200, "{\"object\": \"commerce_subscription\", \"id\""),
    (200, "<html>bad gateway</html>"),
    (200, include_str!("../../payloads/field/16-bapi-subscription-without-list.json")),
];

/// An active item whose period ended yesterday, which makes it a reconciliation candidate.
fn overdue(subject: &str) -> Value {
    let yesterday = (Utc::now() - Duration::days(1)).timestamp_millis();
    item(
        subject,
        with(part(&format!("csub_item_{subject}"), "active", "pro"), "/period_end", yesterday),
    )
}

/// Clerk's state of the overdue item: renewed.
fn renewed(subject: &str) -> String {
    let item =
        with(part(&format!("csub_item_{subject}"), "active", "pro"), "/updated_at", SENT + 9);
    with(snapshot(subject, "active", vec![item]), "/data/updated_at", SENT + 9).to_string()
}

/// Creates candidates of which every second one always fails, and returns the failing and the repairable subjects.
async fn candidates(db: &Db, clerk: &Clerk) -> (Vec<String>, Vec<String>) {
    let replica = Replica::start(db).await;
    let (mut failing, mut sound) = (Vec::new(), Vec::new());
    for (n, (status, body)) in BROKEN.into_iter().enumerate() {
        let fails = format!("user_{n}_fails");
        replica.send(&overdue(&fails).to_string()).await;
        clerk.answers(&fails, status, body);
        failing.push(fails);
        let heals = format!("user_{n}_heals");
        replica.send(&overdue(&heals).to_string()).await;
        clerk.has(&heals, &renewed(&heals));
        sound.push(heals);
    }
    replica.stop().await.unwrap();
    (failing, sound)
}

#[tokio::test]
async fn a_subject_that_always_fails_does_not_keep_others_from_background_repair() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let (failing, sound) = candidates(&db, &clerk).await;
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    for subject in sound {
        eventually(&format!("{subject} is healed"), async || {
            fits(&ask(&replica, &subject, "export").await, "PLAN")
        })
        .await;
    }
    for subject in failing {
        let found = ask(&replica, &subject, "export").await;
        assert!(fits(&found, "RENEWAL_OVERDUE"), "{subject}: {}", shown(&found));
    }
}

#[tokio::test]
async fn reconcile_finishes_lists_what_failed_and_ends_with_1() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let (failing, sound) = candidates(&db, &clerk).await;
    let (code, stdout, stderr) = Shell::with_clerk(&db, &clerk).run(&["reconcile"]).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    for subject in failing {
        assert!(
            stdout.contains(&subject) || stderr.contains(&subject),
            "{subject}: {stdout}{stderr}"
        );
    }
    assert_eq!(count(&stdout, "healed"), sound.len(), "{stdout}");
    let replica = Replica::start(&db).await;
    for subject in sound {
        let found = ask(&replica, &subject, "export").await;
        assert!(fits(&found, "PLAN"), "{subject}: {}", shown(&found));
    }
    let everything = format!("{stdout}{stderr}");
    assert!(!everything.contains("refuses the key"), "{everything}");
}

/// The number before a word in the last line of the output of `reconcile`.
fn count(stdout: &str, word: &str) -> usize {
    let last = stdout.lines().last().unwrap_or_default();
    let part = last.split(", ").find_map(|part| part.strip_suffix(word));
    part.and_then(|number| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("{word} in {stdout}"))
}

/// Parked deliveries about unknown subjects, by their fault.
fn parked(subject: &str) -> Vec<(&'static str, Value)> {
    let tomorrow = (Utc::now() + Duration::hours(30)).timestamp_millis();
    let active = item(subject, part("csub_item_parked", "active", "pro"));
    let statusless = without(part("csub_item_parked", "active", "pro"), "/status");
    vec![
        ("an active subscription that lists nothing", snapshot(subject, "active", vec![])),
        ("no item that can be read", snapshot(subject, "active", vec![statusless])),
        ("a date ahead", with(active.clone(), "/data/updated_at", tomorrow)),
        ("an item without id", without(active, "/data/id")),
    ]
}

#[tokio::test]
async fn a_subject_with_only_a_parked_delivery_is_repaired_in_the_background() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let before = Replica::start(&db).await;
    let count = parked("user_1").len();
    for n in 0..count {
        let subject = format!("user_parked_{n}");
        let (name, body) = parked(&subject).swap_remove(n);
        assert_eq!(before.send(&body.to_string()).await.result(), "parked", "{name}");
        clerk.has(&subject, &renewed(&subject));
    }
    before.stop().await.unwrap();
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    for n in 0..count {
        let (name, subject) = (parked("user_1")[n].0, format!("user_parked_{n}"));
        eventually(name, async || fits(&ask(&replica, &subject, "export").await, "PLAN")).await;
    }
}

#[tokio::test]
async fn a_list_that_was_parsed_in_part_is_compared_with_clerk() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let before = Replica::start(&db).await;
    let (free, pro) =
        (part("csub_item_f", "ended", "free_user"), part("csub_item_p", "active", "pro"));
    let event =
        snapshot("user_partly", "active", vec![free.clone(), without(pro.clone(), "/status")]);
    assert_eq!(before.send(&event.to_string()).await.result(), "applied");
    clerk.has("user_partly", &snapshot("user_partly", "active", vec![free, pro]).to_string());
    before.stop().await.unwrap();
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("the skipped item is stored", async || {
        fits(&ask(&replica, "user_partly", "export").await, "PLAN")
    })
    .await;
}

#[tokio::test]
async fn items_whose_plan_cannot_be_resolved_are_compared_whatever_their_status_is() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let before = Replica::start(&db).await;
    let statuses = ["active", "canceled", "past_due"];
    for status in statuses {
        for (way, plan) in [("none", Value::Null), ("gold", json!({ "slug": "gold" }))] {
            let subject = format!("user_{status}_{way}");
            let named = part(&format!("csub_item_{subject}"), status, "pro");
            let named = without(named, "/plan_id");
            let unnamed = item(&subject, with(named.clone(), "/plan", plan));
            assert_eq!(before.send(&unnamed.to_string()).await.result(), "applied", "{subject}");
            let truth = snapshot(&subject, "active", vec![named]);
            clerk.has(&subject, &with(truth, "/data/updated_at", SENT).to_string());
        }
    }
    before.stop().await.unwrap();
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    for status in statuses {
        for way in ["none", "gold"] {
            let subject = format!("user_{status}_{way}");
            eventually(&format!("{subject} is healed"), async || {
                ask(&replica, &subject, "export").await.allowed
            })
            .await;
        }
    }
}

#[tokio::test]
async fn healed_is_reported_only_for_an_account_that_now_agrees_with_clerk() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    let unnamed = |subject: &str, status: &str| {
        let part = part(&format!("csub_item_{subject}"), status, "pro");
        with(with(part, "/plan", Value::Null), "/plan_id", "cplan_nobody_knows")
    };
    for (subject, status) in [("user_unnamed", "active"), ("user_unnamed_too", "canceled")] {
        replica.send(&item(subject, unnamed(subject, status)).to_string()).await;
        clerk
            .has(subject, &snapshot(subject, "active", vec![unnamed(subject, status)]).to_string());
        let (_, stdout, stderr) = Shell::with_clerk(&db, &clerk).run(&["reconcile", subject]).await;
        assert_eq!(count(&stdout, "healed"), 0, "{subject}: {stdout}{stderr}");
        assert!(!ask(&replica, subject, "export").await.allowed, "{subject}");
    }
    // An item that ended at Clerk, in a response with unchanged dates.
    let before = part("csub_item_over", "active", "pro");
    replica.send(&item("user_over", before.clone()).to_string()).await;
    let over = snapshot("user_over", "active", vec![with(before, "/status", "ended")]);
    clerk.has("user_over", &with(over, "/data/updated_at", SENT).to_string());
    let (_, stdout, stderr) = Shell::with_clerk(&db, &clerk).run(&["reconcile", "user_over"]).await;
    replica.caught_up().await;
    let found = ask(&replica, "user_over", "export").await;
    assert_eq!(count(&stdout, "healed"), usize::from(!found.allowed), "{stdout}{stderr}");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_counted_as_equal() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    let known = |subject: &str| part(&format!("csub_item_{subject}"), "active", "pro");
    let answers = [
        json!([{ "id": 7, "status": "ended" }]),
        json!([{ "status": "ended", "updated_at": SENT + 9 }]),
        json!(["csub_item_1"]),
        json!({ "data": [] }),
        json!("none"),
    ];
    for (n, items) in answers.into_iter().enumerate() {
        let subject = format!("user_unread_{n}");
        replica.send(&item(&subject, known(&subject)).to_string()).await;
        let answer = json!({
            "object": "commerce_subscription", "id": "csub_1", "status": "active",
            "updated_at": SENT + 9, "subscription_items": items,
        });
        clerk.answers(&subject, 200, answer.to_string());
        let (_, stdout, stderr) =
            Shell::with_clerk(&db, &clerk).run(&["reconcile", &subject]).await;
        assert_eq!(count(&stdout, "not understood"), 1, "{items}: {stdout}{stderr}");
        assert_eq!(count(&stdout, "healed"), 0, "{items}: {stdout}");
        assert!(ask(&replica, &subject, "export").await.allowed, "{items}");
    }
}

#[tokio::test]
async fn a_response_with_a_negative_number_of_seats_ends_the_items_that_it_ends() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().instance = "ins_field".into();
    let replica = Replica::start(&db).await;
    replica.send(&payload("field/42a-active")).await;
    clerk.answers("org_field42", 200, payload("field/42b-bapi-subscription-odd-seats"));
    let (code, stdout, stderr) =
        Shell::with_clerk(&db, &clerk).run(&["reconcile", "org_field42"]).await;
    assert_eq!((code, count(&stdout, "healed")), (0, 1), "{stdout}{stderr}");
    replica.caught_up().await;
    let found = ask(&replica, "org_field42", "sso").await;
    assert!(fits(&found, "ENDED"), "{}", shown(&found));
}

#[tokio::test]
async fn an_item_of_two_subjects_is_logged_counted_and_both_are_compared() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().instance = "ins_field".into();
    let team = part("csub_item_f44", "active", "team");
    clerk.has("org_field44", &snapshot("org_field44", "active", vec![team]).to_string());
    let free = with(part("csub_item_free", "active", "free_user"), "/period_end", FAR);
    let free = with(with(free, "/updated_at", SENT + 9), "/plan_id", Value::Null);
    let truth = snapshot("user_field44", "active", vec![free]);
    clerk.has("user_field44", &with(truth, "/data/updated_at", SENT + 9).to_string());
    let variables = [("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &*clerk.url)];
    let service = Process::start(&db.url, &variables).await;
    for name in ["44a-item", "44b-same-item-other-subject"] {
        let answer = service.send(&payload(&format!("field/{name}"))).await;
        assert_eq!(answer.result(), "applied", "{name}: {answer:?}");
    }
    for subject in ["org_field44", "user_field44"] {
        eventually(&format!("{subject} is compared"), async || clerk.requests_about(subject) > 0)
            .await;
    }
    let page = service.metrics().await;
    let counted: Option<u64> = sample(&page, "entitlements_shared_items_total");
    assert!(counted.is_some_and(|count| count > 0), "{page}");
    assert!(service.log().contains("csub_item_f44"), "{}", service.log());
}
