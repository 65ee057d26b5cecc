//! The decision: from accounts, a catalog, a question and an instant to an answer with its reason.
//!
//! Deciding is linear in the items of the accounts. Each verdict comes with the next instant at which it may change, so
//! `valid_until` is found in a few steps, however many items end before it.

mod candidates;
mod listed;
mod prepared;
mod steps;

pub use listed::{Entitlement, denials, entitlements};
#[cfg(test)]
pub(super) use prepared::LOOKED_AT;
pub use prepared::PreparedAccounts;
pub use steps::{Step, StepKind, steps};

use super::{
    Access, Account, Amount, Catalog, Denial, Effect, Grant, Item, Override, Plan, Question,
    QuestionScope, Slug, Subject, Target, Until,
};
use candidates::{Candidates, DenialCandidate, GrantCandidate};
use chrono::{DateTime, Utc};
use prepared::{Held, Holder};

/// The answer at one instant. It borrows from the accounts and the catalog from which it was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The subject may use the target.
    Allowed {
        /// The reason of the best grant.
        reason: Grant,
        /// The subject that has the plan or the override.
        subject: &'a Subject,
        /// The plan that grants; `None` for an override of a feature.
        plan: Option<&'a str>,
        /// The newest exact limit of an override, else the largest limit of all grants; `None`: one of them has no limit.
        limit: Option<u64>,
        /// Whether an override sets the limit exactly.
        is_exact: bool,
    },
    /// The subject may not use the target.
    Denied {
        /// The most specific reason.
        reason: Denial,
        /// The subject whose account explains the denial.
        subject: Option<&'a Subject>,
        /// The plan that would have granted the target, or that is not in the catalog.
        plan: Option<&'a str>,
    },
}

/// An answer, and until when it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The answer at the instant that was asked about.
    pub verdict: Verdict<'a>,
    /// The first instant at which time alone changes the answer; `None`: time alone never does.
    pub valid_until: Option<DateTime<Utc>>,
}

/// Answers a question about one subject, or about a user and the active organization together.
#[must_use]
pub fn decide<'a>(
    accounts: &[&'a Account],
    catalog: &'a Catalog,
    question: &Question<'_>,
    now: DateTime<Utc>,
) -> Decision<'a> {
    Case { accounts, catalog, question }.decision(now, Verdict::is_same_answer)
}

impl Decision<'_> {
    /// Turns a grant of a strict feature into a denial. Call it if the accounts may be outdated.
    #[must_use]
    pub fn deny_strict_if_stale(mut self, catalog: &Catalog, wanted: Target<'_>) -> Self {
        if let Verdict::Allowed { subject, plan, .. } = self.verdict
            && catalog.is_strict(wanted)
        {
            self.verdict = Verdict::Denied { reason: Denial::Stale, subject: Some(subject), plan };
        }
        self
    }
}

impl Account {
    /// The default plan, if it applies at `now`: no item grants access and no override grants a plan, or the plan of an
    /// item that grants access is unknown. It does not apply to a deleted subject.
    #[must_use]
    pub fn default_plan<'c>(&self, catalog: &'c Catalog, now: DateTime<Utc>) -> Option<&'c Slug> {
        let (standing, plans) =
            (self.standing(catalog.grace), catalog.plan_set(self.subject.kind()));
        let is_live = |item: &Item<&str>| matches!(standing.access(item, now), Access::Granted(..));
        let is_unknown = |item: Item<&str>| plans.find(item.plan_id, item.plan).is_none();
        let has_live_plan =
            || self.has_granted_plan(catalog, now) || self.items.iter().any(|item| is_live(&item));
        let has_unknown_plan = || self.items.iter().filter(is_live).any(is_unknown);
        let applies = self.deleted_at.is_none() && (!has_live_plan() || has_unknown_plan());
        plans.default_plan.as_ref().filter(|_| applies)
    }
}

impl Verdict<'_> {
    /// Whether an override denies the target.
    #[must_use]
    pub fn is_denied_by_override(&self) -> bool {
        matches!(self, Self::Denied { reason: Denial::OverrideDenies, .. })
    }

    /// Whether both count alike in a question about several subjects: only a denial by an override and an exact limit reach
    /// beyond their own subject.
    fn is_same_part(&self, other: &Self) -> bool {
        let reach = |verdict: &Self| {
            let is_exact = matches!(verdict, Self::Allowed { is_exact: true, .. });
            (is_exact, verdict.is_denied_by_override())
        };
        self.is_same_answer(other) && reach(self) == reach(other)
    }

    /// Whether both allow with equal subject, plan and limit, or both deny. The reasons may differ.
    fn is_same_answer(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Denied { .. }, Self::Denied { .. }) => true,
            (
                Self::Allowed { subject, plan, limit, .. },
                Self::Allowed { subject: subject2, plan: plan2, limit: limit2, .. },
            ) => (subject, plan, limit) == (subject2, plan2, limit2),
            _ => false,
        }
    }
}

