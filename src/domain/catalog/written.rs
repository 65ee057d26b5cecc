//! The catalog's text formats: operators write TOML, and this service stores JSON.

use super::{Catalog, Numbers, Plan, PlanSet, numbers::MAX_LIMIT};
use crate::domain::{Grace, InvalidSlug, Kind, Slug, Target};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use toml_edit::{DocumentMut, Item, Table};

impl Catalog {
    /// Parses a catalog file in TOML.
    pub fn from_toml(text: &str) -> Result<Self, InvalidCatalog> {
        toml::from_str::<WrittenCatalog>(text)
            .map_err(|e| InvalidCatalog(e.to_string()))?
            .try_into()
    }

    /// Parses the output of [`Catalog::to_json`].
    pub fn from_json(text: &str) -> Result<Self, InvalidCatalog> {
        serde_json::from_str::<WrittenCatalog>(text)
            .map_err(|e| InvalidCatalog(e.to_string()))?
            .try_into()
    }

    /// The catalog as a file that [`Catalog::from_toml`] parses.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(&self.written()).expect("a map of strings and numbers is TOML");
        let mut document: DocumentMut = text.parse().expect("the text was written as TOML");
        for kind in ["user", "organization"] {
            let plans = document.get_mut(kind).and_then(|plan_set| plan_set.get_mut("plans"));
            let plans = plans.and_then(Item::as_table_mut).into_iter().flat_map(Table::iter_mut);
            for plan in plans.filter_map(|(_, plan)| plan.as_table_mut()) {
                // `limits = { projects = 25 }` in the table of the plan
                if let Some((mut key, limits)) = plan.get_key_value_mut("limits") {
                    key.fmt();
                    limits.make_value();
                }
            }
        }
        document.to_string()
    }

    /// The catalog in one canonical form: equal catalogs have equal texts.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.written()).expect("a map of strings and numbers is JSON")
    }

    /// Whether both have the same canonical text. Texts are compared, not values: a value also has what was derived from
    /// other catalogs.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }

    fn written(&self) -> WrittenCatalog {
        let strict = self.strict.iter().map(ToString::to_string).collect();
        let plan_set = |plan_set: &PlanSet| WrittenPlanSet::of(plan_set, &self.numbers);
        let (user, organization) = (plan_set(&self.user), plan_set(&self.organization));
        let (grace, numbers) = (self.grace.into(), self.numbers.written().collect());
        WrittenCatalog { grace, strict, numbers, user, organization }
    }
}

/// The error for a catalog that cannot be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the catalog is invalid: {0}")]
pub struct InvalidCatalog(String);

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenCatalog {
    #[serde(default, skip_serializing_if = "WrittenGrace::is_default")]
    grace: WrittenGrace,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    strict: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    numbers: BTreeMap<String, String>,
    #[serde(default)]
    user: WrittenPlanSet,
    #[serde(default)]
    organization: WrittenPlanSet,
}

/// Durations such as `3days`; without one, the default of [`Grace`].
#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
struct WrittenGrace {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    past_due: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<String>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
struct WrittenPlanSet {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_plan: Option<String>,
    #[serde(default)]
    plans: BTreeMap<String, WrittenPlan>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
struct WrittenPlan {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retired: bool,
    #[serde(default)]
    features: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<String, u64>,
}

impl TryFrom<WrittenCatalog> for Catalog {
    type Error = InvalidCatalog;

    fn try_from(document: WrittenCatalog) -> Result<Self, InvalidCatalog> {
        let catalog = Self {
            user: plan_set(Kind::User, document.user)?,
            organization: plan_set(Kind::Organization, document.organization)?,
            grace: document.grace.try_into()?,
            strict: BTreeSet::new(),
            numbers: Numbers::default(),
        };
        let numbers =
            Numbers::parse(document.numbers).map_err(|e| InvalidCatalog(e.to_string()))?;
        let catalog = catalog.with_numbers(numbers);
        let strict = document.strict.iter().map(|slug| slug_at("strict", slug));
        let strict = strict.collect::<Result<BTreeSet<_>, _>>()?;
        // Clerk's plans may have a feature that only a pattern names.
        let is_known =
            |slug: &str| catalog.knows(Target::Feature(slug)) || catalog.numbers.has(slug);
        let unknown = |slug: &&Slug| !is_known(slug.as_str());
        if let Some(slug) = strict.iter().find(unknown) {
            return Err(InvalidCatalog(format!(
                "strict: no plan has the feature `{slug}`; add it to a plan or remove it"
            )));
        }
        Ok(Self { strict, ..catalog })
    }
}

impl TryFrom<WrittenGrace> for Grace {
    type Error = InvalidCatalog;

