//! A verdict in the words that all protocols use.

use super::{Denial, Grant, Subject, Verdict};

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told<'a> {
    /// Yes or no.
    pub allowed: bool,
    /// Why, by the name that the gRPC contract has for it.
    pub reason: &'static str,
    /// Whose plan or standing it is.
    pub subject: Option<&'a Subject>,
    /// The plan.
    pub plan: Option<&'a str>,
    /// The number that comes with what is allowed.
    pub limit: Option<u64>,
}

impl<'a> Verdict<'a> {
    /// The verdict in words.
    #[must_use]
    pub fn told(self) -> Told<'a> {
        match self {
            Self::Allowed { reason, subject, plan, limit } => {
                Told { allowed: true, reason: reason.name(), subject: Some(subject), plan, limit }
            }
            Self::Denied { reason, subject, plan } => {
                Told { allowed: false, reason: reason.name(), subject, plan, limit: None }
            }
        }
    }

    /// Whether the question was about something that does not exist.
    #[must_use]
    pub fn is_about_nothing(self) -> bool {
        match self {
            Self::Allowed { .. } => false,
            Self::Denied { reason, .. } => {
                matches!(reason, Denial::UnknownFeature | Denial::UnknownScope)
            }
        }
    }
}

impl Grant {
    /// Its name in the gRPC contract.
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
    /// Its name in the gRPC contract.
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
