//! Limits of the number and the age of connections.

use crate::{
    support::database::Db,
    support::http2_frames::{Attacker, PING, frame},
    support::process::Process,
    support::service::{ADA, Replica, config, deliver, eventually, payload, plain_http},
};
use entitlements::api::pb::{CheckFeatureRequest, entitlements_client::EntitlementsClient};
use futures_util::future::join_all;
use std::{fs, net::SocketAddr, time::Duration};
use tonic::transport::{Channel, Endpoint};

#[tokio::test]
async fn a_connection_flood_takes_no_descriptors_from_other_listeners() {
    let db = Db::new().await;
    let process = Process::start_with_descriptors(150, &db.url).await;
    let grpc: SocketAddr = process.grpc.trim_start_matches("http://").parse().unwrap();
    let channel = Endpoint::from_shared(process.grpc.clone()).unwrap().connect().await.unwrap();
    let mut client = EntitlementsClient::new(channel);
    let crowd = join_all((0..200).map(|_| Attacker::sending(grpc, b""))).await;
    let mine = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count();
    assert!(mine < 150, "{mine} descriptors");
    // The database and the other listeners are still reachable.
    answered(&mut client, false).await;
    let http = plain_http();
    let body = payload("subscriptionItem.active");
    deliver(&http, &process.http, "msg_1", &body).await.unwrap();
    answered(&mut client, true).await;
    drop(crowd);
    let again = Endpoint::from_shared(process.grpc.clone()).unwrap().connect().await.unwrap();
    answered(&mut EntitlementsClient::new(again), true).await;
    assert!(process.terminate().await);
}

async fn answered(client: &mut EntitlementsClient<Channel>, allowed: bool) {
    let request =
        CheckFeatureRequest { user_id: ADA.into(), feature: "export".into(), ..Default::default() };
    eventually("the question is answered", async || {
        let answer = client.check_feature(request.clone()).await;
        answer.is_ok_and(|answer| answer.into_inner().allowed == allowed)
    })
    .await;
}

#[tokio::test]
async fn an_old_connection_gets_goaway_and_may_finish() {
    let db = Db::new().await;
    let mut config = config(&db);
    config.connection_age = Duration::from_millis(300);
    let replica = Replica::launch(config).await;
    let mut old = Attacker::new(replica.bound.api).await;
    eventually("it gets GOAWAY", async || old.has_goaway()).await;
    assert!(!old.is_closed(), "it may finish what it is doing");
    // The response to the PING that comes with GOAWAY: no call is in flight.
    let ping = frame(PING, 1, 0, b"\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54");
    eventually("it is closed", async || old.send(&ping).await.is_err() || old.is_closed()).await;
}
