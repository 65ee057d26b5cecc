//! The ledger: listing, replaying, and deleting old bodies.

use crate::{
    support::database::Db,
    support::service::{ADA, Replica, config, eventually, payload},
};
use entitlements::api::pb::{
    DeliveryFilter, GetDeliveryRequest, ListDeliveriesRequest, ReplayDeliveriesRequest,
};
use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use tonic::Code;

/// The ids of the matching deliveries, newest first, read in pages of two.
async fn ids(replica: &Replica, filter: DeliveryFilter) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let filter = Some(filter.clone());
        let page = ListDeliveriesRequest { filter, page_size: 2, page_token };
        let page = replica.admin().list_deliveries(page).await.unwrap().into_inner();
        ids.extend(page.deliveries.into_iter().map(|delivery| delivery.svix_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

#[tokio::test]
async fn deliveries_are_found_by_id_subject_outcome_and_time() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for (id, name) in [
        ("msg_1", "subscription.created.free-user"),
        ("msg_2", "subscriptionItem.active"),
        ("msg_3", "subscription.created.free-org"),
        ("msg_4", "paymentAttempt.created.checkout"),
    ] {
        replica.send_as(id, &payload(name)).await;
    }
    replica.send_as("msg_5", "not json").await;
    let all = DeliveryFilter::default;
    assert_eq!(ids(&replica, all()).await, ["msg_5", "msg_4", "msg_3", "msg_2", "msg_1"]);
    let of_ada = DeliveryFilter { subject: ADA.into(), ..all() };
    assert_eq!(ids(&replica, of_ada).await, ["msg_4", "msg_2", "msg_1"]);
    let parked = DeliveryFilter { result: "parked".into(), ..all() };
    assert_eq!(ids(&replica, parked).await, ["msg_5"]);
    let one = DeliveryFilter { svix_id: "msg_4".into(), ..all() };
    assert_eq!(ids(&replica, one).await, ["msg_4"]);
    let now = chrono::Utc::now().timestamp();
    let later = Some(Timestamp { seconds: now + 60, nanos: 0 });
    assert!(ids(&replica, DeliveryFilter { received_from: later, ..all() }).await.is_empty());
    assert_eq!(ids(&replica, DeliveryFilter { received_until: later, ..all() }).await.len(), 5);

    let found = GetDeliveryRequest { svix_id: "msg_2".into() };
    let found = replica.admin().get_delivery(found).await.unwrap().into_inner();
    assert_eq!(found.body.unwrap(), payload("subscriptionItem.active").as_bytes());
    let delivery = found.delivery.unwrap();
    assert_eq!((delivery.result.as_str(), delivery.revision), ("applied", Some(2)));
    let absent = GetDeliveryRequest { svix_id: "msg_9".into() };
    let status = replica.admin().get_delivery(absent).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn an_invalid_filter_is_rejected_with_its_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let filter = DeliveryFilter {
        subject: "ada".into(),
        result: "lost".into(),
        received_from: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
        ..Default::default()
    };
    let request =
        ListDeliveriesRequest { filter: Some(filter), page_size: 1001, page_token: String::new() };
    let status = replica.admin().list_deliveries(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for field in ["filter.subject", "filter.result", "filter.received_from", "page_size"] {
        assert!(status.message().contains(field), "{}", status.message());
    }
    let request = ListDeliveriesRequest { page_token: "x".into(), ..Default::default() };
    let status = replica.admin().list_deliveries(request).await.unwrap_err();
    assert!(status.message().starts_with("page_token: "), "{status:?}");
}

/// Parks a body in the ledger, as an earlier release that could not parse it.
async fn park(db: &Db, svix_id: &str, body: &str) {
    sqlx::query(
        "insert into entitlements.delivery (svix_id, result, detail, body, body_sha256)
        values ($1, 'parked', 'not understood', $2, $3)",
    )
    .bind(svix_id)
    .bind(body.as_bytes())
    .bind(&*Sha256::digest(body))
    .execute(&db.pool().await)
    .await
    .unwrap();
}

async fn replay(replica: &Replica, result: &str, dry_run: bool) -> Vec<(String, String)> {
    let filter = DeliveryFilter { result: result.into(), ..Default::default() };
    replica.replay(filter, dry_run).await
}

#[tokio::test]
async fn a_parked_delivery_applies_by_replay_once_it_can_be_parsed() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    park(&db, "msg_1", &payload("subscriptionItem.active")).await;
    park(&db, "msg_2", "still not understood").await;
    assert!(!replica.check(ADA, "", "export").await.allowed);
    let expected = [("msg_2".into(), "parked".into()), ("msg_1".into(), "applied".into())];

    let before = db.fingerprint().await;
    assert_eq!(replay(&replica, "parked", true).await, expected);
    assert_eq!(db.fingerprint().await, before);
    assert!(!replica.check(ADA, "", "export").await.allowed);

    assert_eq!(replay(&replica, "parked", false).await, expected);
    assert!(replica.check(ADA, "", "export").await.allowed);
    assert_eq!(replay(&replica, "parked", false).await, expected[..1]);
    // A redelivery by Svix has the id of the first delivery.
    let again = replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
    assert_eq!(again.result(), "duplicate");
}

#[tokio::test]
async fn a_replay_that_fails_midway_reports_what_was_replayed_and_goes_on_from_there() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
    replica.send_as("msg_2", &payload("subscription.created.free-org")).await;
    let replay = async |page_token: String| {
        let filter = Some(DeliveryFilter::default());
        let request = ReplayDeliveriesRequest { filter, page_token, ..Default::default() };
        let page = replica.admin().replay_deliveries(request).await.unwrap().into_inner();
        let ids: Vec<_> = page.replayed.into_iter().map(|delivery| delivery.svix_id).collect();
        (ids, page.next_page_token)
    };
    let pool = db.pool().await;
    let mut other = pool.begin().await.unwrap();
    let lock = "select from entitlements.subject where id = $1 for update";
    sqlx::query(lock).bind(ADA).fetch_one(&mut *other).await.unwrap();
    let (replayed, rest) = replay(String::new()).await;
    assert_eq!(replayed, ["msg_2"]);
    other.rollback().await.unwrap();
    assert_eq!(replay(rest).await, (vec!["msg_1".to_owned()], String::new()));
}

