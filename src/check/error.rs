//! The errors of a check, without internal details: callers see them.

use crate::{
    replica::Unavailable,
    telemetry::{Sampler, log_chain},
};

/// Why a check cannot be answered, in a text for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CheckError {
    /// The text for the caller.
    pub reason: String,
    /// The remedy.
    pub kind: CheckErrorKind,
}

/// The remedy for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckErrorKind {
    /// Too many calls: retry later, with fewer calls.
    Overloaded,
    /// Passes by itself: retry.
    Transient,
    /// Needs an operator: see the log of the service.
    Permanent,
}

impl CheckError {
    /// Removes details of a failure of the database, and logs them, if the sampler takes the failure.
    pub(super) fn of(error: &Unavailable, logged: &Sampler) -> Self {
        let Unavailable::Store(source) = error else {
            let kind = match error {
                Unavailable::Overloaded => CheckErrorKind::Overloaded,
                Unavailable::Internal => CheckErrorKind::Permanent,
                _ => CheckErrorKind::Transient,
            };
            return Self { reason: error.to_string(), kind };
        };
        if source.is_transient() {
            if logged.takes() {
                tracing::warn!(error = log_chain(source), "cannot read accounts");
            }
            Self { reason: source.public_reason().into(), kind: CheckErrorKind::Transient }
        } else {
            if logged.takes() {
                tracing::error!(error = log_chain(source), "cannot read accounts");
            }
            Self { reason: source.public_reason().into(), kind: CheckErrorKind::Permanent }
        }
    }
}
