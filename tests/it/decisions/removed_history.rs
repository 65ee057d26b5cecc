//! Explanations that need a removed part of the history.

use crate::support::{
    database::Db,
    explanations::{changed, explain, feature, move_back, refusal},
    service::{ADA, Replica, config, eventually, payload},
};
use chrono::TimeDelta;
use entitlements::api::pb::{CheckFeatureResponse, ExplainRequest, Reason, Receipt};
use serde_json::json;
use tonic::Code;

#[tokio::test]
async fn a_receipt_of_removed_history_is_out_of_range() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut receipts = Vec::new();
    let later = |ms: i64| {
        changed("subscriptionItem.active", &json!({ "updated_at": 1_792_497_600_660 + ms }))
    };
    // A later account uses the first observation, which was active, and the third, but not the second.
    let bodies = [later(0), later(1), later(2), payload("subscriptionItem.ended")];
    for (nth, body) in bodies.iter().enumerate() {
        assert_eq!(replica.send(body).await.result(), "applied");
        let answer = replica.check(ADA, "", "export").await;
        let (revision, checked_at) = (answer.revision, answer.checked_at);
        receipts.push(Receipt { revision, checked_at, stale_for: None });
        if nth == 2 {
            move_back(&db, 2).await;
        }
    }
    replica.stop().await.unwrap();
    db.run("update entitlements.subject set oldest_observed_at = oldest_observed_at - interval '2 days'")
        .await;
    let mut config = config(&db);
    config.retention.history = Some(TimeDelta::days(1));
    let replica = Replica::start_with(config).await;
    let explained = async |receipt: &Receipt| {
        let receipt = Some(receipt.clone());
        explain(&replica, ExplainRequest { receipt, ..feature(ADA, "export") }).await
    };
    eventually("the second observation is removed", async || {
        explained(&receipts[1]).await.is_err()
    })
    .await;
    let removed = explained(&receipts[1]).await.unwrap_err();
    assert_eq!(removed.code(), Code::OutOfRange);
    assert!(refusal(&removed).contains("receipt: is before"), "{}", refusal(&removed));
    for (receipt, allowed) in [(&receipts[2], true), (&receipts[3], false)] {
        assert_eq!(explained(receipt).await.unwrap().answer.unwrap().allowed, allowed);
    }
}

#[tokio::test]
async fn the_removed_history_of_a_deleted_subject_is_out_of_range() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let before = replica.check(ADA, "", "export").await;
    replica.send(&payload("user.deleted")).await;
    let after = replica.check(ADA, "", "export").await;
    replica.stop().await.unwrap();
    let mut config = config(&db);
    config.retention.history_after_deletion = TimeDelta::zero();
    db.run("update entitlements.subject set deleted_at = now() - interval '1 day'").await;
    let replica = Replica::start_with(config).await;
    let explained = async |answer: &CheckFeatureResponse| {
        let (revision, checked_at) = (answer.revision.clone(), answer.checked_at);
        let receipt = Some(Receipt { revision, checked_at, stale_for: None });
        explain(&replica, ExplainRequest { receipt, ..feature(ADA, "export") }).await
    };
    eventually("the history is removed", async || explained(&before).await.is_err()).await;
    assert_eq!(explained(&before).await.unwrap_err().code(), Code::OutOfRange);
    let still = explained(&after).await.unwrap().answer.unwrap();
    assert_eq!((still.allowed, still.reason()), (false, Reason::SubjectDeleted));
}
