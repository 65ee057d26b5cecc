//! The names that plans were seen with. Clerk's id of a plan stays, its slug can be changed: events, files and Clerk's
//! list may each know only one of the two.

use super::Shelf;
use crate::domain::{Kind, News, PlanName, Slug};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Every pair of id and slug that was ever seen together, in the order in which Clerk said them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanNames {
    seen: Vec<(Kind, Arc<str>, Slug)>,
    known: BTreeSet<(Kind, PlanName)>,
}

impl PlanNames {
    /// Adds a pair, unless it is known.
    pub fn add(&mut self, kind: Kind, name: PlanName) {
        let Ok(slug) = name.slug.parse() else { return };
        let id = name.id.clone();
        if self.known.insert((kind, name)) {
            self.seen.push((kind, id, slug));
        }
    }

    /// How many pairs there are: they become only more.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// The pairs that an event says and that were not seen before, in a fixed order.
    #[must_use]
    pub fn new_in(&self, news: &News) -> Vec<PlanName> {
        let kind = news.subject().kind();
        let said = news.items().iter().filter_map(|observed| {
            let (id, slug) = (observed.item.plan_id.clone()?, observed.item.plan.clone()?);
            let name = (kind, PlanName { id, slug });
            (!self.known.contains(&name)).then_some(name.1)
        });
        said.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The pairs of one kind, newest first.
    fn of(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Slug)> {
        let of = self.seen.iter().rev().filter(move |(of, ..)| *of == kind);
        of.map(|(_, id, slug)| (id, slug))
    }

    /// One set of plans over another, and the ids and former slugs by which each plan can be found.
    pub(super) fn merge(&self, kind: Kind, mut ours: Shelf, theirs: Shelf) -> Shelf {
        self.identify(kind, &mut ours, &theirs);
        let mut plans = theirs.plans;
        let own: BTreeMap<_, _> =
            ours.plans.iter().filter_map(|(slug, plan)| Some((plan.id.clone()?, slug))).collect();
        let mut former = BTreeMap::new();
        plans.retain(|slug, plan| {
            let renamed = plan.id.as_ref().and_then(|id| own.get(id)).filter(|own| **own != slug);
            former.extend(renamed.map(|own| (slug.clone(), Slug::clone(own))));
            renamed.is_none()
        });
        let default_plan = ours.default_plan.or(theirs.default_plan);
        let default_plan = default_plan.map(|slug| former.get(&slug).cloned().unwrap_or(slug));
        plans.extend(ours.plans);
        let ids = plans.iter().filter_map(|(slug, plan)| Some((plan.id.clone()?, slug.clone())));
        let (ids, mut seen): (BTreeMap<_, _>, BTreeMap<Arc<str>, Slug>) =
            (ids.collect(), BTreeMap::new());
        for (id, slug) in self.of(kind).filter(|(_, slug)| plans.contains_key(*slug)) {
            seen.entry(id.clone()).or_insert_with(|| slug.clone());
        }
        for (id, slug) in self.of(kind).filter(|(_, slug)| !plans.contains_key(*slug)) {
            if let (Some(now), false) = (ids.get(id).or(seen.get(id)), former.contains_key(slug)) {
                former.insert(slug.clone(), now.clone());
            }
        }
        Shelf { default_plan, plans, ids, seen, former }
    }

    /// Gives plans without an id the one that Clerk's plan of the same slug has. An id that Clerk lists under a slug that
    /// is not here goes to the newest slug that it had before.
    fn identify(&self, kind: Kind, ours: &mut Shelf, theirs: &Shelf) {
        let mut taken: BTreeSet<_> = ours.plans.values().filter_map(|p| p.id.clone()).collect();
        for (slug, plan) in ours.plans.iter_mut().filter(|(_, plan)| plan.id.is_none()) {
            let same = theirs.plans.get(slug).and_then(|same| same.id.clone());
            plan.id = same.filter(|id| taken.insert(id.clone()));
        }
        let renamed = theirs.plans.iter().filter(|(slug, _)| !ours.plans.contains_key(*slug));
        let renamed: BTreeSet<_> = renamed.filter_map(|(_, plan)| plan.id.clone()).collect();
        for (id, slug) in self.of(kind).filter(|(id, _)| renamed.contains(*id)) {
            if let Some(plan) = ours.plans.get_mut(slug).filter(|plan| plan.id.is_none())
                && taken.insert(id.clone())
            {
                plan.id = Some(id.clone());
            }
        }
    }
}
