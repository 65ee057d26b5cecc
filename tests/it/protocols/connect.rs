//! Connect: each clause of its specification for calls and streams over HTTP/1.1, and that answers are those of gRPC.
//!
//! Source: <https://connectrpc.com/docs/protocol>

use crate::support::{
    connect::{CHECK, call, gzip, message},
    database::Db,
    http_client::counted,
    raw_socket,
    service::{ADA, Replica, payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entitlements::api::pb::{CheckFeatureRequest, CheckFeatureResponse};
use http::{
    Request,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde_json::json;

const JSON: (&str, &str) = ("content-type", "application/json");
const PROTO: (&str, &str) = ("content-type", "application/proto");

fn question() -> CheckFeatureRequest {
    CheckFeatureRequest { user_id: ADA.into(), feature: "export".into(), ..Default::default() }
}

async fn paying() -> (Db, Replica) {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    (db, replica)
}

#[tokio::test]
async fn json_and_binary_answers_are_those_of_grpc() {
    let (_db, replica) = paying().await;
    let grpc = replica.client.clone().check_feature(question()).await.unwrap().into_inner();
    let answer = call(&replica, CHECK, &[PROTO], question().encode_to_vec()).await;
    assert_eq!((answer.status, answer.header(&CONTENT_TYPE)), (200, "application/proto"));
    let found = CheckFeatureResponse::decode(&*answer.body).unwrap();
    assert_eq!(
        CheckFeatureResponse { checked_at: None, ..found },
        CheckFeatureResponse { checked_at: None, ..grpc.clone() }
    );
    let body = json!({ "userId": ADA, "feature": "sso" }).to_string();
    let answer = call(&replica, CHECK, &[JSON], body).await;
    assert_eq!((answer.status, answer.header(&CONTENT_TYPE)), (200, "application/json"));
    let denied = answer.json();
    assert_eq!(denied["allowed"], false, "a default value is written: {denied}");
    assert_eq!(
        (&denied["reason"], &denied["subject"]),
        (&json!("REASON_NOT_IN_PLAN"), &json!(ADA))
    );
    assert_eq!(denied["revision"], grpc.revision);
    assert_eq!(counted(&replica, "connect", "ok").await, 2);
}

#[tokio::test]
async fn names_of_fields_may_be_those_of_the_proto_file_and_numbers_may_be_texts() {
    let (_db, replica) = paying().await;
    for body in [
        json!({ "user_id": ADA, "feature": "export" }),
        json!({ "userId": ADA, "feature": "export", "organizationId": null }),
    ] {
        let answer = call(&replica, CHECK, &[JSON], body.to_string()).await;
        assert_eq!(answer.json()["allowed"], true, "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn a_method_without_side_effects_can_be_called_by_get() {
    let (_db, replica) = paying().await;
    let json = json!({ "userId": ADA, "feature": "export" }).to_string();
    let plain: String = form_urlencoded::byte_serialize(json.as_bytes()).collect();
    let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    for query in [
        format!("connect=v1&encoding=json&message={plain}"),
        format!("encoding=json&message={plain}"),
        format!("encoding=json&base64=1&message={}", base64(json.as_bytes())),
        format!("encoding=json&base64=1&message={}", base64(json.as_bytes()) + "%3D"),
        format!(
            "encoding=json&base64=1&compression=gzip&message={}",
            base64(&gzip(json.as_bytes()))
        ),
        format!("encoding=proto&base64=1&message={}", base64(&question().encode_to_vec())),
    ] {
        let answer = message(&replica, "GET", &format!("{CHECK}?{query}"), &[], vec![]).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        let allowed = match answer.header(&CONTENT_TYPE) {
            "application/json" => answer.json()["allowed"] == true,
            _ => CheckFeatureResponse::decode(&*answer.body).unwrap().allowed,
        };
        assert!(allowed, "{query}: {answer:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn each_clause_on_requests_holds() {
    let (_db, replica) = paying().await;
    let good = json!({ "userId": ADA, "feature": "export" }).to_string();
    let zipped = gzip(good.as_bytes());
    let (start, end) = good.as_bytes().split_at(9);
    let members = [gzip(start), gzip(end)].concat();
    let garbage = [&*zipped, b"garbage"].concat();
    let version = ("connect-protocol-version", "1");
    let encoded = |name| ("content-encoding", name);
    for (clause, headers, body, status, code) in [
        ("a version is not required", &[JSON][..], good.as_bytes(), 200, ""),
        ("version 1 is the version", &[JSON, version], good.as_bytes(), 200, ""),
        (
            "another version is an error",
            &[JSON, ("connect-protocol-version", "2")],
            good.as_bytes(),
            400,
            "invalid_argument",
        ),
        (
            "a charset of UTF-8 is accepted",
            &[("content-type", "application/json; charset=UTF-8")],
            good.as_bytes(),
            200,
            "",
        ),
        (
            "another charset is not",
            &[("content-type", "application/json; charset=latin1")],
            good.as_bytes(),
            415,
            "invalid_argument",
        ),
        ("the content type is required", &[], good.as_bytes(), 415, "invalid_argument"),
        (
            "a media type of streams is refused for a call",
            &[("content-type", "application/connect+json")],
            good.as_bytes(),
            415,
            "invalid_argument",
        ),
        (
            "gRPC needs HTTP/2",
            &[("content-type", "application/grpc")],
            good.as_bytes(),
            415,
            "invalid_argument",
        ),
        ("gzip is accepted", &[JSON, encoded("gzip")], &zipped, 200, ""),
        ("identity is accepted", &[JSON, encoded("identity")], good.as_bytes(), 200, ""),
        ("another compression is named", &[JSON, encoded("br")], &zipped, 501, "unimplemented"),
        ("gzip must be gzip", &[JSON, encoded("gzip")], good.as_bytes(), 400, "invalid_argument"),
        (
            "an empty binary message is a question without ids",
            &[PROTO],
            b"",
            400,
            "invalid_argument",
        ),
        ("an empty JSON body is not", &[JSON], b"", 400, "invalid_argument"),
        ("a binary message must be one", &[PROTO], b"\xff\xff", 400, "invalid_argument"),
        ("gzip may have several members", &[JSON, encoded("gzip")], &members, 200, ""),
        ("and nothing else", &[JSON, encoded("gzip")], &garbage, 400, "invalid_argument"),
        (
            "headers of gRPC are not read",
            &[JSON, ("grpc-encoding", "gzip")],
            good.as_bytes(),
            200,
            "",
        ),
    ] {
        let answer = call(&replica, CHECK, headers, body.to_vec()).await;
        assert_eq!(answer.status, status, "{clause}: {answer:?}");
        assert_eq!(answer.code(), code, "{clause}: {answer:?}");
    }
}

#[tokio::test]
async fn each_clause_on_timeouts_holds() {
    let (_db, replica) = paying().await;
    let good = json!({ "userId": ADA, "feature": "export" }).to_string();
    let timeout = |ms| ("connect-timeout-ms", ms);
    for (clause, headers, body, status, code) in [
        ("a timeout is accepted", &[JSON, timeout("1000")][..], good.as_bytes(), 200, ""),
        (
            "a timeout of 10 digits is accepted",
            &[JSON, timeout("9999999999")],
            good.as_bytes(),
            200,
            "",
        ),
        (
            "one of 11 is not",
            &[JSON, timeout("10000000000")],
            good.as_bytes(),
            400,
            "invalid_argument",
        ),
        (
            "nor one without digits",
            &[JSON, timeout("1s")],
            good.as_bytes(),
            400,
            "invalid_argument",
        ),
        ("nor a negative one", &[JSON, timeout("-1")], good.as_bytes(), 400, "invalid_argument"),
        ("nor an empty one", &[JSON, timeout("")], good.as_bytes(), 400, "invalid_argument"),
        (
            "gRPC's own timeout is not read",
            &[JSON, ("grpc-timeout", "1n")],
            good.as_bytes(),
            200,
            "",
        ),
    ] {
        let answer = call(&replica, CHECK, headers, body.to_vec()).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{clause}: {answer:?}");
    }
}

#[tokio::test]
async fn a_long_answer_is_compressed_for_a_caller_that_accepts_it() {
    let (_db, replica) = paying().await;
    let path = "/entitlements.v1.Entitlements/CheckFeatures";
    let questions = vec![json!({ "userId": ADA, "feature": "export" }); 20];
    let body = json!({ "questions": questions }).to_string();
    for (accepts, compression) in
        [("gzip", "gzip"), ("br, gzip;q=0.5", "gzip"), ("gzip;q=0", ""), ("br", "")]
    {
        let headers = [JSON, (ACCEPT_ENCODING.as_str(), accepts)];
        let answer = call(&replica, path, &headers, body.clone()).await;
        assert_eq!(answer.header(&CONTENT_ENCODING), compression, "{accepts}");
        assert!(
            answer.json()["answers"].as_array().is_some_and(|all| all.len() == 20),
            "{answer:?}"
        );
    }
    let short = json!({ "userId": ADA, "feature": "export" }).to_string();
    let answer = call(&replica, CHECK, &[JSON, ("accept-encoding", "gzip")], short).await;
    assert_eq!(answer.header(&CONTENT_ENCODING), "");
}

#[tokio::test]
async fn a_stream_has_frames_and_its_last_frame_says_how_it_ended() {
    let (_db, replica) = paying().await;
    let path = "/grpc.health.v1.Health/Watch";
    let body = json!({ "service": "entitlements.v1.Entitlements" }).to_string();
    let framed = |body: &[u8]| [&[0, 0, 0, 0, u8::try_from(body.len()).unwrap()], body].concat();
    let json = ("content-type", "application/connect+json");
    let mut stream =
        crate::support::connect::open(&replica, path, &[json], framed(body.as_bytes())).await;
    assert_eq!(stream.status().as_u16(), 200);
    let first = stream.chunk().await.unwrap().unwrap();
    assert_eq!((first[0], &first[5..]), (0, &br#"{"status":"SERVING"}"#[..]));
    let stopping = tokio::spawn(replica.stop());
    let mut rest = Vec::new();
    while let Some(more) = stream.chunk().await.unwrap() {
        rest.extend_from_slice(&more);
    }
    let last = String::from_utf8_lossy(&rest);
    assert!(last.ends_with('}') && rest.contains(&2), "{last:?}");
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_error_of_a_stream_is_in_its_last_frame() {
    let (_db, replica) = paying().await;
    let path = "/grpc.health.v1.Health/Watch";
    let json = ("content-type", "application/connect+json");
    for (body, words) in [
        (&b"\x00\x00\x00\x00\x02{}x"[..], "one message with a prefix"),
        (b"", "one message with a prefix"),
        (b"\x00\x00\x00\x00\x01x", "the JSON of the message"),
        (b"\x01\x00\x00\x00\x02{}", "one message with a prefix"),
    ] {
        let answer = call(&replica, path, &[json], body.to_vec()).await;
        assert_eq!((answer.status, answer.body[0]), (200, 2), "{answer:?}");
        let end: serde_json::Value = serde_json::from_slice(&answer.body[5..]).unwrap();
        assert_eq!(end["error"]["code"], "invalid_argument", "{end}");
        assert!(end["error"]["message"].as_str().unwrap().contains(words), "{end}");
    }
}

#[tokio::test]
async fn an_invalid_head_of_a_stream_is_answered_as_a_stream() {
    let (_db, replica) = paying().await;
    let path = "/grpc.health.v1.Health/Watch";
    let json = ("content-type", "application/connect+json");
    for (header, code) in [
        (("connect-protocol-version", "2"), "invalid_argument"),
        (("connect-timeout-ms", "x"), "invalid_argument"),
        (("connect-content-encoding", "br"), "unimplemented"),
    ] {
        let answer = call(&replica, path, &[json, header], &b"\x00\x00\x00\x00\x02{}"[..]).await;
        assert_eq!((answer.status, answer.body[0]), (200, 2), "{header:?}: {answer:?}");
        let end: serde_json::Value = serde_json::from_slice(&answer.body[5..]).unwrap();
        assert_eq!(end["error"]["code"], code, "{header:?}");
    }
    let answer = call(&replica, path, &[JSON], "{}").await;
    assert_eq!(answer.status, 415, "{answer:?}");
}

#[tokio::test]
async fn the_timeout_includes_the_body() {
    let (_db, replica) = paying().await;
    let head = format!(
        "POST {CHECK} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnect-timeout-ms: 100\r\n\
         connection: close\r\ncontent-length: 100\r\n\r\n{{"
    );
    let answer = raw_socket::exchange(replica.bound.api, head).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("the body did not arrive in time"), "{answer}");
}

/// On HTTP/2, calls of gRPC are polled in the task of their connection. Those of Connect, which may decompress much, get
/// tasks of their own.
#[tokio::test]
async fn expensive_bodies_on_http_2_are_answered() {
    let (_db, replica) = paying().await;
    let http2 = raw_socket::http2(replica.bound.api).await;
    let questions = vec![json!({}); 21_000];
    let body = gzip(json!({ "questions": questions }).to_string().as_bytes());
    let calls = (0..20).map(|_| {
        let request = Request::post("http://localhost/entitlements.v1.Entitlements/CheckFeatures")
            .header("content-type", "application/json")
            .header("content-encoding", "gzip");
        let (mut http2, request) = (http2.clone(), request.body(Full::from(body.clone())).unwrap());
        async move { http2.send_request(request).await.unwrap().status().as_u16() }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses, vec![400; 20]);
    assert!(replica.check(ADA, "", "export").await.allowed);
}

#[tokio::test]
async fn a_client_that_speaks_http_2_gets_the_same_answers() {
    let (_db, replica) = paying().await;
    let mut http2 = raw_socket::http2(replica.bound.api).await;
    let body = json!({ "userId": ADA, "feature": "export" }).to_string();
    for (path, kind, status, words) in [
        (CHECK, "application/json", 200, "\"allowed\":true"),
        (CHECK, "text/plain", 415, "invalid_argument"),
        ("/ofrep/v1/evaluate/flags/export", "application/json", 400, "TARGETING_KEY_MISSING"),
        ("/nowhere", "application/json", 404, "there is no such path"),
    ] {
        let request = Request::post(format!("http://localhost{path}")).header("content-type", kind);
        let request = request.body(Full::from(body.clone())).unwrap();
        let (head, body) = http2.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert_eq!(head.status.as_u16(), status, "{path} {kind}: {text}");
        assert!(text.contains(words), "{path} {kind}: {text}");
    }
}
