//! OFREP, as `OpenFeature`'s providers speak it.

use crate::{
    db::Db,
    outside::{Outside, Told, counted},
    proxy::{Link, Proxy},
    service::{ACME, ADA, GRACE, Replica, config, eventually, payload},
};
use chrono::Utc;
use entitlements::{
    api::pb::Reason,
    config::Config,
    domain::{Catalog, Denial, Grant},
};
use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

const FLAGS: &str = "/ofrep/v1/evaluate/flags";

fn of(key: &str) -> Value {
    json!({ "context": { "targetingKey": key } })
}

async fn flag(outside: &Outside, key: &str, subject: &str) -> Told {
    outside.post(&format!("{FLAGS}/{key}"), of(subject)).await
}

/// All flags of a subject, unless they are known by this tag.
async fn all(outside: &Outside, subject: &str, etag: &str) -> Told {
    outside.ask(Method::POST, FLAGS, &[("if-none-match", etag)], of(subject)).await
}

fn value(told: &Told, key: &str) -> Value {
    let flags = told.body["flags"].as_array().unwrap();
    flags.iter().find(|flag| flag["key"] == key).unwrap()["value"].clone()
}

/// Clerk's message that Ada has canceled, with a period that ends then.
fn canceled(ends_at: i64) -> String {
    payload("subscriptionItem.canceled").replace("4105123200000", &ends_at.to_string())
}

#[tokio::test]
async fn a_feature_is_a_flag_with_its_reason_and_where_it_comes_from() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    replica.send(&payload("subscriptionItem.canceled")).await;
    let told = flag(&outside, "export", ADA).await;
    assert_eq!(told.status, 200);
    assert_snapshot!(told.body, @r#"{"key":"export","metadata":{"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","revision":"1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","validUntil":"2100-02-01T00:00:00.000Z"},"reason":"TARGETING_MATCH","value":true,"variant":"on"}"#);
    let told = flag(&outside, "sso", ADA).await;
    assert_snapshot!(told.body, @r#"{"key":"sso","metadata":{"reason":"REASON_NOT_IN_PLAN","revision":"1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR"},"reason":"TARGETING_MATCH","value":false,"variant":"off"}"#);
    assert_eq!(counted(&replica, "ofrep", "allowed").await, 1);
    assert_eq!(counted(&replica, "ofrep", "denied").await, 1);
}

#[tokio::test]
async fn a_number_that_comes_with_a_feature_is_in_the_metadata() {
    let db = Db::new().await;
    let mut limited = config(&db);
    let catalog = "[user]\ndefault_plan = \"free\"\n[user.plans.free]\nlimits = { projects = 3 }";
    limited.catalog = Some((Catalog::from_toml(catalog).unwrap(), "limits.toml".into()));
    let replica = Replica::launch(limited).await;
    replica.serving().await;
    let told = flag(&Outside::of(&replica), "projects", ADA).await;
    assert_eq!(told.body["value"], true);
    assert_eq!(told.body["metadata"]["limit"], 3);
}

#[tokio::test]
async fn the_user_and_the_active_organization_count_together() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    replica.send(&payload("subscription.active.org-team")).await;
    let path = format!("{FLAGS}/sso");
    for context in [
        json!({ "targetingKey": ADA, "orgId": ACME }),
        json!({ "targetingKey": ACME, "userId": ADA }),
        json!({ "targetingKey": ADA, "userId": ADA, "orgId": ACME, "locale": ["de"] }),
        json!({ "targetingKey": ACME, "userId": "", "orgId": null }),
    ] {
        let told = outside.post(&path, json!({ "context": context })).await;
        assert_eq!(told.body["value"], true, "{context}: {told:?}");
        assert_eq!(told.body["metadata"]["subject"], ACME);
    }
    assert_eq!(flag(&outside, "sso", ADA).await.body["value"], false);
    assert_eq!(flag(&outside, "org:sso", ACME).await.body["value"], true);
    assert_eq!(flag(&outside, "user%3Asso", ACME).await.body["value"], false);
}

