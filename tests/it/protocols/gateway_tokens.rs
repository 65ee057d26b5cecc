//! Session tokens in the requests of gateways, and the keys that verify them.

use crate::{
    support::database::Db,
    support::gateway_replica::{ask, check, replica},
    support::http_client::{HttpClient, counted},
    support::service::{ACME, ADA, Replica, config, eventually},
    support::session_signer::{Publisher, Signer},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use entitlements::{
    api::envoy::service::auth::v3::check_response::HttpResponse, clerk::Rules, config::Config,
};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tonic::Code;

/// A replica that fetches Clerk's keys from this publisher.
async fn fetching_from(publisher: &Publisher, db: &Db) -> Replica {
    let sessions = Some(publisher.sessions(Rules::default()));
    Replica::start_with(Config { sessions, ..config(db) }).await
}

/// Tokens that must be rejected, and a word of the expected error.
fn forgeries(signer: &Signer) -> Vec<(String, &'static str)> {
    let now = Utc::now().timestamp();
    let good = signer.token(ADA, &json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "sub": ADA, "exp": now + 60, "iss": "https://clerk.example.com",
        "azp": "https://app.example.com",
    });
    let with = |more: Value| signer.token(ADA, &more);
    let as_kind = |header: Value| signer.sign(&header, &claims);
    let mut without_exp = claims.clone();
    without_exp.as_object_mut().unwrap().remove("exp");
    vec![
        (Signer::new("ins_1").token(ADA, &json!({})), "signature"),
        (format!("{header}.{}.{signature}", part(claims.clone())), "signature"),
        (format!("{message}."), "signature"),
        (format!("{}.{}.", part(json!({ "alg": "none" })), part(claims.clone())), "JSON Web Token"),
        (as_kind(json!({ "alg": "HS256", "kid": "ins_1" })), "RS256"),
        (as_kind(json!({ "alg": "RS256", "kid": "ins_1", "typ": "at+jwt" })), "another kind"),
        (signer.sign(&json!({ "alg": "RS256" }), &without_exp), "claim is missing"),
        (with(json!({ "exp": now - 60 })), "expired"),
        (with(json!({ "nbf": now + 60 })), "not valid yet"),
        (with(json!({ "iss": "https://clerk.evil.example" })), "another Clerk instance"),
        (with(json!({ "azp": "https://evil.example" })), "not authorized"),
        (with(json!({ "sts": "pending" })), "pending"),
        (with(json!({ "sub": "mch_2xhFjEI5X2qWRvtV13BzSj8H6Dk" })), "`sub`"),
        (with(json!({ "sub": ACME })), "`sub`"),
        (with(json!({ "sub": 5 })), "malformed"),
        ("nonsense".into(), "JSON Web Token"),
    ]
}

#[tokio::test]
async fn a_token_that_clerk_did_not_issue_for_this_instance_and_time_is_rejected() {
    let db = Db::new().await;
    let signer = Signer::new("ins_1");
    let replica = replica(&db, &signer).await;
    let client = HttpClient::of(&replica);
    let forgeries = forgeries(&signer);
    for (token, why) in &forgeries {
        let response = ask(&client, "basic_reports", token).await;
        assert_eq!(response.status, 401, "{why}: {response:?}");
        assert_eq!(response.header("www-authenticate"), "Bearer", "{why}");
        assert!(response.body["error"].as_str().unwrap().contains(why), "{why}: {response:?}");
        let response = check(&replica, token, &[("feature", "basic_reports")], None).await.unwrap();
        let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
            panic!("{why}: {response:?}");
        };
        assert_eq!(denied.status.unwrap().code, 401, "{why}");
    }
    let headers = [("x-user-id", ADA), ("authorization", "Basic YTpi")];
    for headers in [&headers[..1], &headers] {
        let response = client.ask(Method::GET, "/auth/basic_reports", headers, "").await;
        assert_eq!(response.status, 401, "{headers:?}");
        let error = response.body["error"].as_str().unwrap();
        assert!(error.contains("no session token"), "{headers:?}: {error}");
    }
    let count = forgeries.len() as u64;
    assert_eq!(counted(&replica, "forward-auth", "unauthenticated").await, count + 2);
    assert_eq!(counted(&replica, "ext-authz", "unauthenticated").await, count);
}

