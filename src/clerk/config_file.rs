//! The billing configuration of an instance, as Clerk's command line writes it: `clerk config pull --keys billing`.
//!
//! The format is not documented, except by `clerk config schema`. It is therefore read leniently: unknown fields are
//! ignored, and a plan that cannot be read does not prevent the others. Plans are the entries of an object, with their
//! slugs as keys; an earlier form is a list. An answer of the Backend API is accepted, too.

use super::{
    json::{Json, Object},
    plans::ListedPlan,
};
use crate::domain::{Catalog, Kind};

/// The plans of a configuration file.
#[derive(Debug, Default)]
pub struct ConfiguredPlans {
    /// The plans that could be read.
    pub catalog: Catalog,
    /// For each plan that could not be read, its place in the file and the reason.
    pub left_out: Vec<String>,
    /// Assumptions about what the file does not say.
    pub notes: Vec<String>,
}

/// The error for a file without plans that can be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfiguration {
    /// The file is not JSON.
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The file has no list of plans.
    #[error(
        "it has no `billing.plans`: write it by `clerk config pull --keys billing --output FILE`"
    )]
    NoList,
    /// The list has no plan that can be read.
    #[error("`{place}` has no plan that can be read{more}: enable Clerk Billing, and create plans")]
    NoPlan {
        /// The place of the list.
        place: &'static str,
        /// The first plan that could not be read.
        more: String,
    },
}

/// Reads a configuration file.
pub fn read_configuration(bytes: &[u8]) -> Result<ConfiguredPlans, InvalidConfiguration> {
    let (place, plans) = list(Json::parse(bytes)?).ok_or(InvalidConfiguration::NoList)?;
    let mut found = ConfiguredPlans::default();
    let mut free = Vec::new();
    for (place, slug, row) in rows(place, plans) {
        match found.read(row, slug) {
            Ok(plan) if is_made_by_clerk(&plan, row) => {
                free.push((plan.kind, plan.slug.clone()));
                plan.add_to(&mut found.catalog);
            }
            Ok(plan) => plan.add_to(&mut found.catalog),
            Err(why) => found.left_out.push(format!("{place}: {why}")),
        }
    }
    if found.catalog.plans() == 0 {
        let more = found.left_out.first().map(|why| format!(" ({why})")).unwrap_or_default();
        return Err(InvalidConfiguration::NoPlan { place, more });
    }
    for kind in [Kind::User, Kind::Organization] {
        let free = free.iter().find(|(of, _)| *of == kind).map(|(_, slug)| slug);
        if let Some(note) = found.catalog.assume_default(kind, free) {
            found.notes.push(note);
        }
    }
    Ok(found)
}

impl ConfiguredPlans {
    /// Reads a plan; an error says why it is left out.
    fn read(&self, row: Json<'_>, slug: Option<String>) -> Result<ListedPlan, String> {
        let row = row.object().ok_or("it is not an object")?;
        let stated = row.text("slug").map_err(|e| e.to_string())?;
        let slug = slug.or(stated).ok_or("it has no slug")?;
        let plan = ListedPlan::read(&row, &slug)?;
        let kind = plan.kind;
        if self.catalog.plan_set(kind).plans.contains_key(&plan.slug) {
            return Err(format!("the file has another {kind} plan `{slug}` before it"));
        }
        Ok(plan)
    }
}

/// The list of plans, with its place in the file.
fn list(file: Json<'_>) -> Option<(&'static str, Json<'_>)> {
    let Some(file_object) = file.object() else {
        return file.array().map(|_| ("the list", file));
    };
    let billing = file_object.object("billing").ok().flatten();
    if let Some(plans) = billing.and_then(|billing| billing.get("plans")) {
        return Some(("billing.plans", plans));
    }
    let or = |key| file_object.get(key).map(|plans| (key, plans));
    or("plans").or_else(|| or("data"))
}

/// The plans, each with its place in the file, and with its slug if that is its key.
fn rows<'j>(place: &str, plans: Json<'j>) -> Vec<(String, Option<String>, Json<'j>)> {
    let entries = plans.object().map(Object::entries).unwrap_or_default().into_iter();
    let entries = entries.map(|(slug, row)| (format!("{place}.{slug}"), Some(slug), row));
    let listed = plans.array().unwrap_or_default().into_iter().enumerate();
    let listed = listed.map(|(nth, row)| (format!("{place}[{nth}]"), None, row));
    entries.chain(listed).collect()
}

/// Whether this is the plan that Clerk creates, as the default, when Billing is enabled. The file does not mark the
/// default plan, but Clerk names these plans, and they are free.
fn is_made_by_clerk(plan: &ListedPlan, row: Json<'_>) -> bool {
    let slug = match plan.kind {
        Kind::User => "free_user",
        Kind::Organization => "free_org",
    };
    let amount = row.object().and_then(|row| row.whole("amount").ok().flatten());
    plan.slug.as_str() == slug && amount.unwrap_or(0) == 0
}