#[tokio::test]
async fn what_cannot_be_evaluated_is_told_in_the_words_of_the_protocol() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
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
            let told = outside.post(&path, body).await;
            assert_eq!(told.status, status, "{path} {body}: {told:?}");
            assert_eq!(told.body["errorCode"], code, "{path} {body}: {told:?}");
            assert!(told.body["errorDetails"].as_str().unwrap().len() > 10, "{told:?}");
            let key = told.body.get("key");
            assert_eq!(key.is_some(), path.ends_with("export"), "{path} {body}: {told:?}");
        }
    }
    for key in ["no_such_feature", "planet:sso", &"x".repeat(200)] {
        let told = flag(&outside, key, ADA).await;
        assert_eq!((told.status, &told.body["errorCode"]), (404, &json!("FLAG_NOT_FOUND")));
        assert_eq!(told.body["key"], key);
    }
    let large = json!({ "context": { "targetingKey": ADA, "x": "x".repeat(70_000) } });
    assert_eq!(outside.post(FLAGS, large).await.status, 413);
    assert_eq!(outside.ask(Method::GET, FLAGS, &[], "").await.status, 405);
    assert_eq!(outside.post("/ofrep/v2/evaluate/flags", "{}").await.status, 404);
    for (result, count) in [
        ("targeting_key_missing", 18),
        ("invalid_context", 18),
        ("parse_error", 7),
        ("flag_not_found", 3),
        ("refused", 2),
    ] {
        assert_eq!(counted(&replica, "ofrep", result).await, count, "{result}");
    }
}

#[tokio::test]
async fn all_flags_are_known_by_a_tag_until_something_changes() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    let first = all(&outside, ADA, "").await;
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
        let again = all(&outside, ADA, etag).await;
        assert_eq!((again.status, again.body), (304, json!("")));
        assert_eq!(again.headers["etag"], first.headers["etag"]);
    }
    assert_eq!(checks(replica.get("/metrics").await.1), before, "a 304 decides nothing");
    assert_eq!(counted(&replica, "ofrep", "not_modified").await, 2);

    let other = all(&outside, GRACE, first.header("etag")).await;
    assert_eq!(other.status, 200, "another subject is not known by Ada's tag");
    assert_eq!(all(&outside, ADA, "*").await.status, 200);

    replica.send(&payload("subscriptionItem.active")).await;
    let upgraded = all(&outside, ADA, first.header("etag")).await;
    assert_eq!((upgraded.status, value(&upgraded, "export")), (200, json!(true)));
    assert_eq!(all(&outside, GRACE, other.header("etag")).await.status, 304);
}

