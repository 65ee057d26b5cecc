//! Verifies the signatures of webhooks, which Svix makes for Clerk.
//!
//! Source: <https://docs.svix.com/receiving/verifying-payloads/how-manual>. The `svix` crate verifies signatures. This
//! file first rejects requests that the crate wrongly accepts: ids with dots, two families of headers, weak keys.

use anyhow::anyhow;
use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use svix::webhooks::{Webhook, WebhookError};

/// The shortest accepted key, in bytes: 128 bits cannot be guessed. Clerk's keys have 24 bytes, the example in Svix's
/// documentation has 18, and a word such as `changeme` has 6.
const MIN_KEY_LEN: usize = 16;

/// The tolerated age of a delivery's timestamp, in seconds, past or future, as in Svix's libraries.
const MAX_TIMESTAMP_SKEW_S: u64 = 5 * 60;

/// The prefix of the ids that this service assigns to answers of Clerk's Backend API. Ids of Svix begin with `msg_`. A
/// webhook with this prefix, sent by the holder of another accepted secret, would make an answer of the API a
/// duplicate.
pub const OBSERVATION_ID_PREFIX: &str = "api_";

/// One signing secret, `whsec_…`, of at least 16 bytes.
pub struct SigningSecret {
    webhook: Webhook,
    bytes: usize,
}

impl SigningSecret {
    /// Parses a secret as Clerk's dashboard shows it. Surrounding white space is ignored.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidSigningSecret> {
        let text = text.expose_secret().trim();
        let key = STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text));
        match key {
            Ok(key) if key.len() >= MIN_KEY_LEN => {
                let bytes = key.len();
                Ok(Self { webhook: Webhook::from_bytes(key).expect("the key is not empty"), bytes })
            }
            Ok(_) => Err(InvalidSigningSecret("has fewer than 16 bytes")),
            Err(_) => Err(InvalidSigningSecret("is not base64 after `whsec_`")),
        }
    }

    /// A new random secret, `whsec_…`.
    ///
    /// # Errors
    ///
    /// If the system has no random bytes.
    pub fn generate() -> anyhow::Result<SecretString> {
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|_| anyhow!("cannot read random bytes from the system"))?;
        Ok(format!("whsec_{}", STANDARD.encode(random)).into())
    }

    /// The length of the key, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The `svix-signature` of a body sent at this Unix time, in seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        self.webhook.sign(id, timestamp, body.as_bytes()).expect("a str is UTF-8")
    }
}

/// The text is not a webhook signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the signing secret {0}: copy it from the endpoint's page under Webhooks in Clerk's dashboard"
)]
pub struct InvalidSigningSecret(&'static str);

/// Verifies deliveries with the accepted secrets, of which there is more than one during a rotation.
pub struct Verifier(Vec<SigningSecret>);

/// A delivery whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The `svix-id`, which is the same for every attempt and replay of one message.
    pub id: String,
    /// When this attempt was signed.
    pub signed_at: DateTime<Utc>,
}

/// Why a request is not a verified delivery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The headers or the body do not have the form of a delivery.
    #[error("{0}")]
    Malformed(String),
    /// The signature does not match the body and the secrets, or is too old.
    #[error("{0}")]
    Unverified(String),
}

impl Verifier {
    /// Creates a verifier that accepts any of these secrets.
    #[must_use]
    pub fn new(secrets: Vec<SigningSecret>) -> Self {
        Self(secrets)
    }

    /// Checks the headers before the body is read: their form, and that the timestamp is within 5 minutes of `now`
    /// (Unix seconds).
    pub fn check_headers(&self, headers: &HeaderMap, now: i64) -> Result<(), SignatureError> {
        Envelope::of(headers)?.check_time(now)
    }

