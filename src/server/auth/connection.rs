//! Who calls on one connection.

use super::{Caller, Callers, Scope, Share, StreamKind, api_key::Hash};
use crate::server::tls::Name as CertificateName;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::{cell::RefCell, future::pending, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// The header of a bare key.
static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Why a call is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It presents neither a key nor a certificate.
    #[error("no key")]
    NoKey,
    /// The key is malformed, wrong or revoked.
    #[error("wrong key")]
    WrongKey,
    /// It presents several keys.
    #[error("several keys")]
    SeveralKeys,
    /// Its caller lacks this scope.
    #[error("no scope `{0}`")]
    NoScope(Scope),
    /// Its caller has too much in progress.
    #[error("too much in progress")]
    TooMany,
}

impl Refusal {
    /// In one word, for the metric.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::WrongKey => "wrong_key",
            Self::SeveralKeys => "several_keys",
            Self::NoScope(_) => "no_scope",
            Self::TooMany => "too_many",
        }
    }
}

/// Where a call may present its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In `authorization`, as `Bearer KEY`.
    Authorization,
    /// In `x-api-key`, bare: `authorization` is somebody else's there.
    ApiKey,
    /// In either of them.
    Either,
}

/// One connection's callers. The last one is remembered, so that a busy connection's key is not hashed for each call:
/// then a call costs one comparison.
pub struct Session {
    callers: Arc<Callers>,
    /// The names in the certificate that the connection was opened with.
    certificate: Vec<CertificateName>,
    last: RefCell<Option<Last>>,
}

/// Who called last, by which key, and of which reading of the file that is true.
struct Last {
    generation: u64,
    key: Option<Box<[u8]>>,
    caller: Arc<Caller>,
    share: Arc<Share>,
}

/// How a call was let in.
pub enum Admitted {
    /// Nobody asked who calls.
    Open,
    /// The call counts in this share.
    Call(Arc<Share>),
    /// The answer is a stream, which goes on until its caller is no longer let in.
    Stream(Admission),
}

impl Session {
    /// A connection that has presented a certificate with these names, if any.
    #[must_use]
    pub fn new(callers: Arc<Callers>, certificate: Vec<CertificateName>) -> Self {
        Self { callers, certificate, last: RefCell::default() }
    }

    /// Lets a call in if its caller is known and has the scope, where one is needed. A key that is presented counts,
    /// and the certificate otherwise.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        place: Place,
        needed: Option<Scope>,
        stream: Option<StreamKind>,
    ) -> Result<Admitted, Refusal> {
        match stream {
            None => self.recognized(headers, place, needed).map(Admitted::Call),
            Some(kind) => self.admit_stream(headers, place, needed, kind).map(Admitted::Stream),
        }
    }

    fn recognized(
        &self,
        headers: &HeaderMap,
        place: Place,
        needed: Option<Scope>,
    ) -> Result<Arc<Share>, Refusal> {
        let key = place.key(headers)?;
        let mut last = self.last.borrow_mut();
        let last = match &mut *last {
            Some(last) if last.is_still(self.callers.generation(), key) => last,
            other => other.insert(self.recognize(key)?),
        };
        last.caller.may(needed)?;
        Ok(last.share.clone())
    }

    fn admit_stream(
        &self,
        headers: &HeaderMap,
        place: Place,
        needed: Option<Scope>,
        kind: StreamKind,
    ) -> Result<Admission, Refusal> {
        // Before the caller is looked up, so that no change after it is missed.
        let changes = self.callers.changes();
        let share = self.recognized(headers, place, needed)?;
        let permit = share.stream(kind).ok_or(Refusal::TooMany)?;
        let key = place.key(headers)?.map(Hash::of);
        let (callers, certificate) = (self.callers.clone(), self.certificate.clone());
        Ok(Admission { callers, key, certificate, needed, changes, _counted: (share, permit) })
    }

    fn recognize(&self, key: Option<&[u8]>) -> Result<Last, Refusal> {
        // Before the callers are looked up: if they change in between, this is looked up again.
        let generation = self.callers.generation();
        let caller = match key {
            Some(key) => self.callers.of_key(&Hash::of(key)).ok_or(Refusal::WrongKey)?,
            None => self.callers.of_certificate(&self.certificate).ok_or(Refusal::NoKey)?,
        };
        let share = self.callers.share(&caller.name);
        Ok(Last { generation, key: key.map(Into::into), caller, share })
    }
}

/// A caller who was let in to a stream.
pub struct Admission {
    callers: Arc<Callers>,
    key: Option<Hash>,
    certificate: Vec<CertificateName>,
    needed: Option<Scope>,
    changes: watch::Receiver<()>,
    /// While the share is held, it is not made anew for the same caller.
    _counted: (Arc<Share>, OwnedSemaphorePermit),
}

impl Admission {
    /// Waits until the caller is no longer let in, and says why.
    pub async fn withdrawn(mut self) -> Refusal {
        loop {
            if let Err(refusal) = self.check() {
                return refusal;
            }
            if self.changes.changed().await.is_err() {
                return pending().await; // the file is no longer followed
            }
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let caller = match &self.key {
            Some(key) => self.callers.of_key(key).ok_or(Refusal::WrongKey)?,
            None => self.callers.of_certificate(&self.certificate).ok_or(Refusal::NoKey)?,
        };
        caller.may(self.needed)
    }
}

impl Caller {
    /// Whether it has the scope, or any where none is needed: a caller without scopes is shut out.
    fn may(&self, needed: Option<Scope>) -> Result<(), Refusal> {
        match needed {
            Some(scope) if !self.scopes.contains(&scope) => Err(Refusal::NoScope(scope)),
            None if self.scopes.is_empty() => Err(Refusal::NoScope(Scope::Check)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Last {
    fn is_still(&self, generation: u64, key: Option<&[u8]>) -> bool {
        self.generation == generation
            && match (&self.key, key) {
                (Some(last), Some(now)) => verify_slices_are_equal(last, now).is_ok(),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

impl Place {
    /// The one key that is presented, if there is any.
    fn key(self, headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
        let authorization = match self {
            Self::Authorization | Self::Either => one(headers, &header::AUTHORIZATION)?,
            Self::ApiKey => None,
        };
        let api_key = match self {
            Self::ApiKey | Self::Either => one(headers, &API_KEY)?,
            Self::Authorization => None,
        };
        match (authorization, api_key) {
            (Some(_), Some(_)) => Err(Refusal::SeveralKeys),
            (Some(value), None) => bearer(value).map(Some).ok_or(Refusal::WrongKey),
            (None, api_key) => Ok(api_key),
        }
    }
}

/// The one value of a header, if there is any.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h [u8]>, Refusal> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next();
    if values.next().is_some() { Err(Refusal::SeveralKeys) } else { Ok(first) }
}

/// The key in `Bearer KEY`.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}
