//! Requests that are not deliveries of Clerk are rejected, and change nothing in any table.

use crate::{
    support::database::Db,
    support::raw_socket::{exchange, status},
    support::service::{Replica, SECRET, payload, secret},
    support::webhook_attacks::unsigned_headers,
};
use chrono::Utc;
use entitlements::clerk::SigningSecret;
use futures_util::future::join_all;
use tokio::sync::oneshot;

/// The correctly signed headers of a delivery.
struct Signed {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Signed {
    fn new() -> Self {
        Self::at(Utc::now().timestamp())
    }

    fn at(timestamp: i64) -> Self {
        Self::of("msg_1", timestamp, payload("subscriptionItem.active"))
    }

    fn of(id: &str, timestamp: i64, body: String) -> Self {
        let signature = secret().sign(id, timestamp, &body);
        Self { id: id.into(), timestamp: timestamp.to_string(), signature, body }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("svix-id", self.id.clone()),
            ("svix-timestamp", self.timestamp.clone()),
            ("svix-signature", self.signature.clone()),
        ]
    }

    fn without(&self, name: &str) -> Vec<(&'static str, String)> {
        self.headers().into_iter().filter(|(n, _)| *n != name).collect()
    }

    fn with(&self, name: &'static str, value: impl Into<String>) -> Vec<(&'static str, String)> {
        let mut headers = self.without(name);
        headers.push((name, value.into()));
        headers
    }

    fn and(&self, name: &'static str, value: impl Into<String>) -> Vec<(&'static str, String)> {
        let mut headers = self.headers();
        headers.push((name, value.into()));
        headers
    }
}

/// A request, named; the expected status, and words of the expected response.
struct Case(String, Vec<(&'static str, String)>, Vec<u8>, u16, &'static str);

#[tokio::test]
async fn requests_that_clerk_did_not_sign_are_refused_and_change_nothing() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let before = db.fingerprint().await;
    for Case(case, headers, body, status, words) in headers_that_are_wrong() {
        let answer = replica.post(&headers, body).await;
        assert_eq!(answer.status, status, "{case}: {answer:?}");
        let error = answer.body["error"].as_str().unwrap_or_default();
        assert!(error.contains(words), "{case}: {answer:?}");
    }
    assert_eq!(db.fingerprint().await, before);
    let (_, metrics) = replica.get("/metrics").await;
    assert!(metrics.contains("entitlements_webhooks_refused_total{status=\"401\"}"), "{metrics}");
}

fn headers_that_are_wrong() -> Vec<Case> {
    let ok = Signed::new();
    let body = ok.body.clone().into_bytes();
    let case = |name: &str, headers, status, words| {
        Case(name.to_owned(), headers, body.clone(), status, words)
    };
    let now = Utc::now().timestamp();
    let other = SigningSecret::parse(&"whsec_plJ3nmyCDGBKInavdOK15jsl".to_owned().into()).unwrap();
    let mut cases = vec![
        case("no headers", vec![], 400, "missing header svix-id"),
        case("no id", ok.without("svix-id"), 400, "missing header svix-id"),
        case("no timestamp", ok.without("svix-timestamp"), 400, "missing header svix-timestamp"),
        case("no signature", ok.without("svix-signature"), 400, "missing header svix-signature"),
        case(
            "signed with another secret",
            ok.with("svix-signature", other.sign("msg_1", now, &ok.body)),
            401,
            "does not verify",
        ),
        case("too old", Signed::at(now - 310).headers(), 401, "s in the past"),
        case("too far ahead", Signed::at(now + 310).headers(), 401, "s in the future"),
        case("timestamp in milliseconds", Signed::at(now * 1000).headers(), 401, "s in the future"),
        case("two ids", ok.and("svix-id", "msg_2"), 400, "svix-id is present twice"),
        case(
            "two timestamps",
            ok.and("svix-timestamp", "1"),
            400,
            "svix-timestamp is present twice",
        ),
        case(
            "signatures of both kinds",
            ok.and("webhook-signature", ok.signature.clone()),
            400,
            "send one kind",
        ),
        case("ids of both kinds", ok.and("webhook-id", "msg_1"), 400, "send one kind"),
        case("empty signature", ok.with("svix-signature", ""), 401, "does not verify"),
    ];
    let mac = ok.signature.strip_prefix("v1,").unwrap();
    for signature in
        [format!("v2,{mac}"), format!("V1,{mac}"), "v1,".into(), format!("v1,{}", &mac[..9])]
    {
        let name = format!("signature {signature}");
        cases.push(case(&name, ok.with("svix-signature", signature), 401, "does not verify"));
    }
    let mut second_line = ok.with("svix-signature", "v1,AAAA");
    second_line.push(("svix-signature", ok.signature.clone()));
    cases.push(case(
        "two signature headers",
        second_line,
        401,
        "only the first signature header is read",
    ));
    for timestamp in
        ["abc", "1700000000.0", "", "-1", "+1700000000", "001700000000", "99999999999999999999"]
    {
        let name = format!("timestamp {timestamp:?}");
        cases.push(case(&name, ok.with("svix-timestamp", timestamp), 400, "digits only"));
    }
    for id in ["", "msg.1", "msg 1", "msg\"1", "{msg}", &"x".repeat(129), &"x".repeat(9_000)] {
        let signed = Signed::of(id, now, ok.body.clone());
        let name = format!("id {id:?}");
        cases.push(case(&name, signed.headers(), 400, "svix-id must be 1 to 128"));
    }
    let ours = Signed::of("api_0a1b", now, ok.body.clone());
    cases.push(case("id of an import", ours.headers(), 400, "must not begin with `api_`"));
    cases.extend(bodies_that_were_changed(&ok, now));
    cases
}

