//! Who calls on one connection.

use super::{Caller, Callers, Scope};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderValue, header};
use std::{cell::RefCell, sync::Arc};

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
}

/// One connection's callers. The last one is remembered, so that a busy connection's key is not hashed for each call:
/// then a call costs one comparison.
pub struct Session {
    callers: Arc<Callers>,
    /// The names in the certificate that the connection was opened with.
    certificate: Vec<String>,
    last: RefCell<Option<Last>>,
}

/// Who called last, by what, and of which reading of the file that is true.
struct Last {
    generation: u64,
    authorization: Option<HeaderValue>,
    caller: Arc<Caller>,
}

impl Session {
    /// A connection that has presented a certificate with these names, if any.
    #[must_use]
    pub fn new(callers: Arc<Callers>, certificate: Vec<String>) -> Self {
        Self { callers, certificate, last: RefCell::default() }
    }

    /// Lets a call in if its caller is known and has the scope, where one is needed. A key that is presented counts,
    /// and the certificate otherwise.
    pub fn admit(&self, headers: &HeaderMap, needed: Option<Scope>) -> Result<(), Refusal> {
        let authorization = authorization(headers)?;
        let mut last = self.last.borrow_mut();
        let last = match &mut *last {
            Some(last) if last.is_still(self.callers.generation(), authorization) => last,
            other => other.insert(self.recognize(authorization)?),
        };
        match needed {
            Some(scope) if !last.caller.scopes.contains(&scope) => Err(Refusal::NoScope(scope)),
            Some(_) | None => Ok(()),
        }
    }

    /// The name of who was let in last.
    #[must_use]
    pub fn last_caller(&self) -> Option<Arc<Caller>> {
        self.last.borrow().as_ref().map(|last| last.caller.clone())
    }

    fn recognize(&self, authorization: Option<&HeaderValue>) -> Result<Last, Refusal> {
        // Before the callers are looked up: if they change in between, this is looked up again.
        let generation = self.callers.generation();
        let caller = match authorization {
            Some(authorization) => {
                let key = bearer(authorization.as_bytes()).ok_or(Refusal::WrongKey)?;
                self.callers.of_key(key).ok_or(Refusal::WrongKey)?
            }
            None => self.callers.of_certificate(&self.certificate).ok_or(Refusal::NoKey)?,
        };
        Ok(Last { generation, authorization: authorization.cloned(), caller })
    }
}

impl Last {
    fn is_still(&self, generation: u64, authorization: Option<&HeaderValue>) -> bool {
        self.generation == generation
            && match (&self.authorization, authorization) {
                (Some(last), Some(now)) => {
                    verify_slices_are_equal(last.as_bytes(), now.as_bytes()).is_ok()
                }
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

/// The one `authorization`, if there is any.
fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let first = values.next();
    if values.next().is_some() { Err(Refusal::SeveralKeys) } else { Ok(first) }
}

/// The key in `Bearer KEY`.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}
