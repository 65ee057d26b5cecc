//! Authentication of callers by API key or client certificate; each has a name and scopes.
//!
//! Keys are stored as hashes in a file that is reloaded when it changes. A revoked key stops working with the next
//! reload, on open connections as well.

mod api_key;
mod connection;
mod key_file;
mod share;

pub use connection::{Admitted, AuthError, CallerSession, CredentialSource, StreamAdmission};
pub use key_file::{KeyEntry, KeyFile};
pub use share::{CallerShare, StreamKind};

use crate::{server::reload::HotReload, server::tls::CertificateName};
use anyhow::Context;
use api_key::KeyHash;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use clap::ValueEnum;
use key_file::document;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// A permission of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Check what users and organizations may use
    Check,
    /// Explain answers and list what changed, for any user and organization
    Support,
    /// Set, end and list overrides, for any user and organization
    Overrides,
    /// Read the ledger of deliveries, including bodies, and replay them
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Support => "support",
            Self::Overrides => "overrides",
            Self::Admin => "admin",
        })
    }
}

/// An authenticated caller.
#[derive(Debug)]
pub struct Caller {
    /// The name of the API key, or the name in the certificate.
    pub name: String,
    /// The scopes of the caller.
    pub scopes: Vec<Scope>,
}

/// The first 48 bits of the SHA-256 of a file's content, as a number. `serve` exports that of the active content as the
/// gauge `entitlements_callers_in_force`; a gauge holds 48 bits exactly.
#[must_use]
pub fn fingerprint(content: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(content).into();
    digest[..6].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The setting that names the file of callers.
const SETTING: &str = "ENTITLEMENTS_CALLERS";

/// All callers, as the current content of the file lists them.
pub struct Callers {
    file: HotReload<KnownCallers>,
    /// The share of each caller, by name. A reload of the file keeps it.
    shares: Mutex<BTreeMap<String, Arc<CallerShare>>>,
}

impl Callers {
    /// Reads the file of callers. Without a file, only client certificates are admitted, with the scope `check`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is invalid.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let files = file.map(|file| (SETTING, file.to_path_buf())).into_iter().collect();
        let read = |contents: &[Vec<u8>]| match contents {
            [text] => KnownCallers::parse(text).context(SETTING),
            _ => Ok(KnownCallers::default()),
        };
        let file = HotReload::new(SETTING, files, Box::new(read))?;
        Ok(Self { file, shares: Mutex::default() })
    }

    /// Reloads the file when it changes; never returns.
    pub async fn watch(&self) -> Infallible {
        self.file.watch().await
    }

    /// The [`fingerprint`] of the active content; `None` without a file.
    #[must_use]
    pub fn in_force(&self) -> Option<u64> {
        self.file.current().fingerprint
    }

    /// Whether the last reload failed, so that an older content is active.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.file.is_broken()
    }

    /// Whether the file has at least one key.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.file.current().keys.is_empty()
    }

    /// The share of a caller, which all its connections use together.
    fn share(&self, caller: &str) -> Arc<CallerShare> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(caller) {
            return share.clone();
        }
        shares.retain(|_, share| Arc::strong_count(share) > 1); // drops those that no call or connection uses
        let share = Arc::new(CallerShare::new(caller));
        shares.insert(caller.into(), share.clone());
        share
    }

    fn generation(&self) -> u64 {
        self.file.generation()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.file.changes()
    }

    /// The caller whose key has this hash. Compares all hashes, each in constant time.
    fn of_key(&self, hash: &KeyHash) -> Option<Arc<Caller>> {
        let known = self.file.current();
        let same =
            |(stored, _): &&(KeyHash, _)| verify_slices_are_equal(&stored.0, &hash.0).is_ok();
        let mut found = known.keys.iter().filter(same);
        let first = found.next();
        let _rest = found.count();
        first.map(|(_, caller)| caller.clone())
    }

    /// The caller whose certificate has these names. If any name is listed without scopes, the certificate is rejected.
    /// Otherwise the first listed name applies; a certificate without a listed name has the scope `check`. Common names
    /// apply only in a certificate without URIs and DNS names. A name that the file lists as another kind belongs to
    /// another caller: it has no scopes.
    fn of_certificate(&self, names: &[CertificateName]) -> Option<Arc<Caller>> {
        let (known, first) = (self.file.current(), names.first()?);
        let listed = |name| known.certificates.get(name);
        let rejected = names.iter().filter_map(listed).find(|caller| caller.scopes.is_empty());
        let mut counted = names.iter().filter(|name| name.is_common() == first.is_common());
        if let Some(caller) = rejected.or_else(|| counted.clone().find_map(listed)) {
            return Some(caller.clone());
        }
        let same = |a: &CertificateName, b: &str| a.text().eq_ignore_ascii_case(b);
        let is_of_another_kind =
            counted.any(|name| known.certificates.keys().any(|key| same(key, name.text())));
        let scopes = if is_of_another_kind { Vec::new() } else { vec![Scope::Check] };
        Some(Arc::new(Caller { name: first.to_string(), scopes }))
    }
}

/// The content of the file, indexed for lookups.
#[derive(Default)]
struct KnownCallers {
    keys: Vec<(KeyHash, Arc<Caller>)>,
    certificates: BTreeMap<CertificateName, Arc<Caller>>,
    fingerprint: Option<u64>,
}

impl KnownCallers {
    /// Parses the content of the file.
    fn parse(content: &[u8]) -> anyhow::Result<Self> {
        let text = str::from_utf8(content).context("the file is not UTF-8")?;
        let document = document(text).context(
            "the file is not valid: correct it, or make keys with `entitlements keys create`",
        )?;
        let caller = |name: &str, scopes| Arc::new(Caller { name: name.into(), scopes });
        let keys = document.keys.into_iter();
        let certificates = document.certificates.into_iter();
        Ok(Self {
            keys: keys.map(|(name, key)| (key.sha256, caller(name.as_str(), key.scopes))).collect(),
            certificates: certificates
                .map(|(name, certificate)| {
                    let caller = caller(&name.to_string(), certificate.scopes);
                    (name, caller)
                })
                .collect(),
            fingerprint: Some(fingerprint(content)),
        })
    }
}

#[cfg(test)]
mod tests;
