//! The flags of a catalog: a boolean for each feature, under its slug, and for a feature with a numeric limit an
//! integer, under `<slug>.limit`.

use crate::domain::{Catalog, Kind, PlanSet, Slug, Target};
use std::collections::{BTreeMap, BTreeSet};

/// The suffix of a limit's key, after the feature's slug.
pub(super) const LIMIT: &str = ".limit";

/// The number that means "no limit": 2^53 - 1, the largest that is exact in every SDK.
const UNLIMITED: u64 = (1 << 53) - 1;

/// The limit of a feature as a number: 0 if it is denied.
pub(super) fn number(allowed: bool, limit: Option<u64>) -> u64 {
    if allowed { limit.unwrap_or(UNLIMITED).min(UNLIMITED) } else { 0 }
}

/// Whether any plan grants the feature with a numeric limit.
pub(super) fn has_number(catalog: &Catalog, wanted: Target<'_>) -> bool {
    let Target::Feature(feature) = wanted else { return false };
    let mut plans = plan_sets(catalog).flat_map(|(_, plan_set)| plan_set.plans.values());
    plans.any(|plan| matches!(plan.features.get(feature), Some(Some(_))))
}

/// The flags that differ between two catalogs, by key, with flagd's name of the change.
pub(super) fn changes(before: &Catalog, now: &Catalog) -> BTreeMap<String, &'static str> {
    let mut changes = BTreeMap::new();
    let features: BTreeSet<_> = before.features().chain(now.features()).collect();
    for feature in features {
        let [old, new] = [before, now].map(|catalog| granted(catalog, feature));
        if old == new {
            continue;
        }
        changes.extend(change(old.1.len(), new.1.len()).map(|word| (feature.to_string(), word)));
        let wanted = Target::Feature(feature.as_str());
        let [old, new] = [before, now].map(|catalog| has_number(catalog, wanted).into());
        changes.extend(change(old, new).map(|word| (format!("{feature}{LIMIT}"), word)));
    }
    changes
}

/// flagd's name of a change from `before` to `now` elements; `None` if both are 0.
fn change(before: usize, now: usize) -> Option<&'static str> {
    match (before, now) {
        (0, 0) => None,
        (0, _) => Some("create"),
        (_, 0) => Some("delete"),
        (_, _) => Some("update"),
    }
}

/// How a catalog grants a feature: whether strictly, and by which plans, each with its kind, whether it is the default
/// plan, and the limit.
type Granted<'c> = (bool, Vec<(Kind, &'c Slug, bool, Option<u64>)>);

fn granted<'c>(catalog: &'c Catalog, feature: &Slug) -> Granted<'c> {
    let is_strict = catalog.is_strict(Target::Feature(feature.as_str()));
    let by = plan_sets(catalog).flat_map(|(kind, plan_set)| {
        plan_set.plans.iter().filter_map(move |(name, plan)| {
            let by_default = plan_set.default_plan.as_ref() == Some(name);
            plan.features.get(feature).map(|limit| (kind, name, by_default, *limit))
        })
    });
    (is_strict, by.collect())
}

fn plan_sets(catalog: &Catalog) -> impl Iterator<Item = (Kind, &PlanSet)> {
    [Kind::User, Kind::Organization].into_iter().map(|kind| (kind, catalog.plan_set(kind)))
}
