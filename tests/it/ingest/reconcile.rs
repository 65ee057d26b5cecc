//! Reconciliation with Clerk's Backend API repairs lost deliveries.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, Fault, INSTANCE, KEY, subscription},
    support::rng::Rng,
    support::service::{ACME, ADA, Replica, config, eventually, payload},
    support::shell::Shell,
};
use entitlements::{api::pb::Reason, clerk::BackendApiError, config::Config};
use serde_json::json;

#[tokio::test]
async fn the_catalog_comes_from_clerk_and_the_file_overrides_plans_that_it_lists() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let file = "[user.plans.pro]\nfeatures = [\"beta\"]";
    let replica = Replica::with_clerk(&db, &clerk, Some(file)).await;
    replica.send(&payload("subscriptionItem.active")).await;
    eventually("Clerk's plans are in force", async || {
        replica.check("", ACME, "basic_reports").await.reason() == Reason::DefaultPlan
    })
    .await;
    assert!(replica.check(ADA, "", "beta").await.allowed);
    assert!(!replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn an_unknown_plan_is_requested_from_clerk_at_once() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("Clerk's plans are in force", async || {
        replica.check(ADA, "", "basic_reports").await.allowed
    })
    .await;
    {
        let mut state = clerk.state.lock().unwrap();
        let mut gold = state.plans[0].clone();
        gold["id"] = json!("cplan_gold");
        gold["slug"] = json!("gold");
        gold["for_payer_type"] = json!("user");
        gold["features"] = json!([{ "slug": "gilding" }]);
        state.plans.insert(0, gold);
    }
    let gold = payload("subscriptionItem.active").replace("\"pro\"", "\"gold\"");
    let gold = gold.replace("cplan_3DsMZ5RFexp6NXeJrQvq6XZWlDA", "cplan_gold");
    replica.send(&gold).await;
    eventually("the new plan grants", async || replica.check(ADA, "", "gilding").await.allowed)
        .await;
}

#[tokio::test]
async fn faults_of_clerk_are_retried_and_rows_that_move_between_pages_are_not_lost() {
    let clerk = Clerk::start().await;
    let whole = clerk.api(KEY).plans().await.unwrap().catalog;
    assert_eq!(whole.plans(), 6);
    for faults in [
        &[Fault::TooMany, Fault::TooMany][..],
        &[Fault::Broken],
        &[Fault::Truncated],
        &[Fault::TooMany, Fault::Broken, Fault::Truncated],
    ] {
        clerk.fail(faults);
        assert_eq!(clerk.api(KEY).plans().await.unwrap().catalog, whole, "{faults:?}");
    }
    clerk.fail(&[Fault::Moved]);
    assert_eq!(clerk.api(KEY).plans().await.unwrap().catalog.plans(), 7);
}

#[tokio::test]
async fn a_request_that_clerk_rejects_is_named_and_the_key_is_never_shown() {
    let clerk = Clerk::start().await;
    let refused = clerk.api("sk_test_wrong").plans().await.unwrap_err();
    assert!(matches!(refused, BackendApiError::Refused(_)), "{refused:?}");
    clerk.state.lock().unwrap().plans[0].as_object_mut().unwrap().remove("features");
    let plans = clerk.api(KEY).plans().await.unwrap();
    assert_eq!(plans.catalog.plans(), 5);
    assert!(plans.left_out[0].contains("without its features"), "{:?}", plans.left_out);
    let api = entitlements::clerk::BackendApi::new("http://127.0.0.1:1/v1", &KEY.to_owned().into())
        .unwrap();
    let away = api.subscription(&ADA.parse().unwrap()).await.unwrap_err();
    assert!(matches!(away, BackendApiError::Unavailable(_)), "{away:?}");
    for shown in [format!("{refused:?} {away:?} {away}"), format!("{api:?}")] {
        assert!(!shown.contains("sk_test"), "{shown}");
    }
    for (base, key) in [("nowhere", KEY), ("http://x", "sk\n")] {
        let key = key.to_owned().into();
        if base == "nowhere" {
            entitlements::clerk::BackendApi::new(base, &key).unwrap_err();
        }
    }
}

