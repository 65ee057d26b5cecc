//! Which plan of which kind of payer has which features and limits.

use super::{InvalidSlug, Kind, News, Slug, Wanted};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
}

/// What a plan grants: each feature, and the number that comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The features; `None`: not limited by a number.
    pub features: BTreeMap<Slug, Option<u64>>,
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
            Wanted::Plan(slug) => shelf.plans.contains_key(slug),
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

    /// This catalog, and from another what this one does not say: plan by plan, this one wins.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        let over = |ours: Shelf, theirs: Shelf| {
            let default_plan = ours.default_plan.or(theirs.default_plan);
            let mut plans = theirs.plans;
            plans.extend(ours.plans);
            Shelf { default_plan, plans }
        };
        Self {
            user: over(self.user, other.user),
            organization: over(self.organization, other.organization),
            strict: self.strict.into_iter().chain(other.strict).collect(),
        }
    }

    /// Adds a plan, as Clerk's Backend API tells of it.
    pub fn add(&mut self, kind: Kind, slug: Slug, plan: Plan, is_default: bool) {
        let plans = match kind {
            Kind::User => &mut self.user,
            Kind::Organization => &mut self.organization,
        };
        if is_default {
            plans.default_plan = Some(slug.clone());
        }
        plans.plans.insert(slug, plan);
    }

    /// The plans that news tells of and that are not in this catalog.
    pub fn unknown_plans<'n>(&self, news: &'n News) -> impl Iterator<Item = &'n str> {
        let (told, known) = match news {
            News::Items { subject, items, .. } => (&**items, self.shelf(subject.kind())),
            News::Deleted { subject, .. } => (&[][..], self.shelf(subject.kind())),
        };
        let plans = told.iter().filter_map(|told| told.item.plan.as_deref());
        plans.filter(|plan| !known.plans.contains_key(*plan))
    }

    /// How many plans there are.
    #[must_use]
    pub fn plans(&self) -> usize {
        self.user.plans.len() + self.organization.plans.len()
    }

    /// Reads a catalog file.
    pub fn from_toml(text: &str) -> Result<Self, InvalidCatalog> {
        toml::from_str::<Document>(text).map_err(|e| InvalidCatalog(e.to_string()))?.try_into()
    }

    /// Reads what [`Catalog::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, InvalidCatalog> {
        serde_json::from_str::<Document>(text)
            .map_err(|e| InvalidCatalog(e.to_string()))?
            .try_into()
    }

    /// The content in one canonical form: equal catalogs have equal texts.
    #[must_use]
    pub fn to_json(&self) -> String {
        let strict = self.strict.iter().map(ToString::to_string).collect();
        let (user, organization) = ((&self.user).into(), (&self.organization).into());
        let document = Document { strict, user, organization };
        serde_json::to_string(&document).expect("a map of strings and numbers is JSON")
    }
}

/// The catalog cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the catalog is invalid: {0}")]
pub struct InvalidCatalog(String);

/// The catalog as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    strict: BTreeSet<String>,
    #[serde(default)]
    user: WrittenShelf,
    #[serde(default)]
    organization: WrittenShelf,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
struct WrittenShelf {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_plan: Option<String>,
    #[serde(default)]
    plans: BTreeMap<String, WrittenPlan>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
struct WrittenPlan {
    #[serde(default)]
    features: BTreeSet<String>,
    #[serde(default)]
    limits: BTreeMap<String, u64>,
}

impl TryFrom<Document> for Catalog {
    type Error = InvalidCatalog;

    fn try_from(document: Document) -> Result<Self, InvalidCatalog> {
        let catalog = Self {
            user: shelf(Kind::User, document.user)?,
            organization: shelf(Kind::Organization, document.organization)?,
            strict: BTreeSet::new(),
        };
        let strict = document.strict.iter().map(|slug| slug_at("strict", slug));
        let strict = strict.collect::<Result<BTreeSet<_>, _>>()?;
        let unknown = |slug: &&Slug| !catalog.knows(Wanted::Feature(slug.as_str()));
        if let Some(slug) = strict.iter().find(unknown) {
            return Err(InvalidCatalog(format!("strict names `{slug}`, which no plan has")));
        }
        Ok(Self { strict, ..catalog })
    }
}

fn shelf(kind: Kind, written: WrittenShelf) -> Result<Shelf, InvalidCatalog> {
    let mut plans = BTreeMap::new();
    for (slug, plan) in written.plans {
        let place = format!("{kind}.plans.{slug}");
        plans.insert(slug_at(&place, &slug)?, plan_at(&place, &plan)?);
    }
    let default_plan = match written.default_plan {
        Some(slug) if plans.contains_key(slug.as_str()) => {
            Some(slug_at(&format!("{kind}.default_plan"), &slug)?)
        }
        Some(slug) => {
            let reason = format!("{kind}.default_plan names `{slug}`, which {kind}.plans lacks");
            return Err(InvalidCatalog(reason));
        }
        None => None,
    };
    Ok(Shelf { default_plan, plans })
}

fn plan_at(place: &str, written: &WrittenPlan) -> Result<Plan, InvalidCatalog> {
    let mut features = BTreeMap::new();
    for slug in &written.features {
        features.insert(slug_at(place, slug)?, None);
    }
    for (slug, limit) in &written.limits {
        features.insert(slug_at(place, slug)?, Some(*limit));
    }
    Ok(Plan { features })
}

fn slug_at(place: &str, text: &str) -> Result<Slug, InvalidCatalog> {
    if text.contains(':') {
        return Err(InvalidCatalog(format!("{place}: `{text}` has a colon, which marks a scope")));
    }
    text.parse().map_err(|e: InvalidSlug| InvalidCatalog(format!("{place}: `{text}` {e}")))
}

impl From<&Shelf> for WrittenShelf {
    fn from(shelf: &Shelf) -> Self {
        let plans =
            shelf.plans.iter().map(|(slug, plan)| (slug.to_string(), plan.into())).collect();
        Self { default_plan: shelf.default_plan.as_ref().map(ToString::to_string), plans }
    }
}

impl From<&Plan> for WrittenPlan {
    fn from(plan: &Plan) -> Self {
        let mut written = Self::default();
        for (slug, limit) in &plan.features {
            match limit {
                Some(limit) => drop(written.limits.insert(slug.to_string(), *limit)),
                None => drop(written.features.insert(slug.to_string())),
            }
        }
        written
    }
}
