//! A stream of answers: each gRPC frame becomes a frame of Connect, and the trailers become the last frame.
//!
//! Source: <https://connectrpc.com/docs/protocol#streaming-rpcs>

use super::{
    ConnectError, Head,
    answer::failure,
    compression,
    error::ErrorJson,
    message::{self, COMPRESSED, Encoding, PREFIX_LEN, put_frame},
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::unfold;
use http::{HeaderName, HeaderValue, header};
use http_body_util::BodyExt;
use prost_reflect::MessageDescriptor;
use serde_json::json;
use std::convert::Infallible;
use tonic::Status;

/// The flag of the last frame.
const END: u8 = 2;

/// A stream that is being translated.
struct Frames {
    encoding: Encoding,
    is_gzip: bool,
    kind: MessageDescriptor,
    /// `None` after the end.
    grpc: Option<tonic::body::Body>,
    unread: BytesMut,
}

/// The answer to a call that was accepted. Its status is always 200: an error is in the last frame.
pub(super) fn answer(head: &Head, grpc: tonic::body::Body) -> Response {
    let frames = Frames {
        encoding: head.encoding,
        is_gzip: head.accepts_gzip,
        kind: head.method.output(),
        grpc: Some(grpc),
        unread: BytesMut::new(),
    };
    let body = Body::from_stream(unfold(frames, |mut frames| async {
        let next = frames.next().await?;
        Some((Ok::<_, Infallible>(next), frames))
    }));
    let mut answer = (content_type(head.encoding), body).into_response();
    if head.accepts_gzip {
        let name = HeaderName::from_static("connect-content-encoding");
        answer.headers_mut().insert(name, HeaderValue::from_static("gzip"));
    }
    answer
}

/// A stream that consists of an error.
pub(super) fn of_error(encoding: Encoding, status: &Status) -> Response {
    (content_type(encoding), Body::from(end(Some(status)))).into_response()
}

fn content_type(encoding: Encoding) -> [(HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static(encoding.media_type(true)))]
}

impl Frames {
    /// The next frame; `None` after the last one.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.message() {
                return Some(self.frame(message).unwrap_or_else(|error| self.end(Some(&error))));
            }
            match self.grpc.as_mut()?.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Some(self.end(failure(&trailers).as_ref()));
                    }
                },
                Some(Err(error)) => return Some(self.end(Some(&error))),
                None => return Some(self.end(Some(&Status::unavailable("the stream was cut")))),
            }
        }
    }

    /// The next complete message that was read.
    fn message(&mut self) -> Option<Bytes> {
        let (_, length) = message::prefix(&self.unread)?;
        if self.unread.len() < PREFIX_LEN + length {
            return None;
        }
        self.unread.advance(PREFIX_LEN);
        Some(self.unread.split_to(length).freeze())
    }

    fn frame(&self, message: Bytes) -> Result<Bytes, Status> {
        let content = message::output(self.encoding, self.kind.clone(), message)
            .map_err(ConnectError::into_status)?;
        let compressed = if self.is_gzip { compression::compress(&content) } else { None };
        let flags = if compressed.is_some() { COMPRESSED } else { 0 };
        let content = compressed.unwrap_or(content);
        let mut frame = BytesMut::with_capacity(PREFIX_LEN + content.len());
        put_frame(&mut frame, flags, &content);
        Ok(frame.freeze())
    }

    fn end(&mut self, error: Option<&Status>) -> Bytes {
        self.grpc = None;
        self.unread.clear();
        end(error)
    }
}

/// The last frame.
fn end(error: Option<&Status>) -> Bytes {
    let end = match error {
        Some(status) => json!({ "error": ErrorJson::from(status) }),
        None => json!({}),
    };
    let mut frame = BytesMut::new();
    put_frame(&mut frame, END, end.to_string().as_bytes());
    frame.freeze()
}
