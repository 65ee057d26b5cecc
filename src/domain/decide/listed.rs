//! The features of one subject, for lists.

use super::{Decision, PreparedAccounts, Verdict};
use crate::domain::{Account, Catalog, Question, Slug};
use chrono::{DateTime, Utc};

/// One feature that concerns a subject, with the decision of [`PreparedAccounts::decide_as_part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entitlement<'a> {
    /// The feature.
    pub feature: &'a Slug,
    /// The decision about the feature.
    pub decision: Decision<'a>,
}

/// Every feature that one subject may use at `now`, sorted by slug.
#[must_use]
pub fn entitlements<'a>(
    account: &'a Account,
    catalog: &'a Catalog,
    now: DateTime<Utc>,
) -> Vec<Entitlement<'a>> {
    let is_allowed = |verdict: &Verdict<'_>| matches!(verdict, Verdict::Allowed { .. });
    decided(account, catalog, now).filter(|e| is_allowed(&e.decision.verdict)).collect()
}

/// Every feature that an override denies to one subject at `now`, sorted by slug. In a question about a user and an
/// organization, it is denied even if the other one has it.
#[must_use]
pub fn denials<'a>(
    account: &'a Account,
    catalog: &'a Catalog,
    now: DateTime<Utc>,
) -> Vec<Entitlement<'a>> {
    decided(account, catalog, now).filter(|e| e.decision.verdict.is_denied_by_override()).collect()
}

/// Every feature that concerns a subject, with the decision about it.
fn decided<'a>(
    account: &'a Account,
    catalog: &'a Catalog,
    now: DateTime<Utc>,
) -> impl Iterator<Item = Entitlement<'a>> {
    let prepared = PreparedAccounts::new([account], catalog);
    account.features(catalog).into_iter().map(move |feature| Entitlement {
        feature,
        decision: prepared.decide_as_part(&Question::of(feature), now),
    })
}
