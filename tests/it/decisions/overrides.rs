//! `Overrides`: exceptions are granted, denied, extended, ended and listed, and every answer follows them.

use crate::support::{
    database::Db,
    explanations::{explain, feature},
    overrides::{
        all, client, denied, end, granted, limited, plan_granted, replica, set, set_id, try_set,
        until,
    },
    service::{ACME, ADA, GRACE, Replica, payload},
};
use chrono::{TimeDelta, Utc};
use entitlements::api::pb::{
    Change, CheckFeatureResponse, EndOverrideRequest, ExplainRequest, ListHistoryRequest,
    ListOverridesRequest, Override, Reason, Receipt, SetOverrideRequest, change::Cause,
    grant::Number, step::Kind, support_client::SupportClient,
};
use std::collections::BTreeSet;
use tonic::Code;

#[tokio::test]
async fn a_granted_feature_is_allowed_at_once_and_a_denied_one_is_not() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    assert_eq!(replica.check(ADA, "", "sso").await.reason(), Reason::NotInPlan);
    let set_response = set(&replica, granted(ADA, "sso")).await;
    let allowed = replica.check(ADA, "", "sso").await;
    assert_eq!((allowed.allowed, allowed.reason()), (true, Reason::OverrideGrants));
    assert_eq!(allowed.revision, set_response.revision);
    let difference = &set_response.differences[0];
    assert_eq!((set_response.differences.len(), &*difference.feature), (1, "sso"));
    assert!(!difference.before.as_ref().unwrap().allowed);
    assert!(difference.after.as_ref().unwrap().allowed);

    replica.send(&payload("subscriptionItem.active")).await;
    assert!(replica.check(ADA, "", "export").await.allowed);
    set(&replica, denied(ADA, "export")).await;
    let refused = replica.check(ADA, "", "export").await;
    assert_eq!((refused.allowed, refused.reason()), (false, Reason::OverrideDenies));
}

#[tokio::test]
async fn a_limit_is_at_least_or_exactly_that_of_an_override_and_a_plan_counts_as_live() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let limit = async |user: &str, org: &str| {
        let answer = replica.check(user, org, "projects").await;
        (answer.allowed, answer.limit)
    };
    set(&replica, plan_granted(ADA, "pro")).await;
    assert_eq!(limit(ADA, "").await, (true, Some(25)));
    assert!(replica.account(ADA).await.default_plan.is_empty());
    let more = set_id(&replica, limited(ADA, "projects", Number::AtLeast(40))).await;
    assert_eq!(limit(ADA, "").await, (true, Some(40)));
    set(&replica, plan_granted(ACME, "team")).await;
    assert_eq!(limit(ADA, ACME).await, (true, Some(50)));
    let exact = set_id(&replica, limited(ADA, "projects", Number::Exactly(3))).await;
    assert_eq!(limit(ADA, ACME).await, (true, Some(3)));
    let listed = replica.account(ADA).await.entitlements;
    let projects = listed.iter().find(|found| found.feature == "projects").unwrap();
    assert_eq!((projects.limit, projects.exact_limit), (Some(3), true));
    end(&replica, &exact).await;
    set(&replica, limited(ADA, "projects", Number::Unlimited(true))).await;
    assert_eq!(limit(ADA, ACME).await, (true, None));
    end(&replica, &more).await;
    assert_eq!(limit(ADA, ACME).await, (true, None));
}

#[tokio::test]
async fn a_list_tells_denials_so_that_two_lists_together_allow_what_a_check_allows() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let soon = Utc::now() + TimeDelta::days(1);
    set(&replica, until(denied(ADA, "sso"), soon)).await;
    set(&replica, granted(ADA, "audit_logs")).await;
    let accounts = [replica.account(ADA).await, replica.account(ACME).await];
    let (mut allowed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for account in accounts {
        allowed.extend(account.entitlements.into_iter().map(|found| found.feature));
        refused.extend(account.denied.into_iter().map(|found| found.feature));
    }
    assert_eq!(refused, BTreeSet::from(["sso".to_owned()]));
    for name in ["basic_reports", "export", "api_access", "ai_assistant", "sso", "audit_logs"] {
        let is_listed = allowed.contains(name) && !refused.contains(name);
        assert_eq!(replica.check(ADA, ACME, name).await.allowed, is_listed, "{name}");
    }
}