#[tokio::test]
async fn a_deletion_that_clerk_does_not_confirm_is_reverted() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    replica.send_as("msg_1", &payload("subscription.active.user-pro")).await;
    replica.send_as("msg_2", &payload("user.deleted")).await;
    let shell = Shell::with_clerk(&db, &clerk);
    let reason = async || replica.check(ADA, "", "export").await.reason();

    let (code, stdout, stderr) = shell.run(&["reconcile", ADA, "--undelete"]).await;
    assert_eq!((code, stdout.starts_with(&format!("{ADA}: not at Clerk"))), (0, true), "{stderr}");
    assert_eq!(reason().await, Reason::SubjectDeleted);

    let body = include_str!("../../payloads/bapi/user-subscription.canceled-at-period-end.json");
    let subscription = serde_json::from_str(body).unwrap();
    clerk.state.lock().unwrap().subscriptions.insert(ADA.into(), subscription);
    let (_, stdout, _) = shell.run(&["reconcile", ADA]).await;
    assert!(stdout.contains("1 still different"), "without the flag it stays deleted: {stdout}");
    assert_eq!(reason().await, Reason::SubjectDeleted);
    let (code, stdout, stderr) = shell.run(&["reconcile", ADA, "--undelete"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("1 healed"), "{stdout}");
    eventually("the replica has processed the change", async || {
        reason().await == Reason::CanceledButPaid
    })
    .await;

    let again = replica.send_as("msg_2", &payload("user.deleted")).await;
    assert_eq!(again.result(), "duplicate");
    assert_eq!(reason().await, Reason::CanceledButPaid);
    let (code, _, stderr) = shell.run(&["reconcile", "--undelete"]).await;
    assert_eq!(code, 2, "{stderr}");
}

#[tokio::test]
async fn reconcile_reports_the_differences_and_repairs_them() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscription.active.user-pro")).await;
    replica.send(&payload("subscription.created.free-org")).await;
    let canceled =
        include_str!("../../payloads/bapi/user-subscription.canceled-at-period-end.json");
    let canceled = serde_json::from_str(canceled).unwrap();
    clerk.state.lock().unwrap().subscriptions.insert(ADA.into(), canceled);
    let shell = Shell::with_clerk(&db, &clerk);

    let before = db.fingerprint().await;
    let (code, stdout, stderr) = shell.run(&["reconcile", "--dry-run"]).await;
    assert_eq!(code, 0, "{stderr}");
    let expected = format!(
        "{ACME}: not at Clerk\n{ADA}: applied\n2 subjects compared, 1 would be healed, 0 still different, 0 not understood, 1 not at Clerk, 0 failed\n"
    );
    assert_eq!(stdout, expected);
    assert_eq!(db.fingerprint().await, before);
    assert_eq!(replica.check(ADA, "", "export").await.reason(), Reason::Plan);

    let (_, stdout, _) = shell.run(&["reconcile", ADA, "--json"]).await;
    assert!(stdout.contains("\"result\":\"applied\""), "{stdout}");
    eventually("the replica has processed the change", async || {
        replica.check(ADA, "", "export").await.reason() == Reason::CanceledButPaid
    })
    .await;
    let (_, stdout, _) = shell.run(&["reconcile", ADA]).await;
    let same = "1 subject compared, 0 healed, 0 still different, 0 not understood, 0 not at Clerk, 0 failed\n";
    assert_eq!(stdout, same);

    // A newer webhook is not overwritten by an older answer of Clerk.
    replica.send(&payload("subscriptionItem.ended")).await;
    let (_, stdout, _) = shell.run(&["reconcile", ADA]).await;
    let differs = format!(
        "{ADA}: still different, `api_access` is granted by Clerk's answer, but not here\n\
         1 subject compared, 0 healed, 1 still different, 0 not understood, 0 not at Clerk, 0 failed\n"
    );
    assert_eq!(stdout, differs);
    assert_eq!(replica.check(ADA, "", "export").await.reason(), Reason::Ended);
}

#[tokio::test]
async fn reconciliation_candidates_are_repaired_in_the_background() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let overdue = payload("subscription.active.user-pro").replace("4102444800000", "1792600000000");
    {
        let replica = Replica::start(&db).await;
        replica.send(&overdue).await;
        assert_eq!(replica.check(ADA, "", "export").await.reason(), Reason::RenewalOverdue);
    }
    let renewed = subscription(&payload("subscription.updated.renewed"));
    clerk.state.lock().unwrap().subscriptions.insert(ADA.into(), renewed);
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("the renewal that was never delivered is known", async || {
        replica.check(ADA, "", "export").await.reason() == Reason::Plan
    })
    .await;
}

