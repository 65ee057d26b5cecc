//! `Support.ListSubjects` and `Support.PreviewPlan`.

use crate::support::{
    database::Db,
    explanations::{changed, refusal},
    overrides::{CATALOG, denied, granted, limited, plan_granted, replica, set, until},
    rng::Rng,
    service::{ADA, Replica, payload},
    shell::Shell,
};
use chrono::{TimeDelta, Utc};
use entitlements::api::pb::{
    CheckFeatureResponse, FeatureChange, ListSubjectsRequest, PreviewPlanRequest,
    PreviewPlanResponse, grant::Number, list_subjects_request::Target,
    support_client::SupportClient,
};
use insta::assert_snapshot;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use tonic::{Status, transport::Channel};

fn client(replica: &Replica) -> SupportClient<Channel> {
    SupportClient::new(replica.channel.clone())
}

/// All pages of the holders of a feature or a plan.
async fn holders(replica: &Replica, target: Target, page_size: u32) -> Vec<CheckFeatureResponse> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSubjectsRequest { target: Some(target.clone()), page_size, page_token };
        let page = client(replica).list_subjects(request).await.unwrap().into_inner();
        assert!(page.subjects.len() <= page_size as usize);
        all.extend(page.subjects);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

fn feature(slug: &str) -> Target {
    Target::Feature(slug.into())
}

/// Users and organizations with random plans and overrides.
async fn population(replica: &Replica) -> Vec<String> {
    let (mut rng, mut subjects) = (Rng::new(), Vec::new());
    for nth in 0..60 {
        let subject = format!("{}_case{nth:02}", if nth % 3 == 0 { "org" } else { "user" });
        let plan = if nth % 3 == 0 { "team" } else { rng.pick(&["free", "pro", "max", "gold"]) };
        let status = rng.pick(&["active", "ended", "past_due", "upcoming"]);
        if rng.below(4) > 0 {
            let fields = json!({
                "payer": { "user_id": subject, "organization_id": null },
                "plan": { "slug": plan, "id": format!("cplan_{plan}") },
                "status": status,
                "id": format!("csub_item_{nth}"),
            });
            let fields = if nth % 3 == 0 {
                let mut fields = fields;
                fields["payer"] = json!({ "organization_id": subject });
                fields
            } else {
                fields
            };
            let answer = replica.send(&changed("subscriptionItem.active", &fields)).await;
            assert_eq!(answer.result(), "applied", "{answer:?}");
        }
        let soon = Utc::now() + TimeDelta::days(5);
        match rng.below(6) {
            0 => drop(set(replica, until(granted(&subject, "export"), soon)).await),
            1 => drop(set(replica, denied(&subject, "export")).await),
            2 if nth % 3 != 0 => drop(set(replica, plan_granted(&subject, "pro")).await),
            3 => drop(set(replica, limited(&subject, "projects", Number::Exactly(3))).await),
            _ => {}
        }
        subjects.push(subject);
    }
    subjects
}

#[tokio::test]
async fn each_listed_subject_is_confirmed_by_a_check_and_none_is_missing() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let subjects = population(&replica).await;
    let recorded = db.pool().await;
    let recorded: Vec<String> = sqlx::query_scalar("select id from entitlements.subject")
        .fetch_all(&recorded)
        .await
        .unwrap();
    let recorded: BTreeSet<_> = recorded.into_iter().collect();
    let mut confirmed = 0;
    for target in ["export", "projects", "reports", "sso", "user:export", "org:export"] {
        let listed = holders(&replica, feature(target), 7).await;
        let listed: BTreeMap<_, _> =
            listed.into_iter().map(|answer| (answer.subject.clone(), answer)).collect();
        for subject in subjects.iter().filter(|subject| recorded.contains(*subject)) {
            let is_user = subject.starts_with("user_");
            let (user, org) = if is_user { (&**subject, "") } else { ("", &**subject) };
            let mut checked = replica.check(user, org, target).await;
            let found = listed.get(subject).cloned();
            checked.checked_at = found.as_ref().and_then(|found| found.checked_at);
            assert_eq!(found, checked.allowed.then_some(checked), "{target} {subject}");
            confirmed += usize::from(listed.contains_key(subject));
        }
        assert!(listed.keys().is_sorted(), "{target}");
    }
    println!("{confirmed} listed answers confirmed by checks");
    assert!(confirmed > 60);
    let pro = holders(&replica, Target::Plan("pro".into()), 1000).await;
    assert!(pro.len() > 3 && pro.iter().all(|answer| answer.plan == "pro"), "{pro:?}");
    let free = holders(&replica, Target::Plan("free".into()), 1000).await;
    assert!(free.iter().any(|answer| answer.reason().as_str_name() == "REASON_DEFAULT_PLAN"));
    for target in [feature("exprot"), feature("x:export"), Target::Plan("gold".into())] {
        let request = ListSubjectsRequest { target: Some(target), ..Default::default() };
        let status = client(&replica).list_subjects(request).await.unwrap_err();
        assert!(status.message().contains("is not in catalog 1"), "{status:?}");
    }
}

