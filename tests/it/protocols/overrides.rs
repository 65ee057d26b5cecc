//! Overrides in every protocol: one grant, one denial, one end, and the answers of all protocols agree with the check.

use crate::support::{
    database::Db,
    gateway_replica::{self, ask},
    http_client::HttpClient,
    ofrep::{all, flag, value},
    overrides::{denied, end, granted, set_id},
    service::{ACME, ADA, Replica, eventually, payload},
    session_signer::Signer,
};
use entitlements::api::flagd::pb::v2::{ResolveBooleanRequest, service_client::ServiceClient};
use prost_types::{Struct, value::Kind};
use serde_json::json;

/// The answers about a feature for Ada: gRPC, flagd, OFREP alone and in bulk, `AuthZEN`, and both kinds of gateways.
async fn answers(replica: &Replica, signer: &Signer, feature: &str) -> [bool; 7] {
    let client = HttpClient::of(replica);
    let text = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.into())) };
    let fields = [("targetingKey".to_owned(), text(ADA))].into_iter().collect();
    let request =
        ResolveBooleanRequest { flag_key: feature.into(), context: Some(Struct { fields }) };
    let flagd = ServiceClient::new(replica.channel.clone()).resolve_boolean(request).await;
    let authzen = json!({
        "subject": { "type": "user", "id": ADA },
        "action": { "name": "use" },
        "resource": { "type": "feature", "id": feature },
    });
    let authzen = client.post("/access/v1/evaluation", &authzen).await;
    let token = signer.token(ADA, &json!({}));
    let extensions = [("feature", feature)];
    let envoy = gateway_replica::check(replica, &token, &extensions, None).await.unwrap();
    [
        replica.check(ADA, "", feature).await.allowed,
        flagd.unwrap().into_inner().value.unwrap(),
        flag(&client, feature, ADA).await.body["value"] == true,
        value(&all(&client, ADA, "").await, feature) == true,
        authzen.body["decision"] == true,
        ask(&client, feature, &token).await.status == 200,
        envoy.status.unwrap().code == 0,
    ]
}

#[tokio::test]
async fn all_protocols_follow_a_grant_a_denial_and_an_end() {
    let (db, signer) = (Db::new().await, Signer::new("ins_1"));
    let replica = gateway_replica::replica(&db, &signer).await;
    replica.send(&payload("subscriptionItem.active")).await;
    for (feature, before) in [("sso", false), ("export", true)] {
        assert_eq!(answers(&replica, &signer, feature).await, [before; 7], "{feature}");
        let found = if before { denied(ADA, feature) } else { granted(ADA, feature) };
        let id = set_id(&replica, found).await;
        assert_eq!(answers(&replica, &signer, feature).await, [!before; 7], "{feature}, set");
        end(&replica, &id).await;
        assert_eq!(answers(&replica, &signer, feature).await, [before; 7], "{feature}, ended");
    }
}

#[tokio::test]
async fn an_override_changes_the_etag_and_the_flags_of_an_organization() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let client = HttpClient::of(&replica);
    let before = all(&client, ACME, "").await;
    let etag = before.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(all(&client, ACME, &etag).await.status, 304);
    set_id(&replica, denied(ACME, "sso")).await;
    eventually("the ETag has changed", async || all(&client, ACME, &etag).await.status == 200)
        .await;
    assert_eq!(value(&all(&client, ACME, "").await, "sso"), false);
}
