//! API keys over HTTP: the keys and scopes of gRPC apply.

use crate::{
    support::callers_file::CallersFile,
    support::certificates::{Authority, Name},
    support::database::Db,
    support::http_client::{HttpClient, counted},
    support::service::{ADA, Replica, config, eventually, payload},
    support::session_signer::Signer,
};
use entitlements::{
    clerk::Rules,
    config::{Config, ListenerFiles},
    server::auth::Scope,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;

const FLAG: &str = "/ofrep/v1/evaluate/flags/export";
const EVALUATION: &str = "/access/v1/evaluation";

async fn replica(db: &Db, file: &CallersFile, signer: &Signer) -> Replica {
    let (listeners, sessions) = (file.listeners(), Some(signer.sessions(Rules::default())));
    Replica::start_with(Config { listeners, sessions, ..config(db) }).await
}

fn body(path: &str) -> Value {
    if path == EVALUATION {
        let resource = json!({ "type": "feature", "id": "export" });
        let subject = json!({ "type": "user", "id": ADA });
        json!({ "subject": subject, "action": { "name": "use" }, "resource": resource })
    } else {
        json!({ "context": { "targetingKey": ADA } })
    }
}

#[tokio::test]
async fn ofrep_and_authzen_need_a_key_with_the_scope() {
    let (db, file, signer) = (Db::new().await, CallersFile::new(), Signer::new("ins_1"));
    let check = file.create("backend", &[Scope::Check]);
    let admin = file.create("operator", &[Scope::Admin]);
    let bare = check.strip_prefix("Bearer ").unwrap();
    let replica = replica(&db, &file, &signer).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let client = HttpClient::of(&replica);
    for path in [FLAG, EVALUATION] {
        for (headers, status) in [
            (&[][..], 401),
            (&[("authorization", "Bearer ent_backend_guess")], 401),
            (&[("authorization", bare)], 401),
            (&[("x-api-key", &*check)], 401),
            (&[("x-api-key", bare), ("authorization", &*check)], 401),
            (&[("authorization", &*admin)], 403),
            (&[("authorization", &*check)], 200),
            (&[("x-api-key", bare)], 200),
        ] {
            let response = client.ask(Method::POST, path, headers, body(path)).await;
            assert_eq!(response.status, status, "{path} {headers:?}: {response:?}");
            let challenge = if status == 401 { "Bearer" } else { "" };
            assert_eq!(response.header("www-authenticate"), challenge, "{path}: {response:?}");
            let is_empty = response.body == Value::String(String::new());
            assert_eq!(is_empty, path == FLAG && status != 200, "{path}: {response:?}");
        }
    }
    for (result, count) in [("unauthenticated", 5), ("forbidden", 1), ("allowed", 2)] {
        assert_eq!(counted(&replica, "ofrep", result).await, count, "{result}");
        assert_eq!(counted(&replica, "authzen", result).await, count, "{result}");
    }
    file.revoke("backend");
    eventually("the key is refused", async || {
        let key = [("authorization", &*check)];
        client.ask(Method::POST, FLAG, &key, body(FLAG)).await.status == 401
    })
    .await;
}

#[tokio::test]
async fn endpoints_without_account_data_need_no_key() {
    let (db, file, signer) = (Db::new().await, CallersFile::new(), Signer::new("ins_1"));
    let replica = replica(&db, &file, &signer).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(replica.get(path).await.0, 200, "{path}");
    }
    let client = HttpClient::of(&replica);
    let status = async |path: &str| client.ask(Method::GET, path, &[], "").await.status;
    assert_eq!(status("/.well-known/authzen-configuration").await, 200);
    assert_eq!(status("/nothing").await, 404);
    for path in ["/ofrep/v1/events?userId=user_1", "/ofrep/v1/nothing", "/auth/export"] {
        assert!(matches!(status(path).await, 401 | 403), "{path}");
    }
}

