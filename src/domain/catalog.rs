//! Which plan of which kind of payer has which features and limits.

mod names;
mod written;

pub use names::PlanNames;
pub use written::InvalidCatalog;

use super::{Kind, News, Slug, Wanted};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    user: Shelf,
    organization: Shelf,
    /// Features that are never granted from what may be outdated.
    strict: BTreeSet<Slug>,
}

/// The plans of one kind of payer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shelf {
    /// The plan of those who hold no other.
    pub default_plan: Option<Slug>,
    /// The plans, by slug, which is unique only among plans of one kind.
    pub plans: BTreeMap<Slug, Plan>,
    /// The plans by Clerk's ids, as the catalog's authors say them.
    ids: BTreeMap<Arc<str>, Slug>,
    /// The plans by ids that they were only seen with.
    seen: BTreeMap<Arc<str>, Slug>,
    /// Slugs that plans had before they were renamed.
    former: BTreeMap<Slug, Slug>,
}

/// What a plan grants: each feature, and the number that comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Clerk's id of the plan, where it is known: it stays when the slug is changed.
    pub id: Option<Arc<str>>,
    /// Clerk lists it no longer; its holders keep it.
    pub retired: bool,
    /// The features; `None`: not limited by a number.
    pub features: BTreeMap<Slug, Option<u64>>,
}

impl Shelf {
    /// The plan of an item: by its id, which cannot change, where the catalog says it; else by its slug; else by a slug that
    /// the id was seen with, or that the plan had.
    #[must_use]
    pub fn find(&self, id: Option<&str>, slug: Option<&str>) -> Option<(&Slug, &Plan)> {
        let by_id = |ids: &BTreeMap<Arc<str>, Slug>| self.plans.get_key_value(ids.get(id?)?);
        by_id(&self.ids)
            .or_else(|| self.plans.get_key_value(slug?))
            .or_else(|| by_id(&self.seen))
            .or_else(|| self.plans.get_key_value(self.former.get(slug?)?))
    }
}

impl Catalog {
    /// The plans of one kind of payer.
    #[must_use]
    pub fn shelf(&self, kind: Kind) -> &Shelf {
        match kind {
            Kind::User => &self.user,
            Kind::Organization => &self.organization,
        }
    }

    /// Whether any plan at all is, or has, what is wanted.
    #[must_use]
    pub fn knows(&self, wanted: Wanted<'_>) -> bool {
        [&self.user, &self.organization].into_iter().any(|shelf| match wanted {
            Wanted::Feature(slug) => shelf.plans.values().any(|p| p.features.contains_key(slug)),
            Wanted::Plan(slug) => shelf.find(None, Some(slug)).is_some(),
        })
    }

    /// Every feature that a plan has; one that several have comes several times.
    pub fn features(&self) -> impl Iterator<Item = &Slug> {
        let plans = self.user.plans.values().chain(self.organization.plans.values());
        plans.flat_map(|plan| plan.features.keys())
    }

    /// Whether this may not be granted from what may be outdated.
    #[must_use]
    pub fn is_strict(&self, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::Feature(slug) => self.strict.contains(slug),
            Wanted::Plan(_) => false,
        }
    }

    /// This catalog, and from another what this one does not say: plan by plan, this one wins. A plan is the same if
    /// its id is; the names that plans were seen with tell ids that neither names.
    #[must_use]
    pub fn over(self, other: Self, names: &PlanNames) -> Self {
        Self {
            user: names.merge(Kind::User, self.user, other.user),
            organization: names.merge(Kind::Organization, self.organization, other.organization),
            strict: self.strict.into_iter().chain(other.strict).collect(),
        }
    }

    /// Adds a plan, as Clerk's Backend API lists it.
    pub fn add(&mut self, kind: Kind, slug: Slug, plan: Plan, is_default: bool) {
        let plans = self.shelf_mut(kind);
        if is_default {
            plans.default_plan = Some(slug.clone());
        }
        plans.plans.insert(slug, plan);
    }

    /// Adds the plans of an earlier list that this one lacks, as retired: their holders keep them until an operator
    /// removes them. A plan that has another slug now is not retired.
    pub fn keep_retired(&mut self, before: &Self) {
        for kind in [Kind::User, Kind::Organization] {
            let (now, before) = (self.shelf_mut(kind), before.shelf(kind));
            let listed: BTreeSet<_> = now.plans.values().filter_map(|p| p.id.clone()).collect();
            let is_listed = |plan: &Plan| plan.id.as_ref().is_some_and(|id| listed.contains(id));
            for (slug, plan) in &before.plans {
                if is_listed(plan) {
                    continue;
                }
                // Another plan may have taken the slug over; the id is a name that nobody else has.
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

    fn shelf_mut(&mut self, kind: Kind) -> &mut Shelf {
        match kind {
            Kind::User => &mut self.user,
            Kind::Organization => &mut self.organization,
        }
    }

    /// The plans that news names and that are not in this catalog, by slug, or by id where no slug is said.
    pub fn unknown_plans<'n>(&self, news: &'n News) -> impl Iterator<Item = &'n str> {
        let known = self.shelf(news.subject().kind());
        news.items().iter().filter_map(|observed| {
            let (id, slug) = (observed.item.plan_id.as_deref(), observed.item.plan.as_deref());
            slug.or(id).filter(|_| known.find(id, slug).is_none())
        })
    }

    /// How many plans there are.
    #[must_use]
    pub fn plans(&self) -> usize {
        self.user.plans.len() + self.organization.plans.len()
    }
}
