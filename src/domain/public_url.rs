//! The base URL of the HTTP protocols, as callers see it.

use std::{fmt, net::SocketAddr, str::FromStr};
use url::Url;

/// An absolute `http` or `https` URL without a trailing `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

/// The text is not a valid [`PublicUrl`]. The error does not quote it, because a URL may contain credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a URL such as https://entitlements.example.com, without user, query and fragment")]
pub struct InvalidPublicUrl;

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidPublicUrl)?;
        let is_absolute = matches!(url.scheme(), "http" | "https") && url.has_host();
        let has_more = url.query().is_some() || url.fragment().is_some();
        let names_a_user = !url.username().is_empty() || url.password().is_some();
        if !is_absolute || has_more || names_a_user {
            return Err(InvalidPublicUrl);
        }
        Ok(Self(url.as_str().trim_end_matches('/').into()))
    }
}

impl PublicUrl {
    /// The host name of the URL, in lower case.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        Url::parse(&self.0).ok()?.host_str().map(str::to_owned)
    }

    /// The URL of a listener; `None` if it listens on all addresses, because any of them could be the wrong one.
    #[must_use]
    pub fn of(listener: SocketAddr, has_tls: bool) -> Option<Self> {
        let scheme = if has_tls { "https" } else { "http" };
        (!listener.ip().is_unspecified()).then(|| Self(format!("{scheme}://{listener}")))
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