/// `SUBJECTS=1000000` for the full number. The times are printed; a test cannot hold them on a busy machine.
#[tokio::test]
async fn the_first_page_of_many_subjects_reads_few_of_them() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let subjects = std::env::var("SUBJECTS").map_or(20_000, |count| count.parse().unwrap());
    db.run(&format!(
        "insert into entitlements.subject (id, revision)
            select 'user_' || lpad(n::text, 8, '0'), 1 from generate_series(1, {subjects}) n;
        insert into entitlements.item (subject, id, plan, plan_id, status, free_trial, has_seats, updated_at,
            sent_at, rank, svix_id, was_active)
            select id, 'csub_item_' || id, case when key % 1000 = 0 then 'max' else 'pro' end, 'cplan_' || key % 3,
            'active', false, false, now(), now(), 4, 'msg', true from entitlements.subject;
        analyze entitlements.subject; analyze entitlements.item"
    ))
    .await;
    let mut times = Vec::new();
    for target in ["export", "assistant", "reports"] {
        let request = ListSubjectsRequest { target: Some(feature(target)), ..Default::default() };
        let began = Instant::now();
        let page = client(&replica).list_subjects(request.clone()).await.unwrap().into_inner();
        let first = began.elapsed();
        let began = Instant::now();
        assert_eq!(
            client(&replica).list_subjects(request).await.unwrap().into_inner().subjects.len(),
            page.subjects.len()
        );
        times.push(format!(
            "{target}: {} in {first:?}, again in {:?}",
            page.subjects.len(),
            began.elapsed()
        ));
    }
    let began = Instant::now();
    let rare = holders(&replica, feature("assistant"), 1000).await;
    times.push(format!("all {} holders of a rare feature in {:?}", rare.len(), began.elapsed()));
    println!("first page of 100 of {subjects} subjects: {}", times.join("; "));
    assert_eq!(rare.len(), subjects / 1000);
}

