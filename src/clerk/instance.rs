//! A Clerk instance, read from its publishable key: its Frontend API, whether it is a development instance, and the
//! suffix of its cookies.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// The length of a cookie suffix.
pub(super) const SUFFIX_LEN: usize = 8;

/// The instance that a publishable key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The host of the Frontend API.
    pub(super) frontend_api: String,
    /// The suffix of the instance's own cookies.
    pub(super) suffix: String,
    pub(super) is_development: bool,
}

/// The text is not a publishable key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a publishable key: copy it from the API keys page of Clerk's dashboard (it begins with pk_live_ or pk_test_)"
)]
pub struct InvalidPublishableKey;

impl Instance {
    /// Reads a publishable key.
    pub fn of(key: &str) -> Result<Self, InvalidPublishableKey> {
        let (is_development, encoded) =
            match (key.strip_prefix("pk_live_"), key.strip_prefix("pk_test_")) {
                (Some(encoded), _) => (false, encoded),
                (None, Some(encoded)) => (true, encoded),
                (None, None) => return Err(InvalidPublishableKey),
            };
        let decoded = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).ok();
        let decoded =
            decoded.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(InvalidPublishableKey)?;
        let host =
            decoded.strip_suffix('$').filter(|host| host.contains('.') && !host.contains('$'));
        let frontend_api = host.ok_or(InvalidPublishableKey)?.to_owned();
        let mut suffix = URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
        suffix.truncate(SUFFIX_LEN);
        Ok(Self { frontend_api, suffix, is_development })
    }

    /// Whether an unverified `iss` names this instance.
    pub(super) fn is_named_by(&self, issuer: &str) -> bool {
        let host = issuer.strip_prefix("https://").or_else(|| issuer.strip_prefix("http://"));
        host.unwrap_or(issuer) == self.frontend_api
    }
}
