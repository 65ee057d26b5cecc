//! Tests of two replicas on one database.

use crate::{
    support::database::Db,
    support::service::{ADA, Replica, apply_catalog, config, eventually, payload},
};
use entitlements::{
    api::pb::{CheckFeatureRequest, Consistency, Reason, consistency::Requirement},
    config::Config,
    domain::Catalog,
};
use tonic::Code;

/// Checks `export` for Ada with a consistency requirement.
async fn check(replica: &Replica, requirement: Requirement) -> Result<bool, Code> {
    let request = CheckFeatureRequest {
        user_id: ADA.into(),
        feature: "export".into(),
        consistency: Some(Consistency { requirement: Some(requirement) }),
        ..Default::default()
    };
    let answer = replica.client.clone().check_feature(request).await;
    answer.map(|answer| answer.into_inner().allowed).map_err(|status| status.code())
}

#[tokio::test]
async fn a_change_is_visible_at_once_on_its_replica_and_soon_on_others() {
    let db = Db::new().await;
    let (one, other) = tokio::join!(Replica::start(&db), Replica::start(&db));
    let story = [("subscriptionItem.active", true), ("subscriptionItem.ended", false)];
    for (name, allowed) in story {
        for replica in [&one, &other] {
            replica.check(ADA, "", "export").await; // fills both caches
        }
        assert_eq!(one.send(&payload(name)).await.result(), "applied", "{name}");
        assert_eq!(one.check(ADA, "", "export").await.allowed, allowed, "{name}");
        eventually(&format!("the other replica has processed {name}"), async || {
            other.check(ADA, "", "export").await.allowed == allowed
        })
        .await;
    }
}

#[tokio::test]
async fn an_account_named_by_a_notification_is_not_served_even_without_a_log_entry() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let before = replica.check(ADA, "", "export").await;
    assert!(before.allowed, "it is cached now");
    let behind_the_back = "
        with ended as (update entitlements.item set status = 'ended' returning subject),
            counted as (
                update entitlements.subject set revision = revision + 1 where id in (select subject from ended)
                returning id, revision
            )
        select pg_notify('entitlements_change', 'another ' || id || ' ' || revision) from counted";
    eventually("the replica listens", async || {
        replica.get("/metrics").await.1.contains("entitlements_listening 1")
    })
    .await;
    sqlx::raw_sql(behind_the_back).execute(&db.pool().await).await.unwrap();
    eventually("the account is loaded again", async || {
        !replica.check(ADA, "", "export").await.allowed
    })
    .await;
}

#[tokio::test]
async fn a_revision_makes_any_replica_answer_from_that_state_or_a_newer_one() {
    let db = Db::new().await;
    let (one, other) = tokio::join!(Replica::start(&db), Replica::start(&db));
    for _ in 0..5 {
        for (name, allowed) in
            [("subscriptionItem.active", true), ("subscriptionItem.active", true)]
        {
            other.check(ADA, "", "export").await;
            let answer = one.send(&payload(name)).await;
            if let Some(revision) = answer.body["revision"].as_str() {
                let at_least = Requirement::AtLeast(revision.into());
                assert_eq!(check(&other, at_least).await, Ok(allowed));
            }
        }
    }
    let answer = one.check(ADA, "", "export").await;
    assert_eq!(check(&other, Requirement::AtLeast(answer.revision.clone())).await, Ok(true));
    assert_eq!(check(&other, Requirement::FullyConsistent(true)).await, Ok(true));

    let (known, _) = answer.revision.rsplit_once('.').unwrap();
    let future = Requirement::AtLeast(format!("{known}.999"));
    assert_eq!(check(&one, future).await, Err(Code::Unavailable));
    let catalog = Requirement::AtLeast("999.0".into());
    assert_eq!(check(&one, catalog).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn a_new_catalog_reaches_all_replicas_and_a_replica_with_an_old_file_changes_nothing() {
    let db = Db::new().await;
    let old = Replica::start(&db).await;
    let gold = payload("subscriptionItem.active").replace("\"pro\"", "\"gold\"");
    assert_eq!(old.send(&gold).await.result(), "applied");
    let answer = old.check(ADA, "", "export").await;
    assert_eq!((answer.allowed, answer.reason()), (false, Reason::UnknownPlan));
    assert!(old.get("/metrics").await.1.contains("entitlements_unknown_plans_total 1"));

    let mut newer = config(&db);
    let catalog = "[user.plans.gold]\nfeatures = [\"export\"]";
    newer.catalog = Some((Catalog::from_toml(catalog).unwrap(), "newer.toml".into()));
    apply_catalog(&db, catalog).await;
    let new = Replica::start_with(newer).await;
    assert!(new.check(ADA, "", "export").await.allowed);
    eventually("the old replica has read the catalog", async || {
        old.check(ADA, "", "export").await.allowed
    })
    .await;

    let restarted = Replica::start(&db).await;
    assert!(restarted.check(ADA, "", "export").await.allowed);
    assert!(new.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn concurrent_checks_of_an_uncached_subject_load_it_once() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let rush = (0..1000).map(|_| replica.check("user_nobody", "", "basic_reports"));
    let answers = futures_util::future::join_all(rush).await;
    assert!(answers.iter().all(|answer| answer.allowed));
    let (_, metrics) = replica.get("/metrics").await;
    assert!(metrics.contains("entitlements_cache_loads_total{result=\"ok\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn the_cache_answers_after_one_load() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for _ in 0..10 {
        replica.check("user_nobody", "", "export").await;
    }
    let (_, metrics) = replica.get("/metrics").await;
    assert!(metrics.contains("entitlements_cache_hits_total 9"), "{metrics}");
    assert!(metrics.contains("entitlements_cache_loads_total{result=\"ok\"} 1"), "{metrics}");
}

/// Aurora behaves so.
#[tokio::test]
async fn a_postgres_that_hides_its_timeline_history_is_followed_nevertheless() {
    let db = Db::new().await;
    let (_, url) = db.service_role().await;
    db.run("revoke execute on function pg_walfile_name(pg_lsn) from public").await;
    let config = Config { database: url.parse().unwrap(), ..config(&db) };
    let (one, other) = (Replica::launch(config).await, Replica::start(&db).await);
    one.serving().await;
    assert!(!one.check(ADA, "", "export").await.allowed);
    other.send(&payload("subscription.active.user-pro")).await;
    eventually("the change is processed", async || one.check(ADA, "", "export").await.allowed)
        .await;
}
