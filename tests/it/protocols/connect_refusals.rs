//! Requests of Connect and gRPC-Web that are refused, and gRPC-Web's answers.

use crate::support::{
    callers_file::CallersFile,
    connect::{CHECK, ConnectAnswer, call, gzip, message},
    database::Db,
    http_client::counted,
    service::{ADA, Replica, config, payload},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use entitlements::{
    api::pb::{CheckFeatureRequest, CheckFeatureResponse},
    config::{Config, Protocol},
    server::auth::Scope,
};
use prost::Message;
use serde_json::json;

const JSON: (&str, &str) = ("content-type", "application/json");
const GET_DELIVERY: &str = "/entitlements.v1.Admin/GetDelivery";

fn good() -> String {
    json!({ "userId": ADA, "feature": "export" }).to_string()
}

async fn ask(replica: &Replica, headers: &[(&str, &str)], body: impl ToString) -> ConnectAnswer {
    let headers: Vec<_> = [JSON].into_iter().chain(headers.iter().copied()).collect();
    call(replica, CHECK, &headers, body.to_string()).await
}

#[tokio::test]
async fn an_invalid_message_is_refused_with_the_name_of_its_field() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for (body, words) in [
        (
            r#"{"userId":5,"feature":"export"}"#,
            "userId: invalid type: integer `5`, expected a string",
        ),
        (r#"{"userID":"user_1","feature":"export"}"#, "unrecognized field name 'userID'"),
        (r#"{"feature":"export""#, "EOF while parsing"),
        (r#"{"feature":"export","feature":"sso"}"#, "the key `feature` is present twice"),
        (r#"{"user_id":"user_1","userId":"user_2"}"#, "the key `userId` is present twice"),
        (r#"{"feature":"export"} {}"#, "trailing characters"),
        ("[]", "the JSON of the message: invalid type"),
        (r#"{"consistency":{"atLeast":5}}"#, "consistency.atLeast"),
        ("", "the body is empty"),
    ] {
        let answer = ask(&replica, &[], body).await;
        assert_eq!((answer.status, &*answer.code()), (400, "invalid_argument"), "{body}");
        assert!(answer.message().contains(words), "{body}: {}", answer.message());
    }
}

#[tokio::test]
async fn an_error_of_the_call_keeps_its_details() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let answer = ask(&replica, &[], r#"{"feature":"export"}"#).await;
    assert_eq!(answer.status, 400);
    let error = answer.json();
    let detail = &error["details"][0];
    assert_eq!(detail["type"], "google.rpc.BadRequest", "{error}");
    assert!(detail["debug"]["fieldViolations"][0]["field"].is_string(), "{error}");
    assert!(!detail["value"].as_str().unwrap().contains('='), "{error}");
}

#[tokio::test]
async fn a_large_body_is_refused_compressed_or_not() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let padded = |length: usize| format!("{}{}", good(), " ".repeat(length));
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert!(bomb.len() < 64 * 1024, "{}", bomb.len());
    let headers = [JSON, ("content-encoding", "gzip")];
    for answer in [
        ask(&replica, &[], padded(70_000)).await,
        call(&replica, CHECK, &headers, bomb).await,
        call(&replica, CHECK, &headers, gzip(padded(70_000).as_bytes())).await,
    ] {
        assert_eq!((answer.status, &*answer.code()), (429, "resource_exhausted"), "{answer:?}");
        assert!(answer.message().contains("larger than 64 KiB"), "{answer:?}");
    }
    assert_eq!(ask(&replica, &[], padded(60_000)).await.status, 200);
}

#[tokio::test]
async fn the_method_of_http_and_of_the_service_must_exist() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let set = "/entitlements.v1.Overrides/SetOverride";
    for (method, path, status, code, allow) in [
        ("PUT", CHECK, 405, "unimplemented", "GET, POST"),
        ("OPTIONS", CHECK, 405, "unimplemented", "GET, POST"),
        ("GET", set, 405, "unimplemented", "POST"),
        ("GET", CHECK, 415, "invalid_argument", ""),
        ("POST", "/entitlements.v1.Entitlements/Nothing", 404, "unimplemented", ""),
        ("POST", "/entitlements.v1.Entitlements/checkfeature", 404, "unimplemented", ""),
    ] {
        let answer = message(&replica, method, path, &[JSON], good()).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{method} {path}");
        assert_eq!(answer.header(&http::header::ALLOW), allow, "{method} {path}");
    }
    let nowhere =
        call(&replica, "/entitlements.v2.Entitlements/CheckFeature", &[JSON], good()).await;
    assert_eq!((nowhere.status, &nowhere.json()["error"]), (404, &json!("there is no such path")));
}

#[tokio::test]
async fn callers_and_scopes_are_those_of_grpc() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let check = file.create("backend", &[Scope::Check]);
    let admin = file.create("operator", &[Scope::Admin]);
    let replica = Replica::start_with(Config { listeners: file.listeners(), ..config(&db) }).await;
    let key = |key| [("authorization", key)];
    for (headers, status, code) in [
        (&[][..], 401, "unauthenticated"),
        (&key("Bearer ent_backend_guess"), 401, "unauthenticated"),
        (&key(&admin), 403, "permission_denied"),
        (&key(&check), 200, ""),
    ] {
        let answer = ask(&replica, headers, good()).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{headers:?}: {answer:?}");
        let challenge = if status == 401 { "Bearer" } else { "" };
        assert_eq!(answer.header(&http::header::WWW_AUTHENTICATE), challenge);
    }
    let body = json!({ "svixId": "msg_none" }).to_string();
    let headers = [JSON, ("authorization", &*admin)];
    let answer = call(&replica, GET_DELIVERY, &headers, body).await;
    assert_eq!((answer.status, &*answer.code()), (404, "not_found"), "{answer:?}");
    assert_eq!(counted(&replica, "connect", "unauthenticated").await, 2);
}

#[tokio::test]
async fn a_web_page_gets_no_answer() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let own = format!("http://{}", replica.bound.api);
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", &*own, 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "none", 200),
    ] {
        for protocol in ["application/json", "application/grpc-web+proto"] {
            let headers = [("content-type", protocol), (header, value)];
            let body = if protocol == JSON.1 { good().into_bytes() } else { web_question() };
            let answer = call(&replica, CHECK, &headers, body).await;
            assert_eq!(answer.status, status, "{value} {protocol}: {answer:?}");
            assert!(answer.headers.get("access-control-allow-origin").is_none());
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
    }
    let rebound = ask(&replica, &[("host", "evil.example")], good()).await;
    assert_eq!((rebound.status, &*rebound.code()), (421, "permission_denied"));
}

#[tokio::test]
async fn connect_is_served_only_if_it_is_enabled() {
    let db = Db::new().await;
    let protocols = vec![Protocol::Ofrep];
    let replica = Replica::start_with(Config { protocols, ..config(&db) }).await;
    assert_eq!(ask(&replica, &[], good()).await.status, 404);
}

/// A question in a frame of gRPC-Web.
fn web_question() -> Vec<u8> {
    let question =
        CheckFeatureRequest { user_id: ADA.into(), feature: "export".into(), ..Default::default() };
    let message = question.encode_to_vec();
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], &*message].concat()
}

