//! Constructors of JSON answers.

use super::body;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde_json::{Value, json};

/// The answer for a path that no route has.
pub(crate) async fn not_found(unread: Body) -> Response {
    body::ignore(unread);
    refuse(StatusCode::NOT_FOUND, "there is no such path")
}

/// The answer for a method that no handler of the path has; the router adds `Allow`.
pub(crate) async fn not_allowed(unread: Body) -> Response {
    body::ignore(unread);
    refuse(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed on this path")
}

/// A JSON error. It closes the connection, because the rest of the request may be unread.
pub(crate) fn refuse(status: StatusCode, reason: &str) -> Response {
    let body = json_body(status, &json!({ "error": reason }));
    ([(header::CONNECTION, "close")], body).into_response()
}

pub(crate) fn json_body(status: StatusCode, body: &Value) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, format!("{body}\n")).into_response()
}
