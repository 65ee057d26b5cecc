//! Invalid calls, and calls that cannot be answered: each with its code, and without changes.

use crate::{
    support::database::Db,
    support::raw_socket,
    support::service::{ACME, ADA, Replica, config, eventually, payload},
};
use entitlements::api::pb::{
    CheckFeatureRequest, CheckFeaturesRequest, CheckPlanRequest, Consistency,
    ListEntitlementsRequest, Reason, consistency::Requirement,
};
use insta::assert_snapshot;
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn ask(user: &str, org: &str, feature: &str) -> CheckFeatureRequest {
    CheckFeatureRequest {
        user_id: user.into(),
        organization_id: org.into(),
        feature: feature.into(),
        ..Default::default()
    }
}

/// The field violations of a status.
fn violations(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().expect("a BadRequest");
    let violations = details.field_violations.iter();
    violations.map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("\n")
}

async fn refused(replica: &Replica, request: CheckFeatureRequest) -> String {
    violations(&replica.client.clone().check_feature(request).await.unwrap_err())
}

#[tokio::test]
async fn a_malformed_question_is_rejected_with_its_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let before = db.fingerprint().await;
    assert_snapshot!(refused(&replica, ask("", "", "")).await, @r"
    user_id: is empty, and so is organization_id: at least one is needed
    feature: must be a slug: 1 to 128 bytes without control characters
    ");
    assert_snapshot!(refused(&replica, ask(ACME, ADA, "sso")).await, @r"
    user_id: must be a Clerk user id: `user_` and then letters, digits, `_` or `-`, at most 128 bytes
    organization_id: must be a Clerk organization id: `org_` and then letters, digits, `_` or `-`, at most 128 bytes
    ");
    let long = format!("user_{}", "x".repeat(10_000));
    for id in
        ["ada", "user_", "user_ 1", " user_1", "user_\u{7}", "user_\u{202e}1", "user_\0", &long]
    {
        let message = refused(&replica, ask(id, "", "sso")).await;
        assert!(message.starts_with("user_id: must be"), "{id:?}: {message}");
    }
    for feature in ["org:", "a\nb", "a\0", &"f".repeat(200)] {
        let message = refused(&replica, ask(ADA, "", feature)).await;
        assert!(message.starts_with("feature: must be a slug"), "{feature:?}: {message}");
    }
    for text in ["x", "1_zz.1", "1_1"] {
        let requirement = Some(Requirement::AtLeast(text.into()));
        let consistency = Some(Consistency { requirement });
        let message =
            refused(&replica, CheckFeatureRequest { consistency, ..ask(ADA, "", "sso") }).await;
        let expected = "consistency.at_least: must be a `revision` from an earlier answer";
        assert_eq!(message, expected, "{text:?}");
    }
    let consistency = Some(Consistency { requirement: Some(Requirement::FullyConsistent(false)) });
    let max_staleness = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let both = CheckFeatureRequest { consistency, max_staleness, ..ask(ADA, "", "sso") };
    assert_snapshot!(refused(&replica, both).await, @r"
    consistency.fully_consistent: must be true where it is present
    max_staleness: must be a duration that is not negative
    ");
    assert_eq!(db.fingerprint().await, before);
}

#[tokio::test]
async fn a_malformed_batch_plan_or_list_is_rejected_with_its_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut client = replica.client.clone();
    for count in [0, 101] {
        let questions = vec![ask(ADA, "", "sso"); count];
        let request = CheckFeaturesRequest { questions, ..Default::default() };
        let message = violations(&client.check_features(request).await.unwrap_err());
        assert_eq!(message, format!("questions: are {count}, and must be 1 to 100"));
    }
    let max_staleness = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let own = CheckFeatureRequest { max_staleness, ..ask(ADA, "", "sso") };
    let questions = vec![ask(ADA, "", "sso"), ask("x", "", ""), own];
    let request = CheckFeaturesRequest { questions, ..Default::default() };
    assert_snapshot!(violations(&client.check_features(request).await.unwrap_err()), @r"
    questions[1].user_id: must be a Clerk user id: `user_` and then letters, digits, `_` or `-`, at most 128 bytes
    questions[1].feature: must be a slug: 1 to 128 bytes without control characters
    questions[2].max_staleness: must be set once, beside `questions`
    ");
    let plan = client.check_plan(CheckPlanRequest::default()).await.unwrap_err();
    assert_snapshot!(violations(&plan), @r"
    user_id: is empty, and so is organization_id: at least one is needed
    plan: must be a slug: 1 to 128 bytes without control characters
    ");
    let list = client.list_entitlements(ListEntitlementsRequest::default()).await.unwrap_err();
    assert_snapshot!(violations(&list), @"user_id: is empty, and so is organization_id: at least one is needed");
}

#[tokio::test]
async fn a_denial_is_an_answer() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for (user, org, feature, reason) in [
        ("user_nobody", "", "basic_reports", Reason::DefaultPlan),
        ("user_nobody", "", "export", Reason::NotInPlan),
        ("", "org_nobody", "sso", Reason::NotInPlan),
        ("user_nobody", "", "exports", Reason::UnknownFeature),
        ("user_nobody", "", "Export", Reason::UnknownFeature),
        ("user_nobody", "", "export ", Reason::UnknownFeature),
        ("user_nobody", "", "org:sso", Reason::OutOfScope),
        ("user_nobody", "org_nobody", "team:sso", Reason::UnknownScope),
    ] {
        let answer = replica.check(user, org, feature).await;
        assert_eq!(answer.reason(), reason, "{user} {org} {feature}: {answer:?}");
    }
}

#[tokio::test]
async fn a_batch_answers_each_question_in_order_and_like_a_single_check() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscriptionItem.active.org-seats")).await;
    let targets = [(ADA, "", "export"), ("", ACME, "sso"), (ADA, ACME, "sso"), (ADA, "", "export")];
    let questions = targets.map(|(user, org, feature)| ask(user, org, feature)).to_vec();
    let request = CheckFeaturesRequest { questions, ..Default::default() };
    let answers =
        replica.client.clone().check_features(request).await.unwrap().into_inner().answers;
    assert_eq!(answers.len(), targets.len());
    for (mut answer, (user, org, feature)) in answers.into_iter().zip(targets) {
        let single = replica.check(user, org, feature).await;
        answer.checked_at = single.checked_at;
        assert_eq!(answer, single, "{user} {org} {feature}");
    }
}

/// A message as gRPC frames it.
fn framed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[flag], &length[..], message].concat()
}

