//! CORS: which web pages may read answers.

use super::response::{Answer, empty, refuse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use reqwest::Url;
use std::str::FromStr;

/// The allowed origins; none by default.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    any: bool,
    origins: Vec<HeaderValue>,
}

/// The text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin: use `https://app.example.com`, without a path, or `*`")]
pub struct InvalidOrigin(String);

/// The headers that a page may send.
const ALLOWED_HEADERS: &str =
    "authorization, cache-control, content-type, if-none-match, last-event-id, x-api-key";
/// The headers that a page may read.
const EXPOSED_HEADERS: &str = "etag, retry-after";

impl FromIterator<Cors> for Cors {
    fn from_iter<I: IntoIterator<Item = Cors>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), |mut cors, one| {
            cors.any |= one.any;
            cors.origins.extend(one.origins);
            cors
        })
    }
}

impl FromStr for Cors {
    type Err = InvalidOrigin;

    /// Parses one origin, or `*`.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self { any: true, origins: Vec::new() });
        }
        let is_origin = |url: &Url| url.origin().ascii_serialization() == text;
        let origin = Url::parse(text).ok().filter(is_origin).map(|_| HeaderValue::from_str(text));
        match origin {
            Some(Ok(origin)) => Ok(Self { any: false, origins: vec![origin] }),
            _ => Err(InvalidOrigin(text.into())),
        }
    }
}

impl Cors {
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
        if !self.any && self.origins.is_empty() {
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
        self.any || self.origins.contains(origin)
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
