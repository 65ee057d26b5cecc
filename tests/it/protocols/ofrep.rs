//! OFREP, called as by `OpenFeature`'s providers.

use crate::{
    support::database::Db,
    support::http_client::{HttpClient, counted},
    support::ofrep::{FLAGS, all, canceled, flag, of, value},
    support::service::{ACME, ADA, GRACE, LINUS, Replica, config, eventually, payload},
};
use chrono::Utc;
use entitlements::{
    api::pb::Reason,
    domain::{Catalog, Denial, Grant},
};
use insta::assert_snapshot;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_feature_is_a_flag_with_its_reason_and_where_it_comes_from() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.canceled")).await;
    let response = flag(&client, "export", ADA).await;
    assert_eq!(response.status, 200);
    assert_snapshot!(response.timeless("metadata"), @r#"{"key":"export","metadata":{"allowed":true,"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","validUntil":"2100-02-01T00:00:00.000Z"},"reason":"TARGETING_MATCH","value":true,"variant":"on"}"#);
    let response = flag(&client, "sso", ADA).await;
    assert_snapshot!(response.timeless("metadata"), @r#"{"key":"sso","metadata":{"allowed":false,"reason":"REASON_NOT_IN_PLAN","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR"},"reason":"TARGETING_MATCH","value":false,"variant":"off"}"#);
    assert_eq!(counted(&replica, "ofrep", "allowed").await, 1);
    assert_eq!(counted(&replica, "ofrep", "denied").await, 1);
}

#[tokio::test]
async fn a_number_that_comes_with_a_feature_is_in_the_metadata() {
    let db = Db::new().await;
    let mut limited = config(&db);
    let catalog = "[user]\ndefault_plan = \"free\"\n[user.plans.free]\nlimits = { projects = 3 }";
    limited.catalog = Some((Catalog::from_toml(catalog).unwrap(), "limits.toml".into()));
    let replica = Replica::start_with(limited).await;
    let response = flag(&HttpClient::of(&replica), "projects", ADA).await;
    assert_eq!(response.body["value"], true);
    assert_eq!(response.body["metadata"]["limit"], 3);
}

#[tokio::test]
async fn the_user_and_the_active_organization_count_together() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscription.active.org-team")).await;
    let path = format!("{FLAGS}/sso");
    for context in [
        json!({ "targetingKey": ADA, "orgId": ACME }),
        json!({ "targetingKey": ACME, "userId": ADA }),
        json!({ "targetingKey": ADA, "userId": ADA, "orgId": ACME, "locale": ["de"] }),
        json!({ "targetingKey": ACME, "userId": "", "orgId": null }),
    ] {
        let response = client.post(&path, json!({ "context": context })).await;
        assert_eq!(response.body["value"], true, "{context}: {response:?}");
        assert_eq!(response.body["metadata"]["subject"], ACME, "{context}");
    }
    assert_eq!(flag(&client, "sso", ADA).await.body["value"], false);
    assert_eq!(flag(&client, "org:sso", ACME).await.body["value"], true);
    assert_eq!(flag(&client, "user%3Asso", ACME).await.body["value"], false);
}

