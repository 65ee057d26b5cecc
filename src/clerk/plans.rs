//! Clerk's plans with their features, as a catalog: from the list of the Backend API, and from the file of Clerk's command
//! line.
//!
//! Both are read by one rule, because both must give the same catalog. A part that a catalog file could not contain is left out:
//! the stored catalog would not be readable.

use super::json::{Json, Object};
use crate::domain::{Catalog, Kind, Plan, Slug};
use std::{collections::BTreeMap, sync::Arc};

/// The plans that Clerk lists.
#[derive(Debug, Default)]
pub struct Plans {
    /// The plans that could be parsed.
    pub catalog: Catalog,
    /// For each plan that could not be parsed, the reason. Its stored version must stay unchanged.
    pub left_out: Vec<String>,
}

/// A plan of Clerk, for one kind of subject.
pub(super) struct ListedPlan {
    pub kind: Kind,
    pub slug: Slug,
    pub plan: Plan,
    pub is_default: bool,
}

impl ListedPlan {
    /// Reads a plan of the Backend API; an error says why the plan is invalid.
    pub(super) fn of_api(row: &str) -> Result<Self, String> {
        let row = Json::parse(row.as_bytes()).ok().and_then(Json::object);
        let row = row.ok_or("a plan is not an object")?;
        let slug = row.text("slug").map_err(|e| e.to_string())?.ok_or("a plan has no slug")?;
        Self::read(&row, &slug).map_err(|why| format!("plan `{slug}`: {why}"))
    }

    /// Reads a plan with this slug; an error says why the plan is invalid. The Backend API calls the kind of its payers
    /// `for_payer_type`, Clerk's command line `payer_type`.
    pub(super) fn read(row: &Object<'_>, slug: &str) -> Result<Self, String> {
        let slug = valid_slug(slug)?;
        let payer = match row.identifier("for_payer_type").map_err(|e| e.to_string())? {
            None => row.identifier("payer_type").map_err(|e| e.to_string())?,
            payer => payer,
        };
        let kind = match payer.as_deref() {
            Some("user") => Kind::User,
            Some("org" | "organization") => Kind::Organization,
            _ => return Err("its payer type is neither `user` nor `org`".into()),
        };
        // A plan without features would revoke those of its holders.
        let features = row.array("features").map_err(|e| e.to_string())?;
        let features = features.ok_or("it came without its features")?;
        let id = row.identifier("id").ok().flatten().filter(|id| !id.contains('.'));
        let plan = Plan { id: id.map(Arc::from), retired: false, features: slugs_of(&features)? };
        let is_default = row.truth("is_default").ok().flatten().unwrap_or(false);
        Ok(Self { kind, slug, plan, is_default })
    }

    pub(super) fn add_to(self, catalog: &mut Catalog) {
        catalog.add(self.kind, self.slug, self.plan, self.is_default);
    }
}

/// The features of a plan: slugs, or objects with a slug.
fn slugs_of(features: &[Json<'_>]) -> Result<BTreeMap<Slug, Option<u64>>, String> {
    let slug = |(nth, feature): (usize, &Json<'_>)| {
        let object = || feature.object()?.text("slug").ok().flatten();
        let slug = feature.string().or_else(object).ok_or("has no slug".to_owned());
        let slug = slug.and_then(|slug| valid_slug(&slug));
        Ok((slug.map_err(|why| format!("features[{nth}]: {why}"))?, None))
    };
    features.iter().enumerate().map(slug).collect()
}

/// A slug that a catalog file may contain.
fn valid_slug(text: &str) -> Result<Slug, String> {
    if text.contains(':') {
        return Err("a slug contains a colon, which is reserved for scopes".into());
    }
    text.parse().map_err(|error| format!("a slug {error}"))
}