#[tokio::test]
async fn bytes_that_are_not_a_message_get_the_grpc_code_for_them() {
    const CHECK: &str = "/entitlements.v1.Entitlements/CheckFeature";
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let connection = raw_socket::http2(replica.bound.api).await;
    let ok = ask(ADA, "", "export").encode_to_vec();
    let frame = |flag, message: &[u8]| framed(flag, message.len(), message);
    let unknown_field = [&ok[..], &[0xfa, 0x01, 0x01, b'x']].concat();
    let cases: Vec<(&str, Vec<u8>, Code, &str)> = vec![
        (CHECK, frame(0, &ok), Code::Ok, ""),
        (CHECK, frame(0, &unknown_field), Code::Ok, ""),
        (CHECK, [frame(0, &ok), frame(0, &ok)].concat(), Code::Ok, ""),
        (CHECK, vec![], Code::Internal, "Missing request message"),
        (CHECK, frame(0, &ok)[..9].to_vec(), Code::Internal, ""),
        (CHECK, frame(0, b"\xff\xff\xff"), Code::Internal, "decode"),
        (CHECK, frame(0, &[0x08, 0x01]), Code::Internal, "user_id"),
        (CHECK, frame(0, &[0x0a, 0x02, 0xff, 0xfe]), Code::Internal, "user_id"),
        (CHECK, frame(1, &ok), Code::Internal, "compress"),
        (CHECK, frame(7, &ok), Code::Internal, "compress"),
        (CHECK, framed(0, u32::MAX as usize, &ok), Code::OutOfRange, "limit"),
        (CHECK, frame(0, &[0x0a; 70_000]), Code::OutOfRange, "limit"),
        ("/entitlements.v1.Entitlements/CheckNothing", frame(0, &ok), Code::Unimplemented, ""),
        ("/entitlements.v2.Entitlements/CheckFeature", frame(0, &ok), Code::Unimplemented, ""),
    ];
    for (path, body, code, words) in cases {
        let (status, found) = raw_socket::grpc(&connection, path, &[], body.clone()).await;
        let shown: Vec<_> = body.iter().take(20).collect();
        assert_eq!((status, found.code()), (200, code), "{path} {shown:?}: {found:?}");
        assert!(found.message().contains(words), "{path} {shown:?}: {found:?}");
    }
    let long = "x".repeat(20_000);
    for (name, value, status, code) in [
        ("grpc-encoding", "gzip", 200, Code::Unimplemented),
        ("grpc-timeout", "abc", 200, Code::Ok),
        ("grpc-timeout", "99999999H", 200, Code::Ok),
        ("x-bin", "!!!", 200, Code::Ok),
        ("x-long", &long, 431, Code::Unknown),
    ] {
        let body = framed(u8::from(name == "grpc-encoding"), ok.len(), &ok);
        let found = raw_socket::grpc(&connection, CHECK, &[(name, value)], body).await;
        assert_eq!((found.0, found.1.code()), (status, code), "{name}: {value:.20}: {found:?}");
    }
    assert!(!replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn a_call_that_cannot_be_answered_in_time_ends_with_deadline_exceeded() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let pool = db.pool().await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table entitlements.subject in access exclusive mode")
        .execute(&mut *holder)
        .await
        .unwrap();
    let mut request = tonic::Request::new(ask(ADA, "", "export"));
    request.set_timeout(Duration::from_millis(100));
    // The client has the same deadline and may reach it first: tonic then reports CANCELLED.
    let metadata = request.metadata_mut();
    metadata.insert("grpc-timeout", "100m".parse().unwrap());
    let status = replica.client.clone().check_feature(request).await.unwrap_err();
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()), "{status:?}");

    // The load continues after its caller has gone, and serves the next one.
    holder.rollback().await.unwrap();
    eventually("the load has ended", async || {
        let (_, metrics) = replica.get("/metrics").await;
        metrics.contains("entitlements_cache_loads_total{result=\"ok\"} 1")
    })
    .await;
    replica.check(ADA, "", "export").await;
    let (_, metrics) = replica.get("/metrics").await;
    assert!(metrics.contains("entitlements_cache_hits_total 1"), "{metrics}");
}

#[tokio::test]
async fn a_replica_that_has_never_read_the_database_says_so() {
    let db = Db::new().await;
    let mut nowhere = config(&db);
    nowhere.database = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
    let replica = Replica::launch(nowhere).await;
    let status = replica.client.clone().check_feature(ask(ADA, "", "sso")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_snapshot!(status.message(), @"this replica is starting and has not read the database yet");
    assert_eq!(replica.get("/livez").await.0, 200);
    assert_eq!(replica.get("/readyz").await, (503, "has not read the database yet\n".into()));
}
