//! CORS: which web pages may read answers.

use super::response::{Answer, empty, refuse};
use crate::domain::AllowedOrigin;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};

/// The allowed origins; none by default.
#[derive(Debug, Clone, Default)]
pub struct Cors(Vec<AllowedOrigin>);

/// The headers that a page may send.
const ALLOWED_HEADERS: &str =
    "authorization, cache-control, content-type, if-none-match, last-event-id, x-api-key";
/// The headers that a page may read.
const EXPOSED_HEADERS: &str = "etag, retry-after";

impl Cors {
    /// Lets the pages of these origins read answers.
    #[must_use]
    pub fn new(origins: Vec<AllowedOrigin>) -> Self {
        Self(origins)
    }

    /// The answer to a preflight request; `None` if the request is not one.
    pub(crate) fn preflight<B>(&self, request: &Request<B>) -> Option<Answer> {
        let headers = request.headers();
        let is_preflight = *request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return None;
        }
        if !headers.get(header::ORIGIN).is_some_and(|origin| self.allows(origin)) {
            let reason = "this origin is not allowed: add it to OFREP_CORS_ORIGINS";
            return Some(refuse(StatusCode::FORBIDDEN, reason));
        }
        let mut answer = empty(StatusCode::NO_CONTENT);
        let headers = answer.headers_mut();
        insert(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS");
        insert(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        insert(headers, header::ACCESS_CONTROL_MAX_AGE, "7200");
        Some(answer)
    }

    /// Adds the headers that let a page of this origin read the answer, if it is allowed.
    pub(crate) fn mark(&self, origin: Option<&HeaderValue>, answer: &mut Answer) {
        if self.0.is_empty() {
            return;
        }
        let headers = answer.headers_mut();
        insert(headers, header::VARY, "origin");
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            insert(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|allowed| allowed.allows(origin.as_bytes()))
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
