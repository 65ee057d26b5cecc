//! The Connect answer that a gRPC answer becomes.

use super::{
    ConnectError, Head, compression,
    message::{self, Encoding, PREFIX_LEN},
    stream,
};
use axum::{body::Body, response::Response};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::BodyExt;
use tonic::{Code, Status};

/// Translates the answer of a gRPC call.
///
/// # Errors
///
/// The error of the call.
pub(crate) async fn answer(
    head: &Head,
    grpc: http::Response<tonic::body::Body>,
) -> Result<Response, ConnectError> {
    if let Some(status) = failure(grpc.headers()) {
        return Err(of_caller(head, status).into());
    }
    if head.is_stream {
        return Ok(stream::answer(head, grpc.into_body()));
    }
    let (parts, body) = grpc.into_parts();
    let (frame, trailers) = read(body).await?;
    match trailers.as_ref().and_then(failure) {
        Some(status) => Err(of_caller(head, status).into()),
        None => unary(head, &parts.headers, trailers.as_ref(), frame),
    }
}

/// The frames and the trailers of an answer. The service limits the length of its answers.
async fn read(mut body: tonic::body::Body) -> Result<(Bytes, Option<HeaderMap>), ConnectError> {
    let (mut data, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((data.freeze(), trailers))
}

fn unary(
    head: &Head,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
    mut frame: Bytes,
) -> Result<Response, ConnectError> {
    if frame.len() < PREFIX_LEN {
        return Err(Status::internal("the call ended without a message").into());
    }
    frame.advance(PREFIX_LEN);
    let content = message::output(head.encoding, head.method.output(), frame)?;
    let compressed = if head.accepts_gzip { compression::compress(&content) } else { None };
    let is_compressed = compressed.is_some();
    let mut answer = Response::new(Body::from(compressed.unwrap_or(content)));
    let into = answer.headers_mut();
    copy(headers, "", into);
    copy(trailers.unwrap_or(&HeaderMap::new()), "trailer-", into);
    let media_type = HeaderValue::from_static(head.encoding.media_type(false));
    into.insert(header::CONTENT_TYPE, media_type);
    if is_compressed {
        into.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(answer)
}

/// Copies the metadata of the call, with a prefix, and without gRPC's own headers.
fn copy(from: &HeaderMap, prefix: &str, into: &mut HeaderMap) {
    let is_grpcs = |name: &HeaderName| {
        name.as_str().starts_with("grpc-") || *name == header::CONTENT_TYPE || *name == header::DATE
    };
    for (name, value) in from.iter().filter(|(name, _)| !is_grpcs(name)) {
        if let Ok(name) = HeaderName::try_from(format!("{prefix}{name}")) {
            into.append(name, value.clone());
        }
    }
}

/// gRPC calls a message that cannot be decoded an internal error. It is one of the caller.
fn of_caller(head: &Head, status: Status) -> Status {
    let is_undecoded = status.code() == Code::Internal && status.message().contains("decode");
    if head.encoding == Encoding::Proto && is_undecoded {
        return Status::invalid_argument(status.message());
    }
    status
}

/// The error in the headers or trailers of an answer, if the call failed.
pub(super) fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}
