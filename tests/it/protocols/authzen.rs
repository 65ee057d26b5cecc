//! `AuthZEN`'s Authorization API, called as by policy enforcement points.

use crate::{
    support::database::Db,
    support::http_client::{HttpAnswer, HttpClient, counted},
    support::service::{ACME, ADA, GRACE, Replica, config, eventually, payload, plain_http},
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

async fn permits(client: &HttpClient, body: Value) -> bool {
    let response = client.post(EVALUATION, &body).await;
    assert_eq!(response.status, 200, "{body}: {response:?}");
    response.body["decision"].as_bool().unwrap()
}

fn decisions(response: &HttpAnswer) -> Vec<bool> {
    assert_eq!(response.status, 200, "{response:?}");
    let all = response.body["evaluations"].as_array().unwrap();
    all.iter().map(|one| one["decision"].as_bool().unwrap()).collect()
}

#[tokio::test]
async fn an_evaluation_decides_and_says_why() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.canceled")).await;
    let response = client.post(EVALUATION, about(ADA, "export")).await;
    assert_snapshot!(response.timeless("context"), @r#"{"context":{"allowed":true,"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","validUntil":"2100-02-01T00:00:00.000Z"},"decision":true}"#);
    let response = client.post(EVALUATION, about(ADA, "no_such_feature")).await;
    assert_snapshot!(response.timeless("context"), @r#"{"context":{"allowed":false,"reason":"REASON_UNKNOWN_FEATURE","revision":"1.1_57236434cfa1cdc0.1","stale":false},"decision":false}"#);
    assert_eq!(counted(&replica, "authzen", "allowed").await, 1);
    assert_eq!(counted(&replica, "authzen", "denied").await, 1);
}

#[tokio::test]
async fn the_target_is_a_feature_a_plan_or_the_name_of_an_action() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let ask = |action: &str, kind: &str, id: &str| {
        json!({
            "subject": { "type": "user", "id": ADA },
            "action": { "name": action },
            "resource": { "type": kind, "id": id },
        })
    };
    assert!(permits(&client, ask("anything", "plan", "pro")).await);
    assert!(!permits(&client, ask("anything", "plan", "max")).await);
    assert!(permits(&client, ask("export", "report", "report_17")).await);
    assert!(!permits(&client, ask("sso", "report", "report_17")).await);
    assert!(!permits(&client, ask("can_read", "report", "export")).await);

    assert!(permits(&client, about(ACME, "sso")).await);
    let mut member = about(ADA, "sso");
    assert!(!permits(&client, member.clone()).await);
    member["subject"]["properties"] = json!({ "organization_id": ACME, "department": 7 });
    assert!(permits(&client, member.clone()).await);
    member["resource"]["id"] = json!("user:sso");
    assert!(!permits(&client, member).await);
}

#[tokio::test]
async fn many_evaluations_have_defaults_and_end_as_the_semantic_says() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
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
    let response = client.post(EVALUATIONS, &body).await;
    assert_eq!(decisions(&response), [true, false, false, false, false, true]);
    let error = &response.body["evaluations"][3]["context"]["error"];
    assert_eq!((&error["status"], error["message"].is_string()), (&json!(400), true));
    for (semantic, expected) in [
        ("execute_all", &[true, false, false, false, false, true][..]),
        ("deny_on_first_deny", &[true, false]),
        ("permit_on_first_permit", &[true]),
    ] {
        body["options"] = json!({ "evaluations_semantic": semantic, "another": 1 });
        let response = client.post(EVALUATIONS, &body).await;
        assert_eq!(decisions(&response), expected, "{semantic}");
    }
    assert_eq!(counted(&replica, "authzen", "evaluated").await, 4);
    for evaluations in [json!([]), Value::Null] {
        body["evaluations"] = evaluations;
        let response = client.post(EVALUATIONS, &body).await;
        assert_eq!(response.body["decision"], true, "{body}: {response:?}");
    }
}

