//! `AuthZEN`'s Authorization API, as policy enforcement points speak it.

use crate::{
    db::Db,
    outside::{Outside, Told, counted},
    service::{ACME, ADA, GRACE, Replica, config, eventually, payload, plain_http},
};
use entitlements::config::Config;
use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";

fn about(id: &str, feature: &str) -> Value {
    let kind = if id.starts_with("org_") { "organization" } else { "user" };
    json!({
        "subject": { "type": kind, "id": id },
        "action": { "name": "use" },
        "resource": { "type": "feature", "id": feature },
    })
}

async fn permits(outside: &Outside, body: Value) -> bool {
    let told = outside.post(EVALUATION, &body).await;
    assert_eq!(told.status, 200, "{body}: {told:?}");
    told.body["decision"].as_bool().unwrap()
}

fn decisions(told: &Told) -> Vec<bool> {
    assert_eq!(told.status, 200, "{told:?}");
    let all = told.body["evaluations"].as_array().unwrap();
    all.iter().map(|one| one["decision"].as_bool().unwrap()).collect()
}

#[tokio::test]
async fn an_evaluation_decides_and_says_why() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    replica.send(&payload("subscriptionItem.canceled")).await;
    let told = outside.post(EVALUATION, about(ADA, "export")).await;
    assert_snapshot!(told.body, @r#"{"context":{"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","revision":"1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","valid_until":"2100-02-01T00:00:00.000Z"},"decision":true}"#);
    let told = outside.post(EVALUATION, about(ADA, "no_such_feature")).await;
    assert_snapshot!(told.body, @r#"{"context":{"reason":"REASON_UNKNOWN_FEATURE","revision":"1_57236434cfa1cdc0.1","stale":false},"decision":false}"#);
    assert_eq!(counted(&replica, "authzen", "allowed").await, 1);
    assert_eq!(counted(&replica, "authzen", "denied").await, 1);
}

#[tokio::test]
async fn what_is_asked_for_is_a_feature_a_plan_or_what_an_action_is_called() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let ask = |action: &str, kind: &str, id: &str| {
        json!({
            "subject": { "type": "user", "id": ADA },
            "action": { "name": action },
            "resource": { "type": kind, "id": id },
        })
    };
    assert!(permits(&outside, ask("anything", "plan", "pro")).await);
    assert!(!permits(&outside, ask("anything", "plan", "max")).await);
    assert!(permits(&outside, ask("export", "report", "report_17")).await);
    assert!(!permits(&outside, ask("sso", "report", "report_17")).await);
    assert!(!permits(&outside, ask("can_read", "report", "export")).await);

    assert!(permits(&outside, about(ACME, "sso")).await);
    let mut member = about(ADA, "sso");
    assert!(!permits(&outside, member.clone()).await);
    member["subject"]["properties"] = json!({ "organization_id": ACME, "department": 7 });
    assert!(permits(&outside, member.clone()).await);
    member["resource"]["id"] = json!("user:sso");
    assert!(!permits(&outside, member).await);
}

