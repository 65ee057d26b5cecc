//! Reads the bodies of requests, within limits of size and time.
//!
//! axum's `DefaultBodyLimit` and `http_body_util::Limited` limit the size alone. They have no deadline, give up the
//! unread rest, which must be discarded here, and cannot stop for a budget that several connections share.

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a body may take to arrive: 350 kB, Svix's largest, at 280 kbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a sender may pause within a body.
const BODY_STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum number of bytes of a rejected body that are read and discarded.
const MAX_DISCARDED: usize = 8 * 1024 * 1024;

/// How long a sender may pause within a body that is discarded.
const DISCARD_STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {} KiB", .0 / 1024)]
    TooLarge(usize),
    #[error("the body ended early")]
    EndedEarly,
    #[error("the body took longer than {} s, or paused for {} s", BODY_TIMEOUT.as_secs(), BODY_STALL_TIMEOUT.as_secs())]
    TooSlow,
    #[error("too many bodies are being read: retry later")]
    NoRoom,
}

impl BodyError {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::EndedEarly => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads a body of at most `largest` bytes, within the time limits. The rest of a larger body is discarded.
pub(crate) async fn read(body: Body, largest: usize) -> Result<Bytes, BodyError> {
    read_counted(body, largest, |_| true).await
}

/// Whether the declared length of a body is too large.
pub(crate) fn is_too_large(body: &Body, largest: usize) -> bool {
    body.size_hint().lower() > largest as u64
}

/// Reads a body as [`read`] does. `count` gets the length of each frame; if it returns false, reading fails.
pub(crate) async fn read_counted(
    mut body: Body,
    largest: usize,
    mut count: impl FnMut(usize) -> bool,
) -> Result<Bytes, BodyError> {
    let until = Instant::now() + BODY_TIMEOUT;
    if is_too_large(&body, largest) {
        discard(body, until, MAX_DISCARDED);
        return Err(BodyError::TooLarge(largest));
    }
    let mut read = BytesMut::new();
    loop {
        let frame =
            match timeout_at(until.min(Instant::now() + BODY_STALL_TIMEOUT), body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(BodyError::EndedEarly),
                Ok(None) => return Ok(read.freeze()),
                Err(_) => return Err(BodyError::TooSlow),
            };
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > largest {
            discard(body, until, MAX_DISCARDED.saturating_sub(largest));
            return Err(BodyError::TooLarge(largest));
        }
        if !count(data.len()) {
            return Err(BodyError::NoRoom);
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        read.extend_from_slice(&data);
    }
}

/// Discards the unread body of a request that is rejected by its head.
pub(crate) fn ignore(body: Body) {
    discard(body, Instant::now() + BODY_TIMEOUT, MAX_DISCARDED);
}

/// Reads the rest of a body in a task and discards it, while the answer is sent. Closing a connection with unread bytes
/// resets it, and a sender that writes its whole body before it reads would never see the answer. The task ends with
/// the body, at `most` bytes, after a pause, or at `until`. Nothing waits for the task: a sender that waits for `100
/// Continue` sees the answer instead.
fn discard(mut body: Body, until: Instant, mut most: usize) {
    if body.is_end_stream() {
        return;
    }
    let rest = async move {
        while let Ok(Some(Ok(frame))) = timeout(DISCARD_STALL_TIMEOUT, body.frame()).await {
            let Some(left) = most.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                return;
            };
            most = left;
        }
    };
    tokio::spawn(timeout_at(until, rest));
}
