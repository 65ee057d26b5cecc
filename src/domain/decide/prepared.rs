//! Items with the facts that no question changes: the claim of each, and its plan in the catalog. For one question they
//! are worked out as the items are read, for many questions once.

use super::{Case, Decision};
use crate::domain::{Account, Catalog, Grace, Plan, Question, Slug, item::Claim};
use chrono::{DateTime, Utc};

#[cfg(test)]
thread_local! {
    /// How many items were looked at on this thread.
    pub(in crate::domain) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// An item, as far as it matters to deciding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    /// Its plan in the catalog.
    pub plan: Option<(&'a Slug, &'a Plan)>,
    /// The slug of the plan, or whatever is known of it.
    pub named: Option<&'a str>,
    pub claim: Claim,
}

/// An account whose items can be looked at one by one.
pub(super) trait Holder<'a> {
    fn account(&self) -> &'a Account;
    fn held(&self, catalog: &'a Catalog, grace: Grace) -> impl Iterator<Item = Held<'a>>;
}

impl<'a> Holder<'a> for &'a Account {
    fn account(&self) -> &'a Account {
        self
    }

    fn held(&self, catalog: &'a Catalog, grace: Grace) -> impl Iterator<Item = Held<'a>> {
        let account: &'a Account = self;
        let plans = catalog.shelf(account.subject.kind());
        let standing = account.standing(grace);
        account.items.iter().map(move |item| {
            let plan = plans.find(item.plan_id, item.plan);
            let named = plan.map(|(slug, _)| slug.as_str()).or(item.plan).or(item.plan_id);
            Held { plan, named, claim: standing.claim(&item) }
        })
    }
}

/// An account, and its items as they were looked at once.
#[derive(Debug)]
struct Prepared<'a> {
    account: &'a Account,
    held: Vec<Held<'a>>,
}

impl<'a> Holder<'a> for Prepared<'a> {
    fn account(&self) -> &'a Account {
        self.account
    }

    fn held(&self, _: &'a Catalog, _: Grace) -> impl Iterator<Item = Held<'a>> {
        self.held.iter().copied()
    }
}

/// Accounts that many questions are asked about: their items are unpacked and looked up in the catalog only once.
#[derive(Debug)]
pub struct PreparedAccounts<'a> {
    accounts: Vec<Prepared<'a>>,
    catalog: &'a Catalog,
    grace: Grace,
}

impl<'a> PreparedAccounts<'a> {
    /// Prepares these accounts for questions that this catalog and grace decide.
    #[must_use]
    pub fn new(
        accounts: impl IntoIterator<Item = &'a Account>,
        catalog: &'a Catalog,
        grace: Grace,
    ) -> Self {
        let prepared = accounts
            .into_iter()
            .map(|account| Prepared { account, held: account.held(catalog, grace).collect() });
        Self { accounts: prepared.collect(), catalog, grace }
    }

    /// Answers a question as [`decide`](super::decide) does.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>, now: DateTime<Utc>) -> Decision<'a> {
        let Self { accounts, catalog, grace } = self;
        Case { accounts, catalog, grace: *grace, question }.decision(now)
    }

    /// How many items there are to look at for each question.
    #[must_use]
    pub fn items(&self) -> usize {
        self.accounts.iter().map(|account| account.held.len()).sum()
    }
}
