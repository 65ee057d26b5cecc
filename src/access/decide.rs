//! The decision: accounts, a catalog, a question and an instant in; an answer with its reason out.

use super::{
    Access, Account, Catalog, Denial, Effect, Grace, Grant, Item, Override, Question, Scope, Slug,
    Subject, Until, Wanted,
};
use chrono::{DateTime, Utc};
use std::{cmp::Reverse, collections::BTreeSet};

/// The answer at one instant. What it names is borrowed from the accounts and the catalog it was decided from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Yes.
    Allowed {
        /// Why.
        reason: Grant,
        /// Whose plan or override it is.
        subject: &'a Subject,
        /// The plan; `None` for an override.
        plan: Option<&'a str>,
        /// The largest number of all that grant; `None`: not limited.
        limit: Option<u64>,
    },
    /// No.
    Denied {
        /// Why.
        reason: Denial,
        /// Whose standing explains it.
        subject: Option<&'a Subject>,
        /// The plan that would have granted it, or that is unknown.
        plan: Option<&'a str>,
    },
}

/// The answer, and how long it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The answer.
    pub verdict: Verdict<'a>,
    /// The first instant at which time alone changes the answer; `None`: never.
    pub valid_until: Option<DateTime<Utc>>,
}

/// Answers a question about one subject, or about a user and the active organization together.
#[must_use]
pub fn decide<'a>(
    accounts: &[&'a Account],
    catalog: &'a Catalog,
    grace: Grace,
    question: &Question<'_>,
    now: DateTime<Utc>,
) -> Decision<'a> {
    let case = Case { accounts, catalog, grace, question };
    let verdict = case.verdict(now);
    let mut at = now;
    let valid_until = loop {
        match case.next_boundary(at) {
            None => break None,
            Some(boundary) if !case.verdict(boundary).same_answer(&verdict) => {
                break Some(boundary);
            }
            Some(boundary) => at = boundary,
        }
    };
    Decision { verdict, valid_until }
}

impl Decision<'_> {
    /// What of this decision holds although what it was decided from may be outdated: no grant of a strict feature.
    #[must_use]
    pub fn although_stale(mut self, catalog: &Catalog, wanted: Wanted<'_>) -> Self {
        if let Verdict::Allowed { subject, plan, .. } = self.verdict
            && catalog.is_strict(wanted)
        {
            self.verdict = Verdict::Denied { reason: Denial::Stale, subject: Some(subject), plan };
        }
        self
    }
}

/// One feature that a subject may use, and the decision that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entitlement<'a> {
    /// The feature.
    pub feature: &'a Slug,
    /// The decision; it allows.
    pub decision: Decision<'a>,
}

/// Every feature that one subject may use at `now`, by slug.
#[must_use]
pub fn entitlements<'a>(
    account: &'a Account,
    catalog: &'a Catalog,
    grace: Grace,
    now: DateTime<Utc>,
) -> Vec<Entitlement<'a>> {
    let shelf = catalog.shelf(account.subject.kind());
    let by_plan = shelf.plans.values().flat_map(|plan| plan.features.keys());
    let by_override = account.overrides.iter().map(|o| &o.feature);
    let features: BTreeSet<&Slug> = by_plan.chain(by_override).collect();
    let asked = features.into_iter().map(|feature| {
        let question = Question::of(feature);
        Entitlement { feature, decision: decide(&[account], catalog, grace, &question, now) }
    });
    asked.filter(|e| matches!(e.decision.verdict, Verdict::Allowed { .. })).collect()
}

impl Account {
    /// The plan that stands in at `now` because no item is live.
    #[must_use]
    pub fn default_plan<'c>(
        &self,
        catalog: &'c Catalog,
        grace: Grace,
        now: DateTime<Utc>,
    ) -> Option<&'c Slug> {
        let standing = self.standing(grace, now);
        let live = |item: Item<&str>| matches!(standing.access(&item), Access::Granted(..));
        if self.deleted_at.is_some() || self.items.iter().any(live) {
            return None;
        }
        catalog.shelf(self.subject.kind()).default_plan.as_ref()
    }
}

