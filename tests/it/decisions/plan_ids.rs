//! A plan is identified by its id: its slug may change, and an event need not contain it.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY},
    support::service::{ACME, ADA, Replica, apply_catalog, eventually, payload},
    support::shell::Shell,
    support::webhook_cases::{
        Case, SENT, ask, check, check_on, fits, in_every_order, item, part, shown, snapshot, with,
        without,
    },
};
use entitlements::api::pb::CheckPlanRequest;
use serde_json::{Value, json};

/// The id of the plan `pro` in Clerk's sample list.
const PRO: &str = "cplan_3DsMZ5RFexp6NXeJrQvq6XZWlDA";

/// The item event with a date this many milliseconds later.
fn later(subject: &str, status: &str, plan: &str, ms: i64) -> Value {
    let part = part(&format!("csub_item_{subject}"), status, plan);
    item(subject, with(part, "/updated_at", SENT + ms))
}

/// Edits after which an event lacks the plan's slug, or has only its id.
fn without_plan_name(event: &Value, way: usize) -> Value {
    let null = |event: Value, place: &str| with(event, place, Value::Null);
    let event = event.clone();
    match way {
        0 => without(event, "/data/plan"),
        1 => null(event, "/data/plan"),
        2 => without(null(event, "/data/plan"), "/data/plan_id"),
        3 => null(null(event, "/data/plan"), "/data/plan_id"),
        4 => without(without(event, "/data/plan"), "/data/plan_id"),
        5 => without(event, "/data/plan/slug"),
        6 => null(event, "/data/plan/slug"),
        7 => with(event, "/data/plan", json!({})),
        _ => with(event, "/data/plan/slug", ""),
    }
}

#[tokio::test]
async fn an_event_that_does_not_name_the_plan_does_not_change_it_in_any_order() {
    let mut cases = Vec::new();
    for way in 0..9 {
        let bodies = |subject: &str| {
            let canceled = without_plan_name(&later(subject, "canceled", "pro", 5), way);
            vec![later(subject, "active", "pro", 0).to_string(), canceled.to_string()]
        };
        let name = format!("silent {way}");
        cases.extend(in_every_order(&name, bodies, &[("export", "CANCELED_BUT_PAID")]));
        let bodies = |subject: &str| {
            let canceled = without_plan_name(&later(subject, "canceled", "max", 9), way);
            vec![
                later(subject, "active", "pro", 0).to_string(),
                later(subject, "active", "max", 5).to_string(),
                canceled.to_string(),
            ]
        };
        let name = format!("swapped and silent {way}");
        cases.extend(in_every_order(&name, bodies, &[("ai_assistant", "CANCELED_BUT_PAID")]));
    }
    check(&cases).await;
}

#[tokio::test]
async fn a_list_that_does_not_name_the_plan_does_not_change_it_in_any_order() {
    let mut cases = Vec::new();
    for way in 0..9 {
        let bodies = |subject: &str| {
            let named = part(&format!("csub_item_{subject}"), "active", "pro");
            let listed =
                without_plan_name(&later(subject, "active", "pro", 5), way)["data"].clone();
            vec![
                snapshot(subject, "active", vec![named]).to_string(),
                with(snapshot(subject, "active", vec![listed]), "/data/updated_at", SENT + 9)
                    .to_string(),
            ]
        };
        cases.extend(in_every_order(&format!("listed {way}"), bodies, &[("export", "PLAN")]));
    }
    check(&cases).await;
}

#[tokio::test]
async fn an_item_without_any_plan_takes_it_from_an_older_list_that_comes_later() {
    let captured = |subject: &str| {
        [1, 2]
            .map(|n| {
                let name = format!("field/captured/14-item-canceled-without-plan-{n}");
                payload(&name)
                    .replace("org_cap14", subject)
                    .replace("subi_cap14", &format!("i_{subject}"))
            })
            .to_vec()
    };
    check(&in_every_order("organization", captured, &[("sso", "CANCELED_BUT_PAID")])).await;
}

