//! Errors of Connect, and their JSON.

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderValue, StatusCode, header};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::LazyLock;
use tonic::{Code, Status};

/// An error: a gRPC status, and the HTTP status if it is not that of the code.
#[derive(Debug)]
pub(crate) struct ConnectError {
    status: Box<Status>,
    http: Option<StatusCode>,
    /// The header that such an HTTP status must have.
    header: Option<(header::HeaderName, HeaderValue)>,
}

impl From<Status> for ConnectError {
    fn from(status: Status) -> Self {
        Self { status: Box::new(status), http: None, header: None }
    }
}

impl ConnectError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Status::invalid_argument(message).into()
    }

    /// An error with an HTTP status of its own, and the header that the status must have.
    pub(crate) fn of_http(
        status: Status,
        http: StatusCode,
        header: Option<(header::HeaderName, HeaderValue)>,
    ) -> Self {
        Self { status: Box::new(status), http: Some(http), header }
    }

    pub(super) fn into_status(self) -> Status {
        *self.status
    }

    /// Whether the error has an HTTP status of its own.
    pub(super) fn is_of_http(&self) -> bool {
        self.http.is_some()
    }

    /// The name of the code.
    pub(crate) fn code(&self) -> &'static str {
        name(self.status.code())
    }

    /// The answer to a call that is not a stream.
    pub(crate) fn into_response(self) -> Response {
        let code = self.status.code();
        let http = self.http.unwrap_or_else(|| http_status(code));
        let json = serde_json::to_vec(&ErrorJson::from(&*self.status));
        let json = json.expect("texts and values are JSON");
        let mut answer = Response::new(Body::from(json));
        *answer.status_mut() = http;
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, json);
        answer.headers_mut().extend(self.header);
        if http == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        answer
    }
}

/// An error as Connect writes it.
/// Source: <https://connectrpc.com/docs/protocol#error-end-stream>
#[derive(Debug, Serialize)]
pub(super) struct ErrorJson<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Value>,
}

impl<'a> From<&'a Status> for ErrorJson<'a> {
    fn from(status: &'a Status) -> Self {
        Self { code: name(status.code()), message: status.message(), details: details_of(status) }
    }
}

/// The details of a status. `debug` is their JSON, for people.
fn details_of(status: &Status) -> Vec<Value> {
    let status = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    let details = status.details.iter();
    details
        .map(|detail| {
            let kind = detail.type_url.rsplit('/').next().unwrap_or_default();
            let value = STANDARD_NO_PAD.encode(&detail.value);
            match debug(kind, &detail.value) {
                Some(debug) => json!({ "type": kind, "value": value, "debug": debug }),
                None => json!({ "type": kind, "value": value }),
            }
        })
        .collect()
}

/// The types of the details of Google's error model.
static KNOWN_DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET);
    pool.expect("the crate has valid descriptors")
});

fn debug(kind: &str, value: &[u8]) -> Option<Value> {
    let kind = KNOWN_DETAILS.get_message_by_name(kind)?;
    serde_json::to_value(DynamicMessage::decode(kind, value).ok()?).ok()
}

/// The name of a code in Connect.
/// Source: <https://connectrpc.com/docs/protocol#error-codes>
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "canceled",
        Code::Ok | Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The HTTP status of a code.
/// Source: <https://connectrpc.com/docs/protocol#error-codes>
fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unauthenticated => 401,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).expect("a constant that is a status")
}
