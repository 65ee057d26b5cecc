//! By which names a listener on a loopback address answers: a web page can make its own name lead there.

use crate::{
    callers::CallersFile,
    db::Db,
    outside::Outside,
    service::{Replica, config},
    session::Signer,
};
use clap::ValueEnum;
use entitlements::{
    clerk::{Keys, Rules, Sessions},
    config::{Config, Protocol},
};
use reqwest::Method;

const FLAGS: &str = "/ofrep/v1/evaluate/flags";

fn all_protocols(db: &Db) -> Config {
    let keys = Keys::given(&Signer::new("ins_1").pem()).unwrap();
    Config {
        protocols: Protocol::value_variants().to_vec(),
        sessions: Some(Sessions::new(keys, Rules::default())),
        ..config(db)
    }
}

/// The status of a request that names this host.
async fn status(replica: &Replica, method: Method, path: &str, host: &str) -> u16 {
    let told = Outside::of(replica).ask(method, path, &[("host", host)], "{}").await;
    assert_eq!(told.header("x-content-type-options"), "nosniff", "{told:?}");
    told.status
}

#[tokio::test]
async fn without_callers_a_loopback_listener_answers_only_by_this_machines_names() {
    let db = Db::new().await;
    let public_url = Some("https://Entitlements.example.com/".parse().unwrap());
    let replica = Replica::launch(Config { public_url, ..all_protocols(&db) }).await;
    let port = replica.bound.internal.port();
    let ours =
        ["localhost", "LOCALHOST:9090", "127.0.0.1", "[::1]", "entitlements.example.com:443"];
    for host in ours.map(str::to_owned).into_iter().chain([format!("127.0.0.1:{port}")]) {
        assert_eq!(status(&replica, Method::GET, "/metrics", &host).await, 200, "{host}");
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
            (Method::GET, "/metrics"),
            (Method::GET, "/readyz"),
            (Method::OPTIONS, FLAGS),
            (Method::POST, FLAGS),
            (Method::POST, "/access/v1/evaluation"),
            (Method::GET, "/.well-known/authzen-configuration"),
        ] {
            assert_eq!(status(&replica, method, path, host).await, 421, "{host} {path}");
        }
    }
    // A gateway passes on the client's host, and the session token shows who asks.
    assert_eq!(status(&replica, Method::GET, "/auth/export", "app.example.com").await, 401);
    let told = Outside::of(&replica).ask(Method::GET, "/metrics", &[("host", "x")], "").await;
    assert!(told.body["error"].as_str().unwrap().contains("set PUBLIC_URL"), "{told:?}");
}

#[tokio::test]
async fn where_callers_are_named_only_what_needs_a_key_may_be_asked_by_every_name() {
    let (db, callers) = (Db::new().await, CallersFile::new());
    callers.create("backend", &[]);
    let replica = Replica::launch(Config { locks: callers.locks(), ..all_protocols(&db) }).await;
    for (path, expected) in [
        ("/metrics", 421),
        ("/.well-known/authzen-configuration", 421),
        ("/access/v1/evaluation", 401),
        (FLAGS, 401),
    ] {
        assert_eq!(status(&replica, Method::GET, path, "evil.example").await, expected, "{path}");
    }
    assert_eq!(status(&replica, Method::GET, "/metrics", "localhost").await, 200);
}
