//! Who may call: API keys and client certificates, by name, each with its scopes.
//!
//! Keys are stored as hashes, in a file that is read again when it changes. A key that was revoked there stops working
//! with the next reading, also on connections that are open.

mod api_key;
mod connection;
mod key_file;
mod share;

pub use connection::{Admission, Admitted, Place, Refusal, Session};
pub use key_file::{Entry, KeyFile};
pub use share::{Share, StreamKind};

use crate::{server::reload::Reread, server::tls::Name as CertificateName};
use api_key::Hash;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use clap::ValueEnum;
use key_file::{Document, document};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask what somebody may use
    Check,
    /// Look into the ledger of deliveries, bodies included, and replay them
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Admin => "admin",
        })
    }
}

/// Somebody who may call.
#[derive(Debug)]
pub struct Caller {
    /// The name of the key, or in the certificate.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// The first 48 bits of the SHA-256 of a file's content, as a number: `serve` exports it of the content in force as the
/// gauge `entitlements_callers_in_force`, and a gauge holds 48 bits exactly.
#[must_use]
pub fn fingerprint(content: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(content).into();
    digest[..6].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// All who may call, as the file says now.
pub struct Callers {
    file: Reread<Known>,
    /// The share of each caller, by name: a change of the file does not begin it anew.
    shares: Mutex<BTreeMap<String, Arc<Share>>>,
}

impl Callers {
    /// Reads the file of callers; without one, only certificates are let in, to check.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let files = file.map(Path::to_path_buf).into_iter().collect::<Vec<PathBuf>>();
        let read = |contents: &[Vec<u8>]| match contents {
            [text] => {
                let known = Known::from(document(std::str::from_utf8(text)?)?);
                Ok(Known { fingerprint: Some(fingerprint(text)), ..known })
            }
            _ => Ok(Known::default()),
        };
        let file = Reread::new("CALLERS", files, Box::new(read))?;
        Ok(Self { file, shares: Mutex::default() })
    }

    /// Reads the file again when it changes, for ever.
    pub async fn follow(&self) -> Infallible {
        self.file.follow().await
    }

    /// The [`fingerprint`] of the content in force; `None` without a file.
    #[must_use]
    pub fn in_force(&self) -> Option<u64> {
        self.file.current().fingerprint
    }

    /// Whether the file changed and could not be used, so that an older content is in force.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.file.is_broken()
    }

    /// Whether there is any key.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.file.current().keys.is_empty()
    }

    /// The share of a caller, one for all its connections.
    fn share(&self, caller: &str) -> Arc<Share> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(caller) {
            return share.clone();
        }
        shares.retain(|_, share| Arc::strong_count(share) > 1); // of callers who have gone
        let share = Arc::new(Share::new(caller));
        shares.insert(caller.into(), share.clone());
        share
    }

    fn generation(&self) -> u64 {
        self.file.generation()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.file.changes()
    }

    /// The caller whose key has this hash. All hashes are compared, each in constant time.
    fn of_key(&self, hash: &Hash) -> Option<Arc<Caller>> {
        let known = self.file.current();
        let same = |(stored, _): &&(Hash, _)| verify_slices_are_equal(&stored.0, &hash.0).is_ok();
        let mut found = known.keys.iter().filter(same);
        let first = found.next();
        let _rest = found.count();
        first.map(|(_, caller)| caller.clone())
    }

    /// The caller whose certificate has these names. A name that is listed without scopes shuts the certificate out,
    /// whatever else it has. Otherwise the first listed name counts, and a certificate with no listed name may check. A
    /// common name counts only in a certificate without URIs and DNS names. A name that is listed as another kind is
    /// somebody else's: it has no scopes.
    fn of_certificate(&self, names: &[CertificateName]) -> Option<Arc<Caller>> {
        let (known, first) = (self.file.current(), names.first()?);
        let listed = |name| known.certificates.get(name);
        let shut_out = names.iter().filter_map(listed).find(|caller| caller.scopes.is_empty());
        let mut counted = names.iter().filter(|name| name.is_common() == first.is_common());
        if let Some(caller) = shut_out.or_else(|| counted.clone().find_map(listed)) {
            return Some(caller.clone());
        }
        let same = |a: &CertificateName, b: &str| a.text().eq_ignore_ascii_case(b);
        let is_of_another_kind =
            counted.any(|name| known.certificates.keys().any(|key| same(key, name.text())));
        let scopes = if is_of_another_kind { Vec::new() } else { vec![Scope::Check] };
        Some(Arc::new(Caller { name: first.to_string(), scopes }))
    }
}

/// What the file says, ready to be looked up.
#[derive(Default)]
struct Known {
    keys: Vec<(Hash, Arc<Caller>)>,
    certificates: BTreeMap<CertificateName, Arc<Caller>>,
    fingerprint: Option<u64>,
}

impl From<Document> for Known {
    fn from(document: Document) -> Self {
        let caller = |name: &str, scopes| Arc::new(Caller { name: name.into(), scopes });
        let keys = document.keys.into_iter();
        let certificates = document.certificates.into_iter();
        Self {
            keys: keys.map(|(name, key)| (key.sha256, caller(name.as_str(), key.scopes))).collect(),
            certificates: certificates
                .map(|(name, certificate)| {
                    let caller = caller(&name.to_string(), certificate.scopes);
                    (name, caller)
                })
                .collect(),
            fingerprint: None,
        }
    }
}

#[cfg(test)]
mod tests;