/// The expected figures: one row, 50 equal answers.
#[tokio::test]
async fn one_key_used_fifty_times_at_once_sets_one_override() {
    let db = Db::new().await;
    let replicas = [Replica::start(&db).await, Replica::start(&db).await];
    let request = SetOverrideRequest {
        r#override: Some(granted(ADA, "sso")),
        idempotency_key: "ticket-4711".into(),
        ..Default::default()
    };
    let calls = (0..50).map(|nth| try_set(&replicas[nth % 2], request.clone()));
    let answers = futures_util::future::join_all(calls).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let equal = answers.iter().filter(|answer| **answer == answers[0]).count();
    let rows = db.count("override").await;
    println!("one key 50 times at once: {rows} row, {equal} equal answers");
    assert_eq!((rows, equal), (1, 50));
    assert_eq!(replicas[0].check(ADA, "", "sso").await.revision, answers[0].revision);

    for changed in [granted(GRACE, "sso"), granted(ADA, "audit_logs")] {
        let request = SetOverrideRequest { r#override: Some(changed), ..request.clone() };
        let status = try_set(&replicas[1], request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with("idempotency_key: was used"), "{status:?}");
    }
    assert_eq!(db.count("override").await, 1);
}

/// One grant, 20 extensions, an end and another grant: nothing is overwritten.
#[tokio::test]
async fn an_override_extended_twenty_times_and_ended_and_set_again_is_told_fact_by_fact() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let to = |days| until(granted(ADA, "sso"), Utc::now() + TimeDelta::days(days));
    let mut id = set_id(&replica, to(1)).await;
    for nth in 1..=20 {
        let reason = format!("extension {nth}");
        id = set_id(&replica, Override { replaces: id, reason, ..to(1 + nth) }).await;
    }
    end(&replica, &id).await;
    assert!(!replica.check(ADA, "", "sso").await.allowed);
    let again = set_id(&replica, to(3)).await;
    let listed = all(&replica, ADA).await;
    let ended = listed.iter().filter_map(|found| found.end.as_ref());
    let replaced = ended.clone().filter(|end| !end.replaced_by.is_empty()).count();
    assert_eq!((listed.len(), replaced, ended.count()), (22, 20, 21));
    assert_eq!(listed[0].id, again);
    assert_eq!(listed[1].end.as_ref().unwrap().reason, "over");
    assert_eq!(listed[2].end.as_ref().unwrap().replaced_by, listed[1].id);

    let request = ListHistoryRequest { subject: ADA.into(), ..Default::default() };
    let history = SupportClient::new(replica.channel.clone()).list_history(request).await;
    let changes = history.unwrap().into_inner().changes;
    let causes = changes.iter().map(Change::cause);
    let ends = causes.clone().filter(|cause| *cause == Cause::OverrideEnd).count();
    let sets = causes.filter(|cause| *cause == Cause::Override).count();
    println!(
        "{sets} overrides set (20 of them extensions) and {ends} ended: {} facts",
        sets + ends
    );
    assert_eq!((sets, ends), (22, 1));
    assert!(changes.iter().all(|change| change.r#override.as_ref().is_some_and(|found| {
        found.owner == "ada" && !found.reason.is_empty() && found.set_at.is_some()
    })));
}

#[tokio::test]
async fn an_explanation_names_the_override_and_answers_of_any_time_follow_from_the_records() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let before = replica.check(ADA, "", "sso").await;
    let id = set_id(&replica, granted(ADA, "sso")).await;
    let during = replica.check(ADA, "", "sso").await;
    end(&replica, &id).await;
    let after = replica.check(ADA, "", "sso").await;
    for (name, receipt, allowed) in
        [("before", before, false), ("during", during.clone(), true), ("after", after, false)]
    {
        let mut request = feature(ADA, "sso");
        request.receipt = Some(Receipt {
            revision: receipt.revision.clone(),
            checked_at: receipt.checked_at,
            stale_for: None,
        });
        let explained = explain(&replica, request).await.unwrap();
        assert_eq!(explained.answer, Some(receipt), "{name}");
        assert_eq!(explained.answer.as_ref().unwrap().allowed, allowed, "{name}");
        assert!(!explained.comparison.unwrap().differs, "{name}: nothing was late");
        let decisive = &explained.steps[0];
        let source = decisive.source.as_ref().and_then(|source| source.r#override.as_ref());
        assert_eq!(source.map(|found| &*found.id), allowed.then_some(&*id), "{name}");
        assert_eq!(decisive.kind() == Kind::Override, allowed, "{name}");
    }
    let known_at = during.checked_at;
    let request = ExplainRequest { known_at, ..feature(ADA, "sso") };
    let explained = explain(&replica, request).await.unwrap();
    let comparison = explained.comparison.unwrap();
    assert!(explained.answer.unwrap().allowed && comparison.differs);
    assert_eq!(comparison.causes[0].r#override.as_ref().unwrap().id, id);
}

#[tokio::test]
async fn a_deletion_ends_all_overrides_and_a_deleted_subject_gets_none() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    set(&replica, granted(ADA, "sso")).await;
    replica.send(&payload("user.deleted")).await;
    assert_eq!(replica.check(ADA, "", "sso").await.reason(), Reason::SubjectDeleted);
    let ended = all(&replica, ADA).await[0].end.clone().unwrap();
    assert_eq!((&*ended.reason, &*ended.ended_by), ("Clerk deleted the subject", ""));
    let request =
        SetOverrideRequest { r#override: Some(granted(ADA, "sso")), ..Default::default() };
    let status = try_set(&replica, request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let request = ListHistoryRequest { subject: ADA.into(), ..Default::default() };
    let history = SupportClient::new(replica.channel.clone()).list_history(request).await;
    let newest = history.unwrap().into_inner().changes.swap_remove(0);
    assert_eq!((newest.cause(), newest.superseded), (Cause::Webhook, false), "{newest:?}");
    assert!(newest.features.iter().any(|found| found.feature == "sso"), "{newest:?}");
    replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!(db.count("override").await, 1);
}

#[tokio::test]
async fn an_override_is_set_only_if_the_subject_has_not_changed() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let request = |if_revision: &str, feature| SetOverrideRequest {
        r#override: Some(granted(ADA, feature)),
        if_revision: if_revision.into(),
        ..Default::default()
    };
    let list = ListOverridesRequest { subject: ADA.into(), ..Default::default() };
    let read = client(&replica).list_overrides(list).await.unwrap().into_inner().revision;
    let first = try_set(&replica, request(&read, "sso")).await.unwrap();
    let late = try_set(&replica, request(&read, "export")).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted, "{late:?}");
    try_set(&replica, request(&first.revision, "export")).await.unwrap();
    assert_eq!(db.count("override").await, 2);
}

