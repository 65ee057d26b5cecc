//! Bodies: what a request says, read within bounds; what an answer says, whole or bit by bit.

use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use std::{convert::Infallible, pin::Pin, time::Duration};
use tokio::time::timeout;

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// An answer's body: nearly always small and at hand; a stream of events is neither.
pub(super) type Body = Either<Full<Bytes>, StreamBody<Events>>;

/// Events, as they happen.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    #[error("the body is larger than {} KiB", .0 / 1024)]
    TooLarge(usize),
    #[error("the body ended early")]
    EndedEarly,
    #[error("the body took longer than {} s", BODY_WITHIN.as_secs())]
    TooSlow,
}

impl Unread {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::EndedEarly => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

/// Reads a body that is small enough and arrives soon enough.
pub(super) async fn read(body: Incoming, largest: usize) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > largest as u64 {
        return Err(Unread::TooLarge(largest));
    }
    match timeout(BODY_WITHIN, Limited::new(body, largest).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLarge(largest)),
        Ok(Err(_)) => Err(Unread::EndedEarly),
        Err(_) => Err(Unread::TooSlow),
    }
}
