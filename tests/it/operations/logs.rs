//! The log of the real binary: one line for each delivery and each change of state, none for a check.

use crate::{
    support::database::Db,
    support::process::Process,
    support::proxy::{Link, Proxy},
    support::service::{ADA, deliver, eventually, payload, plain_http, post, signed_headers},
    support::shell::Shell,
};
use chrono::Utc;
use entitlements::api::pb::{CheckFeatureRequest, CheckPlanRequest};
use serde_json::Value;
use tonic::Code;

/// A long timeout, so that a check is answered on a busy machine.
const PATIENT: (&str, &str) = ("ENTITLEMENTS_CHECK_TIMEOUT", "1m");

fn question(user: &str, feature: &str) -> CheckFeatureRequest {
    CheckFeatureRequest { user_id: user.into(), feature: feature.into(), ..Default::default() }
}

/// Delivers a signed body, and returns the status.
async fn deliver_to(process: &Process, id: &str, body: &str) -> u16 {
    deliver(&plain_http(), &process.http, id, body).await.unwrap().status
}

/// The log lines that have all of these fields.
fn lines(process: &Process, fields: &[(&str, &str)]) -> Vec<Value> {
    let fits = |line: &Value| fields.iter().all(|(name, value)| line[*name] == *value);
    process.log_lines().into_iter().filter(fits).collect()
}

