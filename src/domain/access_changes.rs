//! The gains and losses of a subject by another catalog, now and later.

use super::{Account, Catalog, PreparedAccounts, Question, QuestionScope, Slug, Target, Verdict};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// The most instants at which the answers of both catalogs are compared.
const MAX_INSTANTS: usize = 50;

/// The change of a feature or a plan of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessChange {
    /// It is allowed now, and was not.
    Gain,
    /// It will be allowed at a later time at which it would have been denied.
    KeepLonger,
    /// Its limit is higher, now or later.
    HigherLimit,
    /// It is denied now, and was allowed.
    Lose,
    /// It will be denied at a later time at which it would have been allowed.
    LoseEarlier,
    /// Its limit is lower, now or later.
    LowerLimit,
}

impl AccessChange {
    /// All changes: those for the better, then those for the worse.
    pub const ALL: [Self; 6] = [
        Self::Gain,
        Self::KeepLonger,
        Self::HigherLimit,
        Self::Lose,
        Self::LoseEarlier,
        Self::LowerLimit,
    ];

    /// Whether the subject has less than before.
    #[must_use]
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Lose | Self::LoseEarlier | Self::LowerLimit)
    }
}

/// Every feature and plan for which another catalog changes the answer about a subject, now or later by time alone. A plan
/// is named `plan SLUG`.
#[must_use]
pub fn access_changes(
    account: &Account,
    before: &Catalog,
    after: &Catalog,
    now: DateTime<Utc>,
) -> Vec<(String, AccessChange)> {
    let catalogs = [before, after].map(|catalog| PreparedAccounts::new([account], catalog));
    let plans = [before, after].map(|catalog| &catalog.plan_set(account.subject.kind()).plans);
    let features: BTreeSet<&Slug> =
        [before, after].into_iter().flat_map(|catalog| account.features(catalog)).collect();
    let plans: BTreeSet<&Slug> = plans.into_iter().flat_map(|plans| plans.keys()).collect();
    let features =
        features.into_iter().map(|slug| (slug.to_string(), Target::Feature(slug.as_str())));
    let plans = plans.into_iter().map(|slug| (format!("plan {slug}"), Target::Plan(slug.as_str())));
    let changes = features.chain(plans).flat_map(|(name, wanted)| {
        let question = Question { scope: QuestionScope::Any, wanted };
        let changes = compare(&catalogs, &question, now).into_iter();
        changes.map(move |change| (name.clone(), change))
    });
    changes.collect()
}

/// The change of the target of a question. Both answers are compared now and whenever one of them changes by time alone.
fn compare(
    [before, after]: &[PreparedAccounts<'_>; 2],
    question: &Question<'_>,
    now: DateTime<Utc>,
) -> BTreeSet<AccessChange> {
    let mut changes = BTreeSet::new();
    let mut at = Some(now);
    for _ in 0..MAX_INSTANTS {
        let Some(instant) = at else { break };
        let (then, new) = (before.decide(question, instant), after.decide(question, instant));
        let is_now = instant == now;
        changes.extend(match (limit(&then.verdict), limit(&new.verdict)) {
            (None, Some(_)) if is_now => Some(AccessChange::Gain),
            (None, Some(_)) => Some(AccessChange::KeepLonger),
            (Some(_), None) if is_now => Some(AccessChange::Lose),
            (Some(_), None) => Some(AccessChange::LoseEarlier),
            (Some(then), Some(new)) if new < then => Some(AccessChange::LowerLimit),
            (Some(then), Some(new)) if new > then => Some(AccessChange::HigherLimit),
            (None, None) | (Some(_), Some(_)) => None,
        });
        at = [then.valid_until, new.valid_until].into_iter().flatten().min();
    }
    // A feature that is gained or lost now is not also kept or lost later.
    if changes.contains(&AccessChange::Gain) {
        changes.remove(&AccessChange::KeepLonger);
    }
    if changes.contains(&AccessChange::Lose) {
        changes.remove(&AccessChange::LoseEarlier);
    }
    changes
}

/// The size of what is allowed: no limit is the largest. `None`: it is denied.
fn limit(verdict: &Verdict<'_>) -> Option<(bool, Option<u64>)> {
    match verdict {
        Verdict::Allowed { limit, .. } => Some((limit.is_none(), *limit)),
        Verdict::Denied { .. } => None,
    }
}