#[tokio::test]
async fn an_item_with_a_plan_id_is_resolved_by_any_event_that_has_the_slug() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let unnamed = |subject: &str| {
        let event = with(later(subject, "active", "pro", 0), "/data/plan_id", "cplan_7");
        without(event, "/data/plan")
    };
    let first = Case::new("before", "user_first").sends(&unnamed("user_first"), "applied");
    check_on(&replica, &[first.then("export", "UNKNOWN_PLAN")]).await;
    let with_slug = with(later("user_other", "ended", "pro", 0), "/data/plan_id", "cplan_7");
    replica.send(&with(with_slug, "/data/plan/id", "cplan_7").to_string()).await;
    eventually("the earlier item is resolved", async || {
        fits(&ask(&replica, "user_first", "export").await, "PLAN")
    })
    .await;
    let second = Case::new("after", "user_second").sends(&unnamed("user_second"), "applied");
    let nested = without(
        with(later("user_third", "active", "pro", 0), "/data/plan/id", "cplan_7"),
        "/data/plan/slug",
    );
    let nested = Case::new("id in the plan", "user_third")
        .sends(&without(nested, "/data/plan_id"), "applied");
    check_on(&replica, &[second.then("export", "PLAN"), nested.then("export", "PLAN")]).await;
    replica.stop().await.unwrap();
    let replica = Replica::start(&db).await;
    let found = ask(&replica, "user_first", "export").await;
    assert!(fits(&found, "PLAN"), "after a restart: {}", shown(&found));
}

#[tokio::test]
async fn an_item_with_a_plan_id_is_resolved_by_clerks_list() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let event =
        without(with(later("user_listed", "active", "pro", 0), "/data/plan_id", PRO), "/data/plan");
    Replica::start(&db).await.send(&event.to_string()).await;
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    eventually("Clerk's list resolves the plan", async || {
        fits(&ask(&replica, "user_listed", "export").await, "PLAN")
    })
    .await;
}

#[tokio::test]
async fn an_item_with_a_plan_id_is_resolved_by_a_catalog_file() {
    let db = Db::new().await;
    let event = with(later("user_filed", "active", "pro", 0), "/data/plan_id", "cplan_7");
    let event = without(event, "/data/plan");
    Replica::start(&db).await.send(&event.to_string()).await;
    apply_catalog(&db, "[user.plans.pro]\nid = \"cplan_7\"\nfeatures = [\"export\"]").await;
    let replica = Replica::start(&db).await;
    let found = ask(&replica, "user_filed", "export").await;
    assert!(fits(&found, "PLAN"), "{}", shown(&found));
}

/// A fake Clerk, and a replica with holders of three of its plans.
async fn held() -> (Db, Clerk, Replica, Shell) {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    for name in ["subscriptionItem.active", "subscription.created.free-org"] {
        replica.send(&payload(name)).await;
    }
    let free = payload("subscription.created.free-user").replace(ADA, "user_free");
    replica.send(&free.replace("csub_item_", "csub_item_free_")).await;
    let shell = Shell::with_clerk(&db, &clerk);
    eventually("Clerk's plans are in force", async || ask(&replica, ADA, "export").await.allowed)
        .await;
    (db, clerk, replica, shell)
}

/// Changes the slug of every plan in Clerk's list.
fn rename_all(clerk: &Clerk) {
    for plan in &mut clerk.state.lock().unwrap().plans {
        plan["slug"] = format!("new_{}", plan["slug"].as_str().unwrap()).into();
    }
}

async fn has_plan(replica: &Replica, subject: &str, plan: &str) -> bool {
    let mut request = CheckPlanRequest { plan: plan.into(), ..Default::default() };
    if subject.starts_with("org_") {
        request.organization_id = subject.into();
    } else {
        request.user_id = subject.into();
    }
    replica.client.clone().check_plan(request).await.unwrap().into_inner().allowed
}

#[tokio::test]
async fn after_a_rename_in_clerk_all_subjects_keep_access() {
    let (_db, clerk, replica, shell) = held().await;
    rename_all(&clerk);
    let (code, stdout, stderr) = shell.run(&["catalog", "pull"]).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    replica.caught_up().await;
    eventually("the new slugs are known", async || has_plan(&replica, ADA, "new_pro").await).await;
    for (subject, feature, old, new) in [
        (ADA, "export", "pro", "new_pro"),
        ("user_free", "basic_reports", "free_user", "new_free_user"),
        (ACME, "basic_reports", "free_org", "new_free_org"),
    ] {
        let found = ask(&replica, subject, feature).await;
        assert!(fits(&found, "PLAN"), "{subject}: {}", shown(&found));
        for plan in [old, new] {
            assert!(has_plan(&replica, subject, plan).await, "{subject} has {plan}");
        }
    }
    let free_user = ask(&replica, "user_nobody", "basic_reports").await;
    assert!(fits(&free_user, "DEFAULT_PLAN"), "{}", shown(&free_user));
    let renewed = payload("subscription.updated.renewed").replace("\"pro\"", "\"new_pro\"");
    replica.send(&renewed).await;
    let found = ask(&replica, ADA, "export").await;
    assert!(fits(&found, "PLAN"), "by the new slug: {}", shown(&found));
    let late = payload("subscription.updated.renewed").replace(ADA, "user_late");
    replica.send(&late.replace("csub_item_", "csub_item_late_")).await;
    let found = ask(&replica, "user_late", "export").await;
    assert!(fits(&found, "PLAN"), "an event by the old slug: {}", shown(&found));
}

