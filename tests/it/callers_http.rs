//! Who may ask over HTTP where callers are named: the same keys and scopes as over gRPC.

use crate::{
    callers::CallersFile,
    certificates::{Authority, Name},
    db::Db,
    outside::{Outside, counted},
    service::{ADA, Replica, config, payload},
    session::Signer,
};
use entitlements::{
    clerk::{Keys, Rules, Sessions},
    config::{Config, Locks},
    server::auth::Scope,
    server::tls,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;

const FLAG: &str = "/ofrep/v1/evaluate/flags/export";
const EVALUATION: &str = "/access/v1/evaluation";

async fn replica(db: &Db, file: &CallersFile, signer: &Signer) -> Replica {
    let sessions = Sessions::new(Keys::given(&signer.pem()).unwrap(), Rules::default());
    let (locks, sessions) = (file.locks(), Some(sessions));
    let replica = Replica::launch(Config { locks, sessions, ..config(db) }).await;
    replica.serving().await;
    replica
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
    let outside = Outside::of(&replica);
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
            let told = outside.ask(Method::POST, path, headers, body(path)).await;
            assert_eq!(told.status, status, "{path} {headers:?}: {told:?}");
            let is_empty = told.body == Value::String(String::new());
            assert_eq!(is_empty, path == FLAG && status != 200, "{path}: {told:?}");
        }
    }
    for (result, count) in [("unauthenticated", 5), ("forbidden", 1), ("allowed", 2)] {
        assert_eq!(counted(&replica, "ofrep", result).await, count, "{result}");
        assert_eq!(counted(&replica, "authzen", result).await, count, "{result}");
    }
    file.revoke("backend");
    crate::service::eventually("the key is refused", async || {
        let key = [("authorization", &*check)];
        outside.ask(Method::POST, FLAG, &key, body(FLAG)).await.status == 401
    })
    .await;
}

#[tokio::test]
async fn what_tells_nothing_of_anybody_needs_no_key() {
    let (db, file, signer) = (Db::new().await, CallersFile::new(), Signer::new("ins_1"));
    let replica = replica(&db, &file, &signer).await;
    for path in ["/livez", "/readyz", "/metrics", "/.well-known/authzen-configuration"] {
        assert_eq!(replica.get(path).await.0, 200, "{path}");
    }
    assert_eq!(replica.get("/nothing").await.0, 404);
    for path in ["/ofrep/v1/events?userId=user_1", "/ofrep/v1/nothing", "/auth/export"] {
        assert!(matches!(replica.get(path).await.0, 401 | 403), "{path}");
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
    let outside = Outside::of(&replica);
    let token = format!("Bearer {}", signer.token(ADA, &json!({})));
    let ask = async |headers: &[(&str, &str)]| {
        outside.ask(Method::GET, "/auth/export", headers, "").await
    };
    let told = ask(&[("authorization", &token), ("x-api-key", &key)]).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(ask(&[("x-api-key", &key)]).await.status, 401, "nobody is signed in");
    for headers in [
        &[("authorization", &*token)][..],
        &[("authorization", &*check)],
        &[("authorization", &*token), ("x-api-key", "ent_gateway_guess")],
        &[("authorization", &*token), ("x-api-key", &*other)],
    ] {
        let told = ask(headers).await;
        assert_eq!(told.status, 403, "{headers:?}: {told:?}");
        assert!(told.body["error"].as_str().unwrap().contains("X-API-Key"), "{told:?}");
        assert!(told.header("x-entitlement-reason").is_empty(), "{told:?}");
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
    let sessions = Some(Sessions::new(Keys::given(&signer.pem()).unwrap(), Rules::default()));
    let locks = Locks { internal: Some(authority.tls(tls::Protocol::Http1, true)), ..file.locks() };
    let replica = Replica::launch(Config { locks, sessions, ..config(&db) }).await;
    replica.serving().await;
    replica.send(&payload("subscriptionItem.active")).await;
    let outside = |identity| Outside::by_tls(&replica, &authority, identity);

    let backend = outside(Some(authority.issue(&[Name::Uri("spiffe://test/backend")])));
    let nobody = outside(None);
    let out = outside(Some(authority.issue(&[Name::Dns("out.test")])));
    let nameless = outside(Some(authority.issue(&[])));
    for path in [FLAG, EVALUATION] {
        for (who, headers, status) in [
            (&backend, &[][..], 200),
            (&nobody, &[], 401),
            (&out, &[], 403),
            (&nameless, &[], 401),
            (&backend, &[("x-api-key", "ent_backend_guess")], 401),
            (&backend, &[("authorization", &*admin)], 403),
        ] {
            let told = who.ask(Method::POST, path, headers, body(path)).await;
            assert_eq!(told.status, status, "{path} {headers:?}: {told:?}");
        }
    }
    let token = format!("Bearer {}", signer.token(ADA, &json!({})));
    let signed_in = [("authorization", &*token)];
    for (who, status) in [(&backend, 200), (&nobody, 403), (&out, 403)] {
        let told = who.ask(Method::GET, "/auth/export", &signed_in, "").await;
        assert_eq!(told.status, status, "{told:?}");
    }
    assert_eq!(nobody.ask(Method::GET, "/metrics", &[], "").await.status, 200);

    let stranger = outside(Some(other.issue(&[Name::Uri("spiffe://test/backend")])));
    let refused = stranger.client.get(format!("{}/metrics", stranger.base)).send().await;
    assert!(
        refused.is_err(),
        "a certificate of another authority ends the connection: {refused:?}"
    );
}