    fn try_from(written: WrittenGrace) -> Result<Self, InvalidCatalog> {
        let at = |name, text: Option<String>| text.map(|text| duration_at(name, &text)).transpose();
        Ok(Self {
            past_due: at("past_due", written.past_due)?,
            renewal: at("renewal", written.renewal)?,
            trial: at("trial", written.trial)?.unwrap_or(Self::default().trial),
        })
    }
}

fn duration_at(name: &str, text: &str) -> Result<TimeDelta, InvalidCatalog> {
    let duration = humantime::parse_duration(text).ok();
    // Whole milliseconds, as all instants of a decision.
    let duration = duration.filter(|duration| duration.subsec_nanos() % 1_000_000 == 0);
    duration.and_then(|duration| TimeDelta::from_std(duration).ok()).ok_or_else(|| {
        let rule = "must be a duration in whole milliseconds, such as 3days, 12h or 0s";
        InvalidCatalog(format!("grace.{name}: `{text}` {rule}"))
    })
}

impl From<Grace> for WrittenGrace {
    fn from(grace: Grace) -> Self {
        let text = |grace: TimeDelta| {
            let grace = grace.to_std().expect("a grace is not negative");
            humantime::format_duration(grace).to_string()
        };
        let trial = Some(grace.trial).filter(|trial| *trial != Grace::default().trial);
        Self {
            past_due: grace.past_due.map(text),
            renewal: grace.renewal.map(text),
            trial: trial.map(text),
        }
    }
}

impl WrittenGrace {
    fn is_default(&self) -> bool {
        self.past_due.is_none() && self.renewal.is_none() && self.trial.is_none()
    }
}

fn plan_set(kind: Kind, written: WrittenPlanSet) -> Result<PlanSet, InvalidCatalog> {
    let (mut plans, mut ids) = (BTreeMap::new(), BTreeMap::new());
    for (slug, plan) in written.plans {
        let path = format!("{kind}.plans.{slug}");
        let (slug, plan) = (slug_at(&path, &slug)?, plan_at(&path, plan)?);
        if let Some(id) = &plan.id
            && let Some(other) = ids.insert(id.clone(), slug.clone())
        {
            let reason = format!("{path}.id: {kind}.plans.{other} already has the id `{id}`");
            return Err(InvalidCatalog(reason));
        }
        plans.insert(slug, plan);
    }
    let default_plan = match written.default_plan {
        Some(slug) if plans.contains_key(slug.as_str()) => {
            Some(slug_at(&format!("{kind}.default_plan"), &slug)?)
        }
        Some(slug) => {
            let reason = format!(
                "{kind}.default_plan: {kind}.plans has no plan `{slug}`; add it or name another"
            );
            return Err(InvalidCatalog(reason));
        }
        None => None,
    };
    Ok(PlanSet { default_plan, plans, ids, ..PlanSet::default() })
}

fn plan_at(path: &str, written: WrittenPlan) -> Result<Plan, InvalidCatalog> {
    let mut features = BTreeMap::new();
    for slug in &written.features {
        features.insert(slug_at(path, slug)?, None);
    }
    for (slug, limit) in &written.limits {
        if *limit > MAX_LIMIT {
            let reason = format!("{path}.limits.{slug}: {limit} must be at most {MAX_LIMIT}");
            return Err(InvalidCatalog(reason));
        }
        features.insert(slug_at(path, slug)?, Some(*limit));
    }
    let id = written.id.map(|id| id_at(path, &id)).transpose()?;
    Ok(Plan { id, retired: written.retired, features })
}

fn id_at(path: &str, text: &str) -> Result<Arc<str>, InvalidCatalog> {
    let is_id = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !(1..=128).contains(&text.len()) || !text.bytes().all(is_id) {
        let rule = "must be Clerk's id of the plan: letters, digits, `_` or `-`, such as cplan_…";
        return Err(InvalidCatalog(format!("{path}.id {rule}")));
    }
    Ok(text.into())
}

fn slug_at(path: &str, text: &str) -> Result<Slug, InvalidCatalog> {
    if text.contains(':') {
        return Err(InvalidCatalog(format!(
            "{path}: `{text}` contains a colon, which is reserved for scopes"
        )));
    }
    text.parse().map_err(|e: InvalidSlug| InvalidCatalog(format!("{path}: `{text}` {e}")))
}

impl WrittenPlanSet {
    fn of(plan_set: &PlanSet, numbers: &Numbers) -> Self {
        let plan =
            |(slug, plan): (&Slug, &Plan)| (slug.to_string(), WrittenPlan::of(plan, numbers));
        let plans = plan_set.plans.iter().map(plan).collect();
        Self { default_plan: plan_set.default_plan.as_ref().map(ToString::to_string), plans }
    }
}

impl WrittenPlan {
    /// The plan without the limits that its slugs state: they follow from the slugs, also when somebody edits these.
    fn of(plan: &Plan, numbers: &Numbers) -> Self {
        let stated = numbers.limits(plan);
        let id = plan.id.as_deref().map(str::to_owned);
        let mut written = Self { id, retired: plan.retired, ..Self::default() };
        for (slug, limit) in &plan.features {
            match limit {
                Some(limit) if stated.get(slug) == Some(limit) => {}
                Some(limit) => drop(written.limits.insert(slug.to_string(), *limit)),
                None => drop(written.features.insert(slug.to_string())),
            }
        }
        written
    }
}
