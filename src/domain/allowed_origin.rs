//! The origins whose web pages may read answers.

use std::str::FromStr;
use url::Url;

/// An origin such as `https://app.example.com`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(String);

/// The text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin: use `https://app.example.com`, without a path, or `*`")]
pub struct InvalidOrigin(String);

impl FromStr for AllowedOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let text = text.trim();
        let is_origin = |url: Url| url.origin().ascii_serialization() == text;
        if text == "*" || Url::parse(text).is_ok_and(is_origin) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidOrigin(text.into()))
        }
    }
}

impl AllowedOrigin {
    /// Whether pages of the origin in a request's header `Origin` may read answers.
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.0 == "*" || self.0.as_bytes() == origin
    }
}