/// One question and everything that its answer depends on, except the time.
struct Case<'a, 'q, H> {
    accounts: &'q [H],
    catalog: &'a Catalog,
    question: &'q Question<'q>,
}

impl<'a, H: Holder<'a>> Case<'a, '_, H> {
    /// The verdict, and the first instant at which the answer changes. The search takes few steps: each goes to the end
    /// of an override or of the best grant, or to the beginning of an override or of a default plan.
    fn decision(
        &self,
        now: DateTime<Utc>,
        is_same: fn(&Verdict<'a>, &Verdict<'a>) -> bool,
    ) -> Decision<'a> {
        let (verdict, mut next) = self.verdict(now);
        let valid_until = loop {
            let Until::Instant(at) = next else { break None };
            let (then, after) = self.verdict(at);
            if !is_same(&then, &verdict) {
                break Some(at);
            }
            next = after;
        };
        Decision { verdict, valid_until }
    }

    /// The verdict at `now`, and the next instant at which it may change.
    fn verdict(&self, now: DateTime<Utc>) -> (Verdict<'a>, Until) {
        let scope = self.question.scope;
        let mut candidates = Candidates::default();
        for holder in self.accounts.iter().filter(|h| scope.covers(h.account().subject.kind())) {
            self.collect(holder, now, &mut candidates);
        }
        let verdict = match (&candidates.best, candidates.denial) {
            (_, Some(denial)) if denial.reason == Denial::OverrideDenies => denial.into(),
            (Some(best), _) => match candidates.exact() {
                Some(exact) => exact.allows(exact.limit, true),
                None => best.allows(candidates.limit(), false),
            },
            (None, denial) => self.denied(denial),
        };
        (verdict, candidates.next_change())
    }

    /// Adds the grant and denial candidates of one account.
    fn collect(&self, holder: &H, now: DateTime<Utc>, candidates: &mut Candidates<'a>) {
        let account = holder.account();
        if account.deleted_at.is_some() {
            return candidates.refuses(Denial::SubjectDeleted, account, None);
        }
        let mut live_until = self.collect_overrides(account, now, candidates);
        for held in holder.held(self.catalog) {
            #[cfg(test)]
            prepared::LOOKED_AT.with(|count| count.set(count.get() + 1));
            if let Access::Granted(_, until) = held.claim.at(now) {
                live_until = live_until.max(Some(until));
            }
            self.collect_item(account, &held, now, candidates);
        }
        match live_until {
            Some(until) => {
                candidates.refuses(Denial::NotInPlan, account, None);
                if until != Until::Forever
                    && matches!(self.default_plan(account).1, Included::Yes(_))
                {
                    candidates.begins(until);
                }
            }
            None => self.collect_default_plan(account, candidates),
        }
    }

    fn collect_item(
        &self,
        account: &'a Account,
        held: &Held<'a>,
        now: DateTime<Utc>,
        candidates: &mut Candidates<'a>,
    ) {
        let plan = held.named;
        match (held.claim.at(now), self.included(account, held.plan)) {
            (Access::Granted(reason, until), Included::Yes(limit)) => {
                let steady_until = held.claim.reason_until(now);
                candidates.grants(GrantCandidate {
                    reason,
                    until,
                    steady_until,
                    account,
                    plan,
                    limit,
                });
            }
            (Access::Granted(_, until), Included::UnknownPlan) => {
                self.collect_stand_in(account, plan, until, candidates);
            }
            (Access::Refused(reason), Included::Yes(_)) => {
                candidates.refuses(reason, account, plan);
            }
            (Access::Granted(..), Included::No)
            | (Access::Refused(_), Included::No | Included::UnknownPlan) => {}
        }
    }

    /// Adds the default plan in place of the unknown plan of a live item: no paying subject has less than one that pays
    /// nothing.
    fn collect_stand_in(
        &self,
        account: &'a Account,
        unknown: Option<&'a str>,
        until: Until,
        candidates: &mut Candidates<'a>,
    ) {
        let reason = Grant::DefaultForUnknownPlan;
        match self.default_plan(account) {
            (plan, Included::Yes(limit)) => {
                candidates.grants(GrantCandidate::steady(reason, account, plan, limit, until));
            }
            (_, Included::No | Included::UnknownPlan) => {
                candidates.refuses(Denial::UnknownPlan, account, unknown);
            }
        }
    }

    /// Adds the overrides; returns until when one of them grants a plan, which counts as a live item.
    fn collect_overrides(
        &self,
        account: &'a Account,
        now: DateTime<Utc>,
        candidates: &mut Candidates<'a>,
    ) -> Option<Until> {
        let mut live_until = None;
        for found in &account.overrides {
            if found.is_in_force(now) {
                if self.collect_override(account, found, candidates) {
                    live_until = live_until.max(Some(found.until));
                }
            } else if let Some(from) = found.from
                && from > now
                && found.effect.may_concern(self.question)
            {
                candidates.begins(Until::Instant(from));
            }
        }
        live_until
    }

    /// Adds an override; returns whether it grants a plan of the catalog.
    fn collect_override(
        &self,
        account: &'a Account,
        found: &'a Override,
        candidates: &mut Candidates<'a>,
    ) -> bool {
        let until = found.until;
        let granted = |plan, limit| {
            GrantCandidate::steady(Grant::OverrideGrants, account, plan, limit, until)
        };
        let plans = self.catalog.plan_set(account.subject.kind());
        let plan_of = |slug: &Slug| plans.find(None, Some(slug.as_str()));
        match &found.effect {
            effect if !effect.may_concern(self.question) => {}
            Effect::DenyFeature(_) => candidates.denies(account, until),
            Effect::GrantFeature(_, Amount::Exactly(limit)) => {
                candidates.sets(found.age(), granted(None, Some(*limit)));
            }
            Effect::GrantFeature(_, amount) => candidates.grants(granted(None, amount.limit())),
            Effect::DenyPlan(slug) => match self.included(account, plan_of(slug)) {
                Included::Yes(_) => candidates.denies(account, until),
                Included::No | Included::UnknownPlan => {}
            },
            Effect::GrantPlan(slug) => {
                let plan = plan_of(slug);
                let named = Some(plan.map_or(slug, |(slug, _)| slug).as_str());
                match self.included(account, plan) {
                    Included::Yes(limit) => candidates.grants(granted(named, limit)),
                    Included::No => {}
                    Included::UnknownPlan => {
                        candidates.refuses(Denial::UnknownPlan, account, named);
                    }
                }
                return plan.is_some();
            }
        }
        false
    }

    /// Adds the default plan, for an account without a live item.
    fn collect_default_plan(&self, account: &'a Account, candidates: &mut Candidates<'a>) {
        let (reason, until) = (Grant::DefaultPlan, Until::Forever);
        match self.default_plan(account) {
            (plan, Included::Yes(limit)) => {
                candidates.grants(GrantCandidate::steady(reason, account, plan, limit, until));
            }
            (_, Included::No) => candidates.refuses(Denial::NotInPlan, account, None),
            (_, Included::UnknownPlan) => candidates.refuses(Denial::NoSubscription, account, None),
        }
    }

    fn default_plan(&self, account: &Account) -> (Option<&'a str>, Included) {
        let plans = self.catalog.plan_set(account.subject.kind());
        let plan = plans.default_plan();
        (plan.map(|(slug, _)| slug.as_str()), self.included(account, plan))
    }

    /// Whether a plan is the wanted plan, or has the wanted feature.
    fn included(&self, account: &Account, plan: Option<(&Slug, &Plan)>) -> Included {
        let Some((slug, plan)) = plan else { return Included::UnknownPlan };
        match self.question.wanted {
            Target::Feature(feature) => match plan.features.get(feature) {
                Some(limit) => Included::Yes(*limit),
                None => Included::No,
            },
            Target::Plan(wanted) => {
                let plans = self.catalog.plan_set(account.subject.kind());
                match plans.find(None, Some(wanted)) {
                    Some((wanted, _)) if wanted == slug => Included::Yes(None),
                    Some(_) | None => Included::No,
                }
            }
        }
    }

    /// The most specific denial: a fault of the question, if it has one, else the best candidate of the accounts.
    fn denied(&self, denial: Option<DenialCandidate<'a>>) -> Verdict<'a> {
        let known = || self.catalog.knows(self.question.wanted);
        let reason = match (self.question.scope, denial, self.question.wanted) {
            (QuestionScope::Unknown, _, _) => Denial::UnknownScope,
            (_, None, _) => Denial::OutOfScope,
            (_, Some(found), _) if found.reason == Denial::SubjectDeleted || known() => {
                return found.into();
            }
            (_, Some(_), Target::Feature(_)) => Denial::UnknownFeature,
            (_, Some(_), Target::Plan(_)) => Denial::UnknownPlan,
        };
        Verdict::Denied { reason, subject: None, plan: None }
    }
}

/// Whether a plan includes the target, and with which limit.
enum Included {
    Yes(Option<u64>),
    No,
    UnknownPlan,
}