#[tokio::test]
async fn overrides_are_listed_by_subject_feature_owner_and_end_page_by_page() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let soon = Utc::now() + TimeDelta::days(3);
    let ids = [
        set_id(&replica, until(granted(ADA, "sso"), soon)).await,
        set_id(&replica, Override { owner: "bob".into(), ..granted(GRACE, "sso") }).await,
        set_id(&replica, plan_granted(ACME, "team")).await,
    ];
    let list = async |request: ListOverridesRequest| {
        let listed = client(&replica).list_overrides(request).await.unwrap().into_inner();
        let names = listed.overrides.iter().map(|found| ids.iter().position(|id| *id == found.id));
        (names.map(Option::unwrap).collect::<Vec<_>>(), listed.next_page_token)
    };
    let text = |text: &str| text.to_owned();
    let none = ListOverridesRequest::default;
    assert_eq!(list(none()).await.0, [2, 1, 0]);
    assert_eq!(list(ListOverridesRequest { subject: text(ADA), ..none() }).await.0, [0]);
    assert_eq!(list(ListOverridesRequest { feature: text("sso"), ..none() }).await.0, [1, 0]);
    assert_eq!(list(ListOverridesRequest { plan: text("team"), ..none() }).await.0, [2]);
    assert_eq!(list(ListOverridesRequest { owner: text("bob"), ..none() }).await.0, [1]);
    for (days, expected) in [(2, &[][..]), (4, &[0][..])] {
        let expiring_within = Some(prost_types::Duration { seconds: days * 86_400, nanos: 0 });
        assert_eq!(list(ListOverridesRequest { expiring_within, ..none() }).await.0, expected);
    }
    let (first, page_token) = list(ListOverridesRequest { page_size: 2, ..none() }).await;
    let (rest, end_token) = list(ListOverridesRequest { page_size: 2, page_token, ..none() }).await;
    assert_eq!((&*first, &*rest, &*end_token), (&[2, 1][..], &[0][..], ""));
    end(&replica, &ids[1]).await;
    assert_eq!(list(none()).await.0, [2, 0]);
    assert_eq!(list(ListOverridesRequest { include_ended: true, ..none() }).await.0, [2, 1, 0]);
}

/// The parts of an answer that a change of the account or the passing of time can change.
fn parts(answer: Option<CheckFeatureResponse>) -> CheckFeatureResponse {
    CheckFeatureResponse { checked_at: None, revision: String::new(), ..answer.unwrap() }
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_tells_what_an_end_would_change() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let id = set_id(&replica, granted(ADA, "sso")).await;
    let before = db.fingerprint().await;
    let mut request =
        EndOverrideRequest { id, reason: "over".into(), dry_run: true, ..Default::default() };
    let dry = client(&replica).end_override(request.clone()).await.unwrap().into_inner();
    assert_eq!(db.fingerprint().await, before);
    request.dry_run = false;
    let done = client(&replica).end_override(request).await.unwrap().into_inner();
    for (dry, done) in dry.differences.into_iter().zip(done.differences) {
        assert_eq!(dry.feature, done.feature);
        assert_eq!((parts(dry.before), parts(dry.after)), (parts(done.before), parts(done.after)));
    }
}
