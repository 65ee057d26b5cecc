//! An account with very many running items: it is answered in full, and a deadline ends the decision.

use crate::{
    support::database::Db,
    support::raw_socket,
    support::service::{ADA, Replica},
};
use entitlements::api::pb::{CheckFeatureRequest, CheckFeaturesRequest};
use prost::Message;
use serde_json::json;
use tonic::Code;

const ITEMS: i64 = 1_000;
/// 2100-01-01, in milliseconds.
const END: i64 = 4_102_444_800_000;
const UPDATED: i64 = 1_792_497_600_000;

/// A subscription whose items are all canceled and end one after the other.
fn subscription() -> String {
    let items: Vec<_> = (1..=ITEMS)
        .map(|n| {
            json!({
                "object": "subscription_item", "id": format!("csub_item_{n}"), "status": "canceled",
                "plan": { "slug": "pro" }, "updated_at": UPDATED, "period_end": END + n * 86_400_000,
            })
        })
        .collect();
    json!({
        "type": "subscription.updated", "timestamp": UPDATED,
        "data": {
            "object": "subscription", "id": "csub_1", "status": "active", "updated_at": UPDATED,
            "payer": { "user_id": ADA }, "items": items,
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_hundred_questions_about_a_thousand_items_are_answered_unless_their_deadline_ends_them() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    assert_eq!(replica.send(&subscription()).await.result(), "applied");
    assert!(replica.check(ADA, "", "export").await.allowed); // and cached
    let question =
        CheckFeatureRequest { user_id: ADA.into(), feature: "export".into(), ..Default::default() };
    let questions = vec![question; 100];
    let request = CheckFeaturesRequest { questions, ..Default::default() };

    let answers = replica.client.clone().check_features(request.clone()).await.unwrap();
    let answers = answers.into_inner().answers;
    assert_eq!(answers.len(), 100);
    for answer in answers {
        let until = answer.valid_until.unwrap().seconds;
        assert_eq!((answer.allowed, until), (true, END / 1000 + ITEMS * 86_400));
    }

    let message = request.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], &message].concat();
    let connection = raw_socket::http2(replica.bound.api).await;
    let path = "/entitlements.v1.Entitlements/CheckFeatures";
    let ended = raw_socket::grpc(&connection, path, &[("grpc-timeout", "1n")], body).await;
    assert_eq!(ended.1.code(), Code::DeadlineExceeded);
}
