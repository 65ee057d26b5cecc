//! `Support.Explain` and `Support.ListHistory`: answers of any time, by what was known at any time.

use crate::support::{
    callers_file::CallersFile,
    database::Db,
    explanations::{changed, explain, feature, move_back, refusal, timestamp},
    http_client::HttpClient,
    service::{ACME, ADA, GRACE, Replica, config, payload},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use entitlements::{
    api::pb::{
        ExplainRequest, ListHistoryRequest, Reason, Receipt, change::Cause, step::Kind,
        support_client::SupportClient,
    },
    config::{Config, Protocol},
    server::auth::Scope,
};
use insta::assert_snapshot;
use prost_types::Timestamp;
use serde_json::json;
use tonic::{Code, Request};

#[tokio::test]
async fn the_explanation_of_now_is_the_answer_of_a_check() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for name in
        ["subscriptionItem.active", "subscription.active.org-team", "subscription.pastDue.user"]
    {
        replica.send(&payload(name)).await;
    }
    for (user, org, name) in [
        (ADA, "", "export"),
        (ADA, ACME, "sso"),
        ("", ACME, "org:sso"),
        (ADA, ACME, "user:sso"),
        (ADA, "", "x:export"),
        (ADA, "", "nothing"),
        (GRACE, ACME, "basic_reports"),
    ] {
        let checked = replica.check(user, org, name).await;
        let request = ExplainRequest { organization_id: org.into(), ..feature(user, name) };
        let explained = explain(&replica, request).await.unwrap();
        let mut answer = explained.answer.clone().unwrap();
        answer.checked_at = checked.checked_at;
        assert_eq!(answer, checked, "{user} {org} {name}");
        let decisive = &explained.steps[0];
        assert!(decisive.decisive, "{name}: {explained:?}");
        assert_eq!(decisive.reason, checked.reason, "{name}");
        assert_eq!(explained.catalog.unwrap().number, 1);
        assert_eq!(explained.comparison, None);
    }
}

#[tokio::test]
async fn a_late_message_changes_the_past_but_not_what_was_known_then() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscription.created.free-user")).await;
    move_back(&db, 2).await;
    let yesterday = (Utc::now() - TimeDelta::days(1)).trunc_subsecs(3);
    let before = (yesterday - TimeDelta::hours(1)).timestamp_millis();
    let paid = changed("subscriptionItem.active", &json!({ "updated_at": before }));
    replica.send_as("msg_late", &paid).await;

    let as_of = Some(timestamp(yesterday));
    let now_known =
        explain(&replica, ExplainRequest { as_of, ..feature(ADA, "export") }).await.unwrap();
    let then_known = ExplainRequest { as_of, known_at: as_of, ..feature(ADA, "export") };
    let then_known = explain(&replica, then_known).await.unwrap();

    let (now_said, then_said) = (now_known.answer.unwrap(), then_known.answer.unwrap());
    assert!(now_said.allowed && !then_said.allowed);
    for (explained, other) in
        [(&now_known.comparison, &then_said), (&then_known.comparison, &now_said)]
    {
        let comparison = explained.as_ref().unwrap();
        assert!(comparison.differs);
        assert_eq!(comparison.answer.as_ref(), Some(other));
        let causes: Vec<_> = comparison.causes.iter().map(|cause| &*cause.message).collect();
        assert_eq!(causes, ["msg_late"]);
    }
    let source = now_known.steps[0].source.as_ref().unwrap();
    assert_eq!(source.message, "msg_late");
    assert!(source.known_at.unwrap().seconds > source.effective_at.unwrap().seconds + 24 * 3600);

    // Two days ago, it was neither true nor known.
    let as_of = Some(timestamp(yesterday - TimeDelta::hours(2)));
    let earlier =
        explain(&replica, ExplainRequest { as_of, ..feature(ADA, "export") }).await.unwrap();
    assert!(!earlier.answer.unwrap().allowed);
    assert!(!earlier.comparison.unwrap().differs);
}

#[tokio::test]
async fn the_future_is_what_time_alone_will_change() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.canceled")).await;
    let now = explain(&replica, feature(ADA, "export")).await.unwrap();
    let later = now.later.first().expect("the end of the period");
    assert_eq!(later.checked_at, now.answer.as_ref().unwrap().valid_until);
    assert_eq!((later.allowed, later.reason()), (false, Reason::PeriodOver));
    let as_of = later.checked_at;
    let then = explain(&replica, ExplainRequest { as_of, ..feature(ADA, "export") }).await.unwrap();
    assert_eq!(then.answer.as_ref(), Some(later));
    let step = &then.steps[0];
    assert_eq!(
        (step.kind(), step.until, &*step.item.as_ref().unwrap().status),
        (Kind::Item, as_of, "canceled")
    );
}