#[tokio::test]
async fn dropped_deliveries_are_all_repaired() {
    let story = [
        "subscription.created.free-user",
        "subscription.active.user-pro",
        "subscription.pastDue.user",
        "subscription.active.recovered",
        "subscription.updated.item-canceled",
    ];
    let (db, clerk, mut rng) = (Db::new().await, Clerk::start().await, Rng::new());
    let replica = Replica::start(&db).await;
    let (mut dropped, mut expected) = (0, Vec::new());
    for n in 0..100 {
        let id = format!("user_{n}");
        let steps = 1 + rng.below(story.len());
        let of_user = |name: &str| {
            payload(name).replace(ADA, &id).replace("csub_item_", &format!("csub_item_{n}_"))
        };
        for name in &story[..steps] {
            if rng.below(5) == 0 {
                dropped += 1;
            } else {
                replica.send(&of_user(name)).await;
            }
        }
        let truth = subscription(&of_user(story[steps - 1]));
        let mut state = clerk.state.lock().unwrap();
        for item in truth["subscription_items"].as_array().unwrap() {
            let mut item = item.clone();
            item["payer"] = json!({ "user_id": id, "organization_id": null });
            state.items.push(item);
        }
        state.subscriptions.insert(id.clone(), truth);
        expected.push((id, steps));
    }
    let (code, stdout, stderr) = Shell::with_clerk(&db, &clerk).run(&["reconcile"]).await;
    assert_eq!(code, 0, "{stderr}");
    println!("{dropped} of the deliveries were dropped; {}", stdout.lines().last().unwrap());
    let allowed = [false, true, true, true, true];
    for (id, steps) in expected {
        eventually(&format!("{id} is healed"), async || {
            let request = entitlements::api::pb::CheckFeatureRequest {
                user_id: id.clone(),
                feature: "export".into(),
                consistency: Some(entitlements::api::pb::Consistency {
                    requirement: Some(
                        entitlements::api::pb::consistency::Requirement::FullyConsistent(true),
                    ),
                }),
                ..Default::default()
            };
            let answer = replica.client.clone().check_feature(request).await.unwrap().into_inner();
            let reasons = [
                Reason::NotInPlan,
                Reason::Plan,
                Reason::PastDueInGrace,
                Reason::Plan,
                Reason::CanceledButPaid,
            ];
            answer.allowed == allowed[steps - 1] && answer.reason() == reasons[steps - 1]
        })
        .await;
    }
}

