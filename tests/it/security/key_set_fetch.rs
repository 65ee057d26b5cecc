//! The fetch of Clerk's key set (JWKS).

use crate::{
    support::database::Db,
    support::http_client::HttpClient,
    support::service::{ADA, Replica, config, eventually},
    support::session_signer::{Publisher, Signer},
};
use entitlements::{clerk::Rules, config::Config};
use reqwest::Method;
use serde_json::json;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn a_fetch_ends_although_the_gateway_that_caused_it_has_gone_away() {
    let (db, clerk) = (Db::new().await, Signer::new("ins_1"));
    let publisher = Publisher::of(&[]).await;
    let release = publisher.hold(&[&clerk]);
    let sessions = Some(publisher.sessions(Rules::default()));
    let replica = Replica::start_with(Config { sessions, ..config(&db) }).await;
    let bearer = format!("Bearer {}", clerk.token(ADA, &json!({})));
    let ask = async || {
        let headers = [("authorization", &*bearer)];
        let client = HttpClient::of(&replica);
        client.ask(Method::GET, "/auth/basic_reports", &headers, "").await
    };
    tokio::select! {
        answer = ask() => panic!("no key was published yet: {answer:?}"),
        () = eventually("the keys are asked for", async || {
            publisher.fetches.load(Ordering::SeqCst) == 1
        }) => {}
    }
    release.notify_one();
    let answer = ask().await;
    assert_eq!((answer.status, publisher.fetches.load(Ordering::SeqCst)), (200, 1), "{answer:?}");
}
