//! Signatures of webhooks, as Svix makes them for Clerk.
//!
//! Source: <https://docs.svix.com/receiving/verifying-payloads/how-manual>. The `svix` crate verifies; what
//! it lets pass and should not (ids with dots, two families of headers, weak keys) is refused here first.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use svix::webhooks::{Webhook, WebhookError};

/// The shortest key that is taken, in bytes: nobody guesses 128 bits. Clerk's have 24, the example in Svix's
/// documentation has 18, and a word such as `changeme` has 6.
const SHORTEST_KEY: usize = 16;

/// How far a delivery's timestamp may be from now, in seconds, as in Svix's libraries.
const TOLERANCE: u64 = 5 * 60;

/// How the ids begin that this service gives to what Clerk's Backend API says. Svix's begin with `msg_`. A delivery with
/// such an id, from whoever holds a second secret, would make the answer of the API a duplicate.
pub const OBSERVED: &str = "api_";

/// One signing secret, `whsec_…`, known to be strong enough.
pub struct Secret {
    webhook: Webhook,
    bytes: usize,
}

impl Secret {
    /// Parses a secret as Clerk's dashboard shows it; white space around it does not count.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidSecret> {
        let text = text.expose_secret().trim();
        let key = STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text));
        match key {
            Ok(key) if key.len() >= SHORTEST_KEY => {
                let bytes = key.len();
                Ok(Self { webhook: Webhook::from_bytes(key).expect("the key is not empty"), bytes })
            }
            Ok(_) => Err(InvalidSecret("is too short to be one of Clerk's")),
            Err(_) => Err(InvalidSecret("is not base64 after `whsec_`")),
        }
    }

    /// How long the key is.
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

/// The text is no webhook signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the signing secret {0}: copy it from the endpoint's page under Webhooks in Clerk's dashboard"
)]
pub struct InvalidSecret(&'static str);

/// Knows the secrets that a delivery may be signed with: more than one while rotating.
pub struct Verifier(Vec<Secret>);

/// What is known of a delivery whose signature fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its id: the same for every attempt and replay of one message.
    pub id: String,
    /// When this attempt was signed.
    pub signed_at: DateTime<Utc>,
}

/// Why a request is not a delivery of Clerk's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The headers cannot be those of a Svix delivery.
    #[error("{0}")]
    Malformed(String),
    /// The signature does not fit the body, the secrets or the time.
    #[error("{0}")]
    Unverified(String),
}

impl Verifier {
    /// Verifies with any of these secrets.
    #[must_use]
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self(secrets)
    }

    /// Whether the headers can be those of a delivery that was signed within five minutes of `now` (Unix seconds):
    /// what can be judged before the body is read.
    pub fn judge(&self, headers: &HeaderMap, now: i64) -> Result<(), Refusal> {
        Envelope::of(headers)?.check_time(now)
    }

    /// The delivery, if Clerk signed exactly these bytes within five minutes of `now` (Unix seconds).
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: i64) -> Result<Verified, Refusal> {
        let envelope = Envelope::of(headers)?;
        envelope.check_time(now)?;
        if std::str::from_utf8(body).is_err() {
            return Err(Refusal::Malformed("the body is not UTF-8".into()));
        }
        let mut refused = WebhookError::InvalidSignature;
        for Secret { webhook, .. } in &self.0 {
            match webhook.verify(body, headers) {
                Ok(()) => return envelope.verified(),
                Err(error) => refused = error,
            }
        }
        Err(envelope.explain(&refused))
    }
}

/// The three headers of a delivery, well formed.
struct Envelope<'h> {
    id: &'h str,
    timestamp: i64,
    signatures: usize,
}

impl<'h> Envelope<'h> {
    fn of(headers: &'h HeaderMap) -> Result<Self, Refusal> {
        let has = |family: &str| {
            ["id", "timestamp", "signature"]
                .iter()
                .any(|n| headers.contains_key(format!("{family}-{n}")))
        };
        let family = match (has("svix"), has("webhook")) {
            (true, true) => {
                let reason = "both `svix-…` and `webhook-…` headers are present: send one kind";
                return Err(Refusal::Malformed(reason.into()));
            }
            (false, true) => "webhook",
            (_, false) => "svix",
        };
        let id = single(headers, &format!("{family}-id"))?;
        if !is_message_id(id) {
            return Err(malformed(family, "id", "must be 1 to 128 letters, digits, `_` or `-`"));
        }
        if id.starts_with(OBSERVED) {
            return Err(malformed(
                family,
                "id",
                "must not begin with `api_`, which is kept for us",
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
            return Err(Refusal::Malformed(format!("missing header {signature}")));
        }
        Ok(Self { id, timestamp, signatures })
    }

    fn check_time(&self, now: i64) -> Result<(), Refusal> {
        let age = now.saturating_sub(self.timestamp);
        let by = age.unsigned_abs();
        if by <= TOLERANCE {
            return Ok(());
        }
        let when = if age > 0 { "past" } else { "future" };
        Err(Refusal::Unverified(format!(
            "the signature's timestamp is {by} s in the {when}: check this machine's clock"
        )))
    }

    fn verified(&self) -> Result<Verified, Refusal> {
        let signed_at = DateTime::from_timestamp_secs(self.timestamp);
        let absurd = || Refusal::Malformed("the timestamp is no instant".into());
        Ok(Verified { id: self.id.into(), signed_at: signed_at.ok_or_else(absurd)? })
    }

    fn explain(&self, error: &WebhookError) -> Refusal {
        let reason = match error {
            WebhookError::TimestampTooOldError | WebhookError::FutureTimestampError => {
                "the signature's timestamp is more than 5 min off: check this machine's clock"
            }
            _ if self.signatures > 1 => {
                "the signature does not verify; only the first signature header is read"
            }
            _ => "the signature does not verify: wrong signing secret, or the body was changed",
        };
        Refusal::Unverified(reason.into())
    }
}

/// A dot in an id would let a body be split anew into timestamp and body under the same signature.
fn is_message_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Err(Refusal::Malformed(format!("missing header {name}")));
    };
    if values.next().is_some() {
        return Err(Refusal::Malformed(format!("header {name} is present twice")));
    }
    value.to_str().map_err(|_| Refusal::Malformed(format!("header {name} is not ASCII text")))
}

fn malformed(family: &str, name: &str, rule: &str) -> Refusal {
    Refusal::Malformed(format!("header {family}-{name} {rule}"))
}