async fn preview(
    replica: &Replica,
    subject: &str,
    plan: &str,
    counts: &[(&str, u64)],
) -> Result<PreviewPlanResponse, Status> {
    let counts = counts.iter().map(|(feature, count)| ((*feature).to_owned(), *count)).collect();
    let request = PreviewPlanRequest { subject: subject.into(), plan: plan.into(), counts };
    client(replica).preview_plan(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_preview_tells_what_is_gained_lost_and_over_the_limit() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscription.active.user-pro")).await;
    set(&replica, limited(ADA, "projects", Number::AtLeast(30))).await;
    let before = db.fingerprint().await;
    let down = preview(&replica, ADA, "free", &[("projects", 30), ("export", 1)]).await.unwrap();
    let names =
        |list: &[FeatureChange]| list.iter().map(|found| found.feature.clone()).collect::<Vec<_>>();
    assert_eq!((names(&down.gained), names(&down.lost)), (vec![], vec!["export".to_owned()]));
    assert!(down.changed.is_empty(), "the override has the larger limit in both plans: {down:?}");
    // Exactly at the limit is not over it.
    let over: Vec<_> =
        down.over.iter().map(|over| (&*over.feature, over.count, over.limit)).collect();
    assert_eq!(over, [("export", 1, 0)]);
    let up = preview(&replica, ADA, "max", &[("projects", 101)]).await.unwrap();
    assert_eq!(
        (names(&up.gained), names(&up.changed)),
        (vec!["assistant".to_owned()], vec!["projects".to_owned()])
    );
    assert_eq!((up.over[0].count, up.over[0].limit), (101, 100));
    let mut refusals = Vec::new();
    for (name, subject, plan, feature) in [
        ("no subject", "", "pro", "projects"),
        ("a plan of organizations", ADA, "team", "projects"),
        ("an unknown feature", ADA, "pro", "projcets"),
    ] {
        let status = preview(&replica, subject, plan, &[(feature, 1)]).await.expect_err(name);
        refusals.push(format!("{name}: {}", refusal(&status)));
    }
    assert_snapshot!(refusals.join("\n"), @r"
    no subject: InvalidArgument: subject: must be a Clerk user id: `user_` and then letters, digits, `_` or `-`, at most 128 bytes
    a plan of organizations: InvalidArgument: plan: is not a plan for users in catalog 1: check the spelling
    an unknown feature: InvalidArgument: counts: names `projcets`, which catalog 1 does not have: check the spelling
    ");
    assert_eq!(db.fingerprint().await, before);
}

/// `CASES=2000` for the full number.
#[tokio::test]
async fn a_preview_equals_the_answers_after_the_change() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let cases = std::env::var("CASES").map_or(100, |cases| cases.parse().unwrap());
    let (mut rng, mut changes) = (Rng::new(), 0);
    for case in 0..cases {
        let subject = format!("user_case{case}");
        let item = |plan: &str, status: &str, minute: i64| {
            let fields = json!({
                "payer": { "user_id": subject },
                "plan": { "slug": plan, "id": format!("cplan_{plan}") },
                "status": status,
                "id": format!("csub_item_{case}_{plan}"),
                "updated_at": 1_790_000_000_000_i64 + minute * 60_000,
            });
            changed("subscriptionItem.active", &fields)
        };
        let (old, new) = (rng.pick(&["free", "pro", "max"]), rng.pick(&["free", "pro", "max"]));
        replica.send(&item(old, "active", 0)).await;
        match rng.below(4) {
            0 => drop(set(&replica, limited(&subject, "projects", Number::Exactly(30))).await),
            1 => drop(set(&replica, denied(&subject, "export")).await),
            2 => drop(set(&replica, limited(&subject, "projects", Number::AtLeast(30))).await),
            _ => {}
        }
        let names = ["assistant", "export", "projects", "reports"];
        let mut before = BTreeMap::new();
        for name in names {
            before.insert(name, replica.check(&subject, "", name).await);
        }
        let count = [24, 25, 26, 30, 31, 100, 101][rng.below(7)];
        let preview = preview(&replica, &subject, new, &[("projects", count)]).await.unwrap();
        if old != new {
            replica.send(&item(old, "ended", 1)).await;
        }
        replica.send(&item(new, "active", 2)).await;
        let told = [&preview.gained, &preview.lost, &preview.changed].into_iter().flatten();
        let told: BTreeMap<_, _> =
            told.map(|found| (&*found.feature, found.after.clone().unwrap())).collect();
        for name in names {
            let (then, now) = (&before[name], replica.check(&subject, "", name).await);
            let is_same = (then.allowed, then.limit) == (now.allowed, now.limit);
            let found = told.get(name).map(|after| (after.allowed, after.limit));
            assert_eq!(found, (!is_same).then_some((now.allowed, now.limit)), "case {case} {name}");
            changes += usize::from(!is_same);
            if name == "projects" {
                let limit = if now.allowed { now.limit } else { Some(0) };
                let is_over = limit.is_some_and(|limit| count > limit);
                assert_eq!(!preview.over.is_empty(), is_over, "case {case}: {count} of {limit:?}");
            }
        }
    }
    println!("{cases} previews with {changes} changes equal the answers after the change");
    assert!(changes > 20);
}

/// A lowered limit is a loss.
#[tokio::test]
async fn a_lowered_limit_needs_consent_and_a_raised_one_does_not() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscription.active.user-pro")).await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    shell.write("lower.toml", &CATALOG.replace("projects = 25", "projects = 24"));
    shell.write("higher.toml", &CATALOG.replace("projects = 25", "projects = 26"));
    let (_, planned, _) = shell.run(&["catalog", "plan", "lower.toml"]).await;
    assert_snapshot!(planned, @r"
    ~ user.plans.pro.features.projects: limit 25 -> limit 24
    FOR   FEATURE   LOWER LIMIT  EXAMPLES
    user  projects  1            user_3jKRaOPcHB95IyjLKz2dmcVGvBR
    1 subject compared: 0 would gain, 1 would lose a feature, a plan, some of its time, or a part of its limit
    ");
    let (code, refused, _) = shell.run(&["catalog", "apply", "lower.toml"]).await;
    assert!(
        code == 1 && refused.contains("1 user would get a lower limit of projects"),
        "{refused}"
    );
    let (code, stdout, stderr) = shell.run(&["catalog", "apply", "higher.toml"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_snapshot!(stdout, @r"
    ~ user.plans.pro.features.projects: limit 25 -> limit 26
    FOR   FEATURE   HIGHER LIMIT  EXAMPLES
    user  projects  1             user_3jKRaOPcHB95IyjLKz2dmcVGvBR
    1 subject compared: 1 would gain, 0 would lose a feature, a plan, some of its time, or a part of its limit
    catalog 2 is in force now
    ");
    let (code, _, stderr) = shell.run(&["catalog", "apply", "lower.toml", "--yes"]).await;
    assert_eq!(code, 0, "{stderr}");
}
