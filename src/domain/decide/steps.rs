//! The steps of a decision: everything that was weighed for a question, each with the reason that it gives. Each step is
//! collected alone, by the functions that collect all of them for the verdict.

use super::{
    Candidates, Case, Verdict,
    prepared::{Held, Holder},
};
use crate::domain::{
    Access, Account, Amount, Catalog, Denial, Effect, Grant, Item, Override, OverrideId, Question,
    QuestionScope, Reason, Subject, Until, item::Claim,
};
use chrono::{DateTime, Utc};
use std::cmp::Reverse;

/// One thing that was weighed for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// The kind of thing that was weighed.
    pub kind: StepKind<'a>,
    /// The subject that it belongs to.
    pub subject: Option<&'a Subject>,
    /// The plan that it grants or would grant.
    pub plan: Option<&'a str>,
    /// The reason to allow or deny that it gives.
    pub reason: Reason,
    /// The limit that it grants; `None`: no limit, or it does not grant.
    pub limit: Option<u64>,
    /// When its access ends or ended; `None`: it has no end, or never granted access.
    pub until: Option<DateTime<Utc>>,
    /// Whether it decided.
    pub is_decisive: bool,
}

/// The kind of thing that a step weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind<'a> {
    /// A subscription item.
    Item(Item<&'a str>),
    /// An override of the feature or of a plan.
    Override(&'a Override),
    /// The default plan, because no item of the subject is live.
    DefaultPlan,
    /// The deletion of the subject.
    Deletion,
    /// The scope of the question, which leaves the subject out or does not exist.
    Scope,
    /// The catalog, which has no such feature or plan.
    Catalog,
    /// The age of the data: the catalog marks the feature as strict.
    Staleness,
}

/// Everything that is weighed for the verdict on a question, the decisive step first.
#[must_use]
pub fn steps<'a>(
    accounts: &[&'a Account],
    catalog: &'a Catalog,
    question: &Question<'_>,
    verdict: &Verdict<'a>,
    now: DateTime<Utc>,
) -> Vec<Step<'a>> {
    let case = Case { accounts, catalog, question };
    let mut steps = Vec::new();
    for account in accounts {
        case.add_steps(account, now, &mut steps);
    }
    mark_decisive(verdict, &mut steps);
    steps
}

impl<'a> Case<'a, '_, &'a Account> {
    fn add_steps(&self, account: &'a Account, now: DateTime<Utc>, steps: &mut Vec<Step<'a>>) {
        let outside = match self.question.scope {
            QuestionScope::Unknown => Some(Denial::UnknownScope),
            scope if !scope.covers(account.subject.kind()) => Some(Denial::OutOfScope),
            QuestionScope::Any | QuestionScope::Only(_) => None,
        };
        if let Some(denial) = outside {
            return steps.push(Step::refusing(StepKind::Scope, account, denial));
        }
        if account.deleted_at.is_some() {
            return steps.push(Step::refusing(StepKind::Deletion, account, Denial::SubjectDeleted));
        }
        for found in account.overrides.iter().filter(|found| found.is_in_force(now)) {
            let mut alone = Candidates::default();
            self.collect_override(account, found, &mut alone);
            let until = found.until.instant();
            steps.extend(Step::of(StepKind::Override(found), account, &alone, until));
        }
        let mut has_live_item = account.has_granted_plan(self.catalog, now);
        for (item, held) in account.items.iter().zip(account.held(self.catalog)) {
            has_live_item |= matches!(held.claim.at(now), Access::Granted(..));
            steps.push(self.item_step(account, item, &held, now));
        }
        if !has_live_item {
            let mut alone = Candidates::default();
            self.collect_default_plan(account, &mut alone);
            let step = Step::of(StepKind::DefaultPlan, account, &alone, None);
            steps.extend(step.map(|step| Step { plan: self.default_plan(account).0, ..step }));
        }
    }