#[tokio::test]
async fn many_evaluations_have_defaults_and_end_as_the_semantic_says() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    let feature = |slug: &str| json!({ "resource": { "type": "feature", "id": slug } });
    let mut body = about(ADA, "export");
    body["evaluations"] = json!([
        {},
        { "subject": { "type": "user", "id": GRACE } },
        feature("sso"),
        { "subject": { "type": "planet", "id": "mars" } },
        "nonsense",
        feature("api_access"),
    ]);
    let told = outside.post(EVALUATIONS, &body).await;
    assert_eq!(decisions(&told), [true, false, false, false, false, true]);
    let error = &told.body["evaluations"][3]["context"]["error"];
    assert_eq!((&error["status"], error["message"].is_string()), (&json!(400), true));
    for (semantic, expected) in [
        ("execute_all", &[true, false, false, false, false, true][..]),
        ("deny_on_first_deny", &[true, false]),
        ("permit_on_first_permit", &[true]),
    ] {
        body["options"] = json!({ "evaluations_semantic": semantic, "another": 1 });
        let told = outside.post(EVALUATIONS, &body).await;
        assert_eq!(decisions(&told), expected, "{semantic}");
    }
    assert_eq!(counted(&replica, "authzen", "evaluated").await, 4);
    for evaluations in [json!([]), Value::Null] {
        body["evaluations"] = evaluations;
        assert_eq!(outside.post(EVALUATIONS, &body).await.body["decision"], true);
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_by_the_name_of_the_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    let with = |pointer: &str, value: Value| {
        let mut body = about(ADA, "export");
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.insert(field.into(), value);
        body.to_string()
    };
    let cases = [
        ("{".into(), "no JSON"),
        ("[]".into(), "a JSON object"),
        ("{}".into(), "subject is missing"),
        (with("/subject", json!("user_1")), "subject must be an object"),
        (with("/subject/id", Value::Null), "subject.id is missing"),
        (with("/subject/id", json!(5)), "subject.id must be a string"),
        (with("/subject/id", json!("ada@example.com")), "subject.id must be a Clerk user id"),
        (with("/subject/id", json!(ACME)), "subject.id must be a Clerk user id"),
        (with("/subject/type", json!("planet")), "subject.type must be"),
        (with("/subject/properties", json!([])), "subject.properties must be"),
        (with("/subject/properties", json!({ "organization_id": "acme" })), "organization_id"),
        (with("/subject/properties", json!({ "organization_id": 5 })), "organization_id"),
        (with("/action", Value::Null), "action is missing"),
        (with("/action/name", json!("")), "action.name must be"),
        (with("/resource", json!({})), "resource.type is missing"),
        (with("/resource/id", Value::Null), "resource.id is missing"),
        (with("/resource/id", json!("a\u{7}b")), "resource.id must be a slug"),
        (with("/context", json!("now")), "context must be an object"),
        (with("/options", json!({ "evaluations_semantic": "any" })), "evaluations_semantic"),
        (with("/evaluations", json!({})), "evaluations must be an array"),
        (with("/evaluations", json!(vec![json!({}); 101])), "at most 100"),
    ];
    let count = cases.len() as u64;
    for (body, reason) in cases {
        let told = outside.post(EVALUATIONS, &body).await;
        let text = told.body.as_str().unwrap();
        assert_eq!(told.status, 400, "{body}: {told:?}");
        assert!(text.contains(reason), "{body}: {text}");
    }
    assert_eq!(counted(&replica, "authzen", "invalid").await, count);
    assert_eq!(outside.ask(Method::GET, EVALUATION, &[], "").await.status, 405);
}