#[tokio::test]
async fn a_gateway_has_its_own_key_beside_the_users_token() {
    let (db, file, signer) = (Db::new().await, CallersFile::new(), Signer::new("ins_1"));
    let check = file.create("gateway", &[Scope::Check]);
    let admin = file.create("operator", &[Scope::Admin]);
    let bare = |key: &str| key.strip_prefix("Bearer ").unwrap().to_owned();
    let (key, other) = (bare(&check), bare(&admin));
    let replica = replica(&db, &file, &signer).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let client = HttpClient::of(&replica);
    let token = format!("Bearer {}", signer.token(ADA, &json!({})));
    let ask =
        async |headers: &[(&str, &str)]| client.ask(Method::GET, "/auth/export", headers, "").await;
    let response = ask(&[("authorization", &token), ("x-api-key", &key)]).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(ask(&[("x-api-key", &key)]).await.status, 401, "nobody is signed in");
    for headers in [
        &[("authorization", &*token)][..],
        &[("authorization", &*check)],
        &[("authorization", &*token), ("x-api-key", "ent_gateway_guess")],
        &[("authorization", &*token), ("x-api-key", &*other)],
    ] {
        let response = ask(headers).await;
        assert_eq!(response.status, 403, "{headers:?}: {response:?}");
        assert!(response.body["error"].as_str().unwrap().contains("X-API-Key"), "{response:?}");
        assert!(response.header("x-entitlement-reason").is_empty(), "{response:?}");
    }
    assert_eq!(counted(&replica, "forward-auth", "gateway_refused").await, 4);
}

#[tokio::test]
async fn client_certificates_are_callers_over_http_too() {
    let (db, file, signer) = (Db::new().await, CallersFile::new(), Signer::new("ins_1"));
    let (authority, other) = (Authority::new(), Authority::new());
    let admin = file.create("operator", &[Scope::Admin]);
    fs::write(
        file.path(),
        fs::read_to_string(file.path()).unwrap() + "[certificates.\"out.test\"]\nscopes = []\n",
    )
    .unwrap();
    let sessions = Some(signer.sessions(Rules::default()));
    let listeners = ListenerFiles {
        api: Some(authority.listener()),
        client_ca: Some(authority.client_ca()),
        ..file.listeners()
    };
    let replica = Replica::launch(Config { listeners, sessions, ..config(&db) }).await;
    eventually("the replica is ready", async || replica.get("/readyz").await.0 == 200).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let client = |identity| HttpClient::by_tls(&replica, &authority, identity);

    let backend = client(Some(authority.issue(&[Name::Uri("spiffe://test/backend")])));
    let anonymous = client(None);
    let out = client(Some(authority.issue(&[Name::Dns("out.test")])));
    let nameless = client(Some(authority.issue(&[])));
    for path in [FLAG, EVALUATION] {
        for (caller, headers, status) in [
            (&backend, &[][..], 200),
            (&anonymous, &[], 401),
            (&out, &[], 403),
            (&nameless, &[], 401),
            (&backend, &[("x-api-key", "ent_backend_guess")], 401),
            (&backend, &[("authorization", &*admin)], 403),
        ] {
            let response = caller.ask(Method::POST, path, headers, body(path)).await;
            assert_eq!(response.status, status, "{path} {headers:?}: {response:?}");
        }
    }
    let token = format!("Bearer {}", signer.token(ADA, &json!({})));
    let signed_in = [("authorization", &*token)];
    for (caller, status) in [(&backend, 200), (&anonymous, 403), (&out, 403)] {
        let response = caller.ask(Method::GET, "/auth/export", &signed_in, "").await;
        assert_eq!(response.status, status, "{response:?}");
    }
    assert_eq!(anonymous.ask(Method::GET, "/nothing", &[], "").await.status, 404);

    let stranger = client(Some(other.issue(&[Name::Uri("spiffe://test/backend")])));
    let refused = stranger.client.get(format!("{}/metrics", stranger.base)).send().await;
    assert!(
        refused.is_err(),
        "a certificate of another authority ends the connection: {refused:?}"
    );
}
