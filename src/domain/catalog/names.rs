//! Pairs of plan id and plan slug that occurred together in events. Clerk's id of a plan stays, but its slug can be
//! changed, and an event, a catalog file or Clerk's list may have only one of the two.

use super::PlanSet;
use crate::domain::{Kind, PlanName, Slug, SubscriptionUpdate};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Every pair of id and slug that ever occurred together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanNames {
    /// All pairs.
    known: BTreeSet<(Kind, PlanName)>,
    /// The pairs with a valid slug, oldest first.
    seen: Vec<(Kind, Arc<str>, Slug)>,
}

impl PlanNames {
    /// Adds a pair, unless it is there already.
    pub fn add(&mut self, kind: Kind, name: PlanName) {
        let (id, slug) = (name.id.clone(), name.slug.parse());
        if self.known.insert((kind, name)) {
            self.seen.extend(slug.map(|slug| (kind, id, slug)));
        }
    }

    /// The number of pairs, which only grows.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::try_from(self.known.len()).expect("a length has at most 64 bits")
    }

    /// The pairs in an update that are new, sorted and without duplicates.
    #[must_use]
    pub fn new_in(&self, update: &SubscriptionUpdate) -> Vec<PlanName> {
        let kind = update.subject().kind();
        let new = update.items().iter().filter_map(|observed| {
            let (id, slug) = (observed.item.plan_id.clone()?, observed.item.plan.clone()?);
            let name = (kind, PlanName { id, slug });
            (!self.known.contains(&name)).then_some(name.1)
        });
        new.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The pairs for one kind of subject, newest first.
    fn of(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Slug)> {
        let of = self.seen.iter().rev().filter(move |(of, ..)| *of == kind);
        of.map(|(_, id, slug)| (id, slug))
    }

    /// Overlays one plan set on another, and indexes the ids and former slugs by which each plan can be found.
    pub(super) fn merge(&self, kind: Kind, mut ours: PlanSet, theirs: PlanSet) -> PlanSet {
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
        PlanSet { default_plan, plans, ids, seen, former }
    }

    /// Gives each plan without an id the id of Clerk's plan with the same slug. If Clerk lists an id under a slug that
    /// `ours` lacks, the plan with the newest earlier slug of that id gets it.
    fn identify(&self, kind: Kind, ours: &mut PlanSet, theirs: &PlanSet) {
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