#[tokio::test]
async fn grpc_web_is_answered_in_binary_and_in_text() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    for (kind, is_text) in
        [("application/grpc-web+proto", false), ("application/grpc-web-text", true)]
    {
        let body = web_question();
        let body = if is_text { STANDARD.encode(body).into_bytes() } else { body };
        let answer = call(
            &replica,
            CHECK,
            &[("content-type", kind), ("accept", kind), ("x-grpc-web", "1")],
            body,
        )
        .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let frames = if is_text { decode_pieces(&answer.body) } else { answer.body.to_vec() };
        let length = usize::from(frames[4]);
        let found = CheckFeatureResponse::decode(&frames[5..5 + length]).unwrap();
        assert!(found.allowed, "{found:?}");
        let trailers = String::from_utf8_lossy(&frames[5 + length..]).into_owned();
        assert!(
            trailers.starts_with('\u{fffd}') && trailers.contains("grpc-status:0"),
            "{trailers:?}"
        );
    }
    assert_eq!(counted(&replica, "grpc-web", "ok").await, 2);
}

/// Decodes base64 of which each piece has its own padding.
fn decode_pieces(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|quad| STANDARD.decode(quad).unwrap()).collect()
}

#[tokio::test]
async fn grpc_web_needs_the_key_of_a_caller() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let key = file.create("backend", &[Scope::Check]);
    let replica = Replica::start_with(Config { listeners: file.listeners(), ..config(&db) }).await;
    let kind = ("content-type", "application/grpc-web+proto");
    let refused = call(&replica, CHECK, &[kind], web_question()).await;
    assert_eq!((refused.status, &refused.headers["grpc-status"]), (200, &"16".parse().unwrap()));
    let admitted = call(&replica, CHECK, &[kind, ("authorization", &key)], web_question()).await;
    assert!(admitted.headers.get("grpc-status").is_none() && admitted.status == 200);
}