#[tokio::test]
async fn published_keys_are_fetched_once_and_again_for_an_unknown_key_but_not_for_forgeries() {
    let db = Db::new().await;
    let (old, new, forger) = (Signer::new("ins_1"), Signer::new("ins_2"), Signer::new("ins_3"));
    let publisher = Publisher::of(&[&old, &new]).await;
    let replica = fetching_from(&publisher, &db).await;
    let client = HttpClient::of(&replica);
    for signer in [&old, &new, &old] {
        let response = ask(&client, "basic_reports", &signer.token(ADA, &json!({}))).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    for _ in 0..20 {
        let response = ask(&client, "basic_reports", &forger.token(ADA, &json!({}))).await;
        assert_eq!(response.status, 401);
        assert!(response.body["error"].as_str().unwrap().contains("not of this Clerk instance"));
    }
    assert_eq!(publisher.fetches.load(Ordering::SeqCst), 1);

    publisher.fail();
    let lost = fetching_from(&publisher, &db).await;
    let token = old.token(ADA, &json!({}));
    let response = ask(&HttpClient::of(&lost), "basic_reports", &token).await;
    assert_eq!(response.status, 503, "{response:?}");
    let status = check(&lost, &token, &[("feature", "basic_reports")], None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(counted(&lost, "ext-authz", "unavailable").await, 1);
}

#[tokio::test]
async fn keys_are_accepted_neither_from_a_redirect_nor_from_an_endless_body() {
    let (db, clerk) = (Db::new().await, Signer::new("ins_1"));
    let elsewhere = Publisher::of(&[&clerk]).await;
    let (redirecting, bloated) = (Publisher::of(&[]).await, Publisher::of(&[]).await);
    redirecting.redirect(&elsewhere.url);
    bloated.bloat(&[&clerk]);
    for (publisher, status) in [(&redirecting, 503), (&bloated, 503), (&elsewhere, 200)] {
        let replica = fetching_from(publisher, &db).await;
        let token = clerk.token(ADA, &json!({}));
        let response = ask(&HttpClient::of(&replica), "basic_reports", &token).await;
        assert_eq!(
            (response.status, publisher.fetches.load(Ordering::SeqCst)),
            (status, 1),
            "{response:?}"
        );
    }
}

#[tokio::test]
async fn requests_do_not_wait_while_another_request_fetches_the_keys() {
    let db = Db::new().await;
    let (known, forger) = (Signer::new("ins_1"), Signer::new("ins_3"));
    let publisher = Publisher::of(&[&known]).await;
    let replica = fetching_from(&publisher, &db).await;
    let client = HttpClient::of(&replica);
    let token = known.token(ADA, &json!({}));
    assert_eq!(ask(&client, "basic_reports", &token).await.status, 200);
    publisher.hang();
    // Ten seconds after the last fetch, an unknown key makes the service fetch again and wait for the response.
    let waits = async {
        while publisher.fetches.load(Ordering::SeqCst) < 2 {
            ask(&client, "basic_reports", &forger.token(ADA, &json!({}))).await;
        }
    };
    let others = async {
        eventually("the keys are asked for", async || {
            publisher.fetches.load(Ordering::SeqCst) == 2
        })
        .await;
        let began = Instant::now();
        let unknown = forger.token(ADA, &json!({}));
        let crowd = (0..100).map(|_| ask(&client, "basic_reports", &unknown));
        let refused = join_all(crowd).await;
        assert!(refused.iter().all(|response| response.status == 503), "{refused:?}");
        assert_eq!(ask(&client, "basic_reports", &token).await.status, 200);
        began.elapsed()
    };
    let ((), took) = tokio::join!(waits, others);
    assert!(took < Duration::from_secs(3), "a fetch may take 3 s: {took:?}");
}
