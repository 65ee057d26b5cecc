//! What a caller may know of a failure.

use crate::{
    replica::Unavailable,
    storage::StoreError,
    telemetry::{Sampler, chain},
};

/// Why nothing can be answered, in words for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// In words.
    pub reason: String,
    /// What can be done about it.
    pub kind: FailureKind,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Ask less, or later.
    Crowded,
    /// Ask again.
    Passing,
    /// Look into the log of the service.
    Lasting,
}

impl Failure {
    /// The log gets the rest, here and nowhere else, of some of many.
    pub(super) fn of(error: &Unavailable, logged: &Sampler) -> Self {
        let Unavailable::Store(source) = error else {
            let kind = match error {
                Unavailable::Crowded => FailureKind::Crowded,
                Unavailable::Internal => FailureKind::Lasting,
                _ => FailureKind::Passing,
            };
            return Self { reason: error.to_string(), kind };
        };
        if source.is_transient() {
            if logged.takes() {
                tracing::warn!(error = chain(source), "cannot read accounts");
            }
            Self { reason: "the database is unavailable".into(), kind: FailureKind::Passing }
        } else {
            if logged.takes() {
                tracing::error!(error = chain(source), "cannot read accounts");
            }
            Self { reason: reason(source).into(), kind: FailureKind::Lasting }
        }
    }
}

/// What a caller is told of a failure that lasts.
fn reason(error: &StoreError) -> &'static str {
    match error {
        StoreError::Misconfigured(_) => {
            "the database refuses what this service does: see the log of the service"
        }
        _ => "the database holds something that this service cannot read",
    }
}
