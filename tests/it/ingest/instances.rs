//! Deliveries of several Clerk instances, and the instance that is pinned.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, INSTANCE, KEY},
    support::metrics::sample,
    support::process::Process,
    support::service::{Replica, SECRET, eventually, payload},
    support::shell::Shell,
    support::webhook_cases::{ask, fits, item, part, with, without},
};
use chrono::{Duration, Utc};
use entitlements::api::pb::CheckFeatureRequest;
use serde_json::Value;

async fn allowed(service: &Process, subject: &str) -> bool {
    let request = CheckFeatureRequest {
        user_id: subject.into(),
        feature: "export".into(),
        ..Default::default()
    };
    service.client().check_feature(request).await.unwrap().into_inner().allowed
}

/// An event of an instance about an item of a subject.
fn of(instance: &str, subject: &str, status: &str) -> String {
    let event = item(subject, part(&format!("csub_item_{subject}"), status, "pro"));
    with(event, "/instance_id", instance).to_string()
}

/// The output of `doctor` about a database, with these settings besides the usual ones.
async fn doctor(db: &Db, variables: &[(&'static str, &str)]) -> String {
    let mut all = vec![
        ("DATABASE_URL", &*db.url),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
    ];
    all.extend(variables);
    Shell::new(&all).run(&["doctor"]).await.1
}

/// The failing lines of `doctor` that contain all of these words.
fn complaints<'a>(report: &'a str, words: &[&str]) -> Vec<&'a str> {
    let bad = report.lines().filter(|line| !line.starts_with("ok "));
    bad.filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

#[tokio::test]
async fn a_pinned_instance_parks_counts_and_names_deliveries_of_other_instances() {
    let db = Db::new().await;
    let pin = [("CLERK_INSTANCE", "ins_mine")];
    let service = Process::start(&db.url, &pin).await;
    assert_eq!(
        sample::<u64>(&service.metrics().await, "entitlements_foreign_deliveries_total"),
        Some(0)
    );
    let answer = service.send(&of("ins_mine", "user_mine", "active")).await;
    assert_eq!(answer.result(), "applied", "{answer:?}");
    let answer = service.send(&of("ins_theirs", "user_theirs", "active")).await;
    assert_eq!(answer.result(), "parked", "{answer:?}");
    assert!(answer.body["detail"].as_str().unwrap().contains("ins_theirs"), "{answer:?}");
    let answer = service.send(&of("ins_theirs", "user_mine", "ended")).await;
    assert_eq!(answer.result(), "parked", "{answer:?}");
    let example = service.send(&payload("field/captured/45-dashboard-example")).await;
    assert_eq!(example.result(), "parked", "{example:?}");
    assert!(allowed(&service, "user_mine").await && !allowed(&service, "user_theirs").await);
    assert_eq!(
        sample::<u64>(&service.metrics().await, "entitlements_foreign_deliveries_total"),
        Some(3)
    );
    let report = doctor(&db, &pin).await;
    assert!(!complaints(&report, &["ins_theirs"]).is_empty(), "{report}");
}

#[tokio::test]
async fn a_delivery_without_an_instance_is_accepted_by_a_pinned_instance() {
    let db = Db::new().await;
    let service = Process::start(&db.url, &[("CLERK_INSTANCE", "ins_mine")]).await;
    for (n, value) in [None, Some(Value::Null), Some("".into())].into_iter().enumerate() {
        let subject = format!("user_unnamed_{n}");
        let event = item(&subject, part(&format!("csub_item_unnamed_{n}"), "active", "pro"));
        let event = match value {
            Some(value) => with(event, "/instance_id", value),
            None => without(event, "/instance_id"),
        };
        let answer = service.send(&event.to_string()).await;
        assert_eq!(answer.result(), "applied", "{event}: {answer:?}");
        assert!(allowed(&service, &subject).await, "{event}");
    }
}

#[tokio::test]
async fn without_pin_and_key_several_instances_are_accepted_with_a_warning() {
    let db = Db::new().await;
    let service = Process::start(&db.url, &[]).await;
    for (instance, subject) in [("ins_sample", "user_sample"), ("ins_real", "user_real")] {
        let answer = service.send(&of(instance, subject, "active")).await;
        assert_eq!(answer.result(), "applied", "{instance}: {answer:?}");
        assert!(allowed(&service, subject).await, "{instance}");
    }
    eventually("the warning about several instances is logged", async || {
        let lines = service.log_lines();
        let warns = |line: &Value| line["level"] == "WARN" && line.to_string().contains("ins_");
        lines.iter().any(warns)
    })
    .await;
    let report = doctor(&db, &[]).await;
    assert!(!complaints(&report, &["ins_sample", "ins_real"]).is_empty(), "{report}");
    let answer = service.send(&of("ins_sample", "user_sample_too", "active")).await;
    assert_eq!(answer.result(), "applied", "{answer:?}");
}

#[tokio::test]
async fn the_secret_key_pins_its_instance() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    let mut count = 0;
    eventually("a delivery of another instance is parked", async || {
        count += 1;
        let body = of("ins_theirs", &format!("user_theirs_{count}"), "active");
        replica.send(&body).await.result() == "parked"
    })
    .await;
    let answer = replica.send(&of(INSTANCE, "user_mine", "active")).await;
    assert_eq!(answer.result(), "applied", "{answer:?}");
    let ended = with(
        part("csub_item_user_mine", "ended", "pro"),
        "/updated_at",
        crate::support::webhook_cases::SENT + 9,
    );
    let ended = with(item("user_mine", ended), "/instance_id", "ins_theirs");
    assert_eq!(replica.send(&ended.to_string()).await.result(), "parked");
    eventually("the catalog is fetched, and the item is active", async || {
        fits(&ask(&replica, "user_mine", "export").await, "PLAN")
    })
    .await;
    let (_, page) = replica.get("/metrics").await;
    let counted = sample::<u64>(&page, "entitlements_foreign_deliveries_total");
    assert!(counted.is_some_and(|count| count > 0), "{page}");
    let key = [("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &*clerk.url)];
    let report = doctor(&db, &key).await;
    assert!(!complaints(&report, &["ins_theirs"]).is_empty(), "{report}");
}

#[tokio::test]
async fn an_example_event_of_clerks_dashboard_stops_neither_reconciliation_nor_the_catalog() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let before = Replica::start(&db).await;
    let yesterday = (Utc::now() - Duration::days(1)).timestamp_millis();
    let overdue = with(part("csub_item_due", "active", "pro"), "/period_end", yesterday);
    before.send(&item("user_due", overdue).to_string()).await;
    for name in ["field/captured/45-dashboard-example", "published/subscription.updated"] {
        before.send(&payload(name)).await;
    }
    before.stop().await.unwrap();
    let renewed = with(
        part("csub_item_due", "active", "pro"),
        "/updated_at",
        crate::support::webhook_cases::SENT + 9,
    );
    let renewed = crate::support::webhook_cases::snapshot("user_due", "active", vec![renewed]);
    clerk.has("user_due", &renewed.to_string());
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("the renewal is known", async || {
        fits(&ask(&replica, "user_due", "export").await, "PLAN")
    })
    .await;
    let key =
        [("DATABASE_URL", &*db.url), ("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &*clerk.url)];
    for arguments in [&["catalog", "pull"][..], &["reconcile", "user_due"]] {
        let (code, stdout, stderr) = Shell::new(&key).run(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
    }
    let report = doctor(&db, &key[1..]).await;
    assert!(!report.contains("set the key of that instance"), "{report}");
}

#[tokio::test]
async fn errors_of_clerk_are_reported_by_kind() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    Replica::start(&db).await.send(&of(INSTANCE, "user_asked", "active")).await;
    let key =
        [("DATABASE_URL", &*db.url), ("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &*clerk.url)];
    let shell = Shell::new(&key);
    for (status, code) in
        [(400, "billing_not_enabled"), (403, "feature_not_enabled"), (403, "billing_not_enabled")]
    {
        let body = format!("{{\"errors\":[{{\"code\":\"{code}\"}}]}}");
        for (about, arguments) in
            [("plans", &["catalog", "pull"][..]), ("user_asked", &["reconcile", "user_asked"])]
        {
            clerk.answers(about, status, &*body);
            let (exit, stdout, stderr) = shell.run(arguments).await;
            let output = format!("{status} {arguments:?}: {stdout}{stderr}");
            assert!(exit != 0 && output.contains(code), "{output}");
            assert!(!output.contains("refuses the key") && !output.contains("revoked"), "{output}");
        }
    }
    clerk.answers("plans", 401, "{\"errors\":[{\"code\":\"clerk_key_invalid\"}]}");
    let (exit, stdout, stderr) = shell.run(&["catalog", "pull"]).await;
    assert!(exit != 0 && stderr.contains("refuses the key"), "{stdout}{stderr}");
    for body in ["{\"errors\":[{\"code\":\"resource_not_found\"}]}", "No subscription"] {
        clerk.answers("user_asked", 404, body);
        let (exit, stdout, stderr) = shell.run(&["reconcile", "user_asked"]).await;
        assert!(exit == 0 && stdout.contains("not at Clerk"), "{stdout}{stderr}");
    }
}
