//! The head of a Connect request: which method, in which encoding and compression, until when.

use super::{
    ConnectError, ConnectMethod,
    compression::{accepts_gzip, is_gzip},
    message::{Encoding, PREFIX_LEN},
    stream,
};
use axum::response::Response;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use prost_reflect::MethodDescriptor;
use std::{borrow::Cow, time::Duration};
use tonic::Status;

/// The version of the protocol, in a header of POST.
static VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
/// The time limit of the call, in milliseconds.
static TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
/// The compression of each message of a stream.
static STREAM_COMPRESSION: HeaderName = HeaderName::from_static("connect-content-encoding");
/// The compressions that the caller accepts for messages of a stream.
static STREAM_ACCEPTS: HeaderName = HeaderName::from_static("connect-accept-encoding");

/// The media types of calls with one answer.
const UNARY: &str = "application/json, application/proto";
/// The media types of calls whose answer is a stream.
const STREAM: &str = "application/connect+json, application/connect+proto";

/// base64 for URLs, with padding or without.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The parsed head of a request.
pub(crate) struct Head {
    pub(super) method: MethodDescriptor,
    pub(super) encoding: Encoding,
    /// Whether the answer is a stream.
    pub(super) is_stream: bool,
    /// Whether the content is compressed; of a stream: whether its messages may be.
    pub(super) is_gzip: bool,
    pub(super) accepts_gzip: bool,
    /// The longest content, in bytes, also after its decompression.
    pub(super) largest: usize,
    timeout_ms: Option<u64>,
    /// The content of a GET request.
    message: Option<Bytes>,
}

impl Head {
    /// Parses the head of a request for this method. Messages may have up to `largest` bytes.
    ///
    /// # Errors
    ///
    /// If the request is not one of Connect; the error names the header or parameter.
    pub(crate) fn parse(
        method: &ConnectMethod,
        parts: &Parts,
        largest: usize,
    ) -> Result<Self, ConnectError> {
        let head = match parts.method {
            http::Method::POST => Self::of_post(method, &parts.headers, largest)?,
            http::Method::GET if method.is_safe => {
                Self::of_get(method, parts.uri.query().unwrap_or_default(), largest)?
            }
            _ => {
                let allow = (header::ALLOW, method.allowed());
                let status = Status::unimplemented(format!("{} is not allowed", parts.method));
                let http = StatusCode::METHOD_NOT_ALLOWED;
                return Err(ConnectError::of_http(status, http, Some(allow)));
            }
        };
        Ok(Self { timeout_ms: timeout(&parts.headers)?, ..head })
    }

    fn of_post(
        method: &ConnectMethod,
        headers: &HeaderMap,
        largest: usize,
    ) -> Result<Self, ConnectError> {
        let is_stream = method.descriptor.is_server_streaming();
        if method.descriptor.is_client_streaming() {
            return Err(Status::unimplemented("streams of requests need gRPC over HTTP/2").into());
        }
        let encoding = encoding_of(headers.get(header::CONTENT_TYPE), is_stream)?;
        check_version(
            headers.get(&VERSION).map(HeaderValue::as_bytes),
            b"1",
            "Connect-Protocol-Version",
        )?;
        let (compression, accepts) = if is_stream {
            (&STREAM_COMPRESSION, &STREAM_ACCEPTS)
        } else {
            (&header::CONTENT_ENCODING, &header::ACCEPT_ENCODING)
        };
        Ok(Self {
            method: method.descriptor.clone(),
            encoding,
            is_stream,
            is_gzip: is_gzip(headers.get(compression).map(HeaderValue::as_bytes))?,
            accepts_gzip: accepts_gzip(headers.get(accepts)),
            largest,
            timeout_ms: None,
            message: None,
        })
    }