#[tokio::test]
async fn an_invalid_request_is_rejected_with_the_name_of_the_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    let with = |pointer: &str, value: Value| {
        let mut body = about(ADA, "export");
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.insert(field.into(), value);
        body.to_string()
    };
    let cases = [
        ("{".into(), "not valid JSON"),
        ("[]".into(), "a JSON object"),
        ("{}".into(), "subject is missing"),
        (with("/subject", json!("user_1")), "subject must be an object"),
        (with("/subject/id", Value::Null), "subject.id is missing"),
        (with("/subject/id", json!(5)), "subject.id must be a non-empty string"),
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
        let response = client.post(EVALUATIONS, &body).await;
        let text = response.body.as_str().unwrap();
        assert_eq!(response.status, 400, "{body}: {response:?}");
        assert!(text.contains(reason), "{body}: {text}");
    }
    assert_eq!(counted(&replica, "authzen", "invalid").await, count);
    assert_eq!(client.ask(Method::GET, EVALUATION, &[], "").await.status, 405);
}

#[tokio::test]
async fn a_request_id_is_echoed_and_the_metadata_locate_the_service() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    let id = [("x-request-id", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")];
    for (body, status) in [(about(ADA, "export").to_string(), 200), ("{".into(), 400)] {
        let response = client.ask(Method::POST, EVALUATION, &id, body).await;
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(response.header("x-request-id"), id[0].1, "{response:?}");
    }
    let path = "/.well-known/authzen-configuration";
    let response = client.ask(Method::GET, path, &[], "").await;
    assert_eq!(response.body["policy_decision_point"], client.base);
    let endpoint = format!("{}{EVALUATIONS}", client.base);
    assert_eq!(response.body["access_evaluations_endpoint"], endpoint);
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
        let client = HttpClient::of(&replica);
        let base = public_url.unwrap_or(&client.base).trim_end_matches('/');
        for host in &hosts {
            let response = client.ask(Method::GET, path, host, "").await;
            assert!(!response.body.to_string().contains("evil"), "{response:?}");
            if host.first().is_some_and(|(name, _)| *name == "host") {
                assert_eq!(
                    response.status, 421,
                    "a loopback listener has no such name: {response:?}"
                );
                continue;
            }
            assert_eq!(response.body["policy_decision_point"], base, "{host:?}");
            let endpoint = &response.body["access_evaluation_endpoint"];
            assert_eq!(*endpoint, format!("{base}{EVALUATION}"), "{host:?}");
        }
    }
    let everywhere = Config { api: "0.0.0.0:0".parse().unwrap(), ..config(&db) };
    let replica = Replica::launch(everywhere).await;
    let base = format!("http://127.0.0.1:{}", replica.bound.api.port());
    let client = HttpClient { client: plain_http(), base };
    for host in &hosts {
        let response = client.ask(Method::GET, path, host, "").await;
        assert_eq!(response.status, 404, "{response:?}");
        assert!(
            response.body.as_str().unwrap().contains("ENTITLEMENTS_PUBLIC_URL"),
            "{response:?}"
        );
    }
}

#[tokio::test]
async fn a_body_must_be_declared_as_json() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
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
            let response = client.ask(Method::POST, path, &header, about(ADA, "export")).await;
            assert_eq!(response.status, status, "{path} {content_type:?}: {response:?}");
            if status == 400 {
                refused += 1;
                let text = response.body.as_str().unwrap();
                assert_eq!(
                    text, "the Content-Type header must be application/json",
                    "{content_type:?}"
                );
            }
        }
    }
    let twice = [("content-type", "application/json"), ("content-type", "text/plain")];
    let response = client.ask(Method::POST, EVALUATION, &twice, about(ADA, "export")).await;
    assert_eq!(response.status, 400, "{response:?}");
    assert_eq!(counted(&replica, "authzen", "invalid").await, refused + 1);
}

#[tokio::test]
async fn two_alternating_subjects_never_get_each_others_decision_and_an_outage_is_reported_as_one()
{
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    for (name, expected) in [
        ("subscription.created.free-user", false),
        ("subscriptionItem.active", true),
        ("subscriptionItem.ended", false),
    ] {
        replica.send(&payload(name)).await;
        for _ in 0..3 {
            assert_eq!(permits(&client, about(ADA, "export")).await, expected, "{name}");
            assert!(!permits(&client, about(GRACE, "export")).await, "{name}");
        }
    }
    db.drop_by_force().await;
    eventually("an uncached account cannot be evaluated", async || {
        let response = client.post(EVALUATION, about("user_stranger", "export")).await;
        response.status == 503 && response.header("retry-after") == "1"
    })
    .await;
    assert!(counted(&replica, "authzen", "unavailable").await >= 1);
}
