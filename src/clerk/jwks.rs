//! The keys that Clerk signs session tokens with: one that is given, or those that Clerk publishes.
//!
//! Published keys are fetched when they are first needed, once an hour, and when a token names an unknown one; never
//! more often than every ten seconds, so that forged tokens cannot make this service ask. A token that names an unknown
//! key waits only for a fetch of its own: while another fetch is under way, or within ten seconds of one, it is refused
//! at once, so that forged tokens do not pile up while Clerk answers slowly. While keys cannot be fetched, those that
//! are known go on, for a day: a key that Clerk withdrew must not live as long as somebody keeps Clerk out of reach.
//!
//! A `kid` says nothing by itself: two instances may call different keys the same. So keys are kept with the address
//! that they came from, never in a place that two addresses share. A token's own `iss` does not choose the key, because
//! nobody has verified it yet.

#[cfg(test)]
mod tests;

use super::http_client::{self, InvalidUrl};
use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, JwkSet, PublicKeyUse},
};
use reqwest::{Client, Url};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// How long fetching may take.
const WITHIN: Duration = Duration::from_secs(3);
/// How long fetched keys are taken for all that there are.
const FRESH: Duration = Duration::from_hours(1);
/// How long fetched keys are used at most, where they cannot be fetched again.
const USABLE: Duration = Duration::from_hours(24);
/// The largest key set that is read; Clerk's has about 2 KiB.
const LARGEST_SET: usize = 256 * 1024;
/// How often they are fetched at most.
const AGAIN: Duration = Duration::from_secs(10);

/// Where the keys come from.
#[derive(Debug)]
pub enum Keys {
    /// One key, whatever a token calls it.
    Given(Arc<DecodingKey>),
    /// Those that Clerk publishes, by their ids.
    Published(Published),
}

/// Keys that are fetched.
#[derive(Debug)]
pub struct Published {
    client: Client,
    url: Url,
    known: ArcSwapOption<Known>,
    /// When fetching was tried last; whoever fetches holds it.
    tried: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Known {
    keys: HashMap<String, Arc<DecodingKey>>,
    at: Instant,
}

/// The text is no key, or no place to fetch keys from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKeys(&'static str);

/// Why there is no key for a token.
#[derive(Debug)]
pub(super) enum NoKey {
    /// Clerk has no such key.
    Unknown,
    /// Clerk's keys cannot be fetched now.
    Away(String),
}

impl Keys {
    /// One public key, as Clerk's dashboard shows it; a line break may be written as `\n`.
    pub fn given(pem: &str) -> Result<Self, InvalidKeys> {
        let invalid = InvalidKeys(
            "is no RSA public key: copy the JWKS public key from Clerk's dashboard, from \
             `-----BEGIN PUBLIC KEY-----` to the end",
        );
        let text = pem.replace("\\n", "\n");
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        let der = STANDARD.decode(lines.collect::<String>()).map_err(|_| invalid)?;
        ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &*der).map_err(|_| invalid)?;
        Ok(Self::Given(Arc::new(DecodingKey::from_rsa_der(&der))))
    }

    /// The keys that are published at this URL.
    pub fn published(url: &str) -> Result<Self, InvalidKeys> {
        let url = http_client::url(url).map_err(|invalid| {
            InvalidKeys(match invalid {
                InvalidUrl::Malformed => {
                    "is no URL: give `https://` and Clerk's Frontend API, then `/.well-known/jwks.json`"
                }
                InvalidUrl::PlainText => {
                    "is http://: whoever is in between could publish keys of their own; use https://"
                }
            })
        })?;
        let client = http_client::client(&url).timeout(WITHIN).build();
        let client = client.map_err(|_| InvalidKeys("cannot be asked: TLS does not work here"))?;
        let (known, tried) = (ArcSwapOption::empty(), Mutex::new(None));
        Ok(Self::Published(Published { client, url, known, tried }))
    }

    /// The key that a token names.
    pub(super) async fn key(&self, id: Option<&str>) -> Result<Arc<DecodingKey>, NoKey> {
        match (self, id) {
            (Self::Given(key), _) => Ok(key.clone()),
            (Self::Published(published), Some(id)) => published.key(id).await,
            (Self::Published(_), None) => Err(NoKey::Unknown),
        }
    }
}

impl Published {
    async fn key(&self, id: &str) -> Result<Arc<DecodingKey>, NoKey> {
        match self.look(id) {
            (Some(key), true) => return Ok(key),
            // Whoever comes first fetches; what is known goes on meanwhile, and also if that fails.
            (Some(key), false) => match self.tried.try_lock() {
                Ok(mut tried) => drop(self.fetch(&mut tried).await),
                Err(_) => return Ok(key),
            },
            // Without any keys nobody can be answered before the first fetch ends.
            (None, _) if self.usable().is_none() => {
                let mut tried = self.tried.lock().await;
                if let (Some(key), _) = self.look(id) {
                    return Ok(key);
                }
                self.fetch(&mut tried).await?;
            }
            (None, _) => {
                let under_way = |_| NoKey::Away("Clerk's keys are being fetched".into());
                let mut tried = self.tried.try_lock().map_err(under_way)?;
                self.fetch(&mut tried).await?;
            }
        }
        self.look(id).0.ok_or(NoKey::Unknown)
    }

    /// The key, and whether those known are all that there are.
    fn look(&self, id: &str) -> (Option<Arc<DecodingKey>>, bool) {
        match self.usable() {
            Some(known) => (known.keys.get(id).cloned(), known.at.elapsed() < FRESH),
            None => (None, false),
        }
    }

    /// The keys that are known, unless they were fetched too long ago.
    fn usable(&self) -> Option<Arc<Known>> {
        self.known.load_full().filter(|known| known.at.elapsed() < USABLE)
    }

    /// Fetches the keys, unless that was just tried.
    async fn fetch(&self, tried: &mut Option<Instant>) -> Result<(), NoKey> {
        if tried.is_some_and(|at| at.elapsed() < AGAIN) {
            let away = || NoKey::Away("Clerk's keys could not be fetched just now".into());
            return if self.usable().is_some() { Ok(()) } else { Err(away()) };
        }
        *tried = Some(Instant::now());
        match self.ask().await {
            Ok(keys) => {
                self.known.store(Some(Arc::new(Known { keys, at: Instant::now() })));
                Ok(())
            }
            Err(error) => {
                tracing::error!(error, "cannot fetch the keys of CLERK_JWKS_URL");
                Err(NoKey::Away("Clerk's keys cannot be fetched".into()))
            }
        }
    }

    async fn ask(&self) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
        let answer =
            self.client.get(self.url.clone()).send().await.map_err(http_client::failure)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("the answer is {status}"));
        }
        let text = http_client::read(answer, LARGEST_SET).await?;
        let set: JwkSet = serde_json::from_slice(&text).map_err(|_| "the answer is no key set")?;
        let keys = set.keys.into_iter().filter_map(|jwk| {
            let is_rsa = matches!(jwk.algorithm, AlgorithmParameters::RSA(_));
            let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
            let key = (is_rsa && signs).then(|| DecodingKey::from_jwk(&jwk).ok()).flatten()?;
            Some((jwk.common.key_id?, Arc::new(key)))
        });
        let keys: HashMap<_, _> = keys.collect();
        if keys.is_empty() { Err("the key set has no RSA key".into()) } else { Ok(keys) }
    }
}