#[tokio::test]
async fn two_subjects_in_turn_never_see_each_others_answer() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    let mut tags = [String::new(), String::new()];
    let mut agree = async |expected: bool, when: &str| {
        for _ in 0..3 {
            for ((subject, expected), tag) in
                [(ADA, expected), (GRACE, false)].into_iter().zip(&mut tags)
            {
                let told = flag(&outside, "export", subject).await;
                assert_eq!(told.body["value"], expected, "{subject} {when}");
                let told = all(&outside, subject, tag).await;
                if told.status == 200 {
                    assert_eq!(value(&told, "export"), expected, "{subject} {when}");
                    *tag = told.header("etag").to_owned();
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

/// An open event stream, read event by event.
struct Stream(reqwest::Response, String);

impl Stream {
    async fn open(outside: &Outside, uri: &str, last: &str) -> Self {
        let request = outside.client.get(format!("{}{uri}", outside.base));
        let response = request.header("last-event-id", last).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response, String::new())
    }

    /// The tag of the next event; `None`: the stream has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.1.find("\n\n") {
                let event: String = self.1.drain(..end + 2).collect();
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let data = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
                if let Some(data) = data {
                    assert_eq!(data["type"], "refetchEvaluation");
                    return Some(data["etag"].as_str().unwrap().to_owned());
                }
                continue; // a sign of life
            }
            let more = timeout(Duration::from_secs(20), self.0.chunk()).await;
            let more = more.expect("an event within 20 s").unwrap()?;
            self.1 += std::str::from_utf8(&more).unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_tells_when_to_ask_again_and_ends_with_the_service() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let elsewhere = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    let first = all(&outside, ADA, "").await;
    let offered = &first.body["eventStreams"][0];
    assert_eq!((&offered["type"], &offered["inactivityDelaySec"]), (&json!("sse"), &json!(120)));
    let uri = offered["endpoint"]["requestUri"].as_str().unwrap().to_owned();
    let mut stream = Stream::open(&outside, &uri, "").await;
    let now = stream.next().await.unwrap();
    assert_eq!(now, first.header("etag"), "what changed before the stream was open is not missed");

    elsewhere.send(&payload("subscription.created.free-org")).await; // not Ada's
    elsewhere.send(&payload("subscriptionItem.active")).await;
    let upgraded = stream.next().await.unwrap();
    let told = all(&outside, ADA, &now).await;
    assert_eq!((told.status, value(&told, "export")), (200, json!(true)));
    assert_eq!(told.header("etag"), upgraded);

    let ends = Utc::now().timestamp_millis() + 1500;
    replica.send(&canceled(ends)).await;
    let leaving = stream.next().await.unwrap();
    assert_eq!(value(&all(&outside, ADA, "").await, "export"), true);
    let over = stream.next().await.unwrap(); // by time alone
    let told = all(&outside, ADA, &leaving).await;
    assert_eq!((told.header("etag"), value(&told, "export")), (&*over, json!(false)));

    let mut newer = config(&db);
    let catalog = "[user]\ndefault_plan = \"all\"\n[user.plans.all]\nfeatures = [\"export\"]";
    newer.catalog = Some((Catalog::from_toml(catalog).unwrap(), "newer.toml".into()));
    let newer = Replica::launch(newer).await;
    newer.serving().await;
    let tag = stream.next().await.unwrap();
    assert_eq!(value(&all(&outside, ADA, &over).await, "export"), true);
    assert_eq!(counted(&replica, "ofrep", "stream").await, 1);

    let mut resumed = Stream::open(&outside, &uri, tag.trim_matches('"')).await;
    replica.stop().await.unwrap();
    assert_eq!(stream.next().await, None);
    assert_eq!(resumed.next().await, None, "who knows the tag is not told it again");
}

/// All flags of Ada, asked for because of an event that named one tag, by somebody who has the flags of another one.
async fn after_event(outside: &Outside, event: &str, known: &str) -> Told {
    let event = event.replace('"', "%22");
    let path = format!("{FLAGS}?other=1&flagConfigEtag={event}&flagConfigLastModified=1771622898");
    outside.ask(Method::POST, &path, &[("if-none-match", known)], of(ADA)).await
}

#[tokio::test]
async fn a_replica_that_is_behind_an_event_never_says_that_nothing_changed() {
    let db = Db::new().await;
    let ahead = Replica::start(&db).await;
    let proxy = Proxy::before(&db.url).await;
    let database = proxy.url(db.name()).parse().unwrap();
    let behind = Replica::launch(Config { database, ..config(&db) }).await;
    behind.serving().await;
    let (ahead_asked, behind_asked) = (Outside::of(&ahead), Outside::of(&behind));
    for (name, expected) in [
        ("subscriptionItem.active", true),
        ("subscriptionItem.canceled", true),
        ("subscriptionItem.ended", false),
    ] {
        proxy.set(Link::Whole);
        behind.heard().await;
        proxy.set(Link::Deaf);
        let known = all(&behind_asked, ADA, "").await.header("etag").to_owned();
        ahead.send(&payload(name)).await;
        let newer = all(&ahead_asked, ADA, "").await.header("etag").to_owned();
        assert_ne!(known, newer, "{name}");
        let told = after_event(&behind_asked, &newer, &known).await;
        assert_eq!((told.status, value(&told, "export")), (200, json!(expected)), "{name}");
        assert_eq!(told.header("etag"), newer, "{name}");
        let told = after_event(&behind_asked, &newer, &newer).await;
        assert_eq!(told.status, 304, "{name}: who has the state of the event has all");
        let told = after_event(&behind_asked, &known, &newer).await;
        assert_eq!(told.status, 200, "{name}: an older event, though its sender has more");
    }
    proxy.set(Link::Cut);
    let known = all(&behind_asked, ADA, "").await.header("etag").to_owned();
    ahead.send(&payload("subscription.created.free-user")).await;
    let newer = all(&ahead_asked, ADA, "").await.header("etag").to_owned();
    assert_ne!(known, newer);
    let told = after_event(&behind_asked, &newer, &known).await;
    assert_eq!(told.status, 500, "{told:?}");
}

#[tokio::test]
async fn an_event_of_another_service_is_answered_with_all_flags() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    let known = all(&outside, ADA, "").await.header("etag").to_owned();
    let weak = format!("W/{known}");
    let encoded = known.replace('~', "%7E");
    for (event, status) in [
        ("\"2_other\"", 200),
        ("other", 200),
        ("%22550e8400-e29b-41d4-a716-446655440000%22", 200),
        ("~", 200),
        ("%ff", 200),
        (&known, 304),
        (known.trim_matches('"'), 304),
        (&weak, 304),
        (&encoded, 304),
        ("", 304),
        ("%22%22", 304),
    ] {
        let told = after_event(&outside, event, &known).await;
        assert_eq!(told.status, status, "{event:?}: {told:?}");
        assert_eq!(told.header("etag"), known, "{event:?}");
    }
    db.drop_by_force().await;
    let told = after_event(&outside, "other", &known).await;
    assert!([200, 500].contains(&told.status), "{told:?}");
}

#[tokio::test]
async fn a_stream_of_nobody_is_refused() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    for (query, code) in [
        ("", "TARGETING_KEY_MISSING"),
        ("?userId=ada", "INVALID_CONTEXT"),
        ("?userId=org_1", "INVALID_CONTEXT"),
    ] {
        let told = outside.ask(Method::GET, &format!("/ofrep/v1/events{query}"), &[], "").await;
        assert_eq!((told.status, &told.body["errorCode"]), (400, &json!(code)), "{told:?}");
    }
}

