//! Event streams of OFREP, and the requests that follow an event.

use crate::{
    support::database::Db,
    support::http_client::{HttpAnswer, HttpClient, counted},
    support::ofrep::{FLAGS, all, canceled, of, value},
    support::proxy::{Link, Proxy},
    support::service::{ADA, GRACE, LINUS, Replica, apply_catalog, config, payload},
};
use chrono::Utc;
use entitlements::config::Config;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// An open event stream, read event by event.
struct Stream(reqwest::Response, String);

impl Stream {
    async fn open(client: &HttpClient, uri: &str, last: &str) -> Self {
        let request = client.client.get(format!("{}{uri}", client.base));
        let response = request.header("last-event-id", last).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response, String::new())
    }

    /// Returns the tag of the next event; `None`: the stream has ended.
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
                continue; // a keep-alive
            }
            let more = timeout(Duration::from_secs(20), self.0.chunk()).await;
            let more = more.expect("an event within 20 s").unwrap()?;
            self.1 += std::str::from_utf8(&more).unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_announces_when_to_refetch_and_ends_with_the_service() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let elsewhere = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    // New names of plans may change the flags of every subject: these are known from now on.
    replica.send(&payload("subscriptionItem.active").replace(ADA, LINUS)).await;
    let first = all(&client, ADA, "").await;
    let offered = &first.body["eventStreams"][0];
    assert_eq!((&offered["type"], &offered["inactivityDelaySec"]), (&json!("sse"), &json!(120)));
    let uri = offered["endpoint"]["requestUri"].as_str().unwrap().to_owned();
    let mut stream = Stream::open(&client, &uri, "").await;
    let now = stream.next().await.unwrap();
    assert_eq!(now, first.header("etag"), "what changed before the stream was open is not missed");

    elsewhere.send(&payload("subscriptionItem.active").replace(ADA, GRACE)).await; // another subject
    elsewhere.send(&payload("subscriptionItem.active")).await;
    let upgraded = stream.next().await.unwrap();
    let response = all(&client, ADA, &now).await;
    assert_eq!((response.status, value(&response, "export")), (200, json!(true)));
    assert_eq!(response.header("etag"), upgraded);

    let ends = Utc::now().timestamp_millis() + 1500;
    replica.send(&canceled(ends)).await;
    let leaving = stream.next().await.unwrap();
    assert_eq!(value(&all(&client, ADA, "").await, "export"), true);
    let over = stream.next().await.unwrap(); // caused by time alone
    let response = all(&client, ADA, &leaving).await;
    assert_eq!((response.header("etag"), value(&response, "export")), (&*over, json!(false)));

    let newer = "[user]\ndefault_plan = \"all\"\n[user.plans.all]\nfeatures = [\"export\"]";
    apply_catalog(&db, newer).await;
    let tag = stream.next().await.unwrap();
    assert_eq!(value(&all(&client, ADA, &over).await, "export"), true);
    assert_eq!(counted(&replica, "ofrep", "stream").await, 1);

    let mut resumed = Stream::open(&client, &uri, tag.trim_matches('"')).await;
    replica.stop().await.unwrap();
    assert_eq!(stream.next().await, None);
    assert_eq!(resumed.next().await, None, "a client with the tag does not get it again");
}

/// Requests all flags of Ada after an event with one tag, by a client that has the flags of another tag.
async fn after_event(client: &HttpClient, event: &str, known: &str) -> HttpAnswer {
    let event = event.replace('"', "%22");
    let path = format!("{FLAGS}?other=1&flagConfigEtag={event}&flagConfigLastModified=1771622898");
    client.ask(Method::POST, &path, &[("if-none-match", known)], of(ADA)).await
}

#[tokio::test]
async fn a_replica_that_is_behind_an_event_never_answers_304() {
    let db = Db::new().await;
    let ahead = Replica::start(&db).await;
    let proxy = Proxy::before(&db.url).await;
    let database = proxy.url(db.name()).parse().unwrap();
    let behind = Replica::start_with(Config { database, ..config(&db) }).await;
    let (ahead_asked, behind_client) = (HttpClient::of(&ahead), HttpClient::of(&behind));
    for (name, expected) in [
        ("subscriptionItem.active", true),
        ("subscriptionItem.canceled", true),
        ("subscriptionItem.ended", false),
    ] {
        proxy.set(Link::Whole);
        behind.caught_up().await;
        proxy.set(Link::Deaf);
        let known = all(&behind_client, ADA, "").await.header("etag").to_owned();
        ahead.send(&payload(name)).await;
        let newer = all(&ahead_asked, ADA, "").await.header("etag").to_owned();
        assert_ne!(known, newer, "{name}");
        let response = after_event(&behind_client, &newer, &known).await;
        assert_eq!((response.status, value(&response, "export")), (200, json!(expected)), "{name}");
        assert_eq!(response.header("etag"), newer, "{name}");
        let response = after_event(&behind_client, &newer, &newer).await;
        assert_eq!(
            response.status, 304,
            "{name}: a client with the state of the event is up to date"
        );
        let response = after_event(&behind_client, &known, &newer).await;
        assert_eq!(response.status, 200, "{name}: an older event, though its sender has more");
    }
    proxy.set(Link::Cut);
    let known = all(&behind_client, ADA, "").await.header("etag").to_owned();
    ahead.send(&payload("subscription.created.free-user")).await;
    let newer = all(&ahead_asked, ADA, "").await.header("etag").to_owned();
    assert_ne!(known, newer);
    let response = after_event(&behind_client, &newer, &known).await;
    assert_eq!(response.status, 500, "{response:?}");
}

#[tokio::test]
async fn an_event_of_another_service_is_answered_with_all_flags() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    replica.send(&payload("subscriptionItem.active")).await;
    let known = all(&client, ADA, "").await.header("etag").to_owned();
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
        let response = after_event(&client, event, &known).await;
        assert_eq!(response.status, status, "{event:?}: {response:?}");
        assert_eq!(response.header("etag"), known, "{event:?}");
    }
    db.drop_by_force().await;
    let response = after_event(&client, "other", &known).await;
    assert!([200, 500].contains(&response.status), "{response:?}");
}

#[tokio::test]
async fn a_stream_without_a_subject_is_rejected() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let client = HttpClient::of(&replica);
    for (query, code) in [
        ("", "TARGETING_KEY_MISSING"),
        ("?userId=ada", "INVALID_CONTEXT"),
        ("?userId=org_1", "INVALID_CONTEXT"),
    ] {
        let response = client.ask(Method::GET, &format!("/ofrep/v1/events{query}"), &[], "").await;
        assert_eq!(
            (response.status, &response.body["errorCode"]),
            (400, &json!(code)),
            "{response:?}"
        );
    }
}
