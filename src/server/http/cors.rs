//! CORS: which web pages may read answers.

use crate::domain::AllowedOrigin;
use http::{HeaderName, HeaderValue, Method, header, request::Parts};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The allowed origins, of which `*` is any; none by default.
#[derive(Debug, Clone, Default)]
pub struct Cors(Vec<AllowedOrigin>);

/// How long a browser may cache the answer to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(2);

impl Cors {
    /// Lets the pages of these origins read answers.
    #[must_use]
    pub fn new(origins: Vec<AllowedOrigin>) -> Self {
        Self(origins)
    }

    /// Answers preflight requests, and adds the headers that let a page of an allowed origin read the answer.
    pub(crate) fn layer(&self) -> CorsLayer {
        let origins = self.0.clone();
        let is_allowed = move |origin: &HeaderValue, _: &Parts| {
            origins.iter().any(|allowed| allowed.allows(origin.as_bytes()))
        };
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(is_allowed))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([
                header::AUTHORIZATION,
                header::CACHE_CONTROL,
                header::CONTENT_TYPE,
                header::IF_NONE_MATCH,
                HeaderName::from_static("last-event-id"),
                HeaderName::from_static("x-api-key"),
            ])
            .expose_headers([header::ETAG, header::RETRY_AFTER])
            .max_age(PREFLIGHT_MAX_AGE)
            .vary([header::ORIGIN])
    }
}
