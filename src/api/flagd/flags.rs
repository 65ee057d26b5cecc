//! Which flags there are: a boolean for each feature, under its slug, and for a feature that comes with a number
//! the number, under `<slug>.limit`.

use crate::domain::{Catalog, Kind, Shelf, Slug, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// What follows a feature's slug in the key of its number.
pub(super) const LIMIT: &str = ".limit";

/// Whether some plan grants the feature with a number.
pub(super) fn has_number(catalog: &Catalog, wanted: Wanted<'_>) -> bool {
    let Wanted::Feature(feature) = wanted else { return false };
    let mut plans = shelves(catalog).flat_map(|(_, shelf)| shelf.plans.values());
    plans.any(|plan| matches!(plan.features.get(feature), Some(Some(_))))
}

/// How flags differ from one catalog to the next, by key, in flagd's words.
pub(super) fn changes(before: &Catalog, now: &Catalog) -> BTreeMap<String, &'static str> {
    let mut changes = BTreeMap::new();
    let features: BTreeSet<_> = before.features().chain(now.features()).collect();
    for feature in features {
        let [old, new] = [before, now].map(|catalog| granted(catalog, feature));
        if old == new {
            continue;
        }
        changes.extend(change(old.1.len(), new.1.len()).map(|word| (feature.to_string(), word)));
        let wanted = Wanted::Feature(feature.as_str());
        let [old, new] = [before, now].map(|catalog| has_number(catalog, wanted).into());
        changes.extend(change(old, new).map(|word| (format!("{feature}{LIMIT}"), word)));
    }
    changes
}

/// What became of something, of which there were so many and are so many now.
fn change(before: usize, now: usize) -> Option<&'static str> {
    match (before, now) {
        (0, 0) => None,
        (0, _) => Some("create"),
        (_, 0) => Some("delete"),
        (_, _) => Some("update"),
    }
}

/// How a catalog grants a feature: strictly or not, and by which plans, as default or not, with which number.
type Granted<'c> = (bool, Vec<(Kind, &'c Slug, bool, Option<u64>)>);

fn granted<'c>(catalog: &'c Catalog, feature: &Slug) -> Granted<'c> {
    let is_strict = catalog.is_strict(Wanted::Feature(feature.as_str()));
    let by = shelves(catalog).flat_map(|(kind, shelf)| {
        shelf.plans.iter().filter_map(move |(name, plan)| {
            let by_default = shelf.default_plan.as_ref() == Some(name);
            plan.features.get(feature).map(|limit| (kind, name, by_default, *limit))
        })
    });
    (is_strict, by.collect())
}

fn shelves(catalog: &Catalog) -> impl Iterator<Item = (Kind, &Shelf)> {
    [Kind::User, Kind::Organization].into_iter().map(|kind| (kind, catalog.shelf(kind)))
}
