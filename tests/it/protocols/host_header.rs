//! The host names that a loopback listener accepts: a web page could point its own name to it.

use crate::{
    support::callers_file::CallersFile,
    support::database::Db,
    support::http_client::HttpClient,
    support::service::{Replica, config, plain_http},
    support::session_signer::Signer,
};
use entitlements::{
    clerk::Rules,
    config::{Config, Protocol},
};
use reqwest::Method;

const FLAGS: &str = "/ofrep/v1/evaluate/flags";
const DISCOVERY: &str = "/.well-known/authzen-configuration";

fn all_protocols(db: &Db) -> Config {
    Config {
        protocols: Protocol::all().collect(),
        sessions: Some(Signer::new("ins_1").sessions(Rules::default())),
        ..config(db)
    }
}

/// The status of a request with this host name.
async fn status(replica: &Replica, method: Method, path: &str, host: &str) -> u16 {
    let response = HttpClient::of(replica).ask(method, path, &[("host", host)], "{}").await;
    assert_eq!(response.header("x-content-type-options"), "nosniff", "{response:?}");
    response.status
}

#[tokio::test]
async fn without_callers_a_loopback_listener_accepts_only_host_names_of_this_machine() {
    let db = Db::new().await;
    let public_url = Some("https://Entitlements.example.com/".parse().unwrap());
    let replica = Replica::launch(Config { public_url, ..all_protocols(&db) }).await;
    let port = replica.bound.api.port();
    let ours =
        ["localhost", "LOCALHOST:9090", "127.0.0.1", "[::1]", "entitlements.example.com:443"];
    for host in ours.map(str::to_owned).into_iter().chain([format!("127.0.0.1:{port}")]) {
        assert_eq!(status(&replica, Method::GET, DISCOVERY, &host).await, 200, "{host}");
        assert_eq!(status(&replica, Method::POST, FLAGS, &host).await, 400, "{host}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:9090",
        "10.0.0.1",
        "evil.example@localhost",
        "[::1].evil.example",
        "localhost:99999",
    ] {
        for (method, path) in [
            (Method::GET, "/nowhere"),
            (Method::OPTIONS, FLAGS),
            (Method::POST, FLAGS),
            (Method::POST, "/access/v1/evaluation"),
            (Method::GET, DISCOVERY),
        ] {
            assert_eq!(status(&replica, method, path, host).await, 421, "{host} {path}");
        }
    }
    // A gateway forwards the client's host, and the session token identifies the user.
    assert_eq!(status(&replica, Method::GET, "/auth/export", "app.example.com").await, 401);
    let response = HttpClient::of(&replica).ask(Method::GET, DISCOVERY, &[("host", "x")], "").await;
    assert!(
        response.body["error"].as_str().unwrap().contains("set ENTITLEMENTS_PUBLIC_URL"),
        "{response:?}"
    );
}

#[tokio::test]
async fn with_callers_only_endpoints_that_need_a_key_accept_every_host_name() {
    let (db, callers) = (Db::new().await, CallersFile::new());
    callers.create("backend", &[]);
    let replica =
        Replica::launch(Config { listeners: callers.listeners(), ..all_protocols(&db) }).await;
    for (path, expected) in
        [("/nowhere", 421), (DISCOVERY, 421), ("/access/v1/evaluation", 401), (FLAGS, 401)]
    {
        assert_eq!(status(&replica, Method::GET, path, "evil.example").await, expected, "{path}");
    }
    assert_eq!(status(&replica, Method::GET, DISCOVERY, "localhost").await, 200);
}

#[tokio::test]
async fn metrics_are_served_only_under_host_names_of_this_machine() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let url = format!("http://{}/metrics", replica.bound.operator);
    for (host, expected) in [("localhost", 200), ("evil.example", 421)] {
        let response = plain_http().get(&url).header("host", host).send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{host}");
    }
}
