//! Responses to gateways: nginx, Caddy and Traefik over HTTP, Envoy over gRPC.

use crate::{
    support::database::Db,
    support::gateway_replica::{ask, check, replica},
    support::http_client::{HttpClient, counted},
    support::http2_frames::Attacker,
    support::service::{ACME, ADA, GRACE, Replica, config, eventually, payload},
    support::session_signer::Signer,
};
use chrono::Utc;
use entitlements::{
    api::HEADERS,
    api::envoy::{
        config::core::v3::{HeaderValueOption, Metadata},
        service::auth::v3::check_response::HttpResponse,
    },
    clerk::{Rules, TrustedClaims},
};
use futures_util::future::join_all;
use insta::assert_snapshot;
use prost_types::{Struct, Value as ProtoValue, value::Kind};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tonic::Code;

fn named<'h>(headers: &'h [HeaderValueOption], name: &str) -> &'h str {
    let mut all = headers.iter().filter_map(|option| option.header.as_ref());
    all.find(|header| header.key == name).map(|header| &*header.value).unwrap_or_default()
}

#[tokio::test]
async fn an_allowed_request_passes_with_its_reason() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.canceled")).await;
    let token = signer.token(ADA, &json!({}));
    let response = ask(&client, "export", &token).await;
    assert_eq!(response.status, 200, "{response:?}");
    let headers = response.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-ent"));
    let mut headers: BTreeMap<_, _> =
        headers.map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    let checked_at = headers.remove("x-entitlement-checked-at").unwrap();
    checked_at.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_snapshot!(json!(headers), @r#"{"x-entitlement-limit":"","x-entitlement-organization":"","x-entitlement-plan":"pro","x-entitlement-reason":"REASON_CANCELED_BUT_PAID","x-entitlement-revision":"1.1_57236434cfa1cdc0.1","x-entitlement-stale":"false","x-entitlement-subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","x-entitlement-user":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","x-entitlement-valid-until":"2100-02-01T00:00:00.000Z"}"#);

    let response = ask(&client, "sso", &token).await;
    assert_eq!(response.status, 403);
    assert_snapshot!(response.body, @r#"{"allowed":false,"feature":"sso","reason":"REASON_NOT_IN_PLAN"}"#);
    assert_eq!(ask(&client, "sso?denied=402", &token).await.status, 402);
    assert_eq!(ask(&client, "sso?denied=200", &token).await.status, 403);
    assert_eq!(ask(&client, "no_such_feature", &token).await.status, 403);
    assert_eq!(ask(&client, "", &token).await.status, 403);
    let cookie = format!("a=b; __session_Ab3dEf9h=forged; __session={token}");
    for method in [Method::GET, Method::HEAD, Method::POST] {
        let response = client.ask(method, "/auth/export", &[("cookie", &cookie)], "").await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    for (result, count) in [("allowed", 4), ("denied", 2), ("unknown_feature", 1), ("invalid", 2)] {
        assert_eq!(counted(&replica, "forward-auth", result).await, count, "{result}");
    }
}

#[tokio::test]
async fn the_active_organization_of_both_versions_of_claims_counts() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscription.active.org-team")).await;
    for (claims, status) in [
        (json!({ "o": { "id": ACME, "slg": "acme", "rol": "admin" } }), 200),
        (json!({ "v": 1, "org_id": ACME, "org_role": "org:admin" }), 200),
        (json!({}), 403),
        (json!({ "org_id": "" }), 403),
        (json!({ "o": { "id": "acme" } }), 401),
        (json!({ "fea": "u:sso", "pla": "u:enterprise" }), 403),
    ] {
        let response = ask(&client, "sso", &signer.token(ADA, &claims)).await;
        assert_eq!(response.status, status, "{claims}: {response:?}");
        if status == 200 {
            assert_eq!(response.header("x-entitlement-organization"), ACME, "{claims}");
        }
    }
}

/// A cache of nginx stores responses by path alone, so one user would get another's.
#[tokio::test]
async fn no_cache_keeps_an_answer() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    for (case, token, status) in [
        ("allowed", signer.token(ADA, &json!({})), 200),
        ("denied", signer.token(GRACE, &json!({})), 403),
        ("without a token", String::new(), 401),
    ] {
        let response = ask(&client, "export", &token).await;
        let answer = (response.status, response.header("cache-control"));
        assert_eq!(answer, (status, "no-store"), "{case}");
    }
}