#[tokio::test]
async fn a_request_is_known_by_its_id_and_the_service_tells_where_it_is() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    let id = [("x-request-id", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")];
    for (body, status) in [(about(ADA, "export").to_string(), 200), ("{".into(), 400)] {
        let told = outside.ask(Method::POST, EVALUATION, &id, body).await;
        assert_eq!((told.status, told.header("x-request-id")), (status, id[0].1));
    }
    let path = "/.well-known/authzen-configuration";
    let told = outside.ask(Method::GET, path, &[], "").await;
    assert_eq!(told.body["policy_decision_point"], outside.base);
    let endpoint = format!("{}{EVALUATIONS}", outside.base);
    assert_eq!(told.body["access_evaluations_endpoint"], endpoint);
}

#[tokio::test]
async fn discovery_names_the_public_url_whatever_host_is_asked() {
    let db = Db::new().await;
    let path = "/.well-known/authzen-configuration";
    let hosts = [
        vec![],
        vec![("host", "evil.example.com")],
        vec![("host", "evil.example.com"), ("x-forwarded-proto", "https")],
        vec![("x-forwarded-host", "evil.example.com"), ("forwarded", "host=evil.example.com")],
    ];
    for public_url in [
        None,
        Some("https://pdp.example.com"),
        Some("https://pdp.example.com/"),
        Some("http://example.com:8443/behind/a/path/"),
    ] {
        let parsed = public_url.map(|url| url.parse().unwrap());
        let replica = Replica::launch(Config { public_url: parsed, ..config(&db) }).await;
        let outside = Outside::of(&replica);
        let base = public_url.unwrap_or(&outside.base).trim_end_matches('/');
        for host in &hosts {
            let told = outside.ask(Method::GET, path, host, "").await;
            assert!(!told.body.to_string().contains("evil"), "{told:?}");
            if host.first().is_some_and(|(name, _)| *name == "host") {
                assert_eq!(told.status, 421, "a loopback listener has no such name: {told:?}");
                continue;
            }
            assert_eq!(told.body["policy_decision_point"], base, "{host:?}");
            let endpoint = &told.body["access_evaluation_endpoint"];
            assert_eq!(*endpoint, format!("{base}{EVALUATION}"), "{host:?}");
        }
    }
    let everywhere = Config { internal: "0.0.0.0:0".parse().unwrap(), ..config(&db) };
    let replica = Replica::launch(everywhere).await;
    let base = format!("http://127.0.0.1:{}", replica.bound.internal.port());
    let outside = Outside { client: plain_http(), base };
    for host in &hosts {
        let told = outside.ask(Method::GET, path, host, "").await;
        assert_eq!(told.status, 404, "{told:?}");
        assert!(told.body.as_str().unwrap().contains("PUBLIC_URL"), "{told:?}");
    }
}

#[tokio::test]
async fn a_body_must_be_said_to_be_json() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    let mut refused = 0;
    for (content_type, status) in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json;charset=UTF-8", 200),
        ("Application/JSON", 200),
        ("application/json ; a=b; c=\"d\"", 200),
        ("text/plain", 400),
        ("text/plain; charset=utf-8", 400),
        ("application/x-www-form-urlencoded", 400),
        ("multipart/form-data; boundary=x", 400),
        ("application/jsonp", 400),
        ("application/json-seq", 400),
        ("application/vnd.api+json", 400),
        ("text/json", 400),
        ("application/xml", 400),
        ("json", 400),
        (";", 400),
        ("", 400),
    ] {
        for path in [EVALUATION, EVALUATIONS] {
            let header = [("content-type", content_type)];
            let told = outside.ask(Method::POST, path, &header, about(ADA, "export")).await;
            assert_eq!(told.status, status, "{content_type:?}: {told:?}");
            if status == 400 {
                refused += 1;
                let text = told.body.as_str().unwrap();
                assert_eq!(text, "the Content-Type header must be application/json");
            }
        }
    }
    let twice = [("content-type", "application/json"), ("content-type", "text/plain")];
    let told = outside.ask(Method::POST, EVALUATION, &twice, about(ADA, "export")).await;
    assert_eq!(told.status, 400, "{told:?}");
    assert_eq!(counted(&replica, "authzen", "invalid").await, refused + 1);
}

#[tokio::test]
async fn two_subjects_in_turn_never_have_each_others_decision_and_an_outage_is_told_as_one() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    for (name, expected) in [
        ("subscription.created.free-user", false),
        ("subscriptionItem.active", true),
        ("subscriptionItem.ended", false),
    ] {
        replica.send(&payload(name)).await;
        for _ in 0..3 {
            assert_eq!(permits(&outside, about(ADA, "export")).await, expected, "{name}");
            assert!(!permits(&outside, about(GRACE, "export")).await, "{name}");
        }
    }
    db.drop_by_force().await;
    eventually("what is not cached cannot be evaluated", async || {
        let told = outside.post(EVALUATION, about("user_stranger", "export")).await;
        told.status == 503 && told.header("retry-after") == "1"
    })
    .await;
    assert!(counted(&replica, "authzen", "unavailable").await >= 1);
}
