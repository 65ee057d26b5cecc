//! The differences between two catalogs, each with its path in the catalog file.

use super::{Catalog, Plan};
use crate::domain::{Grace, Kind, Slug};
use chrono::TimeDelta;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A difference between two catalogs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogChange {
    /// Whether the entry was added, removed or changed.
    pub change: ChangeKind,
    /// The path of the entry in the catalog file, such as `user.plans.pro.features.sso`.
    pub path: String,
    /// The entry in the catalog before; `None`: it had none.
    pub before: Option<String>,
    /// The entry in the catalog after; `None`: it has none.
    pub after: Option<String>,
}

/// The kind of a [`CatalogChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Only the catalog after has the entry.
    Added,
    /// Only the catalog before has the entry.
    Removed,
    /// Both have the entry, with different values.
    Changed,
}

impl ChangeKind {
    /// The numbers of entries that were added, removed and changed.
    #[must_use]
    pub fn counts(changes: &[CatalogChange]) -> [usize; 3] {
        let count = |kind| changes.iter().filter(|change| change.change == kind).count();
        [Self::Added, Self::Removed, Self::Changed].map(count)
    }
}

impl Catalog {
    /// Every entry in which `after` differs from this catalog, ordered by path.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<CatalogChange> {
        let mut entries = BTreeMap::<String, (Option<String>, Option<String>)>::new();
        for (path, value) in self.entries(after) {
            entries.entry(path).or_default().0 = Some(value);
        }
        for (path, value) in after.entries(self) {
            entries.entry(path).or_default().1 = Some(value);
        }
        let changes = entries.into_iter().filter_map(|(path, (before, after))| {
            let change = match (&before, &after) {
                (None, _) => ChangeKind::Added,
                (_, None) => ChangeKind::Removed,
                (before, after) if before != after => ChangeKind::Changed,
                _ => return None,
            };
            Some(CatalogChange { change, path, before, after })
        });
        changes.collect()
    }

    /// The entries to compare with another catalog: a plan that the other lacks is one entry, any other plan is one entry
    /// for each of its features.
    fn entries(&self, other: &Self) -> Vec<(String, String)> {
        let mut entries = grace_entries(self.grace);
        entries.extend(self.strict.iter().map(|slug| (format!("strict.{slug}"), "strict".into())));
        let numbers = self.numbers.written();
        entries.extend(numbers.map(|(slug, pattern)| (format!("numbers.{slug}"), pattern)));
        for kind in [Kind::User, Kind::Organization] {
            let (plan_set, others) = (self.plan_set(kind), &other.plan_set(kind).plans);
            let default = plan_set.default_plan.iter();
            entries.extend(default.map(|slug| (format!("{kind}.default_plan"), slug.to_string())));
            for (slug, plan) in &plan_set.plans {
                let path = format!("{kind}.plans.{slug}");
                if others.contains_key(slug) {
                    entries.extend(plan_entries(&path, plan));
                } else {
                    entries.push((path, in_one_line(plan)));
                }
            }
        }
        entries
    }
}

fn grace_entries(grace: Grace) -> Vec<(String, String)> {
    let text = |grace: TimeDelta| {
        let grace = grace.to_std().expect("a grace is not negative");
        humantime::format_duration(grace).to_string()
    };
    let Grace { past_due, renewal, trial } = grace;
    let entries =
        [("past_due", past_due), ("renewal", renewal), ("trial", Some(trial))].into_iter();
    entries.filter_map(|(name, grace)| Some((format!("grace.{name}"), text(grace?)))).collect()
}

fn plan_entries(path: &str, plan: &Plan) -> Vec<(String, String)> {
    let id = plan.id.iter().map(|id| (format!("{path}.id"), id.to_string()));
    let retired = plan.retired.then(|| (format!("{path}.retired"), "true".into()));
    let feature = |(slug, limit): (&Slug, &Option<u64>)| {
        let limit = limit.map_or("no limit".into(), |limit| format!("limit {limit}"));
        (format!("{path}.features.{slug}"), limit)
    };
    id.chain(retired).chain(plan.features.iter().map(feature)).collect()
}

/// A plan in one line, such as `export, projects (limit 25)`.
fn in_one_line(plan: &Plan) -> String {
    let feature = |(slug, limit): (&Slug, &Option<u64>)| match limit {
        Some(limit) => format!("{slug} (limit {limit})"),
        None => slug.to_string(),
    };
    let features: BTreeSet<_> = plan.features.iter().map(feature).collect();
    if features.is_empty() {
        return "no feature".into();
    }
    features.into_iter().collect::<Vec<_>>().join(", ")
}

/// One line, such as `~ user.plans.pro.features.projects: limit 25 -> limit 50`.
impl fmt::Display for CatalogChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { change, path, before, after } = self;
        let (before, after) =
            (before.as_deref().unwrap_or("none"), after.as_deref().unwrap_or("none"));
        match change {
            ChangeKind::Added => write!(f, "+ {path}: {after}"),
            ChangeKind::Removed => write!(f, "- {path}: {before}"),
            ChangeKind::Changed => write!(f, "~ {path}: {before} -> {after}"),
        }
    }
}