#[tokio::test]
async fn each_delivery_has_one_line_with_its_outcome_and_reason() {
    let db = Db::new().await;
    let process = Process::start(&db.url, &[]).await;
    let active = payload("subscriptionItem.active");
    let membership = payload("organizationMembership.created");
    for (id, body, result, level, why) in [
        ("msg_2", &*active, "applied", "INFO", ""),
        ("msg_1", &*active, "superseded", "INFO", "the same or a newer state is known"),
        ("msg_3", &*membership, "ignored", "INFO", "does not affect entitlements"),
        ("msg_4", "not json", "parked", "WARN", "not JSON"),
    ] {
        assert_eq!(deliver_to(&process, id, body).await, 200, "{id}");
        let found = lines(&process, &[("svix_id", id)]);
        assert_eq!(found.len(), 1, "{id}: {found:?}");
        assert_eq!(found[0]["result"], result, "{found:?}");
        assert_eq!(found[0]["level"], level, "{found:?}");
        let detail = found[0]["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(why) && detail.is_empty() == why.is_empty(), "{found:?}");
    }
    assert_eq!(lines(&process, &[("svix_id", "msg_2")])[0]["subject"], ADA);
    assert_eq!(deliver_to(&process, "msg_2", &active).await, 200);
    assert_eq!(lines(&process, &[("svix_id", "msg_2"), ("result", "duplicate")]).len(), 1);

    let refused = || lines(&process, &[("message", "refused a webhook")]);
    let mut forged = signed_headers("msg_5", Utc::now().timestamp(), &active);
    forged[2].1 = "v1,AAAA".into();
    let rejected = post(&plain_http(), &process.http, &forged, active.clone()).await.unwrap();
    assert_eq!(rejected.status, 401);
    assert_eq!(deliver_to(&process, "msg_6", &"x".repeat(600_000)).await, 413);
    let refused: Vec<_> = refused().iter().map(|line| line["refusal"].to_string()).collect();
    assert!(refused.len() == 2 && refused[0].contains("does not verify"), "{refused:?}");
    assert!(refused[1].contains("larger than 512 KiB"), "{refused:?}");
    assert!(lines(&process, &[("svix_id", "msg_5")]).is_empty());
}

#[tokio::test]
async fn a_check_leaves_no_line_unless_log_denials_is_set() {
    let db = Db::new().await;
    let silent = Process::start(&db.url, &[PATIENT]).await;
    deliver_to(&silent, "msg_1", &payload("subscriptionItem.active")).await;
    let some = Process::start(&db.url, &[PATIENT, ("ENTITLEMENTS_LOG_DENIALS", "10%")]).await;
    for (process, denials) in [(&silent, 0), (&some, 10)] {
        let mut client = process.client();
        let before = process.log_lines().len();
        for _ in 0..100 {
            assert!(client.check_feature(question(ADA, "export")).await.unwrap().get_ref().allowed);
            assert!(!client.check_feature(question(ADA, "sso")).await.unwrap().get_ref().allowed);
        }
        let after = process.log_lines().split_off(before);
        assert_eq!(
            after.iter().filter(|line| line["wanted"] == "sso").count(),
            denials,
            "{after:?}"
        );
        // On a busy machine the state of the replica may change meanwhile, which logs more lines.
        assert!(after.len() < denials + 100, "{after:?}");
    }
}

#[tokio::test]
async fn a_logged_denial_has_subject_target_and_reason() {
    let db = Db::new().await;
    let process = Process::start(&db.url, &[PATIENT, ("ENTITLEMENTS_LOG_DENIALS", "100%")]).await;
    let mut client = process.client();
    deliver_to(&process, "msg_1", &payload("subscriptionItem.ended")).await;
    let request =
        CheckFeatureRequest { organization_id: "org_1".into(), ..question(ADA, "export") };
    client.check_feature(request).await.unwrap();
    let plan = CheckPlanRequest {
        user_id: "user_stranger".into(),
        plan: "no_such".into(),
        ..Default::default()
    };
    client.check_plan(plan).await.unwrap();
    let [feature] = &lines(&process, &[("user", ADA), ("wanted", "export")])[..] else {
        panic!("{:?}", process.log_lines());
    };
    assert_eq!(feature["organization"], "org_1");
    assert_eq!(feature["reason"], "REASON_ENDED");
    assert_eq!(feature["plan"], "pro");
    assert_eq!(feature["message"], "denied the feature export: REASON_ENDED");
    let plans = lines(&process, &[("user", "user_stranger"), ("wanted", "no_such")]);
    assert_eq!(plans.len(), 1, "{:?}", process.log());
    assert_eq!(plans[0]["organization"], Value::Null);
}

#[tokio::test]
async fn each_change_of_state_has_one_line_and_failing_checks_do_not_flood_the_log() {
    let db = Db::new().await;
    let proxy = Proxy::before(&db.url).await;
    let process = Process::start(&proxy.url(db.name()), &[]).await;
    let states = || process.log_lines().into_iter().filter(|line| line["freshness"].is_string());
    let is = |state: &str| states().next_back().is_some_and(|line| line["freshness"] == *state);
    eventually("it says that it is fresh", async || is("fresh")).await;

    proxy.set(Link::Refused);
    eventually("it says that it is stale", async || is("stale")).await;
    let mut client = process.client();
    let before = std::time::Instant::now();
    for n in 0..300 {
        let request = question(&format!("user_{n}"), "export");
        assert_eq!(client.check_feature(request).await.unwrap_err().code(), Code::Unavailable);
    }
    let seconds = usize::try_from(before.elapsed().as_secs()).unwrap();
    let failures = lines(&process, &[("message", "cannot read accounts")]).len();
    assert!(failures <= seconds + 2, "{failures} lines in {seconds} s");

    proxy.set(Link::Whole);
    eventually("it says that it is fresh again", async || is("fresh")).await;
    let mut before = "starting".into();
    for line in states() {
        assert_eq!(line["before"], before);
        assert_ne!(line["freshness"], before);
        before = line["freshness"].clone();
    }
    let count = |message: &str| lines(&process, &[("message", message)]).len();
    let (lost, recovered) = (count("cannot read the change log"), count("change log: caught up"));
    assert!(
        lost >= 1 && recovered.abs_diff(lost) <= 1,
        "lost {lost} times, caught up {recovered} times"
    );
}

#[tokio::test]
async fn an_invalid_sample_rate_of_denials_is_rejected() {
    let shell = Shell::new(&[("ENTITLEMENTS_LOG_DENIALS", "some")]);
    let (code, _, stderr) = shell.run(&["serve"]).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("a share such as `1%`, or a rate such as `10/s`"), "{stderr}");
}
