//! All that is known of one subject.

use super::{
    Access, Catalog, Denial, Grace, Item, Items, Slug, Status, Subject, Until, item::Claim,
};
use chrono::{DateTime, Utc};
use std::{cell::OnceCell, collections::BTreeSet};

/// A subject's items and overrides at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Who pays.
    pub subject: Subject,
    /// Grows by one with every change; 0: nothing was ever heard of the subject.
    pub revision: u64,
    /// When Clerk deleted the subject: it has nothing any more.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Every item ever observed, also those that grant nothing: they explain a denial.
    pub items: Items,
    /// What operators decided.
    pub overrides: Box<[Override]>,
}

impl Account {
    /// The account of a subject of which nothing was ever heard.
    #[must_use]
    pub fn unknown(subject: Subject) -> Self {
        Self {
            subject,
            revision: 0,
            deleted_at: None,
            items: Items::default(),
            overrides: [].into(),
        }
    }

    /// Its items, each to be asked what it grants.
    #[must_use]
    pub fn standing(&self, grace: Grace) -> Standing<'_> {
        Standing { account: self, grace, lasted: OnceCell::new() }
    }

    /// Every feature that the account may have: by a plan for its kind of subject, or by an override.
    #[must_use]
    pub fn features<'a>(&'a self, catalog: &'a Catalog) -> BTreeSet<&'a Slug> {
        let plans = catalog.shelf(self.subject.kind()).plans.values();
        let by_plan = plans.flat_map(|plan| plan.features.keys());
        by_plan.chain(self.overrides.iter().map(|o| &o.feature)).collect()
    }

    /// The first instant after `now` at which time alone may change any answer about the subject, or its reason.
    #[must_use]
    pub fn next_boundary(&self, grace: Grace, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let items = self.items.iter().flat_map(|item| [item.end(grace), item.period_end]);
        let overrides = self.overrides.iter().map(|o| o.until.instant());
        items.chain(overrides).flatten().filter(|end| *end > now).min()
    }
}

/// The items of an account, each to be asked what it grants.
#[derive(Debug)]
pub struct Standing<'a> {
    account: &'a Account,
    grace: Grace,
    /// Until when items that were paid for lasted, the longest.
    lasted: OnceCell<Option<DateTime<Utc>>>,
}

impl Standing<'_> {
    /// The access that an item gives at `now`.
    #[must_use]
    pub fn access(&self, item: &Item<&str>, now: DateTime<Utc>) -> Access {
        self.claim(item).at(now)
    }

    /// The claim of an item, whatever the time is. A payment that failed for an item that never was active, while another
    /// one lasted that was paid for, is a failed upgrade: it was never paid for itself.
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

/// What an override does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Grants the feature, with this number if it has one.
    Grant(Option<u64>),
    /// Denies it, whatever plans say.
    Deny,
}

/// An operator's grant or denial of one feature to one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The feature.
    pub feature: Slug,
    /// Grant or denial.
    pub effect: Effect,
    /// When it stops to count.
    pub until: Until,
}
