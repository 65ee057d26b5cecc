//! The account: all that the database holds about one subject.

use super::{
    Access, Catalog, Denial, Effect, Grace, Item, Override, PackedItems, Slug, Status, Subject,
    item::Claim,
};
use chrono::{DateTime, Utc};
use std::{cell::OnceCell, collections::BTreeSet};

/// The items and overrides of a subject, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The Clerk user or organization that the account belongs to.
    pub subject: Subject,
    /// Grows by one with every change; 0: the database has no row for the subject.
    pub revision: u64,
    /// When Clerk deleted the subject; a deleted subject is denied everything.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Every item ever observed. An item that grants nothing explains a denial.
    pub items: PackedItems,
    /// The grants and denials that operators made and that were neither ended nor replaced.
    pub overrides: Box<[Override]>,
}

impl Account {
    /// The account of a subject for which the database has no row.
    #[must_use]
    pub fn unknown(subject: Subject) -> Self {
        Self {
            subject,
            revision: 0,
            deleted_at: None,
            items: PackedItems::default(),
            overrides: [].into(),
        }
    }

    /// Prepares to ask, item by item, for the access that each grants.
    #[must_use]
    pub fn standing(&self, grace: Grace) -> Standing<'_> {
        Standing { account: self, grace, lasted: OnceCell::new() }
    }

    /// Whether an override that is in force at `now` grants a plan of the catalog. Another plan counts for nothing, so that
    /// a grant never takes the default plan away.
    #[must_use]
    pub fn has_granted_plan(&self, catalog: &Catalog, now: DateTime<Utc>) -> bool {
        let plans = catalog.plan_set(self.subject.kind());
        let is_plan = |found: &&Override| match &found.effect {
            Effect::GrantPlan(slug) => plans.find(None, Some(slug.as_str())).is_some(),
            Effect::GrantFeature(..) | Effect::DenyFeature(_) | Effect::DenyPlan(_) => false,
        };
        self.overrides.iter().filter(is_plan).any(|found| found.is_in_force(now))
    }

    /// Every feature that a plan for this kind of subject has, or that an override of the account names.
    #[must_use]
    pub fn features<'a>(&'a self, catalog: &'a Catalog) -> BTreeSet<&'a Slug> {
        let plans = catalog.plan_set(self.subject.kind()).plans.values();
        let by_plan = plans.flat_map(|plan| plan.features.keys());
        by_plan.chain(self.overrides.iter().filter_map(|o| o.effect.feature())).collect()
    }

    /// The first instant after `now` at which time alone may change an answer about the subject, or its reason.
    #[must_use]
    pub fn next_boundary(&self, catalog: &Catalog, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let items = self.items.iter().flat_map(|item| [item.end(catalog.grace), item.period_end]);
        let overrides = self.overrides.iter().flat_map(|o| [o.from, o.until.instant()]);
        items.chain(overrides).flatten().filter(|at| *at > now).min()
    }
}

/// The items of an account and the grace: enough to say which access an item grants.
#[derive(Debug)]
pub struct Standing<'a> {
    account: &'a Account,
    grace: Grace,
    /// The latest instant until which a paid item lasted; computed when first needed.
    lasted: OnceCell<Option<DateTime<Utc>>>,
}

impl Standing<'_> {
    /// The access that an item of the account grants at `now`.
    #[must_use]
    pub fn access(&self, item: &Item<&str>, now: DateTime<Utc>) -> Access {
        self.claim(item).at(now)
    }

    /// The claim of an item, which does not depend on the time. If the payment failed for an item that was never active
    /// while another, paid item lasted, it is a failed upgrade: the item was never paid for and gets no grace.
    pub(super) fn claim(&self, item: &Item<&str>) -> Claim {
        if matches!(item.status, Status::PastDue) && !item.was_active {
            let failed_at = item.past_due_at.unwrap_or(item.updated_at);
            let lasted = *self.lasted.get_or_init(|| self.lasted());
            if lasted.is_some_and(|until| until >= failed_at) {
                return Claim::Refused(Denial::PastDue);
            }
        }
        item.claim(self.grace)
    }

    fn lasted(&self) -> Option<DateTime<Utc>> {
        self.account.items.iter().filter_map(|item| item.lasted()).max()
    }
}