#[tokio::test]
async fn a_crowd_is_told_to_come_again() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    assert_eq!(flag(&outside, "basic_reports", ADA).await.status, 200);
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table subject, item, override").execute(&mut *tx).await.unwrap();
    let strangers: Vec<_> = (0..100).map(|n| format!("user_stranger{n}")).collect();
    let crowd = strangers.iter().map(|user| flag(&outside, "export", user));
    let told = futures_util::future::join_all(crowd).await;
    let refused: Vec<_> = told.iter().filter(|told| told.status == 429).collect();
    assert!(refused.len() >= 20, "{told:?}");
    assert!(refused.iter().all(|told| told.header("retry-after") == "1"));
    assert!(counted(&replica, "ofrep", "overloaded").await >= 20);
    // What is cached waits for nobody.
    assert_eq!(flag(&outside, "basic_reports", ADA).await.status, 200);
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn an_outage_is_told_as_one() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let outside = Outside::of(&replica);
    assert_eq!(flag(&outside, "basic_reports", ADA).await.status, 200);

    db.drop_by_force().await;
    eventually("what is not cached cannot be evaluated", async || {
        let told = flag(&outside, "export", "user_stranger").await;
        told.status == 500 && told.body["errorDetails"].as_str().unwrap().contains("database")
    })
    .await;
    assert!(counted(&replica, "ofrep", "unavailable").await >= 1);
    eventually("what is cached is evaluated, and marked", async || {
        let told = flag(&outside, "basic_reports", ADA).await;
        assert_eq!((told.status, &told.body["value"]), (200, &json!(true)), "{told:?}");
        told.body["metadata"]["stale"] == true
    })
    .await;
}

#[tokio::test]
async fn web_pages_may_ask_if_their_origin_is_named() {
    let db = Db::new().await;
    let mut open = config(&db);
    open.ofrep_cors = ["https://app.example.com"].iter().map(|o| o.parse().unwrap()).collect();
    let replica = Replica::launch(open).await;
    replica.serving().await;
    let outside = Outside::of(&replica);
    let asks = ("access-control-request-method", "POST");
    let ours = ("origin", "https://app.example.com");
    let told = outside.ask(Method::OPTIONS, FLAGS, &[ours, asks], "").await;
    assert_eq!(told.status, 204);
    assert_eq!(told.header("access-control-allow-origin"), ours.1);
    assert!(told.header("access-control-allow-headers").contains("if-none-match"));
    let told = outside.ask(Method::POST, FLAGS, &[ours], of(ADA)).await;
    assert_eq!(told.header("access-control-allow-origin"), ours.1);
    assert!(told.header("access-control-expose-headers").contains("etag"));
    assert_eq!(told.header("vary"), "origin");

    let theirs = ("origin", "https://evil.example.com");
    assert_eq!(outside.ask(Method::OPTIONS, FLAGS, &[theirs, asks], "").await.status, 403);
    let told = outside.ask(Method::POST, FLAGS, &[theirs], of(ADA)).await;
    assert_eq!(told.header("access-control-allow-origin"), "");

    let closed = Replica::start(&db).await;
    let told = Outside::of(&closed).ask(Method::POST, FLAGS, &[ours], of(ADA)).await;
    assert_eq!((told.status, told.header("access-control-allow-origin")), (200, ""));
}

#[tokio::test]
async fn protocols_that_are_not_named_are_not_there() {
    let db = Db::new().await;
    let mut none = config(&db);
    none.protocols.clear();
    let replica = Replica::launch(none).await;
    replica.serving().await;
    for path in [FLAGS, "/access/v1/evaluation", "/auth/export"] {
        assert_eq!(Outside::of(&replica).post(path, of(ADA)).await.status, 404, "{path}");
    }
}

#[test]
fn reasons_have_the_names_of_the_grpc_contract() {
    let grants = [
        Grant::DefaultPlan,
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