#[tokio::test]
async fn a_renamed_plan_of_a_report_keeps_its_holder() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    {
        let mut state = clerk.state.lock().unwrap();
        state.instance = "ins_field".into();
        let mut plan = state.plans.last().unwrap().clone();
        plan["id"] = "cplan_basic".into();
        plan["slug"] = "f_basic".into();
        plan["is_default"] = false.into();
        state.plans.push(plan);
        let truth = payload("field/07-renamed-plan.bapi-subscription");
        let truth = serde_json::from_str(&truth).unwrap();
        state.subscriptions.insert("user_field07".into(), truth);
    }
    let replica = Replica::with_clerk(&db, &clerk, None).await;
    replica.send(&payload("field/07-renamed-plan.webhook")).await;
    let holds = async || fits(&ask(&replica, "user_field07", "basic_reports").await, "PLAN");
    eventually("the plan is held", holds).await;
    clerk.state.lock().unwrap().plans.last_mut().unwrap()["slug"] = "starter".into();
    let variables =
        [("DATABASE_URL", &*db.url), ("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &*clerk.url)];
    let shell = Shell::new(&variables);
    for arguments in [&["catalog", "pull"][..], &["reconcile", "user_field07"]] {
        let (code, stdout, stderr) = shell.run(arguments).await;
        assert_eq!(code, 0, "{stdout}{stderr}");
        replica.caught_up().await;
        assert!(holds().await, "after {arguments:?}");
    }
    assert!(has_plan(&replica, "user_field07", "starter").await);
}

#[tokio::test]
async fn a_plan_that_clerk_no_longer_lists_keeps_its_features_for_its_holders() {
    let (_db, clerk, replica, shell) = held().await;
    clerk.state.lock().unwrap().plans.retain(|plan| plan["id"] != PRO);
    for _ in 0..2 {
        let (_, stdout, stderr) = shell.run(&["catalog", "pull"]).await;
        replica.caught_up().await;
        for feature in ["export", "api_access", "basic_reports"] {
            let found = ask(&replica, ADA, feature).await;
            assert!(fits(&found, "PLAN"), "{feature}: {}: {stdout}{stderr}", shown(&found));
        }
        assert!(has_plan(&replica, ADA, "pro").await);
    }
    let renewed = payload("subscription.updated.renewed");
    replica.send(&renewed).await;
    assert!(fits(&ask(&replica, ADA, "export").await, "PLAN"));
    clerk.state.lock().unwrap().plans.retain(|plan| plan["is_default"] != true);
    shell.run(&["catalog", "pull"]).await;
    replica.caught_up().await;
    let found = ask(&replica, "user_free", "basic_reports").await;
    assert!(fits(&found, "PLAN"), "the default plan: {}", shown(&found));
}

#[tokio::test]
async fn an_empty_plan_list_of_clerk_is_never_applied() {
    let (_db, clerk, replica, shell) = held().await;
    clerk.state.lock().unwrap().plans.clear();
    let (code, stdout, stderr) = shell.run(&["catalog", "pull"]).await;
    assert!(code != 0 && !stdout.contains("in force now"), "{code}: {stdout}{stderr}");
    replica.caught_up().await;
    assert!(fits(&ask(&replica, ADA, "export").await, "PLAN"));
    assert!(fits(&ask(&replica, "user_nobody", "basic_reports").await, "DEFAULT_PLAN"));
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    clerk.state.lock().unwrap().plans.clear();
    let replica =
        Replica::with_clerk(&db, &clerk, Some("[user.plans.pro]\nfeatures = [\"beta\"]")).await;
    replica.send(&payload("subscriptionItem.active")).await;
    eventually("the list is asked for", async || clerk.state.lock().unwrap().requests > 0).await;
    assert!(fits(&ask(&replica, ADA, "beta").await, "PLAN"));
}