    fn item_step(
        &self,
        account: &'a Account,
        item: Item<&'a str>,
        held: &Held<'a>,
        now: DateTime<Utc>,
    ) -> Step<'a> {
        let mut alone = Candidates::default();
        self.collect_item(account, held, now, &mut alone);
        let until = match held.claim {
            Claim::Granted { until: Until::Instant(until), .. } => Some(until),
            Claim::Granted { until: Until::Forever, .. } | Claim::Refused(_) => None,
        };
        // An item whose plan lacks the target gives no reason by itself.
        let alone = Step::of(StepKind::Item(item), account, &alone, until);
        let step = alone.unwrap_or_else(|| match held.claim.at(now) {
            Access::Granted(..) => {
                Step { until, ..Step::refusing(StepKind::Item(item), account, Denial::NotInPlan) }
            }
            Access::Refused(denial) => {
                Step { until, ..Step::refusing(StepKind::Item(item), account, denial) }
            }
        });
        match step.reason {
            Reason::Grant(Grant::DefaultForUnknownPlan) => step,
            Reason::Grant(_) | Reason::Denial(_) => Step { plan: held.named, ..step },
        }
    }
}

impl<'a> Step<'a> {
    fn refusing(kind: StepKind<'a>, account: &'a Account, denial: Denial) -> Self {
        let (subject, reason) = (Some(&account.subject), Reason::Denial(denial));
        Self { kind, subject, plan: None, reason, limit: None, until: None, is_decisive: false }
    }

    /// The step of what was collected alone.
    fn of(
        kind: StepKind<'a>,
        account: &'a Account,
        alone: &Candidates<'a>,
        until: Option<DateTime<Utc>>,
    ) -> Option<Self> {
        let limit = alone.limit();
        match (alone.best, alone.denial) {
            (Some(found), _) => Some(Self {
                kind,
                subject: Some(&account.subject),
                plan: found.plan,
                reason: Reason::Grant(found.reason),
                limit,
                until,
                is_decisive: false,
            }),
            (None, Some(found)) => Some(Self {
                until,
                plan: found.plan,
                ..Self::refusing(kind, account, found.reason)
            }),
            (None, None) => None,
        }
    }

    /// The age of an override that sets the limit exactly.
    fn exact_age(&self) -> Option<(DateTime<Utc>, OverrideId)> {
        match self.kind {
            StepKind::Override(found) => match found.effect {
                Effect::GrantFeature(_, Amount::Exactly(_)) => Some(found.age()),
                Effect::GrantFeature(..)
                | Effect::GrantPlan(_)
                | Effect::DenyFeature(_)
                | Effect::DenyPlan(_) => None,
            },
            StepKind::Item(_)
            | StepKind::DefaultPlan
            | StepKind::Deletion
            | StepKind::Scope
            | StepKind::Catalog
            | StepKind::Staleness => None,
        }
    }

    /// Whether the step gives the reason of the verdict, for its subject and plan.
    fn gives(&self, verdict: &Verdict<'_>) -> bool {
        match *verdict {
            Verdict::Allowed { reason, subject, plan, .. } => {
                self.reason == Reason::Grant(reason)
                    && self.subject == Some(subject)
                    && self.plan == plan
            }
            Verdict::Denied { reason, subject, plan } => {
                self.reason == Reason::Denial(reason)
                    && (subject.is_none() || self.subject == subject)
                    && (plan.is_none() || self.plan == plan)
            }
        }
    }
}

/// Marks the step that decided, and moves it to the front. Of several grants, the newest exact override decided, else the
/// one that lasts longest. If no step of an account gives the reason, the data was stale, or the catalog does not know the target.
fn mark_decisive<'a>(verdict: &Verdict<'a>, steps: &mut Vec<Step<'a>>) {
    let giving = steps.iter().enumerate().filter(|(_, step)| step.gives(verdict));
    let lasts = |step: &Step<'_>| step.until.map_or(Until::Forever, Until::Instant);
    let decisive = match verdict {
        Verdict::Allowed { .. } => giving.max_by_key(|(nth, step)| {
            (step.exact_age(), lasts(step), step.limit.is_none(), step.limit, Reverse(*nth))
        }),
        // The question names a feature or a plan that the catalog does not have.
        Verdict::Denied {
            reason: Denial::UnknownFeature | Denial::UnknownPlan,
            subject: None,
            ..
        } => None,
        Verdict::Denied { .. } => giving.min_by_key(|(nth, _)| *nth),
    };
    let mut step = match (decisive.map(|(nth, _)| nth), *verdict) {
        (Some(nth), _) => steps.remove(nth),
        (None, Verdict::Denied { reason, subject, plan }) => Step {
            kind: if reason == Denial::Stale { StepKind::Staleness } else { StepKind::Catalog },
            subject,
            plan,
            reason: Reason::Denial(reason),
            limit: None,
            until: None,
            is_decisive: true,
        },
        (None, Verdict::Allowed { .. }) => return,
    };
    step.is_decisive = true;
    steps.insert(0, step);
}
