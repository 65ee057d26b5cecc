//! The keys that verify session tokens: one configured key, or the key set (JWKS) that Clerk publishes.
//!
//! A key set is fetched when it is first needed, when it is older than 1 h, and when a token names an unknown key; at
//! most every 10 s, so that forged tokens cannot cause a flood of requests. A token with an unknown key waits only for
//! a fetch that it starts itself: during another fetch, and within 10 s of one, it is rejected at once, so that forged
//! tokens do not pile up while Clerk answers slowly. A fetch runs in a task of its own and ends even if its caller goes
//! away: a gateway may wait for less time than Clerk needs to answer. If fetching fails, fetched keys are used for up
//! to 24 h. Without that limit, an attacker who blocks access to Clerk could keep a revoked key in use.
//!
//! A `kid` alone does not identify a key, because two instances may use the same `kid`. Each URL therefore has its own
//! cache. The `iss` of a token does not choose the key, because it is not verified yet.

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
use tokio::sync::{Mutex, OwnedMutexGuard};

const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The age above which a key set is fetched again.
const JWKS_REFETCH_INTERVAL: Duration = Duration::from_hours(1);
/// The age above which a key set is no longer used, even if it cannot be fetched again.
const MAX_JWKS_AGE: Duration = Duration::from_hours(24);
/// The largest accepted key set, in bytes; Clerk's has about 2 KiB.
const MAX_JWKS_LEN: usize = 256 * 1024;
/// The minimum time between two fetches.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);

/// The source of the keys.
#[derive(Debug)]
pub enum SessionKeys {
    /// One configured key, used for every `kid`.
    Given(Arc<DecodingKey>),
    /// The key set that Clerk publishes, by `kid`.
    Published(Arc<Published>),
}

/// A key set that is fetched from a URL.
#[derive(Debug)]
pub struct Published {
    client: Client,
    url: Url,
    cached: ArcSwapOption<FetchedKeys>,
    /// When the last fetch began. The lock is held during a fetch.
    last_fetch: Arc<Mutex<LastFetch>>,
}

/// When the last fetch began; `None`: there was none.
type LastFetch = Option<Instant>;

#[derive(Debug)]
struct FetchedKeys {
    keys: HashMap<String, Arc<DecodingKey>>,
    at: Instant,
}

/// The configured key or URL is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKeys(&'static str);

/// Why there is no key for a token.
#[derive(Debug)]
pub(super) enum NoKey {
    /// The key set has no key with this `kid`.
    Unknown,
    /// The key set cannot be fetched at the moment.
    Unavailable(String),
}

impl SessionKeys {
    /// Parses one public key as Clerk's dashboard shows it. A line break may be written as `\n`.
    pub fn given(pem: &str) -> Result<Self, InvalidKeys> {
        let invalid = InvalidKeys(
            "is not an RSA public key: copy the JWKS public key from Clerk's dashboard, from \
             `-----BEGIN PUBLIC KEY-----` to the end",
        );
        let text = pem.replace("\\n", "\n");
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        let der = STANDARD.decode(lines.collect::<String>()).map_err(|_| invalid)?;
        ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &*der).map_err(|_| invalid)?;
        Ok(Self::Given(Arc::new(DecodingKey::from_rsa_der(&der))))
    }

    /// Uses the key set published at a URL.
    pub fn published(url: &str) -> Result<Self, InvalidKeys> {
        let url = http_client::url(url).map_err(|invalid| {
            InvalidKeys(match invalid {
                InvalidUrl::Malformed => {
                    "is not an https:// URL: give `https://` and Clerk's Frontend API, then `/.well-known/jwks.json`"
                }
                InvalidUrl::PlainText => {
                    "is http://, over which an attacker on the network could replace the keys: use https://"
                }
            })
        })?;
        let client = http_client::client(&url).timeout(FETCH_TIMEOUT).build();
        let client = client.map_err(|_| {
            InvalidKeys("cannot be fetched: TLS cannot be initialized on this machine")
        })?;
        let (cached, last_fetch) = (ArcSwapOption::empty(), Arc::default());
        Ok(Self::Published(Arc::new(Published { client, url, cached, last_fetch })))
    }

    /// The key with the `kid` of a token.
    pub(super) async fn key(&self, id: Option<&str>) -> Result<Arc<DecodingKey>, NoKey> {
        match (self, id) {
            (Self::Given(key), _) => Ok(key.clone()),
            (Self::Published(published), Some(id)) => published.key(id).await,
            (Self::Published(_), None) => Err(NoKey::Unknown),
        }
    }
}