#[tokio::test]
async fn a_catalog_is_planned_before_it_is_applied_and_losses_are_asked_about() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscription.active.user-pro")).await;
    replica.send(&payload("subscription.created.free-org")).await;
    let shell = Shell::with_clerk(&db, &clerk);
    let example = include_str!("../../../catalog.example.toml");
    shell.write(
        "fewer.toml",
        &example.replace(
            "\"export\", \"api_access\"]\n\n[user.plans.max]",
            "\"beta\"]\n\n[user.plans.max]",
        ),
    );

    let (code, stdout, stderr) = shell.run(&["catalog", "plan", "fewer.toml"]).await;
    assert_eq!(code, 0, "{stderr}");
    for line in [
        "- user.plans.pro.features.export: no limit\n".into(),
        format!("user  api_access        1     {ADA}\n"),
        format!("user  beta        1           {ADA}\n"),
        "2 subjects compared: 1 would gain, 1 would lose a feature, a plan, some of its time, or a part of its limit\n"
            .into(),
    ] {
        assert!(stdout.contains(&line), "{stdout}");
    }
    let (code, refused, _) = shell.run(&["catalog", "apply", "fewer.toml"]).await;
    assert!(code == 1 && refused.contains("add --yes, or --most-losses 1"), "{refused}");
    assert!(replica.check(ADA, "", "export").await.allowed);
    let (code, stdout, _) = shell.run(&["catalog", "apply", "fewer.toml", "--yes"]).await;
    assert!(code == 0 && stdout.ends_with("catalog 2 is in force now\n"), "{stdout}");
    eventually("the replica has processed the change", async || {
        replica.check(ADA, "", "beta").await.allowed
    })
    .await;

    shell.write("example.toml", example);
    let (_, stdout, _) = shell.run(&["catalog", "apply", "example.toml"]).await;
    assert!(!stdout.contains("in force now"), "{stdout}");
    let (_, stdout, _) =
        shell.run(&["catalog", "apply", "example.toml", "--most-losses", "1"]).await;
    assert!(stdout.ends_with("catalog 3 is in force now\n"), "an operator may go back: {stdout}");
    let (_, stdout, _) = shell.run(&["catalog", "pull"]).await;
    assert!(stdout.contains("+ user.plans.pro.id: cplan_"), "{stdout}");
    assert!(stdout.ends_with("catalog 4 is in force now\n"), "{stdout}");
    let (_, stdout, _) = shell.run(&["catalog", "pull"]).await;
    assert_eq!(stdout, "nothing changes: catalog 4 has this content\n");
    let (_, stdout, _) = shell.run(&["catalog", "history"]).await;
    assert_eq!(stdout.lines().count(), 6, "a header, four versions and their number: {stdout}");
    let (_, stdout, _) = shell.run(&["catalog", "show", "2"]).await;
    assert!(stdout.contains("fewer.toml") && stdout.contains("\"beta\""), "{stdout}");
    for (arguments, words) in [
        (vec!["catalog", "show", "9"], "no catalog 9: `catalog history` lists"),
        (vec!["catalog", "plan", "absent.toml"], "cannot read absent.toml"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let keyless = Shell::new(&[("DATABASE_URL", &db.url)]);
    let (code, _, stderr) = keyless.run(&["catalog", "pull"]).await;
    assert!(code == 2 && stderr.contains("CLERK_SECRET_KEY is not set"), "{stderr}");
}

#[tokio::test]
async fn a_key_of_another_instance_than_the_pinned_one_is_named_and_changes_nothing() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().instance = "ins_other".into();
    Replica::start(&db).await.send(&payload("subscription.active.user-pro")).await;
    let before = db.fingerprint().await;
    let shell = Shell::new(&[
        ("DATABASE_URL", &db.url),
        ("CLERK_SECRET_KEY", KEY),
        ("CLERK_API_URL", &clerk.url),
        ("CLERK_INSTANCE", INSTANCE),
    ]);
    for arguments in [&["catalog", "pull"][..], &["reconcile"], &["reconcile", ADA]] {
        let (code, _, stderr) = shell.run(arguments).await;
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("CLERK_SECRET_KEY belongs to instance ins_other"), "{stderr}");
    }
    assert_eq!(db.fingerprint().await, before);
    // A service with this key counts the error and continues to answer.
    let replica = Replica::launch(Config {
        backend_api: Some(clerk.access(KEY)),
        instance: Some(INSTANCE.into()),
        ..config(&db)
    })
    .await;
    replica.serving().await;
    eventually("the error is counted", async || {
        !replica.get("/metrics").await.1.contains("entitlements_clerk_errors_total 0")
    })
    .await;
    assert!(replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn a_response_of_clerk_with_absurd_dates_is_reported_and_changes_nothing() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscription.active.user-pro")).await;
    let before = db.fingerprint().await;
    for (absurd, why) in [
        (1_000_000_000_000_i64, "neither `updated_at` nor"),
        (4_102_444_800_000, "`updated_at` is "),
    ] {
        let mut truth = subscription(&payload("subscription.updated.ended"));
        truth["updated_at"] = json!(absurd);
        clerk.state.lock().unwrap().subscriptions.insert(ADA.into(), truth);
        let (code, stdout, _) = Shell::with_clerk(&db, &clerk).run(&["reconcile", ADA]).await;
        assert_eq!(code, 0, "{absurd}: {stdout}");
        assert!(stdout.contains(&format!(": not understood, {why}")), "{absurd}: {stdout}");
    }
    let after = db.fingerprint().await;
    let (before, after) = (lines_without_subjects(&before), lines_without_subjects(&after));
    assert_eq!(after, before);
    assert!(replica.check(ADA, "", "export").await.allowed);
}

/// The fingerprint without the table of subjects, which stores when they were compared.
fn lines_without_subjects(fingerprint: &str) -> String {
    let (before, rest) = fingerprint.split_once("subject:\n").unwrap();
    format!("{before}{}", rest.split_once("item:\n").unwrap().1)
}
