//! The catalog as it is written: by people as TOML, by this service as JSON.

use super::{Catalog, Plan, Shelf};
use crate::domain::{InvalidSlug, Kind, Slug, Wanted};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

impl Catalog {
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
    /// Clerk's id of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retired: bool,
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
    let (mut plans, mut ids) = (BTreeMap::new(), BTreeMap::new());
    for (slug, plan) in written.plans {
        let place = format!("{kind}.plans.{slug}");
        let (slug, plan) = (slug_at(&place, &slug)?, plan_at(&place, plan)?);
        if let Some(id) = &plan.id
            && let Some(other) = ids.insert(id.clone(), slug.clone())
        {
            let reason = format!("{place}: `{id}` is the id of {kind}.plans.{other} already");
            return Err(InvalidCatalog(reason));
        }
        plans.insert(slug, plan);
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
    Ok(Shelf { default_plan, plans, ids, ..Shelf::default() })
}

fn plan_at(place: &str, written: WrittenPlan) -> Result<Plan, InvalidCatalog> {
    let mut features = BTreeMap::new();
    for slug in &written.features {
        features.insert(slug_at(place, slug)?, None);
    }
    for (slug, limit) in &written.limits {
        features.insert(slug_at(place, slug)?, Some(*limit));
    }
    let id = written.id.map(|id| id_at(place, &id)).transpose()?;
    Ok(Plan { id, retired: written.retired, features })
}

fn id_at(place: &str, text: &str) -> Result<Arc<str>, InvalidCatalog> {
    let is_id = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !(1..=128).contains(&text.len()) || !text.bytes().all(is_id) {
        let rule = "must be Clerk's id of the plan: letters, digits, `_` or `-`, such as cplan_…";
        return Err(InvalidCatalog(format!("{place}.id {rule}")));
    }
    Ok(text.into())
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
        let id = plan.id.as_deref().map(str::to_owned);
        let mut written = Self { id, retired: plan.retired, ..Self::default() };
        for (slug, limit) in &plan.features {
            match limit {
                Some(limit) => drop(written.limits.insert(slug.to_string(), *limit)),
                None => drop(written.features.insert(slug.to_string())),
            }
        }
        written
    }
}