fn bodies_that_were_changed(ok: &Signed, now: i64) -> Vec<Case> {
    let changed = ok.body.replace("\"active\"", "\"Active\"").into_bytes();
    let value: serde_json::Value = serde_json::from_str(&ok.body).unwrap();
    let not_utf8 = [ok.body.as_bytes(), &[0xff]].concat();
    // The signature covers `id.timestamp.body`, so a captured body with dots could be split differently.
    let old = now - 86_400;
    let captured = Signed::of("msg_1", old, format!("a.{now}.{{}}"));
    let split = [
        ("svix-id", format!("msg_1.{old}.a")),
        ("svix-timestamp", now.to_string()),
        ("svix-signature", captured.signature),
    ];
    vec![
        Case("one letter changed".into(), ok.headers(), changed, 401, "does not verify"),
        Case(
            "JSON written anew".into(),
            ok.headers(),
            value.to_string().into_bytes(),
            401,
            "does not verify",
        ),
        Case(
            "a space appended".into(),
            ok.headers(),
            format!("{} ", ok.body).into_bytes(),
            401,
            "does not verify",
        ),
        Case("not UTF-8".into(), ok.headers(), not_utf8, 400, "not UTF-8"),
        Case(
            "captured body split differently".into(),
            split.into(),
            b"{}".to_vec(),
            400,
            "svix-id must be",
        ),
    ]
}

#[tokio::test]
async fn signatures_made_while_rotating_secrets_are_accepted() {
    let db = Db::new().await;
    let mut config = crate::support::service::config(&db);
    let other = || {
        SigningSecret::parse(&"whsec_plJ3nmyCDGBKInavdOK15jslAAAAAAAA".to_owned().into()).unwrap()
    };
    config.signing_secrets = vec![other(), secret()];
    let replica = Replica::start_with(config).await;
    let ok = Signed::new();
    let now = Utc::now().timestamp();
    let by_other = other().sign("msg_1", now, &ok.body);
    let several = format!("v1a,zzz v1,AAAA v2,BBBB {}", ok.signature);
    let unbranded = ok.headers().into_iter().map(|(name, value)| match name {
        "svix-id" => ("webhook-id", value),
        "svix-timestamp" => ("webhook-timestamp", value),
        _ => ("webhook-signature", value),
    });
    let by_other = [
        ("svix-id", "msg_1".to_owned()),
        ("svix-timestamp", now.to_string()),
        ("svix-signature", by_other),
    ];
    for (case, headers) in [
        ("several signatures", ok.with("svix-signature", several)),
        ("signed with the other secret", by_other.into()),
        ("headers of Standard Webhooks", unbranded.collect()),
        ("another content type", ok.and("content-type", "text/plain")),
        ("nearly too old", Signed::at(now - 290).headers()),
        ("nearly too far ahead", Signed::at(now + 290).headers()),
    ] {
        let answer = replica.post(&headers, ok.body.clone()).await;
        assert_eq!(answer.status, 200, "{case}: {answer:?}");
    }
}

