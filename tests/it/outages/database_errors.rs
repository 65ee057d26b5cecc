//! Permanent errors of the database are reported as permanent, and are not retried.

use crate::{
    support::database::Db,
    support::http_client::HttpClient,
    support::process::Process,
    support::service::{GRACE, Replica, config, eventually, payload},
};
use entitlements::{api::pb::CheckFeatureRequest, config::Config, storage::StoreError};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use tonic::Code;

/// The kind of error of an SQLSTATE, and whether it is transient.
async fn read_as(db: &Db, code: &str) -> (&'static str, bool) {
    let raise = format!("do $$ begin raise exception using errcode = '{code}'; end $$");
    let error = db.pool().await.execute(AssertSqlSafe(raise)).await.unwrap_err();
    let error = StoreError::from(error);
    let name = match &error {
        StoreError::Unavailable(_) => "unavailable",
        StoreError::AccessDenied(_) => "access denied",
        StoreError::Timeout(_) => "timeout",
        StoreError::Rejected(_) => "rejected",
        StoreError::Misconfigured(_) => "misconfigured",
        StoreError::Corrupt(_) => "corrupt",
    };
    (name, error.is_transient())
}

#[tokio::test]
async fn an_error_is_permanent_or_transient_by_its_sqlstate() {
    let db = Db::new().await;
    for (codes, expected) in [
        (&["22001", "22P05", "23505", "23514", "54000"][..], ("rejected", false)),
        (
            &["42501", "42703", "42P01", "42601", "42883", "3F000", "44000", "38000"],
            ("misconfigured", false),
        ),
        (
            &[
                "08006", "08P01", "25006", "25P02", "26000", "40001", "40P01", "42P05", "53100",
                "53300", "55P03", "57014", "57P01", "57P03", "58030", "0A000", "P0001", "XX000",
            ],
            ("unavailable", true),
        ),
        (&["28000", "28P01", "3D000"], ("access denied", true)),
    ] {
        for code in codes {
            assert_eq!(read_as(&db, code).await, expected, "{code}");
        }
    }
}

/// The error with which a start ends.
async fn error_of_start(config: Config) -> String {
    format!("{:#}", Replica::launch(config).await.ended().await.unwrap_err())
}

async fn drop_role(db: &Db, role: &str) {
    db.run(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn a_start_ends_with_the_error_where_waiting_would_not_help() {
    let db = Db::new().await;
    let (role, url) = db.service_role().await;
    for (right, object, words) in [
        ("select", "entitlements._sqlx_migrations", "`entitlements doctor` says which"),
        ("select", "entitlements.catalog_version", "lacks rights"),
        ("insert", "entitlements.observation", "lacks rights"),
    ] {
        let grant = format!("grant {right} on table {object} to");
        db.run(&format!("revoke {right} on {object} from {role}")).await;
        let limited = Config { database: url.parse().unwrap(), ..config(&db) };
        let error = error_of_start(limited).await;
        let names_fix = error.contains("permission denied for table") || error.contains(&grant);
        assert!(error.contains(words) && names_fix, "{object}: {error}");
        db.run(&format!("grant {right} on {object} to {role}")).await;
    }
    db.run("alter table entitlements.catalog_version rename column number to no_more").await;
    let error = error_of_start(config(&db)).await;
    assert!(error.contains("does not exist"), "{error}");
    db.run(&format!("alter role {role} nologin")).await;
    let locked_out = Config { database: url.parse().unwrap(), ..config(&db) };
    let error = error_of_start(locked_out).await;
    assert!(error.contains("is not permitted to log in"), "{error}");
    let error = error_of_start(config(&Db::absent())).await;
    assert!(error.contains("rejects the login or does not exist: check DATABASE_URL"), "{error}");
    drop_role(&db, &role).await;
}

#[tokio::test]
async fn a_delivery_that_needs_an_operator_is_answered_500_and_nothing_is_recorded() {
    let db = Db::new().await;
    let (role, url) = db.service_role().await;
    let replica =
        Replica::start_with(Config { database: url.parse().unwrap(), ..config(&db) }).await;
    for (breaks, mends) in [
        (
            format!("revoke insert on entitlements.delivery from {role}"),
            format!("grant insert on entitlements.delivery to {role}"),
        ),
        (
            "alter table entitlements.item rename column past_due_at to other".into(),
            "alter table entitlements.item rename column other to past_due_at".into(),
        ),
        (
            "alter table entitlements.subject rename to other".into(),
            "alter table entitlements.other rename to subject".into(),
        ),
    ] {
        db.run(&breaks).await;
        let before = db.count("delivery").await;
        let answer = replica.send(&payload("subscriptionItem.active")).await;
        assert_eq!(answer.status, 500, "{breaks}: {answer:?}");
        assert!(answer.body["error"].as_str().unwrap().contains("see the log"), "{answer:?}");
        assert_eq!(db.count("delivery").await, before, "{breaks}");
        db.run(&mends).await;
        assert_eq!(replica.send(&payload("subscriptionItem.active")).await.status, 200, "{mends}");
    }
    let (_, metrics) = replica.get("/metrics").await;
    assert!(metrics.contains("entitlements_webhooks_refused_total{status=\"500\"} 3"), "{metrics}");

    db.run("alter table entitlements.item rename column seats to other").await;
    let request = CheckFeatureRequest {
        user_id: GRACE.into(),
        feature: "export".into(),
        ..CheckFeatureRequest::default()
    };
    let failed = replica.client.clone().check_feature(request).await.unwrap_err();
    assert_eq!(failed.code(), Code::Internal, "{failed:?}");
    assert!(failed.message().contains("see the log of the service"), "{failed:?}");
    let body = json!({
        "subject": { "type": "user", "id": GRACE },
        "action": { "name": "use" },
        "resource": { "type": "feature", "id": "export" },
    });
    let response = HttpClient::of(&replica).post("/access/v1/evaluation", body).await;
    assert_eq!((response.status, response.header("retry-after")), (500, ""), "{response:?}");
    replica.stop().await.unwrap();
    drop_role(&db, &role).await;
}

#[tokio::test]
async fn a_running_service_survives_a_locked_out_role_and_a_read_only_primary() {
    let db = Db::new().await;
    let (role, url) = db.service_role().await;
    let service = Process::start(
        &url,
        &[("ENTITLEMENTS_CHECK_TIMEOUT", "2s"), ("ENTITLEMENTS_MIGRATE", "false")],
    )
    .await;
    let name = db.name();
    let end_sessions =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'");
    for (breaks, mends) in [
        (format!("alter role {role} nologin"), format!("alter role {role} login")),
        (
            format!("alter database {name} set default_transaction_read_only = on"),
            format!("alter database {name} reset default_transaction_read_only"),
        ),
    ] {
        db.run(&breaks).await;
        db.run(&end_sessions).await;
        let body = payload("subscriptionItem.active");
        eventually("a delivery is answered with 503", async || {
            service.send(&body).await.status == 503
        })
        .await;
        let mends = format!("set transaction_read_only = off; {mends}");
        db.run(&mends).await;
        db.run(&end_sessions).await;
        eventually("it is accepted", async || service.send(&body).await.status == 200).await;
    }
    assert!(service.terminate().await);
    drop_role(&db, &role).await;
}