#[tokio::test]
async fn evaluation_errors_use_the_error_codes_of_the_protocol() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    let cases: [(&str, u16, &str); 14] = [
        ("", 400, "TARGETING_KEY_MISSING"),
        ("{}", 400, "TARGETING_KEY_MISSING"),
        (r#"{"context": null}"#, 400, "TARGETING_KEY_MISSING"),
        (r#"{"context": {}}"#, 400, "TARGETING_KEY_MISSING"),
        (r#"{"context": {"targetingKey": ""}}"#, 400, "TARGETING_KEY_MISSING"),
        (r#"{"context": {"userId": "user_1"}}"#, 400, "TARGETING_KEY_MISSING"),
        (r#"{"context": {"targetingKey": 5}}"#, 400, "INVALID_CONTEXT"),
        (r#"{"context": {"targetingKey": "ada@example.com"}}"#, 400, "INVALID_CONTEXT"),
        (r#"{"context": {"targetingKey": "user_1", "orgId": true}}"#, 400, "INVALID_CONTEXT"),
        (r#"{"context": {"targetingKey": "user_1", "orgId": "acme"}}"#, 400, "INVALID_CONTEXT"),
        (r#"{"context": {"targetingKey": "user_1", "userId": "user_2"}}"#, 400, "INVALID_CONTEXT"),
        (r#"{"context": "user_1"}"#, 400, "INVALID_CONTEXT"),
        (r#"{"context": {"targetingKey": "user_1""#, 400, "PARSE_ERROR"),
        ("[]", 400, "PARSE_ERROR"),
    ];
    for (body, status, code) in cases {
        for path in [format!("{FLAGS}/export"), FLAGS.into(), format!("{FLAGS}/")] {
            let response = client.post(&path, body).await;
            assert_eq!(response.status, status, "{path} {body}: {response:?}");
            assert_eq!(response.body["errorCode"], code, "{path} {body}: {response:?}");
            assert!(response.body["errorDetails"].as_str().unwrap().len() > 10, "{response:?}");
            let key = response.body.get("key");
            assert_eq!(key.is_some(), path.ends_with("export"), "{path} {body}: {response:?}");
        }
    }
    for key in ["no_such_feature", "planet:sso", &"x".repeat(200)] {
        let response = flag(&client, key, ADA).await;
        assert_eq!(response.status, 404, "{key}: {response:?}");
        assert_eq!(response.body["errorCode"], "FLAG_NOT_FOUND", "{key}");
        assert_eq!(response.body["key"], key);
    }
    let large = json!({ "context": { "targetingKey": ADA, "x": "x".repeat(70_000) } });
    assert_eq!(client.post(FLAGS, large).await.status, 413);
    let not_utf8 = flag(&client, "%ff", ADA).await;
    assert_eq!((not_utf8.status, &not_utf8.body["errorCode"]), (404, &json!("FLAG_NOT_FOUND")));
    let wrong_method = client.ask(Method::GET, FLAGS, &[], "").await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, "POST"));
    let unknown_path = client.post("/ofrep/v2/evaluate/flags", "{}").await;
    assert_eq!(unknown_path.status, 404);
    assert!(unknown_path.body["errorDetails"].is_string(), "{unknown_path:?}");
    for (result, count) in [
        ("targeting_key_missing", 18),
        ("invalid_context", 18),
        ("parse_error", 7),
        ("flag_not_found", 4),
        ("refused", 2),
    ] {
        assert_eq!(counted(&replica, "ofrep", result).await, count, "{result}");
    }
}

#[tokio::test]
async fn the_etag_of_all_flags_is_valid_until_something_changes() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    // A new name of a plan may change the flags of every subject: this one is known from now on.
    replica.send(&payload("subscriptionItem.active").replace(ADA, LINUS)).await;
    let first = all(&client, ADA, "").await;
    assert_eq!(first.status, 200);
    let keys = first.body["flags"].as_array().unwrap().iter().map(|f| f["key"].as_str().unwrap());
    assert_eq!(
        keys.collect::<Vec<_>>(),
        ["ai_assistant", "api_access", "audit_logs", "basic_reports", "export", "sso"]
    );
    assert_eq!(value(&first, "export"), false);

    let checks = |metrics: String| {
        let lines = metrics.lines().filter(|line| line.starts_with("entitlements_checks_total"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = checks(replica.get("/metrics").await.1);
    let weak = format!("\"other\", W/{}", first.header("etag"));
    for etag in [first.header("etag"), &weak] {
        let again = all(&client, ADA, etag).await;
        assert_eq!((again.status, &again.body), (304, &json!("")), "{etag}");
        assert_eq!(again.headers["etag"], first.headers["etag"], "{etag}");
        assert_eq!(again.header("content-length"), "", "{etag}");
    }
    assert_eq!(checks(replica.get("/metrics").await.1), before, "a 304 decides nothing");
    assert_eq!(counted(&replica, "ofrep", "not_modified").await, 2);

    let other = all(&client, GRACE, first.header("etag")).await;
    assert_eq!(other.status, 200, "another subject is not known by Ada's tag");
    assert_eq!(all(&client, ADA, "*").await.status, 200);

    replica.send(&payload("subscriptionItem.active")).await;
    let upgraded = all(&client, ADA, first.header("etag")).await;
    assert_eq!((upgraded.status, value(&upgraded, "export")), (200, json!(true)));
    assert_eq!(all(&client, GRACE, other.header("etag")).await.status, 304);
}

#[tokio::test]
async fn two_alternating_subjects_never_get_each_others_answer() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    let mut tags = [String::new(), String::new()];
    let mut agree = async |expected: bool, when: &str| {
        for _ in 0..3 {
            for ((subject, expected), tag) in
                [(ADA, expected), (GRACE, false)].into_iter().zip(&mut tags)
            {
                let response = flag(&client, "export", subject).await;
                assert_eq!(response.body["value"], expected, "{subject} {when}");
                let response = all(&client, subject, tag).await;
                if response.status == 200 {
                    assert_eq!(value(&response, "export"), expected, "{subject} {when}");
                    *tag = response.header("etag").to_owned();
                }
            }
        }
        assert_ne!(tags[0], tags[1]);
        tags[0].clone()
    };
    let before = agree(false, "before").await;
    replica.send(&payload("subscriptionItem.active")).await;
    let upgraded = agree(true, "after the upgrade").await;
    let ends = Utc::now().timestamp_millis() + 2500;
    replica.send(&canceled(ends)).await;
    let leaving = agree(true, "after canceling").await;
    eventually("the period is over", async || Utc::now().timestamp_millis() >= ends).await;
    let over = agree(false, "after the end").await;
    for (one, next) in [(&before, &upgraded), (&upgraded, &leaving), (&leaving, &over)] {
        assert_ne!(one, next);
    }
}

#[tokio::test]
async fn excess_loads_of_accounts_are_asked_to_retry() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    assert_eq!(flag(&client, "basic_reports", ADA).await.status, 200);
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table entitlements.subject, entitlements.item, entitlements.override")
        .execute(&mut *tx)
        .await
        .unwrap();
    let strangers: Vec<_> = (0..100).map(|n| format!("user_stranger{n}")).collect();
    let crowd = strangers.iter().map(|user| flag(&client, "export", user));
    let response = futures_util::future::join_all(crowd).await;
    let refused: Vec<_> = response.iter().filter(|response| response.status == 429).collect();
    assert!(refused.len() >= 20, "{response:?}");
    assert!(refused.iter().all(|response| response.header("retry-after") == "1"));
    assert!(counted(&replica, "ofrep", "overloaded").await >= 20);
    // A cached account does not wait for a load.
    assert_eq!(flag(&client, "basic_reports", ADA).await.status, 200);
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn an_outage_is_reported_as_one() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    assert_eq!(flag(&client, "basic_reports", ADA).await.status, 200);

    db.drop_by_force().await;
    eventually("an uncached account cannot be evaluated", async || {
        let response = flag(&client, "export", "user_stranger").await;
        response.status == 500
            && response.body["errorDetails"].as_str().unwrap().contains("database")
    })
    .await;
    assert!(counted(&replica, "ofrep", "unavailable").await >= 1);
    eventually("a cached account is evaluated and marked stale", async || {
        let response = flag(&client, "basic_reports", ADA).await;
        assert_eq!((response.status, &response.body["value"]), (200, &json!(true)), "{response:?}");
        response.body["metadata"]["stale"] == true
    })
    .await;
}

#[tokio::test]
async fn web_pages_may_ask_if_their_origin_is_named() {
    let db = Db::new().await;
    let mut open = config(&db);
    open.ofrep_cors = ["https://app.example.com"].iter().map(|o| o.parse().unwrap()).collect();
    let replica = Replica::start_with(open).await;
    let client = HttpClient::of(&replica);
    let asks = ("access-control-request-method", "POST");
    let ours = ("origin", "https://app.example.com");
    let response = client.ask(Method::OPTIONS, FLAGS, &[ours, asks], "").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("access-control-allow-origin"), ours.1);
    assert_eq!(response.header("access-control-allow-methods"), "GET,POST");
    assert!(response.header("access-control-allow-headers").contains("if-none-match"));
    assert_eq!(counted(&replica, "ofrep", "preflight").await, 1);
    let response = client.ask(Method::POST, FLAGS, &[ours], of(ADA)).await;
    assert_eq!(response.header("access-control-allow-origin"), ours.1);
    assert!(response.header("access-control-expose-headers").contains("etag"));
    assert_eq!(response.header("vary"), "origin");

    let theirs = ("origin", "https://evil.example.com");
    let closed = Replica::start(&db).await;
    let closed = HttpClient::of(&closed);
    for (client, origin) in [(&client, theirs), (&closed, theirs), (&closed, ours)] {
        for (method, headers) in [(Method::OPTIONS, &[origin, asks][..]), (Method::POST, &[origin])]
        {
            let response = client.ask(method, FLAGS, headers, of(ADA)).await;
            assert_eq!(response.status, 200, "{origin:?}: {response:?}");
            assert_eq!(response.header("access-control-allow-origin"), "", "{response:?}");
        }
    }
}

#[tokio::test]
async fn protocols_that_are_not_enabled_are_not_served() {
    let db = Db::new().await;
    let mut none = config(&db);
    none.protocols.clear();
    let replica = Replica::start_with(none).await;
    for path in [FLAGS, "/access/v1/evaluation", "/auth/export"] {
        assert_eq!(HttpClient::of(&replica).post(path, of(ADA)).await.status, 404, "{path}");
    }
}

#[test]
fn reasons_have_the_names_of_the_grpc_contract() {
    let grants = [
        Grant::DefaultPlan,
        Grant::DefaultForUnknownPlan,
        Grant::CanceledButPaid,
        Grant::PastDueInGrace,
        Grant::RenewalOverdue,
        Grant::Trial,
        Grant::Plan,
        Grant::OverrideGrants,
    ];
    for grant in grants {
        assert_eq!(grant.name(), Reason::from(grant).as_str_name());
    }
    let denials = [
        Denial::NoSubscription,
        Denial::NotInPlan,
        Denial::Abandoned,
        Denial::Ended,
        Denial::PeriodOver,
        Denial::NotStarted,
        Denial::CheckoutIncomplete,
        Denial::UnknownStatus,
        Denial::UnknownPlan,
        Denial::PastDue,
        Denial::SubjectDeleted,
        Denial::UnknownFeature,
        Denial::OutOfScope,
        Denial::UnknownScope,
        Denial::Stale,
        Denial::OverrideDenies,
    ];
    for denial in denials {
        assert_eq!(denial.name(), Reason::from(denial).as_str_name());
    }
}