/// Raw requests, each on a connection of its own, and the expected status.
fn requests_that_are_wrong() -> Vec<(String, &'static [u16])> {
    let large = "x".repeat(512 * 1024 + 1);
    let many = "x-many: 1\r\n".repeat(100);
    let long = format!("x: {}\r\n", "y".repeat(20_000));
    let post = |rest: &str| format!("POST /webhooks/clerk HTTP/1.1\r\nhost: x\r\n{rest}");
    let hit = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let (chunked, unsigned) = ("transfer-encoding: chunked\r\n", unsigned_headers());
    vec![
        (post(&format!("content-length: {}\r\n\r\n", large.len())), &[413]),
        (post(&format!("{unsigned}{chunked}\r\n{:x}\r\n{large}", large.len())), &[413]),
        (post(&format!("{chunked}\r\n{:x}\r\n{large}", large.len())), &[400]),
        (post("host: y\r\ncontent-length: 2\r\n\r\n{}"), &[400]),
        ("GET /livez HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n".into(), &[400]),
        (post(&format!("{many}content-length: 0\r\n\r\n")), &[431]),
        (post(&format!("{long}content-length: 0\r\n\r\n")), &[431]),
        (hit("GET /webhooks/clerk"), &[405]),
        (hit("PUT /webhooks/clerk"), &[405]),
        (hit("HEAD /webhooks/clerk"), &[405]),
        (hit("OPTIONS /webhooks/clerk"), &[405]),
        (hit("POST /livez"), &[405]),
        (hit("GET /"), &[404]),
        (hit("POST /webhooks/clerk/"), &[404]),
        (hit("POST /webhooks/../webhooks/clerk"), &[404]),
        (hit("GET /metrics"), &[404]),
        (post(&format!("content-length: 2\r\n{chunked}\r\n0\r\n\r\n")), &[400]),
        (post(&format!("{chunked}content-length: 2\r\n\r\n0\r\n\r\n")), &[400]),
        (post("content-length: 2\r\ncontent-length: 3\r\n\r\n{}"), &[400]),
        (post("content-length: -1\r\n\r\n{}"), &[400]),
        (post("content-length: +3\r\n\r\n{}"), &[400]),
        (post(&format!("{chunked}\r\nzz\r\n{{}}")), &[400]),
        ("POST /webhooks/clerk HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}".into(), &[400]),
        ("\u{16}\u{3}\u{1}\u{2}\0 a client's TLS greeting\r\n\r\n".into(), &[400, 0]),
        ("GET /livez\r\n\r\n and nothing of HTTP/0.9".into(), &[400, 0]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[400, 0]),
    ]
}

#[tokio::test]
async fn requests_that_are_not_proper_http_are_refused_and_change_nothing() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let before = db.fingerprint().await;
    for (request, statuses) in requests_that_are_wrong() {
        let answer = exchange(replica.bound.webhook, &request).await;
        let request: String = request.chars().take(120).collect();
        assert!(statuses.contains(&status(&answer)), "{request:?}: {answer:?}");
        let allows = answer.to_lowercase().contains("allow: ");
        assert_eq!(allows, status(&answer) == 405, "{request:?}: {answer:?}");
    }
    assert_eq!(db.fingerprint().await, before);
}

#[tokio::test]
async fn excess_concurrent_deliveries_are_asked_to_retry() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let body = payload("subscriptionItem.active");
    assert_eq!(replica.send(&body).await.status, 200);
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("select from entitlements.subject for update").execute(&mut *tx).await.unwrap();
    let all = join_all((0..100).map(|_| replica.send(&body))).await;
    let busy = all.iter().filter(|answer| answer.body["error"] == "too many deliveries at once");
    assert!(busy.clone().count() >= 36, "{all:?}");
    assert!(busy.clone().all(|answer| answer.status == 503), "{all:?}");
    tx.rollback().await.unwrap();
    assert_eq!(replica.send(&body).await.status, 200);
}

#[tokio::test]
async fn a_delivery_that_the_database_cannot_store_is_retried_by_the_sender() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    assert_eq!(replica.send(&payload("subscription.created.free-user")).await.result(), "applied");
    let before = db.fingerprint().await;
    let pool = db.pool().await;
    let (locked, is_locked) = oneshot::channel();
    let (release, released) = oneshot::channel::<()>();
    let holder = tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        sqlx::raw_sql("select from entitlements.subject for update")
            .execute(&mut *tx)
            .await
            .unwrap();
        locked.send(()).unwrap();
        released.await.unwrap();
        tx.rollback().await.unwrap();
    });
    is_locked.await.unwrap();
    let answer = replica.send_as("msg_again", &payload("subscriptionItem.active")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    release.send(()).unwrap();
    holder.await.unwrap();
    assert_eq!(db.fingerprint().await, before);
    let again = replica.send_as("msg_again", &payload("subscriptionItem.active")).await;
    assert_eq!(again.result(), "applied", "{again:?}");

    let mut nowhere = crate::support::service::config(&db);
    nowhere.database = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
    let replica = Replica::launch(nowhere).await;
    let answer = replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(SECRET.len() > 10 && !answer.body.to_string().contains("nobody"), "{answer:?}");
}