    /// Source: <https://connectrpc.com/docs/protocol#unary-get-request>
    fn of_get(method: &ConnectMethod, query: &str, largest: usize) -> Result<Self, ConnectError> {
        let find = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value)
        };
        check_version(find("connect").as_deref().map(str::as_bytes), b"v1", "connect")?;
        let encoding = match find("encoding").as_deref() {
            Some("json") => Encoding::Json,
            Some("proto") => Encoding::Proto,
            Some(_) | None => {
                return Err(unsupported(
                    "a GET needs the parameters `encoding` (`json` or `proto`) and `message`; or use POST",
                    UNARY,
                ));
            }
        };
        let message = raw_message(query)
            .ok_or_else(|| ConnectError::invalid("the parameter `message` is missing"))?;
        let message = match find("base64").as_deref() {
            Some("1") => BASE64_URL.decode(&*message).map_err(|_| {
                ConnectError::invalid("the parameter `message` is not base64 for URLs")
            })?,
            _ => message.into_owned(),
        };
        if message.len() > largest {
            return Err(super::compression::too_large(largest));
        }
        Ok(Self {
            method: method.descriptor.clone(),
            encoding,
            is_stream: false,
            is_gzip: is_gzip(find("compression").as_deref().map(str::as_bytes))?,
            accepts_gzip: false,
            largest,
            timeout_ms: None,
            message: Some(message.into()),
        })
    }

    /// The content of a GET request, which has no body.
    pub(crate) fn message(&self) -> Option<Bytes> {
        self.message.clone()
    }

    /// The length of the longest body, in bytes.
    pub(crate) fn largest_content(&self) -> usize {
        if self.is_stream { self.largest + PREFIX_LEN } else { self.largest }
    }

    /// The answer to a call that failed.
    pub(crate) fn refuse(&self, error: ConnectError) -> Response {
        if self.is_stream {
            stream::of_error(self.encoding, &error.into_status())
        } else {
            error.into_response()
        }
    }

    /// How long the call may take, its body included; at most `most`.
    pub(crate) fn time_limit(&self, most: Duration) -> Duration {
        self.timeout_ms.map_or(most, |ms| Duration::from_millis(ms).min(most))
    }

    /// The answer to a request whose head is invalid. Only an answer of a known media type can be a stream.
    pub(crate) fn refuse_head(
        method: &ConnectMethod,
        parts: &Parts,
        error: ConnectError,
    ) -> Response {
        let is_stream = method.descriptor.is_server_streaming();
        match encoding_of(parts.headers.get(header::CONTENT_TYPE), is_stream) {
            Ok(encoding) if is_stream && !error.is_of_http() => {
                stream::of_error(encoding, &error.into_status())
            }
            Ok(_) | Err(_) => error.into_response(),
        }
    }
}

/// The bytes of the parameter `message`, which need not be UTF-8.
fn raw_message(query: &str) -> Option<Cow<'_, [u8]>> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix("message="))?;
    let spaced = raw.replace('+', " ");
    Some(Cow::Owned(percent_encoding::percent_decode_str(&spaced).collect()))
}

fn encoding_of(
    content_type: Option<&HeaderValue>,
    is_stream: bool,
) -> Result<Encoding, ConnectError> {
    let text = content_type.and_then(|text| text.to_str().ok()).unwrap_or_default();
    let (media_type, parameters) = text.split_once(';').unwrap_or((text, ""));
    let parameters = parameters.trim().to_ascii_lowercase().replace('"', "");
    let is_utf8 = matches!(parameters.as_str(), "" | "charset=utf-8");
    match (media_type.trim().to_ascii_lowercase().as_str(), is_stream) {
        ("application/json", false) | ("application/connect+json", true) if is_utf8 => {
            Ok(Encoding::Json)
        }
        ("application/proto", false) | ("application/connect+proto", true) => Ok(Encoding::Proto),
        _ => {
            let accepted = if is_stream { STREAM } else { UNARY };
            Err(unsupported(&format!("the Content-Type must be one of {accepted}"), accepted))
        }
    }
}

fn unsupported(message: &str, accepted: &'static str) -> ConnectError {
    let accept = (HeaderName::from_static("accept-post"), HeaderValue::from_static(accepted));
    let status = Status::invalid_argument(message);
    ConnectError::of_http(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, Some(accept))
}

fn check_version(
    version: Option<&[u8]>,
    expected: &'static [u8],
    name: &str,
) -> Result<(), ConnectError> {
    if version.is_none_or(|version| version == expected) {
        return Ok(());
    }
    let expected = String::from_utf8_lossy(expected);
    Err(ConnectError::invalid(format!("{name} must be `{expected}`, or absent")))
}

fn timeout(headers: &HeaderMap) -> Result<Option<u64>, ConnectError> {
    let Some(text) = headers.get(&TIMEOUT) else { return Ok(None) };
    let text = text.to_str().unwrap_or_default();
    let is_number = (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(ms) if is_number => Ok(Some(ms)),
        _ => Err(ConnectError::invalid(
            "Connect-Timeout-Ms must be a number of milliseconds with 1 to 10 digits",
        )),
    }
}