#[tokio::test]
async fn protocols_over_http_give_receipts() {
    let db = Db::new().await;
    let protocols = vec![Protocol::Ofrep, Protocol::Authzen];
    let replica = Replica::start_with(Config { protocols, ..config(&db) }).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let client = HttpClient::of(&replica);
    let context = json!({ "context": { "targetingKey": ADA } });
    let flag = client.post("/ofrep/v1/evaluate/flags/export", context).await;
    let evaluation = json!({
        "subject": { "type": "user", "id": ADA },
        "action": { "name": "use" },
        "resource": { "type": "feature", "id": "export" },
    });
    let decision = client.post("/access/v1/evaluation", evaluation).await;
    replica.send(&payload("subscriptionItem.ended")).await;
    for answer in [&flag.body["metadata"], &decision.body["context"]] {
        let checked_at: DateTime<Utc> = answer["checkedAt"].as_str().unwrap().parse().unwrap();
        let receipt = Receipt {
            revision: answer["revision"].as_str().unwrap().into(),
            checked_at: Some(timestamp(checked_at)),
            stale_for: None,
        };
        let request = ExplainRequest { receipt: Some(receipt), ..feature(ADA, "export") };
        let explained = explain(&replica, request).await.unwrap();
        assert!(explained.answer.unwrap().allowed, "{answer}");
        assert_eq!(answer["allowed"], true);
        assert!(explained.comparison.is_some());
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_their_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let revision = replica.check(ADA, "", "export").await.revision;
    let of_acme = replica.check("", ACME, "export").await.revision;
    let of_both = replica.check(ADA, ACME, "export").await.revision;
    let before = db.fingerprint().await;
    let day = |days| Some(timestamp(Utc::now() + TimeDelta::days(days)));
    let receipt = |revision: &str, checked_at| {
        let receipt = Receipt { revision: revision.into(), checked_at, stale_for: None };
        ExplainRequest { receipt: Some(receipt), ..feature(ADA, "export") }
    };
    let earlier = Some(timestamp(Utc::now() - TimeDelta::hours(1)));
    let negative = Some(prost_types::Duration { seconds: i64::MIN, nanos: 0 });
    let long_ago = Receipt { revision: revision.clone(), checked_at: day(0), stale_for: negative };
    let later = revision.rsplit_once('.').map(|(start, _)| format!("{start}.7")).unwrap();
    let cases = [
        ("nothing", ExplainRequest::default()),
        ("no target", ExplainRequest { target: None, ..feature(ADA, "") }),
        ("an invalid id", feature("ada", "export")),
        ("an unknown subject", feature("user_nobody", "export")),
        ("knowledge of the future", ExplainRequest { known_at: day(1), ..feature(ADA, "export") }),
        ("before all records", ExplainRequest { known_at: day(-1), ..feature(ADA, "export") }),
        ("true before all records", ExplainRequest { as_of: day(-1), ..feature(ADA, "export") }),
        (
            "no instant",
            ExplainRequest {
                as_of: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
                ..feature(ADA, "export")
            },
        ),
        ("a damaged receipt", receipt("1.1_xyz", day(0))),
        ("a receipt without an instant", receipt(&revision, None)),
        ("a receipt of the future", receipt(&revision, day(1))),
        ("a receipt of another subject", receipt(&of_acme, day(0))),
        ("a receipt of an earlier instant", receipt(&revision, earlier)),
        ("a receipt of two subjects", receipt(&of_both, day(0))),
        ("a receipt of another catalog", receipt(&revision.replacen('1', "8", 1), day(0))),
        ("a receipt of a later state", receipt(&later, day(0))),
        ("a negative age", ExplainRequest { receipt: Some(long_ago), ..feature(ADA, "export") }),
        (
            "two points",
            ExplainRequest { as_of: day(0), known_at: day(0), ..receipt(&revision, day(0)) },
        ),
    ];
    let mut refusals = Vec::new();
    for (name, request) in cases {
        let status = explain(&replica, request).await.expect_err(name);
        let text = refusal(&status);
        let text = text.split_once(" before 2").map_or(&*text, |(start, _)| start);
        refusals.push(format!("{name}: {text}"));
    }
    assert_snapshot!(refusals.join("\n"), @r"
    nothing: InvalidArgument: user_id: is empty, and so is organization_id: at least one is needed; feature: is absent, and so is plan: one of them is needed
    no target: InvalidArgument: feature: is absent, and so is plan: one of them is needed
    an invalid id: InvalidArgument: user_id: must be a Clerk user id: `user_` and then letters, digits, `_` or `-`, at most 128 bytes
    an unknown subject: NotFound: user_id: nothing was ever recorded about it: check the id; if it is right, Clerk reported no subscription
    knowledge of the future: InvalidArgument: known_at: is in the future
    before all records: OutOfRange: known_at: is
    true before all records: OutOfRange: as_of: is
    no instant: InvalidArgument: as_of: must be a timestamp between the years 1 and 9999
    a damaged receipt: InvalidArgument: receipt.revision: must be a `revision` from an earlier answer
    a receipt without an instant: InvalidArgument: receipt.checked_at: is absent: send `checked_at` of the answer
    a receipt of the future: InvalidArgument: receipt.checked_at: is in the future
    a receipt of another subject: InvalidArgument: receipt.revision: is not of an answer about exactly these subjects
    a receipt of an earlier instant: InvalidArgument: receipt.revision: is of a state that was recorded after `checked_at`: are both from one answer?
    a receipt of two subjects: InvalidArgument: receipt.revision: is not of an answer about exactly these subjects
    a receipt of another catalog: InvalidArgument: receipt.revision: names a catalog that this database never had
    a receipt of a later state: InvalidArgument: receipt.revision: names a state that this database never had
    a negative age: InvalidArgument: receipt.stale_for: must be a duration that is not negative
    two points: InvalidArgument: as_of: must be absent: the receipt has its own instant; known_at: must be absent: the receipt has its own instant
    ");
    let mut client = SupportClient::new(replica.channel.clone());
    let mut refusals = Vec::new();
    for (name, subject, page_size, page_token) in [
        ("no subject", "", 0, ""),
        ("an unknown subject", "user_nobody", 0, ""),
        ("a large page", ADA, 1001, ""),
        ("a foreign token", ADA, 0, "x"),
    ] {
        let (subject, page_token) = (subject.into(), page_token.into());
        let request = ListHistoryRequest { subject, page_size, page_token };
        let status = client.list_history(request).await.expect_err(name);
        refusals.push(format!("{name}: {}", refusal(&status)));
    }
    assert_snapshot!(refusals.join("\n"), @r"
    no subject: InvalidArgument: subject: must be a Clerk user id: `user_` and then letters, digits, `_` or `-`, at most 128 bytes
    an unknown subject: NotFound: subject: nothing was ever recorded about it: check the id; if it is right, Clerk reported no subscription
    a large page: InvalidArgument: page_size: must be at most 1000
    a foreign token: InvalidArgument: page_token: is not a valid page token: send a `next_page_token` unchanged
    ");
    assert_eq!(db.fingerprint().await, before);
}

#[tokio::test]
async fn only_a_caller_with_the_scope_support_gets_explanations() {
    let (db, callers) = (Db::new().await, CallersFile::new());
    let alice = callers.create("alice", &[Scope::Support]);
    let others = callers.create("others", &[Scope::Check, Scope::Admin]);
    let replica = callers.replica(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let mut client = SupportClient::new(replica.channel.clone());
    for (key, code) in [
        (Some(&alice), Code::Ok),
        (Some(&others), Code::PermissionDenied),
        (None, Code::Unauthenticated),
    ] {
        let mut request = Request::new(feature(ADA, "export"));
        let mut list =
            Request::new(ListHistoryRequest { subject: ADA.into(), ..Default::default() });
        if let Some(key) = key {
            request.metadata_mut().insert("authorization", key.parse().unwrap());
            list.metadata_mut().insert("authorization", key.parse().unwrap());
        }
        let explained =
            client.explain(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        let listed =
            client.list_history(list).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!((explained, listed), (code, code));
    }
}

#[tokio::test]
async fn the_history_lists_each_message_and_what_it_changed_page_by_page() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let names = [
        "subscription.created.free-user",
        "subscriptionItem.active",
        "subscriptionItem.canceled",
        "subscriptionItem.active",
    ];
    for (nth, name) in names.iter().enumerate() {
        replica.send_as(&format!("msg_{nth}"), &payload(name)).await;
    }
    let mut client = SupportClient::new(replica.channel.clone());
    let (mut changes, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListHistoryRequest { subject: ADA.into(), page_size: 2, page_token };
        let page = client.list_history(request).await.unwrap().into_inner();
        assert!(page.changes.len() <= 2 && page.complete_from.is_some());
        changes.extend(page.changes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let lines = changes.iter().map(|change| {
        let gained = change.features.iter().map(|found| {
            let is_allowed = found.after.as_ref().is_some_and(|state| state.allowed);
            format!("{}{}", if is_allowed { "+" } else { "-" }, found.feature)
        });
        let (gained, superseded) = (gained.collect::<Vec<_>>().join(" "), change.superseded);
        assert_eq!(change.cause(), Cause::Webhook);
        format!("{} superseded: {superseded}, changes: [{gained}]", change.message)
    });
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
    msg_3 superseded: true, changes: []
    msg_2 superseded: false, changes: []
    msg_1 superseded: false, changes: [+api_access +export]
    msg_0 superseded: false, changes: []
    ");
}