    /// Verifies that these bytes were signed with one of the secrets, within 5 minutes of `now` (Unix seconds).
    pub fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: i64,
    ) -> Result<Verified, SignatureError> {
        let envelope = Envelope::of(headers)?;
        envelope.check_time(now)?;
        if std::str::from_utf8(body).is_err() {
            return Err(SignatureError::Malformed("the body is not UTF-8".into()));
        }
        let mut last_error = WebhookError::InvalidSignature;
        for SigningSecret { webhook, .. } in &self.0 {
            match webhook.verify(body, headers) {
                Ok(()) => return envelope.verified(),
                Err(error) => last_error = error,
            }
        }
        Err(envelope.explain(&last_error))
    }
}

/// The three well-formed headers of a delivery.
struct Envelope<'h> {
    id: &'h str,
    timestamp: i64,
    signatures: usize,
}

impl<'h> Envelope<'h> {
    fn of(headers: &'h HeaderMap) -> Result<Self, SignatureError> {
        let has = |family: &str| {
            ["id", "timestamp", "signature"]
                .iter()
                .any(|n| headers.contains_key(format!("{family}-{n}")))
        };
        let family = match (has("svix"), has("webhook")) {
            (true, true) => {
                let reason = "both `svix-…` and `webhook-…` headers are present: send one kind";
                return Err(SignatureError::Malformed(reason.into()));
            }
            (false, true) => "webhook",
            (_, false) => "svix",
        };
        let id = single(headers, &format!("{family}-id"))?;
        if !is_message_id(id) {
            return Err(malformed(family, "id", "must be 1 to 128 letters, digits, `_` or `-`"));
        }
        if id.starts_with(OBSERVATION_ID_PREFIX) {
            return Err(malformed(
                family,
                "id",
                "must not begin with `api_`, which this service reserves",
            ));
        }
        let text = single(headers, &format!("{family}-timestamp"))?;
        let timestamp = text.parse().ok().filter(|t: &i64| *t >= 0 && t.to_string() == text);
        let Some(timestamp) = timestamp else {
            return Err(malformed(family, "timestamp", "must be Unix seconds, digits only"));
        };
        let signature = format!("{family}-signature");
        let signatures = headers.get_all(&signature).iter().count();
        if signatures == 0 {
            return Err(SignatureError::Malformed(format!("missing header {signature}")));
        }
        Ok(Self { id, timestamp, signatures })
    }

    fn check_time(&self, now: i64) -> Result<(), SignatureError> {
        let age = now.saturating_sub(self.timestamp);
        let difference = age.unsigned_abs();
        if difference <= MAX_TIMESTAMP_SKEW_S {
            return Ok(());
        }
        let when = if age > 0 { "past" } else { "future" };
        Err(SignatureError::Unverified(format!(
            "the signature's timestamp is {difference} s in the {when}: check this machine's clock"
        )))
    }

    fn verified(&self) -> Result<Verified, SignatureError> {
        let signed_at = DateTime::from_timestamp_secs(self.timestamp);
        let invalid = || SignatureError::Malformed("the timestamp is out of range".into());
        Ok(Verified { id: self.id.into(), signed_at: signed_at.ok_or_else(invalid)? })
    }

    fn explain(&self, error: &WebhookError) -> SignatureError {
        let reason = match error {
            WebhookError::TimestampTooOldError | WebhookError::FutureTimestampError => {
                "the signature's timestamp is more than 5 min from now: check this machine's clock"
            }
            _ if self.signatures > 1 => {
                "the signature does not verify; only the first signature header is read"
            }
            _ => "the signature does not verify: wrong signing secret, or the body was changed",
        };
        SignatureError::Unverified(reason.into())
    }
}

/// The id must not have a dot: the signature covers `id.timestamp.body`, and a dot in the id would let an attacker move
/// the boundary between the parts under the same signature.
fn is_message_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Err(SignatureError::Malformed(format!("missing header {name}")));
    };
    if values.next().is_some() {
        return Err(SignatureError::Malformed(format!("header {name} is present twice")));
    }
    value
        .to_str()
        .map_err(|_| SignatureError::Malformed(format!("header {name} is not ASCII text")))
}

fn malformed(family: &str, name: &str, rule: &str) -> SignatureError {
    SignatureError::Malformed(format!("header {family}-{name} {rule}"))
}
