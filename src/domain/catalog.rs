//! The catalog: the features and limits of each plan, for users and for organizations, and the grace periods.

mod diff;
mod names;
mod numbers;
mod written;

pub use diff::{CatalogChange, ChangeKind};
pub use names::PlanNames;
pub use numbers::{InvalidNumbers, Numbers};
pub use written::InvalidCatalog;

use super::{Grace, Kind, PlanName, Slug, SubscriptionUpdate, Target};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    user: PlanSet,
    organization: PlanSet,
    /// How long access lasts beyond the dates of an item.
    pub grace: Grace,
    /// Features that are never granted from an account that may be outdated.
    strict: BTreeSet<Slug>,
    /// The patterns by which slugs of features state limits.
    numbers: Numbers,
}

/// The plans for one kind of subject.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanSet {
    /// The plan of a subject for which no item grants access.
    pub default_plan: Option<Slug>,
    /// The plans, by slug. A slug is unique only among the plans for one kind of subject.
    pub plans: BTreeMap<Slug, Plan>,
    /// Clerk's plan ids that the catalog states, and the slug of each.
    ids: BTreeMap<Arc<str>, Slug>,
    /// Clerk's plan ids that occurred with a slug in events, and the newest such slug.
    seen: BTreeMap<Arc<str>, Slug>,
    /// Slugs that plans had before they were renamed, and the slug of each now.
    former: BTreeMap<Slug, Slug>,
}

/// A plan: its features, each with its limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Clerk's id of the plan, if known. It stays when the slug is changed.
    pub id: Option<Arc<str>>,
    /// Whether Clerk no longer lists the plan. Its holders keep it.
    pub retired: bool,
    /// The features with their limits; `None`: without a limit.
    pub features: BTreeMap<Slug, Option<u64>>,
}

impl PlanSet {
    /// Finds the plan of an item: by the id, which cannot change, if the catalog states it; else by the slug; else by a
    /// slug that occurred with the id in events; else by a slug that a plan had before it was renamed.
    #[must_use]
    pub fn find(&self, id: Option<&str>, slug: Option<&str>) -> Option<(&Slug, &Plan)> {
        let by_id = |ids: &BTreeMap<Arc<str>, Slug>| self.plans.get_key_value(ids.get(id?)?);
        by_id(&self.ids)
            .or_else(|| self.plans.get_key_value(slug?))
            .or_else(|| by_id(&self.seen))
            .or_else(|| self.plans.get_key_value(self.former.get(slug?)?))
    }
}

/// How a plan is found by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoundBy {
    /// By an id that the catalog states.
    Id,
    /// By its slug.
    Slug,
    /// By an id that occurred with its slug in events.
    SeenId,
    /// By a slug that it had before it was renamed.
    FormerSlug,
}

impl PlanSet {
    /// The default plan, if it is one of the plans.
    #[must_use]
    pub fn default_plan(&self) -> Option<(&Slug, &Plan)> {
        self.find(None, Some(self.default_plan.as_ref()?.as_str()))
    }

    /// Every name by which [`find`](Self::find) finds a plan, with the slug of the plan. If several match, `find` takes the
    /// first in the order of [`FoundBy`].
    pub fn findable(&self) -> impl Iterator<Item = (FoundBy, &str, &Slug)> {
        let ids = self.ids.iter().map(|(id, slug)| (FoundBy::Id, &**id, slug));
        let slugs = self.plans.keys().map(|slug| (FoundBy::Slug, slug.as_str(), slug));
        let seen = self.seen.iter().map(|(id, slug)| (FoundBy::SeenId, &**id, slug));
        let former =
            self.former.iter().map(|(old, slug)| (FoundBy::FormerSlug, old.as_str(), slug));
        let all = ids.chain(slugs).chain(seen).chain(former);
        all.filter(|(_, _, slug)| self.plans.contains_key(*slug))
    }

    /// The plans that have the wanted feature, or that are the wanted plan, with the limit; without retired plans.
    pub fn granting(&self, wanted: Target<'_>) -> impl Iterator<Item = (&Slug, Option<u64>)> {
        let is_wanted = move |slug: &Slug, plan: &Plan| match wanted {
            Target::Feature(feature) => plan.features.get(feature).copied(),
            Target::Plan(plan) => (slug.as_str() == plan).then_some(None),
        };
        let plans = self.plans.iter().filter(|(_, plan)| !plan.retired);
        plans.filter_map(move |(slug, plan)| Some((slug, is_wanted(slug, plan)?)))
    }
}

impl Catalog {
    /// The plans for one kind of subject.
    #[must_use]
    pub fn plan_set(&self, kind: Kind) -> &PlanSet {
        match kind {
            Kind::User => &self.user,
            Kind::Organization => &self.organization,
        }
    }

    /// Whether the catalog has the wanted plan, or a plan with the wanted feature.
    #[must_use]
    pub fn knows(&self, wanted: Target<'_>) -> bool {
        [&self.user, &self.organization].into_iter().any(|plan_set| match wanted {
            Target::Feature(slug) => plan_set.plans.values().any(|p| p.features.contains_key(slug)),
            Target::Plan(slug) => plan_set.find(None, Some(slug)).is_some(),
        })
    }

