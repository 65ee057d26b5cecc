//! Ends a stream with UNAUTHENTICATED when the access of its caller is revoked.

use crate::{server::auth::StreamAdmission, telemetry::Metrics};
use bytes::Bytes;
use http::Response;
use hyper::body::{Body as _, Frame};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{Status, body::Body};

/// The body of a stream; `None` after the stream has ended.
struct Stream(Option<Open>);

struct Open {
    body: Body,
    revoked: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Ends the answer when the access of its caller is revoked, and counts that as a rejected call.
#[must_use]
pub fn end_when_revoked(
    response: Response<Body>,
    admission: StreamAdmission,
    metrics: Arc<Metrics>,
) -> Response<Body> {
    let revoked = Box::pin(async move {
        metrics.count_refused_call(admission.revoked().await.cause());
    });
    response.map(|body| {
        let is_over = body.is_end_stream(); // an error, whose status is in the headers
        Body::new(Stream((!is_over).then_some(Open { body, revoked })))
    })
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        if open.revoked.as_mut().poll(cx).is_pending() {
            return Pin::new(&mut open.body).poll_frame(cx);
        }
        self.0 = None;
        let status = Status::unauthenticated(
            "the access of the caller was revoked: its API key was removed, or its key or certificate lost the \
             scope",
        );
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.body.is_end_stream())
    }
}
