//! Ends a stream whose caller is no longer let in: with UNAUTHENTICATED, whatever else the stream waits for.

use crate::{
    server::auth::Admission,
    telemetry::{Labels, Metrics},
};
use bytes::Bytes;
use http::Response;
use hyper::body::{Body as _, Frame};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{Status, body::Body};

/// The body of a stream; `None` after its end.
struct Stream(Option<Open>);

struct Open {
    body: Body,
    withdrawn: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Ends the answer when its caller is no longer let in, and counts that as a refusal.
#[must_use]
pub fn bound(
    response: Response<Body>,
    admission: Admission,
    metrics: Arc<Metrics>,
) -> Response<Body> {
    let withdrawn = Box::pin(async move {
        let cause = Labels([("cause", admission.withdrawn().await.cause())]);
        metrics.calls_refused.get_or_create(&cause).inc();
    });
    response.map(|body| {
        let is_over = body.is_end_stream(); // a refusal, whose status is in its headers
        Body::new(Stream((!is_over).then_some(Open { body, withdrawn })))
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
        if open.withdrawn.as_mut().poll(cx).is_pending() {
            return Pin::new(&mut open.body).poll_frame(cx);
        }
        self.0 = None;
        let status = Status::unauthenticated(
            "the caller of this stream is no longer let in: its key, or the scope of its key or certificate, was \
             withdrawn",
        );
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.body.is_end_stream())
    }
}