    /// The features of all plans; a feature of several plans comes several times.
    pub fn features(&self) -> impl Iterator<Item = &Slug> {
        self.all_plans().flat_map(|plan| plan.features.keys())
    }

    /// The plans for users, then those for organizations.
    pub(super) fn all_plans(&self) -> impl Iterator<Item = &Plan> {
        self.user.plans.values().chain(self.organization.plans.values())
    }

    /// Whether the target must not be granted from an account that may be outdated.
    #[must_use]
    pub fn is_strict(&self, wanted: Target<'_>) -> bool {
        match wanted {
            Target::Feature(slug) => self.strict.contains(slug),
            Target::Plan(_) => false,
        }
    }

    /// Adds the plans of `other` that this catalog lacks. Plans with the same id are the same plan, and this catalog's
    /// version wins; so does its grace. Its patterns of numbers apply to all plans. `names` supplies ids that neither
    /// catalog states.
    #[must_use]
    pub fn overlaid_on(self, other: Self, names: &PlanNames) -> Self {
        let merged = Self {
            user: names.merge(Kind::User, self.user, other.user),
            organization: names.merge(Kind::Organization, self.organization, other.organization),
            grace: self.grace,
            strict: self.strict.into_iter().chain(other.strict).collect(),
            numbers: Numbers::default(),
        };
        merged.with_numbers(self.numbers)
    }

    /// Adds a plan that Clerk's Backend API lists.
    pub fn add(&mut self, kind: Kind, slug: Slug, plan: Plan, is_default: bool) {
        let plans = self.plan_set_mut(kind);
        if is_default {
            plans.default_plan = Some(slug.clone());
        }
        plans.plans.insert(slug, plan);
    }

    /// Makes `free` the default plan for a kind that has plans and no default plan; returns a note about it, or about the
    /// lack of a default plan.
    pub fn assume_default(&mut self, kind: Kind, free: Option<&Slug>) -> Option<String> {
        let plan_set = self.plan_set_mut(kind);
        if plan_set.default_plan.is_some() || plan_set.plans.is_empty() {
            return None;
        }
        plan_set.default_plan = free.cloned();
        Some(match free {
            Some(slug) => format!("{kind}.default_plan: `{slug}` assumed, which Clerk creates"),
            None => format!(
                "{kind}.default_plan: the file names none; add it, or every {kind} without a subscription has no feature"
            ),
        })
    }

    /// Adds the plans of an earlier list that this one lacks, marked as retired: their holders keep them until an
    /// operator removes them. A plan that was only renamed is not retired.
    pub fn keep_retired(&mut self, before: &Self) {
        for kind in [Kind::User, Kind::Organization] {
            let (now, before) = (self.plan_set_mut(kind), before.plan_set(kind));
            let listed: BTreeSet<_> = now.plans.values().filter_map(|p| p.id.clone()).collect();
            let is_listed = |plan: &Plan| plan.id.as_ref().is_some_and(|id| listed.contains(id));
            for (slug, plan) in &before.plans {
                if is_listed(plan) {
                    continue;
                }
                // Another plan may have the slug now; the id is unique and can serve as the slug.
                let slug = match now.plans.get(slug) {
                    None => slug.clone(),
                    Some(other) if other.id == plan.id => continue,
                    Some(_) => match plan.id.as_ref().and_then(|id| id.parse().ok()) {
                        Some(slug) => slug,
                        None => continue,
                    },
                };
                let slug = &slug;
                if now.default_plan.is_none() && before.default_plan.as_ref() == Some(slug) {
                    now.default_plan = Some(slug.clone());
                }
                now.plans.insert(slug.clone(), Plan { retired: true, ..plan.clone() });
            }
        }
    }

    fn plan_set_mut(&mut self, kind: Kind) -> &mut PlanSet {
        match kind {
            Kind::User => &mut self.user,
            Kind::Organization => &mut self.organization,
        }
    }

    /// The plans in an update that are not in this catalog: the slug of each, or the id if there is no slug.
    pub fn unknown_plans<'n>(
        &self,
        update: &'n SubscriptionUpdate,
    ) -> impl Iterator<Item = &'n str> {
        let known = self.plan_set(update.subject().kind());
        update.items().iter().filter_map(|observed| {
            let (id, slug) = (observed.item.plan_id.as_deref(), observed.item.plan.as_deref());
            slug.or(id).filter(|_| known.find(id, slug).is_none())
        })
    }

    /// The id and the slug of each plan that has an id.
    pub fn names(&self) -> impl Iterator<Item = (Kind, PlanName)> {
        let of = |kind: Kind| {
            let plans = self.plan_set(kind).plans.iter();
            plans.filter_map(move |(slug, plan)| {
                let name = PlanName { id: plan.id.clone()?, slug: slug.as_str().into() };
                Some((kind, name))
            })
        };
        of(Kind::User).chain(of(Kind::Organization))
    }

    /// The number of plans.
    #[must_use]
    pub fn plans(&self) -> usize {
        self.user.plans.len() + self.organization.plans.len()
    }
}
