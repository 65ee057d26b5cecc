//! Grace after a failed payment counts from the first failure, and a trial is unpaid.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, subscription},
    support::service::{Replica, config, eventually, payload},
    support::shell::Shell,
    support::webhook_cases::{
        Case, FAR, SENT, ask, check, check_on, fits, in_every_order, item, part, shown, snapshot,
        with,
    },
};
use chrono::{Duration, Utc};
use entitlements::api::pb::Reason;
use serde_json::Value;

/// A replica that ends access three days after a failed payment.
async fn replica(db: &Db) -> Replica {
    let mut config = config(db);
    config.catalog.as_mut().unwrap().0.grace.past_due = Some(Duration::days(3));
    Replica::start_with(config).await
}

/// The example catalog with this table `[grace]`.
fn with_grace(grace: &str) -> String {
    format!("{}\n[grace]\n{grace}\n", include_str!("../../../catalog.example.toml"))
}

#[tokio::test]
async fn a_change_of_grace_is_planned_and_applied_as_a_catalog_version_without_a_restart() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let subject = "user_overdue";
    replica.send(&at(-10, subject, "active", day(-5))).await;
    let now = replica.check(subject, "", "export").await;
    assert_eq!((now.allowed, now.valid_until), (true, None), "without a grace until Clerk ends it");

    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    for (grace, effect) in
        [("renewal = \"20days\"", "EARLIER  EXAMPLES"), ("renewal = \"2days\"", "LOSE  EXAMPLES")]
    {
        shell.write("grace.toml", &with_grace(grace));
        let (code, stdout, stderr) = shell.run(&["catalog", "plan", "grace.toml"]).await;
        assert!(code == 0 && stdout.contains(effect), "{grace}: {stdout}{stderr}");
    }
    let (code, refused, _) = shell.run(&["catalog", "apply", "grace.toml"]).await;
    assert!(code == 1 && refused.contains("--yes"), "a loss needs consent: {refused}");
    let (code, stdout, _) = shell.run(&["catalog", "apply", "grace.toml", "--yes"]).await;
    assert!(code == 0 && stdout.ends_with("catalog 2 is in force now\n"), "{stdout}");
    eventually("the replica decides with the grace", async || {
        let denied = replica.check(subject, "", "export").await;
        !denied.allowed && denied.reason() == Reason::PeriodOver
    })
    .await;
}

/// The time this many days from now, in Unix milliseconds.
fn day(days: i64) -> i64 {
    (Utc::now() + Duration::days(days)).timestamp_millis()
}

/// An item event dated on this day.
fn at(days: i64, subject: &str, status: &str, period_end: i64) -> String {
    event(days, subject, part(&format!("csub_item_{subject}"), status, "pro"), period_end)
}

fn event(days: i64, subject: &str, part: Value, period_end: i64) -> String {
    let part = with(with(part, "/updated_at", day(days)), "/period_end", period_end);
    item(subject, part).to_string()
}

/// A body from a bug report, changed to another subject and item.
fn file(name: &str, subject: &str) -> String {
    let mut event: Value = serde_json::from_str(&payload(&format!("field/{name}"))).unwrap();
    event["data"]["payer"]["user_id"] = subject.into();
    let id = format!("csub_item_{subject}");
    match event["data"].get_mut("items") {
        Some(items) => items[0]["id"] = id.into(),
        None => event["data"]["id"] = id.into(),
    }
    event.to_string()
}

#[tokio::test]
async fn a_second_failure_does_not_restart_the_grace() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let reported =
        |names: [&'static str; 2]| move |subject: &str| names.map(|n| file(n, subject)).to_vec();
    let mut cases = in_every_order(
        "reported twice",
        reported(["09a-past-due-first", "09b-past-due-again"]),
        &[("export", "PAST_DUE")],
    );
    cases.extend(in_every_order(
        "a snapshot has the date",
        reported(["09c-snapshot-with-past-due-at", "09d-item-event-after-it"]),
        &[("export", "PAST_DUE")],
    ));
    let again = |subject: &str| {
        [-8, -5, -2, -1].map(|days| at(days, subject, "past_due", day(-8))).to_vec()
    };
    cases.extend(in_every_order("four times", again, &[("export", "PAST_DUE")]));
    let renewed = |subject: &str| {
        let first = at(-8, subject, "past_due", day(-8));
        let again = part(&format!("csub_item_{subject}"), "past_due", "pro");
        let again = with(again, "/past_due_at", day(-1));
        vec![first, event(-1, subject, again, day(-8))]
    };
    cases.extend(in_every_order("another date", renewed, &[("export", "PAST_DUE")]));
    let recent =
        |subject: &str| [-2, -1].map(|days| at(days, subject, "past_due", day(-2))).to_vec();
    cases.extend(in_every_order("recent", recent, &[("export", "PAST_DUE_IN_GRACE")]));
    check_on(&replica, &cases).await;
}