impl Published {
    async fn key(self: &Arc<Self>, id: &str) -> Result<Arc<DecodingKey>, NoKey> {
        let lock = || self.last_fetch.clone();
        match self.find(id) {
            (Some(key), true) => return Ok(key),
            // The first caller fetches. Others use the cached key meanwhile, as does the first if the fetch fails.
            (Some(key), false) => match lock().try_lock_owned() {
                Ok(last_fetch) => drop(self.fetch(last_fetch).await),
                Err(_) => return Ok(key),
            },
            // Without any cached keys, all callers wait for the first fetch.
            (None, _) if self.usable().is_none() => {
                let last_fetch = lock().lock_owned().await;
                if let (Some(key), _) = self.find(id) {
                    return Ok(key);
                }
                self.fetch(last_fetch).await?;
            }
            (None, _) => {
                let fetching = |_| NoKey::Unavailable("Clerk's keys are being fetched".into());
                let last_fetch = lock().try_lock_owned().map_err(fetching)?;
                self.fetch(last_fetch).await?;
            }
        }
        self.find(id).0.ok_or(NoKey::Unknown)
    }

    /// The cached key with this `kid`, and whether the cached key set is fresh.
    fn find(&self, id: &str) -> (Option<Arc<DecodingKey>>, bool) {
        match self.usable() {
            Some(cached) => {
                (cached.keys.get(id).cloned(), cached.at.elapsed() < JWKS_REFETCH_INTERVAL)
            }
            None => (None, false),
        }
    }

    /// The cached key set, unless it is older than [`MAX_JWKS_AGE`].
    fn usable(&self) -> Option<Arc<FetchedKeys>> {
        self.cached.load_full().filter(|cached| cached.at.elapsed() < MAX_JWKS_AGE)
    }

    /// Fetches the key set, unless the last fetch is more recent than [`MIN_FETCH_INTERVAL`].
    async fn fetch(
        self: &Arc<Self>,
        mut last_fetch: OwnedMutexGuard<LastFetch>,
    ) -> Result<(), NoKey> {
        if last_fetch.is_some_and(|at| at.elapsed() < MIN_FETCH_INTERVAL) {
            let failed =
                || NoKey::Unavailable("fetching Clerk's keys failed, retry in 10 s".into());
            return if self.usable().is_some() { Ok(()) } else { Err(failed()) };
        }
        *last_fetch = Some(Instant::now());
        let this = self.clone();
        let fetch = tokio::spawn(async move {
            let _lock = last_fetch;
            let keys = this.request().await.inspect_err(|error| {
                tracing::error!(error, "cannot fetch the keys of CLERK_JWKS_URL");
            });
            keys.map(|keys| {
                this.cached.store(Some(Arc::new(FetchedKeys { keys, at: Instant::now() })));
            })
        });
        match fetch.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NoKey::Unavailable("Clerk's keys cannot be fetched".into())),
        }
    }

    async fn request(&self) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
        let answer =
            self.client.get(self.url.clone()).send().await.map_err(http_client::failure)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("the answer is {status}"));
        }
        let text = http_client::read(answer, MAX_JWKS_LEN).await?;
        let set: JwkSet =
            serde_json::from_slice(&text).map_err(|_| "the answer is not a JSON Web Key Set")?;
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
