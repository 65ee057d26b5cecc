//! A verdict as all protocols render it.

use super::{Denial, Grant, Subject, Verdict};

/// A verdict, flattened to the fields that callers receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// Whether the target is allowed.
    pub allowed: bool,
    /// The reason, by its name in the gRPC contract.
    pub reason: &'static str,
    /// The subject whose account explains the answer.
    pub subject: Option<&'a Subject>,
    /// The plan that explains the answer.
    pub plan: Option<&'a str>,
    /// The limit of the feature that is allowed; `None`: without a limit.
    pub limit: Option<u64>,
}

impl<'a> Verdict<'a> {
    /// The verdict as callers receive it.
    #[must_use]
    pub fn explain(self) -> Explanation<'a> {
        match self {
            Self::Allowed { reason, subject, plan, limit } => Explanation {
                allowed: true,
                reason: reason.name(),
                subject: Some(subject),
                plan,
                limit,
            },
            Self::Denied { reason, subject, plan } => {
                Explanation { allowed: false, reason: reason.name(), subject, plan, limit: None }
            }
        }
    }

    /// Whether the question names a feature or a scope that does not exist.
    #[must_use]
    pub fn is_unknown_target(self) -> bool {
        match self {
            Self::Allowed { .. } => false,
            Self::Denied { reason, .. } => {
                matches!(reason, Denial::UnknownFeature | Denial::UnknownScope)
            }
        }
    }
}

impl Grant {
    /// The name of the reason in the gRPC contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "REASON_PLAN",
            Self::Trial => "REASON_TRIAL",
            Self::CanceledButPaid => "REASON_CANCELED_BUT_PAID",
            Self::PastDueInGrace => "REASON_PAST_DUE_IN_GRACE",
            Self::RenewalOverdue => "REASON_RENEWAL_OVERDUE",
            Self::DefaultPlan => "REASON_DEFAULT_PLAN",
            Self::OverrideGrants => "REASON_OVERRIDE_GRANTS",
        }
    }
}

impl Denial {
    /// The name of the reason in the gRPC contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSubscription => "REASON_NO_SUBSCRIPTION",
            Self::NotInPlan => "REASON_NOT_IN_PLAN",
            Self::Abandoned => "REASON_ABANDONED",
            Self::Ended => "REASON_ENDED",
            Self::PeriodOver => "REASON_PERIOD_OVER",
            Self::TrialOver => "REASON_TRIAL_OVER",
            Self::NotStarted => "REASON_NOT_STARTED",
            Self::CheckoutIncomplete => "REASON_CHECKOUT_INCOMPLETE",
            Self::UnknownStatus => "REASON_UNKNOWN_STATUS",
            Self::UnknownPlan => "REASON_UNKNOWN_PLAN",
            Self::PastDue => "REASON_PAST_DUE",
            Self::SubjectDeleted => "REASON_SUBJECT_DELETED",
            Self::UnknownFeature => "REASON_UNKNOWN_FEATURE",
            Self::OutOfScope => "REASON_OUT_OF_SCOPE",
            Self::UnknownScope => "REASON_UNKNOWN_SCOPE",
            Self::Stale => "REASON_STALE",
            Self::OverrideDenies => "REASON_OVERRIDE_DENIES",
        }
    }
}
