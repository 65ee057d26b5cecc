//! Items with the facts that do not depend on the question: the claim of each, and its plan in the catalog. For one
//! question they are computed while the items are read; for many questions they are computed once.

use super::{Case, Decision, Verdict};
use crate::domain::{Account, Catalog, Plan, Question, Slug, item::Claim};
use chrono::{DateTime, Utc};

#[cfg(test)]
thread_local! {
    /// The number of items that were examined on this thread.
    pub(in crate::domain) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The facts of an item that a decision uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    /// The item's plan in the catalog.
    pub plan: Option<(&'a Slug, &'a Plan)>,
    /// The plan's slug in the catalog, else the slug or the id that Clerk gave.
    pub named: Option<&'a str>,
    pub claim: Claim,
}

/// An account that yields its items as [`Held`], computed now or before.
pub(super) trait Holder<'a> {
    fn account(&self) -> &'a Account;
    fn held(&self, catalog: &'a Catalog) -> impl Iterator<Item = Held<'a>>;
}

impl<'a> Holder<'a> for &'a Account {
    fn account(&self) -> &'a Account {
        self
    }

    fn held(&self, catalog: &'a Catalog) -> impl Iterator<Item = Held<'a>> {
        let account: &'a Account = self;
        let plans = catalog.plan_set(account.subject.kind());
        let standing = account.standing(catalog.grace);
        account.items.iter().map(move |item| {
            let plan = plans.find(item.plan_id, item.plan);
            let named = plan.map(|(slug, _)| slug.as_str()).or(item.plan).or(item.plan_id);
            Held { plan, named, claim: standing.claim(&item) }
        })
    }
}

/// An account with the facts of its items, computed once.
#[derive(Debug)]
struct PreparedAccount<'a> {
    account: &'a Account,
    held: Vec<Held<'a>>,
}

impl<'a> Holder<'a> for PreparedAccount<'a> {
    fn account(&self) -> &'a Account {
        self.account
    }

    fn held(&self, _: &'a Catalog) -> impl Iterator<Item = Held<'a>> {
        self.held.iter().copied()
    }
}

/// Accounts prepared for many questions: their items are unpacked and looked up in the catalog only once.
#[derive(Debug)]
pub struct PreparedAccounts<'a> {
    accounts: Vec<PreparedAccount<'a>>,
    catalog: &'a Catalog,
}

impl<'a> PreparedAccounts<'a> {
    /// Prepares accounts for questions under this catalog.
    #[must_use]
    pub fn new(accounts: impl IntoIterator<Item = &'a Account>, catalog: &'a Catalog) -> Self {
        let prepared = accounts
            .into_iter()
            .map(|account| PreparedAccount { account, held: account.held(catalog).collect() });
        Self { accounts: prepared.collect(), catalog }
    }

    /// Answers a question as [`decide`](super::decide) does.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>, now: DateTime<Utc>) -> Decision<'a> {
        let Self { accounts, catalog } = self;
        Case { accounts, catalog, question }.decision(now, Verdict::is_same_answer)
    }

    /// Decides for a list of one subject that a caller may unite with that of another: `valid_until` is also the end of a
    /// denial by an override and of an exact limit, which count for both.
    #[must_use]
    pub fn decide_as_part(&self, question: &Question<'_>, now: DateTime<Utc>) -> Decision<'a> {
        let Self { accounts, catalog } = self;
        Case { accounts, catalog, question }.decision(now, Verdict::is_same_part)
    }

    /// The number of items that each question examines.
    #[must_use]
    pub fn items(&self) -> usize {
        self.accounts.iter().map(|account| account.held.len()).sum()
    }
}