/// Gateways forward the client's headers, and add their own.
#[tokio::test]
async fn only_the_path_names_the_feature_and_only_the_token_the_user() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    let [ada, grace] =
        [ADA, GRACE].map(|user| format!("Bearer {}", signer.token(user, &json!({}))));
    for (name, value) in [
        ("x-forwarded-uri", "/auth/basic_reports"),
        ("x-original-uri", "/auth/basic_reports"),
        ("x-original-url", "/auth/basic_reports"),
        ("x-rewrite-url", "/auth/basic_reports"),
        ("x-forwarded-method", "OPTIONS"),
        ("x-http-method-override", "OPTIONS"),
        ("forwarded", "for=127.0.0.1;host=x"),
        ("x-forwarded-user", ADA),
        ("x-user-id", ADA),
        ("x-entitlement-user", ADA),
        ("x-entitlement-plan", "pro"),
        ("x-api-key", "ent_guess"),
        ("proxy-authorization", &ada),
        ("if-none-match", "*"),
        ("range", "bytes=0-0"),
    ] {
        let headers = [("authorization", &*grace), (name, value)];
        let response = client.ask(Method::GET, "/auth/export", &headers, "").await;
        assert_eq!(response.status, 403, "{name}: {response:?}");
        assert_eq!(response.header("x-entitlement-user"), GRACE, "{name}");
    }
    for path in [
        "/auth/export?feature=basic_reports",
        "/auth/basic_reports%2f..%2fexport",
        "/auth//basic_reports",
    ] {
        let response = client.ask(Method::GET, path, &[("authorization", &grace)], "").await;
        assert_eq!(response.status, 403, "{path}: {response:?}");
    }
    // The backend might use the other one.
    for pair in [[&ada, &grace], [&grace, &ada], [&ada, &ada]] {
        let headers = pair.map(|one| ("authorization", &**one));
        let response = client.ask(Method::GET, "/auth/export", &headers, "").await;
        assert_eq!(response.status, 401, "{response:?}");
    }
}

/// A header that a configuration does not clear reaches the backend as the client sent it.
#[test]
fn the_documented_gateway_configurations_clear_every_header_of_the_service() {
    let page = include_str!("../../../docs/nginx-caddy.md");
    for (gateway, clears) in
        [("## nginx", "proxy_set_header NAME "), ("## Traefik", "NAME: \"\"\n")]
    {
        let section = page.split_once(gateway).unwrap().1.split("\n## ").next().unwrap();
        let section = section.to_lowercase();
        for (name, _) in HEADERS {
            let clears = clears.replace("NAME", name);
            assert!(section.contains(&clears), "{gateway} does not clear {name}");
        }
    }
}

#[tokio::test]
async fn slow_bodies_of_other_protocols_do_not_block_requests_of_gateways() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let internal = replica.bound.api;
    let heads = ["/ofrep/v1/evaluate/flags", "/access/v1/evaluation"].map(|path| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
        format!("{head}content-length: 100\r\n\r\n{{")
    });
    let slow = (0..300).flat_map(|_| &heads);
    let _slow = join_all(slow.map(|head| Attacker::sending(internal, head.as_bytes()))).await;
    let client = HttpClient::of(&replica);
    let token = signer.token(ADA, &json!({}));
    for _ in 0..20 {
        let response = ask(&client, "basic_reports", &token).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    let json = [("content-type", "application/json")];
    let user = json!({ "context": { "targetingKey": ADA } }).to_string();
    let response = client.ask(Method::POST, "/ofrep/v1/evaluate/flags", &json, &user).await;
    assert_eq!(response.status, 200, "{response:?}");
}

#[tokio::test]
async fn envoy_gets_the_headers_to_set_and_to_remove() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let token = signer.token(ADA, &json!({}));
    let response = check(&replica, &token, &[("feature", "export")], None).await.unwrap();
    assert_eq!(response.status.unwrap().code, 0);
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("not ok") };
    assert_eq!(named(&ok.headers, "x-entitlement-plan"), "pro");
    assert_eq!(named(&ok.headers, "x-entitlement-user"), ADA);
    assert!(ok.headers.iter().all(|header| header.append_action == 2), "what a client sent goes");
    assert_eq!(
        ok.headers_to_remove,
        ["x-entitlement-limit", "x-entitlement-valid-until", "x-entitlement-organization"]
    );
    for (denied, status) in [(None, 403), (Some("402"), 402), (Some("200"), 403)] {
        let mut extensions = vec![("feature", "sso")];
        extensions.extend(denied.map(|denied| ("denied", denied)));
        let response = check(&replica, &token, &extensions, None).await.unwrap();
        let code = response.status.unwrap().code;
        assert_eq!(code, Code::PermissionDenied as i32, "{denied:?}");
        let Some(HttpResponse::DeniedResponse(no)) = response.http_response else { panic!("ok") };
        assert_eq!(no.status.unwrap().code, status, "{denied:?}");
        assert_eq!(named(&no.headers, "content-type"), "application/json", "{denied:?}");
        let body: Value = serde_json::from_str(&no.body).unwrap();
        assert_eq!(body["reason"] == "REASON_NOT_IN_PLAN", denied != Some("200"), "{body}");
    }
    let response = check(&replica, &token, &[], None).await.unwrap();
    assert!(matches!(response.http_response, Some(HttpResponse::DeniedResponse(_))));
    for (result, count) in [("allowed", 1), ("denied", 2), ("invalid", 2)] {
        assert_eq!(counted(&replica, "ext-authz", result).await, count, "{result}");
    }
}

