//! Bodies: what a request says, read within bounds; what an answer says, whole or bit by bit.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::StatusCode;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use std::{convert::Infallible, pin::Pin, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a body may take to arrive: 350 kB, Svix's largest, at 280 kbit/s.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// How long a sender may pause in the middle of a body.
const PAUSE: Duration = Duration::from_secs(3);

/// How much of a body that is not wanted is read and discarded.
const DISCARDED: usize = 8 * 1024 * 1024;

/// How long a sender may pause in the middle of a body that is discarded.
const NEXT_WITHIN: Duration = Duration::from_secs(2);

/// An answer's body: nearly always small and at hand; a stream of events is neither.
pub(crate) type Body = Either<Full<Bytes>, StreamBody<Events>>;

/// Events, as they happen.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unread {
    #[error("the body is larger than {} KiB", .0 / 1024)]
    TooLarge(usize),
    #[error("the body ended early")]
    EndedEarly,
    #[error("the body took longer than {} s, or paused for {} s", BODY_WITHIN.as_secs(), PAUSE.as_secs())]
    TooSlow,
    #[error("too many bodies are being read: send it again later")]
    NoRoom,
}

impl Unread {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::EndedEarly => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads a body that is small enough and arrives soon enough. The rest of one that is too large is discarded.
pub(crate) async fn read(body: Incoming, largest: usize) -> Result<Bytes, Unread> {
    read_counted(body, largest, |_| true).await
}

/// Whether a body says in advance that it is too large.
pub(crate) fn is_too_large(body: &Incoming, largest: usize) -> bool {
    body.size_hint().lower() > largest as u64
}

/// Reads a body as [`read`] does; `count` is called with the length of each piece, and may end the reading.
pub(crate) async fn read_counted(
    mut body: Incoming,
    largest: usize,
    mut count: impl FnMut(usize) -> bool,
) -> Result<Bytes, Unread> {
    let until = Instant::now() + BODY_WITHIN;
    if is_too_large(&body, largest) {
        discard(body, until, DISCARDED);
        return Err(Unread::TooLarge(largest));
    }
    let mut read = BytesMut::new();
    loop {
        let frame = match timeout_at(until.min(Instant::now() + PAUSE), body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Unread::EndedEarly),
            Ok(None) => return Ok(read.freeze()),
            Err(_) => return Err(Unread::TooSlow),
        };
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > largest {
            discard(body, until, DISCARDED.saturating_sub(largest));
            return Err(Unread::TooLarge(largest));
        }
        if !count(data.len()) {
            return Err(Unread::NoRoom);
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        read.extend_from_slice(&data);
    }
}

/// Discards a body that nobody reads, for a request that is refused at once.
pub(crate) fn ignore(body: Incoming) {
    discard(body, Instant::now() + BODY_WITHIN, DISCARDED);
}

/// Reads on beside the answer, and keeps nothing. A connection that is closed while bytes of it are unread is reset, and
/// a sender that writes all of its body before it reads would never see the answer. The task ends with the body, at its
/// bound or at its deadline, and its connection lasts no longer than it. Nothing waits for it: a sender that waits for
/// `100 Continue` sees the answer instead.
fn discard(mut body: Incoming, until: Instant, mut most: usize) {
    if body.is_end_stream() {
        return;
    }
    let rest = async move {
        while let Ok(Some(Ok(frame))) = timeout(NEXT_WITHIN, body.frame()).await {
            let Some(left) = most.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                return;
            };
            most = left;
        }
    };
    tokio::spawn(timeout_at(until, rest));
}