impl Verdict<'_> {
    /// Whether a caller would see the same, but for a finer reason.
    fn same_answer(&self, other: &Self) -> bool {
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

/// One question and all that is needed to answer it, but for the time.
struct Case<'a, 'q> {
    accounts: &'q [&'a Account],
    catalog: &'a Catalog,
    grace: Grace,
    question: &'q Question<'q>,
}

impl<'a> Case<'a, '_> {
    fn verdict(&self, now: DateTime<Utc>) -> Verdict<'a> {
        let mut scales = Scales { heaviest: None, limit: Some(0), telling: None };
        for account in self.in_scope() {
            self.weigh(account, now, &mut scales);
        }
        match (scales.heaviest, scales.telling) {
            (_, Some(against)) if against.reason == Denial::OverrideDenies => against.into(),
            (Some(heaviest), _) => heaviest.allows(scales.limit),
            (None, against) => self.denied(against),
        }
    }

    fn in_scope(&self) -> impl Iterator<Item = &'a Account> {
        let scope = self.question.scope;
        self.accounts.iter().copied().filter(move |a| scope.covers(a.subject.kind()))
    }

    /// Puts all that speaks for and against one account on the scales.
    fn weigh(&self, account: &'a Account, now: DateTime<Utc>, scales: &mut Scales<'a>) {
        if account.deleted_at.is_some() {
            return scales.against(Denial::SubjectDeleted, account, None);
        }
        self.weigh_overrides(account, now, scales);
        let standing = account.standing(self.grace, now);
        let mut live = false;
        for item in &account.items {
            let (plan, included) = self.included(account, item.plan_id, item.plan);
            match (standing.access(&item), included) {
                (Access::Granted(reason, until), Included::Yes(limit)) => {
                    live = true;
                    scales.favour(For { reason, until, account, plan, limit });
                }
                (Access::Granted(..), Included::UnknownPlan) => {
                    live = true;
                    scales.against(Denial::UnknownPlan, account, plan);
                }
                (Access::Granted(..), Included::No) => live = true,
                (Access::Refused(reason), Included::Yes(_)) => {
                    scales.against(reason, account, plan);
                }
                (Access::Refused(_), Included::No | Included::UnknownPlan) => {}
            }
        }
        if live {
            scales.against(Denial::NotInPlan, account, None);
        } else {
            self.weigh_default_plan(account, scales);
        }
    }

    /// The overrides of the wanted feature that count at `now`.
    fn weigh_overrides(&self, account: &'a Account, now: DateTime<Utc>, scales: &mut Scales<'a>) {
        let Wanted::Feature(feature) = self.question.wanted else { return };
        let counts = |o: &&Override| o.feature.as_str() == feature && o.until > Until::Instant(now);
        for found in account.overrides.iter().filter(counts) {
            match found.effect {
                Effect::Deny => scales.against(Denial::OverrideDenies, account, None),
                Effect::Grant(limit) => scales.favour(For {
                    reason: Grant::OverrideGrants,
                    until: found.until,
                    account,
                    plan: None,
                    limit,
                }),
            }
        }
    }

    /// The plan of those who hold no other.
    fn weigh_default_plan(&self, account: &'a Account, scales: &mut Scales<'a>) {
        let plan = self.catalog.shelf(account.subject.kind()).default_plan.as_ref();
        let plan = plan.map(Slug::as_str);
        let (reason, until) = (Grant::DefaultPlan, Until::Forever);
        match self.included(account, None, plan).1 {
            Included::Yes(limit) => scales.favour(For { reason, until, account, plan, limit }),
            Included::No => scales.against(Denial::NotInPlan, account, None),
            Included::UnknownPlan => scales.against(Denial::NoSubscription, account, None),
        }
    }

    /// The plan of an item, by the slug that it has now, and whether it is, or has, what is wanted.
    fn included<'s>(
        &self,
        account: &Account,
        id: Option<&'s str>,
        slug: Option<&'s str>,
    ) -> (Option<&'s str>, Included)
    where
        'a: 's,
    {
        let plans = self.catalog.shelf(account.subject.kind());
        let Some((slug, plan)) = plans.find(id, slug) else {
            return (slug.or(id), Included::UnknownPlan);
        };
        let included = match self.question.wanted {
            Wanted::Feature(feature) => match plan.features.get(feature) {
                Some(limit) => Included::Yes(*limit),
                None => Included::No,
            },
            Wanted::Plan(wanted) => match plans.find(None, Some(wanted)) {
                Some((wanted, _)) if wanted == slug => Included::Yes(None),
                Some(_) | None => Included::No,
            },
        };
        (Some(slug.as_str()), included)
    }

    /// The most telling denial: what is wrong with the question itself, else with the accounts.
    fn denied(&self, against: Option<Against<'a>>) -> Verdict<'a> {
        let known = || self.catalog.knows(self.question.wanted);
        let reason = match (self.question.scope, against, self.question.wanted) {
            (Scope::Unknown, _, _) => Denial::UnknownScope,
            (_, None, _) => Denial::OutOfScope,
            (_, Some(found), _) if found.reason == Denial::SubjectDeleted || known() => {
                return found.into();
            }
            (_, Some(_), Wanted::Feature(_)) => Denial::UnknownFeature,
            (_, Some(_), Wanted::Plan(_)) => Denial::UnknownPlan,
        };
        Verdict::Denied { reason, subject: None, plan: None }
    }

    /// The first instant after `at` at which time alone ends something that could matter.
    fn next_boundary(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let ends = |account: &'a Account| {
            let items = account.items.iter().filter_map(|item| item.end(self.grace));
            let overrides = account.overrides.iter().filter_map(|o| o.until.instant());
            items.chain(overrides)
        };
        self.in_scope().flat_map(ends).filter(|end| *end > at).min()
    }
}