#[tokio::test]
async fn a_date_that_a_snapshot_has_is_not_erased_by_an_event_without_it() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let dated = |subject: &str| {
        let id = format!("csub_item_{subject}");
        let due = with(part(&id, "past_due", "pro"), "/past_due_at", day(-8));
        let due = with(due, "/updated_at", day(-2));
        let listed = snapshot(subject, "past_due", vec![due]);
        let listed = with(with(listed, "/data/updated_at", day(-2)), "/timestamp", day(-2));
        vec![listed.to_string(), at(-1, subject, "past_due", day(-8))]
    };
    let cases = in_every_order("a date in a list", dated, &[("export", "PAST_DUE")]);
    check_on(&replica, &cases).await;
}

#[tokio::test]
async fn a_payment_resets_the_grace() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let paid = |subject: &str| {
        vec![
            at(-8, subject, "past_due", day(-8)),
            at(-6, subject, "active", day(24)),
            at(-1, subject, "past_due", day(-1)),
        ]
    };
    let mut cases = in_every_order("paid between", paid, &[("export", "PAST_DUE_IN_GRACE")]);
    let recovered = |subject: &str| {
        vec![at(-8, subject, "past_due", day(-8)), at(-1, subject, "active", day(29))]
    };
    cases.extend(in_every_order("paid in the end", recovered, &[("export", "PLAN")]));
    let over = |subject: &str| {
        vec![
            at(-20, subject, "past_due", day(-20)),
            at(-15, subject, "active", day(15)),
            at(-6, subject, "past_due", day(-6)),
        ]
    };
    cases.extend(in_every_order("paid, then over", over, &[("export", "PAST_DUE")]));
    check_on(&replica, &cases).await;
}

/// A past-due subscription with an item of status active and these dates.
fn top_level(days: i64, subject: &str, period_end: i64) -> String {
    let listed =
        with(part(&format!("csub_item_{subject}"), "active", "pro"), "/period_end", period_end);
    let listed = with(listed, "/updated_at", day(days));
    let event = snapshot(subject, "past_due", vec![listed]);
    let event = with(event, "/data/past_due_at", day(days));
    with(with(event, "/data/updated_at", day(days)), "/timestamp", day(days)).to_string()
}

/// The past-due subscription after a payment yesterday.
fn recovered(subject: &str) -> String {
    let mut event: Value = serde_json::from_str(&top_level(-1, subject, day(29))).unwrap();
    event["data"]["past_due_at"] = Value::Null;
    with(event, "/data/status", "active").to_string()
}

#[tokio::test]
async fn a_subscription_that_is_past_due_bounds_its_overdue_items() {
    let db = Db::new().await;
    let capped = replica(&db).await;
    let case = |subject: &str, body: String, reason| {
        Case::new(subject, subject).sends(&body, "applied").then("export", reason)
    };
    let cases = [
        case("user_field10", payload("field/10-top-level-past-due-only"), "DENIED"),
        case("user_top_8", top_level(-8, "user_top_8", day(-8)), "DENIED"),
        case("user_top_2", top_level(-2, "user_top_2", day(-2)), "ALLOWED"),
        case("user_top_far", top_level(-8, "user_top_far", FAR), "ALLOWED"),
        case("user_top_8", recovered("user_top_8"), "PLAN"),
    ];
    check_on(&capped, &cases).await;
    let unbounded = [case("user_field10", payload("field/10-top-level-past-due-only"), "ALLOWED")];
    check(&unbounded).await;
}

/// A past-due item beside an active one, as two events.
fn upgrade(subject: &str, before: Option<&str>) -> Vec<String> {
    let pro = part(&format!("csub_item_{subject}_pro"), "active", "pro");
    let id = format!("csub_item_{subject}_max");
    let due = with(part(&id, "past_due", "max"), "/updated_at", day(-1));
    let mut events = vec![item(subject, pro).to_string(), item(subject, due).to_string()];
    if let Some(status) = before {
        events.push(item(subject, part(&id, status, "max")).to_string());
    }
    events
}