/// The metadata that Envoy's `jwt_authn` writes for a verified token.
fn verified(name: &str, user: &str, organization: &str) -> Metadata {
    let text = |text: &str| ProtoValue { kind: Some(Kind::StringValue(text.into())) };
    let object = |fields: Vec<(&str, ProtoValue)>| Struct {
        fields: fields.into_iter().map(|(name, value)| (name.into(), value)).collect(),
    };
    let wrap = |of: Struct| ProtoValue { kind: Some(Kind::StructValue(of)) };
    let number = |value| ProtoValue { kind: Some(Kind::NumberValue(value)) };
    let o = wrap(object(vec![("id", text(organization))]));
    let claims = vec![("sub", text(user)), ("sid", text("sess_1")), ("exp", number(4e9))];
    let claims = wrap(object([claims, vec![("v", number(2.0)), ("o", o)]].concat()));
    let found = object(vec![(name, claims)]);
    Metadata { filter_metadata: [("envoy.filters.http.jwt_authn".to_owned(), found)].into() }
}

#[tokio::test]
async fn claims_verified_by_jwt_authn_are_trusted_where_a_setting_enables_it() {
    let db = Db::new().await;
    let mut trusting = config(&db);
    let rules = Rules::default();
    trusting.trusted_claims = Some(TrustedClaims { payload: "clerk".into(), header: None, rules });
    let (trusting, other) = tokio::join!(Replica::start_with(trusting), Replica::start(&db));
    trusting.send(&payload("subscription.active.org-team")).await;
    let sso = [("feature", "sso")];
    for (payload, user, organization, status) in [
        ("clerk", ADA, ACME, 0),
        ("clerk", ADA, "", Code::PermissionDenied as i32),
        ("clerk", "ada", ACME, Code::Unauthenticated as i32),
    ] {
        let metadata = Some(verified(payload, user, organization));
        let response = check(&trusting, "", &sso, metadata).await.unwrap();
        assert_eq!(response.status.unwrap().code, status, "{user} {organization}");
    }
    // Claims under another name, or without the setting, are not trusted; and no key is set to verify the token itself.
    let metadata = Some(verified("other", ADA, ACME));
    let status = check(&trusting, "", &sso, metadata).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let metadata = Some(verified("clerk", ADA, ACME));
    assert_eq!(check(&other, "", &sso, metadata).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn two_alternating_users_are_never_confused_across_upgrade_and_expiry() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let client = HttpClient::of(&replica);
    let tokens = [ADA, GRACE].map(|user| signer.token(user, &json!({})));
    let agree = async |status: u16, when: &str| {
        for _ in 0..3 {
            for (token, status) in [(&tokens[0], status), (&tokens[1], 403)] {
                assert_eq!(ask(&client, "export", token).await.status, status, "{when}");
                let response = check(&replica, token, &[("feature", "export")], None).await;
                let passes = response.unwrap().status.unwrap().code == 0;
                assert_eq!(passes, status == 200, "{when}");
            }
        }
    };
    agree(403, "before").await;
    replica.send(&payload("subscriptionItem.active")).await;
    agree(200, "after the upgrade").await;
    let ends = Utc::now().timestamp_millis() + 3000;
    let canceled = payload("subscriptionItem.canceled");
    replica.send(&canceled.replace("4105123200000", &ends.to_string())).await;
    agree(200, "after canceling").await;
    eventually("the period is over", async || Utc::now().timestamp_millis() >= ends).await;
    agree(403, "after the end").await;

    db.drop_by_force().await;
    let stranger = signer.token("user_stranger", &json!({}));
    eventually("an unknown user does not pass", async || {
        ask(&client, "basic_reports", &stranger).await.status == 503
    })
    .await;
}