#[tokio::test]
async fn replaying_an_applied_delivery_changes_nothing() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for name in ["subscriptionItem.active", "subscriptionItem.canceled", "subscriptionItem.active"]
    {
        replica.send(&payload(name)).await;
    }
    let before = replica.account(ADA).await;
    let replayed = replay(&replica, "", false).await;
    assert!(replayed.iter().all(|(_, after)| after == "superseded"), "{replayed:?}");
    assert_eq!(replica.account(ADA).await, before);
    assert_eq!(
        ids(&replica, DeliveryFilter { result: "applied".into(), ..Default::default() })
            .await
            .len(),
        2
    );
}

#[tokio::test]
async fn old_bodies_are_deleted_and_parked_deliveries_keep_theirs() {
    let db = Db::new().await;
    let mut config = config(&db);
    config.retention.bodies = chrono::Duration::zero();
    {
        let replica = Replica::start(&db).await;
        replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
        replica.send_as("msg_2", "not json").await;
        replica.stop().await.unwrap();
    }
    let replica = Replica::start_with(config).await;
    eventually("the body is deleted", async || {
        let request = GetDeliveryRequest { svix_id: "msg_1".into() };
        let found = replica.admin().get_delivery(request).await.unwrap().into_inner();
        found.body.is_none() && !found.delivery.unwrap().has_body
    })
    .await;
    let request = GetDeliveryRequest { svix_id: "msg_2".into() };
    let found = replica.admin().get_delivery(request).await.unwrap().into_inner();
    assert_eq!(found.body.unwrap(), b"not json");
    assert_eq!(replay(&replica, "applied", false).await, [("msg_1".into(), "gone".into())]);
    assert!(replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn the_admin_service_is_served_only_where_it_is_enabled() {
    let db = Db::new().await;
    let mut config = config(&db);
    config.admin = false;
    let replica = Replica::start_with(config).await;
    let status = replica.admin().list_deliveries(ListDeliveriesRequest::default()).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
}