/// Whether a plan has what is wanted, and the number that comes with it.
enum Included {
    Yes(Option<u64>),
    No,
    UnknownPlan,
}

/// What was found for and against, so far.
struct Scales<'a> {
    heaviest: Option<For<'a>>,
    /// The largest number of all that grant; `None` as soon as one grants without a number.
    limit: Option<u64>,
    telling: Option<Against<'a>>,
}

/// Something that grants.
struct For<'a> {
    reason: Grant,
    until: Until,
    account: &'a Account,
    plan: Option<&'a str>,
    limit: Option<u64>,
}

/// Something that explains a denial.
#[derive(Clone, Copy)]
struct Against<'a> {
    reason: Denial,
    account: &'a Account,
    plan: Option<&'a str>,
}

impl<'a> Scales<'a> {
    fn favour(&mut self, found: For<'a>) {
        self.limit = self.limit.zip(found.limit).map(|(a, b)| a.max(b));
        if self.heaviest.as_ref().is_none_or(|heaviest| found.weight() > heaviest.weight()) {
            self.heaviest = Some(found);
        }
    }

    fn against(&mut self, reason: Denial, account: &'a Account, plan: Option<&'a str>) {
        if self.telling.is_none_or(|telling| reason > telling.reason) {
            self.telling = Some(Against { reason, account, plan });
        }
    }
}

impl<'a> For<'a> {
    /// An operator's word first, then what lasts longest; the rest only makes the order total.
    fn weight(&self) -> impl Ord + use<'a> {
        let no_number = self.limit.is_none();
        let by_operator = self.reason == Grant::OverrideGrants;
        (by_operator, self.until, self.reason, no_number, self.limit, Reverse(self.plan))
    }

    fn allows(&self, limit: Option<u64>) -> Verdict<'a> {
        let (reason, subject, plan) = (self.reason, &self.account.subject, self.plan);
        Verdict::Allowed { reason, subject, plan, limit }
    }
}

impl<'a> From<Against<'a>> for Verdict<'a> {
    fn from(found: Against<'a>) -> Self {
        let (reason, subject) = (found.reason, Some(&found.account.subject));
        Self::Denied { reason, subject, plan: found.plan }
    }
}
