//! Authenticates the calls of one connection.

use super::{Caller, CallerShare, Callers, Scope, StreamKind, api_key::KeyHash};
use crate::server::tls::CertificateName;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::{cell::RefCell, future::pending, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// The header with a bare key.
static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Why a call is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The call has neither a key nor a certificate.
    #[error("no key")]
    NoKey,
    /// The key is malformed, wrong or revoked.
    #[error("wrong key")]
    WrongKey,
    /// The call has several keys.
    #[error("several keys")]
    SeveralKeys,
    /// The caller lacks this scope.
    #[error("no scope `{0}`")]
    NoScope(Scope),
    /// The caller has too many open streams.
    #[error("too many open streams")]
    TooMany,
}

impl AuthError {
    /// The label `cause` of the metric.
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

/// The headers in which a call may present its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// In `authorization`, as `Bearer KEY`.
    Authorization,
    /// In `x-api-key`, bare, because `authorization` has another party's credentials.
    ApiKey,
    /// In `authorization` or `x-api-key`, but not both.
    Either,
}

/// The authentication of one connection. It caches the last caller, so that a repeated key costs one comparison instead
/// of a hash for each call.
pub struct CallerSession {
    callers: Arc<Callers>,
    /// The names in the certificate that the connection was opened with.
    certificate: Vec<CertificateName>,
    last: RefCell<Option<LastCaller>>,
}

/// The last caller, its key, and the generation of the file that it was looked up in.
struct LastCaller {
    generation: u64,
    key: Option<Box<[u8]>>,
    caller: Arc<Caller>,
    share: Arc<CallerShare>,
}

/// How a call was admitted.
pub enum Admitted {
    /// Without authentication.
    Open,
    /// As an authenticated call, which counts in this share.
    Call(Arc<CallerShare>),
    /// As a stream, which ends when the caller's access is revoked.
    Stream(StreamAdmission),
}

impl CallerSession {
    /// Creates the session of a connection; `certificate` has the names in the client certificate, if there is one.
    #[must_use]
    pub fn new(callers: Arc<Callers>, certificate: Vec<CertificateName>) -> Self {
        Self { callers, certificate, last: RefCell::default() }
    }

    /// Admits a call if its caller is known and has the required scope. A key takes precedence over the certificate.
    ///
    /// # Errors
    ///
    /// [`AuthError`] if the credentials are missing or invalid, the scope is missing, or the caller has too many
    /// streams.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        source: CredentialSource,
        required_scope: Option<Scope>,
        stream: Option<StreamKind>,
    ) -> Result<Admitted, AuthError> {
        match stream {
            None => self.authenticate(headers, source, required_scope).map(Admitted::Call),
            Some(kind) => {
                self.admit_stream(headers, source, required_scope, kind).map(Admitted::Stream)
            }
        }
    }

    fn authenticate(
        &self,
        headers: &HeaderMap,
        source: CredentialSource,
        required_scope: Option<Scope>,
    ) -> Result<Arc<CallerShare>, AuthError> {
        let key = source.key(headers)?;
        let mut last = self.last.borrow_mut();
        let last = match &mut *last {
            Some(last) if last.is_still(self.callers.generation(), key) => last,
            other => other.insert(self.look_up(key)?),
        };
        last.caller.may(required_scope)?;
        Ok(last.share.clone())
    }

    fn admit_stream(
        &self,
        headers: &HeaderMap,
        source: CredentialSource,
        required_scope: Option<Scope>,
        kind: StreamKind,
    ) -> Result<StreamAdmission, AuthError> {
        // Subscribes before the lookup, so that no later change is missed.
        let changes = self.callers.changes();
        let share = self.authenticate(headers, source, required_scope)?;
        let permit = share.stream(kind).ok_or(AuthError::TooMany)?;
        let key = source.key(headers)?.map(KeyHash::of);
        let (callers, certificate) = (self.callers.clone(), self.certificate.clone());
        Ok(StreamAdmission {
            callers,
            key,
            certificate,
            required_scope,
            changes,
            _counted: (share, permit),
        })
    }

    fn look_up(&self, key: Option<&[u8]>) -> Result<LastCaller, AuthError> {
        // Read before the lookup: if the file changes in between, the next call looks up again.
        let generation = self.callers.generation();
        let caller = match key {
            Some(key) => self.callers.of_key(&KeyHash::of(key)).ok_or(AuthError::WrongKey)?,
            None => self.callers.of_certificate(&self.certificate).ok_or(AuthError::NoKey)?,
        };
        let share = self.callers.share(&caller.name);
        Ok(LastCaller { generation, key: key.map(Into::into), caller, share })
    }
}

/// The admission of a caller to one stream.
pub struct StreamAdmission {
    callers: Arc<Callers>,
    key: Option<KeyHash>,
    certificate: Vec<CertificateName>,
    required_scope: Option<Scope>,
    changes: watch::Receiver<()>,
    /// The share is held as well, so that [`Callers`] does not replace it while the stream is open.
    _counted: (Arc<CallerShare>, OwnedSemaphorePermit),
}

impl StreamAdmission {
    /// Waits until the caller's access is revoked, and returns the reason.
    pub async fn revoked(mut self) -> AuthError {
        loop {
            if let Err(refusal) = self.check() {
                return refusal;
            }
            if self.changes.changed().await.is_err() {
                return pending().await; // the file is not watched any more
            }
        }
    }

    fn check(&self) -> Result<(), AuthError> {
        let caller = match &self.key {
            Some(key) => self.callers.of_key(key).ok_or(AuthError::WrongKey)?,
            None => self.callers.of_certificate(&self.certificate).ok_or(AuthError::NoKey)?,
        };
        caller.may(self.required_scope)
    }
}

impl Caller {
    /// Fails if the caller lacks the scope. Without a required scope, the caller must have at least one.
    fn may(&self, required_scope: Option<Scope>) -> Result<(), AuthError> {
        match required_scope {
            Some(scope) if !self.scopes.contains(&scope) => Err(AuthError::NoScope(scope)),
            None if self.scopes.is_empty() => Err(AuthError::NoScope(Scope::Check)),
            Some(_) | None => Ok(()),
        }
    }
}

impl LastCaller {
    fn is_still(&self, generation: u64, key: Option<&[u8]>) -> bool {
        self.generation == generation
            && match (&self.key, key) {
                (Some(last), Some(now)) => verify_slices_are_equal(last, now).is_ok(),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

impl CredentialSource {
    /// The key in the headers, if there is exactly one.
    fn key(self, headers: &HeaderMap) -> Result<Option<&[u8]>, AuthError> {
        let authorization = match self {
            Self::Authorization | Self::Either => one(headers, &header::AUTHORIZATION)?,
            Self::ApiKey => None,
        };
        let api_key = match self {
            Self::ApiKey | Self::Either => one(headers, &API_KEY)?,
            Self::Authorization => None,
        };
        match (authorization, api_key) {
            (Some(_), Some(_)) => Err(AuthError::SeveralKeys),
            (Some(value), None) => bearer(value).map(Some).ok_or(AuthError::WrongKey),
            (None, api_key) => Ok(api_key),
        }
    }
}

/// The value of a header; several values are an error.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h [u8]>, AuthError> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next();
    if values.next().is_some() { Err(AuthError::SeveralKeys) } else { Ok(first) }
}

/// The key in `Bearer KEY`.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}
