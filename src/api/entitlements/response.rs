//! Renders decisions as protobuf responses.

use crate::{
    api::pb,
    check::{CheckError, CheckErrorKind, CooperativeYield, EvaluatedAccounts, EvaluationContext},
    domain::{
        Access, Account, Denial, Explanation, Grant, Item, Question, Reason, Subject, Verdict,
    },
    replica::FreshnessState,
};
use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use std::time::Duration;
use tonic::Status;

impl From<Explanation<'_>> for pb::CheckFeatureResponse {
    fn from(answer: Explanation<'_>) -> Self {
        Self {
            allowed: answer.allowed,
            reason: pb::Reason::from(answer.reason).into(),
            subject: text(answer.subject.map(Subject::as_str)),
            plan: text(answer.plan),
            limit: answer.limit,
            valid_until: instant(answer.valid_until),
            checked_at: instant(Some(answer.state.checked_at)),
            stale_for: age(answer.state.stale_for),
            revision: answer.state.revision,
        }
    }
}

impl From<Explanation<'_>> for pb::CheckPlanResponse {
    fn from(answer: Explanation<'_>) -> Self {
        Self {
            allowed: answer.allowed,
            reason: pb::Reason::from(answer.reason).into(),
            subject: text(answer.subject.map(Subject::as_str)),
            plan: text(answer.plan),
            valid_until: instant(answer.valid_until),
            checked_at: instant(Some(answer.state.checked_at)),
            stale_for: age(answer.state.stale_for),
            revision: answer.state.revision,
        }
    }
}

/// Renders how far an answer may be behind Postgres; `None`: not at all.
pub(super) fn age(stale_for: Option<Duration>) -> Option<prost_types::Duration> {
    stale_for.and_then(|age| age.try_into().ok())
}

/// Renders all entitlements and items of the first of these accounts.
pub(super) async fn account(
    evaluated: &EvaluatedAccounts,
    evaluation: &EvaluationContext,
) -> pb::Account {
    let (catalog, now) = (evaluation.catalog(), evaluation.now);
    let (account, prepared) = (evaluated.first(), evaluation.prepare(evaluated));
    let (mut entitlements, mut denied) = (Vec::new(), Vec::new());
    let mut yielding = CooperativeYield::default();
    for feature in account.features(catalog) {
        let decision = prepared.decide_as_part(&Question::of(feature));
        let valid_until = instant(decision.valid_until);
        if let Verdict::Allowed { reason, plan, limit, is_exact, .. } = decision.verdict {
            entitlements.push(pb::Entitlement {
                feature: feature.to_string(),
                reason: pb::Reason::from(reason).into(),
                plan: text(plan),
                limit,
                valid_until,
                exact_limit: is_exact,
            });
        } else if decision.verdict.is_denied_by_override() {
            denied.push(pb::DeniedFeature { feature: feature.to_string(), valid_until });
        }
        yielding.answered(prepared.items()).await;
    }
    let default_plan = account.default_plan(catalog, now);
    pb::Account {
        subject: account.subject.to_string(),
        entitlements,
        items: items(account, evaluation),
        default_plan: default_plan.map(ToString::to_string).unwrap_or_default(),
        deleted_at: instant(account.deleted_at),
        denied,
        valid_until: instant(account.next_boundary(catalog, now)),
    }
}

fn items(account: &Account, evaluation: &EvaluationContext) -> Vec<pb::Item> {
    let catalog = evaluation.catalog();
    let (plans, standing) =
        (catalog.plan_set(account.subject.kind()), account.standing(catalog.grace));
    let items = account.items.iter().map(|found| {
        let plan = plans.find(found.plan_id, found.plan).map(|(slug, _)| slug.as_str());
        item(&found, standing.access(&found, evaluation.now), plan)
    });
    items.collect()
}

