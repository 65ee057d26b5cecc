//! Constructors of answers that are not streamed.

use super::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

/// An HTTP answer, complete or streamed.
pub(crate) type Answer = Response<Body>;

pub(crate) fn read_only(request: &Request<Incoming>, answer: impl FnOnce() -> Answer) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => answer(),
        _ => not_allowed("GET, HEAD"),
    }
}

pub(crate) fn not_allowed(allow: &'static str) -> Answer {
    let mut answer =
        refuse(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed on this path");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

/// A JSON error. It closes the connection, because the rest of the request may be unread.
pub(crate) fn refuse(status: StatusCode, reason: &str) -> Answer {
    let mut answer = json_body(status, &json!({ "error": reason }));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

pub(crate) fn json_body(status: StatusCode, body: &serde_json::Value) -> Answer {
    with_type(status, "application/json", format!("{body}\n"))
}

pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Body::Left(Full::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
