//! An answer with its reason, as every protocol renders it.

use super::{Decision, Denial, Grant, Reason, Subject, Verdict};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::time::Duration;

/// An answer and everything that callers learn about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// Whether the target is allowed.
    pub allowed: bool,
    /// The reason of the decision.
    pub reason: Reason,
    /// The subject whose account explains the answer.
    pub subject: Option<&'a Subject>,
    /// The plan that explains the answer.
    pub plan: Option<&'a str>,
    /// The limit of the feature that is allowed; `None`: without a limit.
    pub limit: Option<u64>,
    /// The first instant at which time alone changes the answer; `None`: time alone never does.
    pub valid_until: Option<DateTime<Utc>>,
    /// The state of the data behind the answer.
    pub state: EvaluatedState,
}

/// The state of the data that answers were decided from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatedState {
    /// The instant of the answers, in whole milliseconds.
    pub checked_at: DateTime<Utc>,
    /// How far the accounts may be behind the database; `None`: not at all.
    pub stale_for: Option<Duration>,
    /// The token for the state of the catalog and the accounts.
    pub revision: String,
}

impl<'a> Explanation<'a> {
    /// Explains a decision that was made from data in this state.
    #[must_use]
    pub fn new(decision: Decision<'a>, state: EvaluatedState) -> Self {
        let Decision { verdict, valid_until } = decision;
        match verdict {
            Verdict::Allowed { reason, subject, plan, limit, .. } => {
                let (reason, subject) = (Reason::Grant(reason), Some(subject));
                Self { allowed: true, reason, subject, plan, limit, valid_until, state }
            }
            Verdict::Denied { reason, subject, plan } => {
                let (reason, limit) = (Reason::Denial(reason), None);
                Self { allowed: false, reason, subject, plan, limit, valid_until, state }
            }
        }
    }

    /// Whether the question names a feature or a scope that does not exist.
    #[must_use]
    pub fn is_unknown_target(&self) -> bool {
        matches!(self.reason, Reason::Denial(Denial::UnknownFeature | Denial::UnknownScope))
    }
}

/// The JSON of protobuf's `CheckFeatureResponse`, except that the limit is a number, and `stale` is added.
impl Serialize for Explanation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // RFC 3339 in whole milliseconds, the precision of all dates in our protocols.
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("allowed", &self.allowed)?;
        map.serialize_entry("reason", self.reason.name())?;
        if let Some(subject) = self.subject {
            map.serialize_entry("subject", subject.as_str())?;
        }
        if let Some(plan) = self.plan {
            map.serialize_entry("plan", plan)?;
        }
        if let Some(limit) = self.limit {
            map.serialize_entry("limit", &limit)?;
        }
        if let Some(until) = self.valid_until {
            map.serialize_entry("validUntil", &text(until))?;
        }
        map.serialize_entry("checkedAt", &text(self.state.checked_at))?;
        map.serialize_entry("revision", &self.state.revision)?;
        map.serialize_entry("stale", &self.state.stale_for.is_some())?;
        if let Some(age) = self.state.stale_for {
            map.serialize_entry("staleFor", &format!("{:.3}s", age.as_secs_f64()))?;
        }
        map.end()
    }
}

impl Reason {
    /// The name of the reason in the gRPC contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grant(reason) => reason.name(),
            Self::Denial(reason) => reason.name(),
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
            Self::DefaultForUnknownPlan => "REASON_DEFAULT_FOR_UNKNOWN_PLAN",
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