/// Renders an item. Its plan is the slug in the catalog, else the slug in Clerk's payload.
pub(in crate::api) fn item(item: &Item<&str>, access: Access, plan: Option<&str>) -> pb::Item {
    let (live, reason) = match access {
        Access::Granted(_, _) if plan.is_none() => (true, pb::Reason::UnknownPlan),
        Access::Granted(grant, _) => (true, grant.into()),
        Access::Refused(denial) => (false, denial.into()),
    };
    pb::Item {
        id: item.id.to_string(),
        plan: text(plan.or(item.plan)),
        status: item.status.to_string(),
        live,
        reason: reason.into(),
        free_trial: item.free_trial,
        period_start: instant(item.period_start),
        period_end: instant(item.period_end),
        canceled_at: instant(item.canceled_at),
        seats: item.seats.map(|seats| pb::Seats { quantity: seats.0 }),
        updated_at: instant(Some(item.updated_at)),
    }
}

/// Renders an absent text as an empty one.
pub(in crate::api) fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

impl From<Reason> for pb::Reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Grant(reason) => reason.into(),
            Reason::Denial(reason) => reason.into(),
        }
    }
}

impl From<Grant> for pb::Reason {
    fn from(grant: Grant) -> Self {
        match grant {
            Grant::Plan => Self::Plan,
            Grant::Trial => Self::Trial,
            Grant::CanceledButPaid => Self::CanceledButPaid,
            Grant::PastDueInGrace => Self::PastDueInGrace,
            Grant::RenewalOverdue => Self::RenewalOverdue,
            Grant::DefaultPlan => Self::DefaultPlan,
            Grant::DefaultForUnknownPlan => Self::DefaultForUnknownPlan,
            Grant::OverrideGrants => Self::OverrideGrants,
        }
    }
}

impl From<Denial> for pb::Reason {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::OverrideDenies => Self::OverrideDenies,
            Denial::Stale => Self::Stale,
            Denial::SubjectDeleted => Self::SubjectDeleted,
            Denial::UnknownScope => Self::UnknownScope,
            Denial::OutOfScope => Self::OutOfScope,
            Denial::UnknownFeature => Self::UnknownFeature,
            Denial::UnknownPlan => Self::UnknownPlan,
            Denial::PastDue => Self::PastDue,
            Denial::UnknownStatus => Self::UnknownStatus,
            Denial::CheckoutIncomplete => Self::CheckoutIncomplete,
            Denial::NotStarted => Self::NotStarted,
            Denial::PeriodOver => Self::PeriodOver,
            Denial::TrialOver => Self::TrialOver,
            Denial::Ended => Self::Ended,
            Denial::Abandoned => Self::Abandoned,
            Denial::NotInPlan => Self::NotInPlan,
            Denial::NoSubscription => Self::NoSubscription,
        }
    }
}

impl From<FreshnessState> for pb::Freshness {
    fn from(state: FreshnessState) -> Self {
        match state {
            FreshnessState::Starting => Self::Starting,
            FreshnessState::Fresh => Self::Fresh,
            FreshnessState::Unconfirmed(_) => Self::Unconfirmed,
            FreshnessState::Stale(_) => Self::Stale,
            FreshnessState::Expired => Self::Expired,
        }
    }
}

/// Renders a failed check as a gRPC status.
pub(in crate::api) fn status(CheckError { reason, kind }: CheckError) -> Status {
    match kind {
        CheckErrorKind::Overloaded => Status::resource_exhausted(reason),
        CheckErrorKind::Transient => Status::unavailable(reason),
        CheckErrorKind::Permanent => Status::internal(reason),
    }
}

/// Renders an instant in whole milliseconds, the precision of all dates in this API.
pub(in crate::api) fn instant(at: Option<DateTime<Utc>>) -> Option<Timestamp> {
    at.map(|at| {
        let ms = at.timestamp_millis();
        let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).expect("less than a second");
        Timestamp { seconds: ms.div_euclid(1000), nanos }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_names_of_the_contract_in_every_protocol() {
        for (at, grant) in Grant::ALL.into_iter().enumerate() {
            assert_eq!(pb::Reason::from(grant).as_str_name(), grant.name());
            assert_eq!(grant as usize, at);
        }
        for (at, denial) in Denial::ALL.into_iter().enumerate() {
            assert_eq!(pb::Reason::from(denial).as_str_name(), denial.name());
            assert_eq!(denial as usize, at);
        }
    }
}
