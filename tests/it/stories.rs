//! Clerk's payloads, story by story.

use crate::{
    db::Db,
    service::{ADA, Replica, payload},
};

#[tokio::test]
async fn a_paid_item_grants_its_plan() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    assert!(!replica.check(ADA, "", "export").await.allowed);
    let answer = replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!(answer.result(), "applied", "{answer:?}");
    assert!(replica.check(ADA, "", "export").await.allowed);
    replica.stop().await.unwrap();
}