#[tokio::test]
async fn a_failed_upgrade_is_not_granted_by_grace() {
    let mut cases = in_every_order(
        "failed upgrade",
        |subject| upgrade(subject, None),
        &[("export", "PLAN"), ("ai_assistant", "DENIED")],
    );
    cases.extend(in_every_order(
        "begun and failed upgrade",
        |subject| upgrade(subject, Some("incomplete")),
        &[("export", "PLAN"), ("ai_assistant", "DENIED")],
    ));
    cases.extend(in_every_order(
        "renewal that failed beside another plan",
        |subject| upgrade(subject, Some("active")),
        &[("export", "PLAN"), ("ai_assistant", "PAST_DUE_IN_GRACE")],
    ));
    let alone = |subject: &str| upgrade(subject, None)[1..].to_vec();
    cases.extend(in_every_order(
        "the first that is known",
        alone,
        &[("ai_assistant", "PAST_DUE_IN_GRACE")],
    ));
    check(&cases).await;
}

/// The start event of a free trial that ended this many days ago.
fn trial(subject: &str, status: &str, days: i64) -> String {
    let trial = part(&format!("csub_item_{subject}"), status, "pro");
    let trial = with(with(trial, "/is_free_trial", true), "/period_end", day(-days));
    item(subject, with(trial, "/updated_at", SENT - 86_400_000)).to_string()
}

#[tokio::test]
async fn a_trial_past_its_end_lasts_three_days_and_a_paid_period_goes_on() {
    let case = |name: &str, body: &dyn Fn(&str) -> String, reason: &'static str| -> Case {
        let subject = format!("user_trial_{name}");
        Case::new(name, &subject).sends(&body(&subject), "applied").then("export", reason)
    };
    let paid = |days: i64| move |subject: &str| at(-days - 1, subject, "active", day(-days));
    check(&[
        case("runs", &|subject| trial(subject, "active", -2), "TRIAL"),
        case("over_2", &|subject| trial(subject, "active", 2), "ALLOWED"),
        case("over_4", &|subject| trial(subject, "active", 4), "TRIAL_OVER"),
        case("over_400", &|subject| trial(subject, "active", 400), "TRIAL_OVER"),
        case("canceled", &|subject| trial(subject, "canceled", 1), "PERIOD_OVER"),
        case("ended", &|subject| trial(subject, "ended", 1), "ENDED"),
        case("paid_2", &paid(2), "RENEWAL_OVERDUE"),
        case("paid_4", &paid(4), "RENEWAL_OVERDUE"),
        case("paid_40", &paid(40), "RENEWAL_OVERDUE"),
    ])
    .await;
}

#[tokio::test]
async fn the_end_of_a_trials_grace_is_announced() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let end = day(-2);
    let body = trial("user_announced", "active", 2);
    replica.send(&body).await;
    let found = ask(&replica, "user_announced", "export").await;
    let until = found.valid_until.map(|at| at.seconds);
    let expected = end / 1000 + 3 * 86_400;
    assert!(found.allowed, "{}", shown(&found));
    assert!(until.is_some_and(|at| (at - expected).abs() < 60), "{until:?}, not {expected}");
    replica.send(&trial("user_listed", "active", 4)).await;
    let account = replica.account("user_listed").await;
    assert_eq!(account.items[0].reason().as_str_name(), "REASON_TRIAL_OVER");
    assert!(!account.items[0].live);
    assert_eq!(account.default_plan, "free_user");
}

#[tokio::test]
async fn a_trial_past_its_end_is_compared_with_clerk() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    for (n, days) in [1, 4, 40].into_iter().enumerate() {
        let subject = format!("user_converted_{n}");
        Replica::start(&db).await.send(&trial(&subject, "active", days)).await;
        let paid = part(&format!("csub_item_{subject}"), "active", "pro");
        let paid = with(paid, "/updated_at", SENT + 5);
        let truth = subscription(&snapshot(&subject, "active", vec![paid]).to_string());
        clerk.state.lock().unwrap().subscriptions.insert(subject, truth);
    }
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    for n in 0..3 {
        eventually(&format!("conversion {n} is known"), async || {
            fits(&ask(&replica, &format!("user_converted_{n}"), "export").await, "PLAN")
        })
        .await;
    }
}
