//! Numbers in slugs: with the pattern `projects_{n}` for `projects`, a plan that has the feature `projects_25` also has the
//! feature `projects` with the limit 25.
//!
//! Clerk has no limits, so its users put the number into the slug. Only a pattern in the catalog file makes it a limit. The
//! slug itself stays a feature: Clerk's `has()` knows it, and a pattern must not take anything away.

use super::{Catalog, Plan};
use crate::domain::{Kind, Slug};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The largest limit, which TOML and Postgres can store as well.
pub(super) const MAX_LIMIT: u64 = i64::MAX as u64;
const PLACE: &str = "{n}";

/// For each feature whose limits are in slugs, the pattern of these slugs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbers(BTreeMap<Slug, NumberPattern>);

/// A slug with a place for a number, such as `projects_{n}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NumberPattern {
    before: String,
    after: String,
}

/// The error for a pattern that cannot be used. The text names its key in the catalog file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("numbers.{feature}: {reason}")]
pub struct InvalidNumbers {
    feature: String,
    reason: String,
}

impl Numbers {
    /// Parses features with their patterns.
    pub fn parse(
        written: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, InvalidNumbers> {
        let mut numbers = BTreeMap::new();
        for (feature, pattern) in written {
            let parsed = parse(&feature, &pattern);
            let (slug, pattern) = parsed.map_err(|reason| InvalidNumbers { feature, reason })?;
            numbers.insert(slug, pattern);
        }
        // Otherwise a limit would be derived from a derived feature, and the order would count.
        for (feature, pattern) in &numbers {
            if let Some(target) = numbers.keys().find(|slug| pattern.number(slug).is_some()) {
                let reason = format!(
                    "the pattern `{pattern}` matches `{target}`, which is a key of [numbers]; rename the key"
                );
                return Err(InvalidNumbers { feature: feature.to_string(), reason });
            }
        }
        Ok(Self(numbers))
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a pattern for this feature.
    pub(super) fn has(&self, feature: &str) -> bool {
        self.0.contains_key(feature)
    }

    /// The features with their patterns, as in a catalog file.
    pub(super) fn written(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(feature, pattern)| (feature.to_string(), pattern.to_string()))
    }

    /// The limit that the slugs of a plan state for each feature: the largest.
    pub(super) fn limits<'n>(&'n self, plan: &Plan) -> BTreeMap<&'n Slug, u64> {
        let largest = |pattern: &NumberPattern| pattern.stated(plan).map(|(_, n)| n).max();
        self.0.iter().filter_map(|(slug, pattern)| Some((slug, largest(pattern)?))).collect()
    }

    /// Gives a plan the limits that its slugs state. A limit that the plan has already stays.
    pub(super) fn apply(&self, plan: &mut Plan) {
        for (feature, limit) in self.limits(plan) {
            let stated = plan.features.entry(feature.clone()).or_default();
            *stated = stated.or(Some(limit));
        }
    }
}

fn parse(feature: &str, pattern: &str) -> Result<(Slug, NumberPattern), String> {
    if feature.contains(':') {
        return Err("the feature contains a colon, which is reserved for scopes".into());
    }
    let slug = feature.parse().map_err(|error| format!("the feature {error}"))?;
    Ok((slug, pattern.parse()?))
}

impl FromStr for NumberPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((before, after)) = text.split_once(PLACE) else {
            return Err(format!(
                "`{text}` has no {PLACE}; write it in place of the number, as projects_{PLACE}"
            ));
        };
        if after.contains(PLACE) {
            return Err(format!("`{text}` has {PLACE} twice; a slug has one number"));
        }
        let example = format!("{before}1{after}");
        if example.contains(':') || example.parse::<Slug>().is_err() {
            return Err(format!(
                "`{text}` cannot be a slug, as `{}`; write a slug as Clerk's dashboard shows it",
                example.escape_debug()
            ));
        }
        Ok(Self { before: before.into(), after: after.into() })
    }
}

impl fmt::Display for NumberPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACE}{}", self.before, self.after)
    }
}

impl NumberPattern {
    /// The number in a slug; `None` if the slug does not match, or the number is greater than a limit may be.
    fn number(&self, slug: &Slug) -> Option<u64> {
        let number = slug.as_str().strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        let is_number = number.bytes().all(|digit| digit.is_ascii_digit()); // `parse` would accept a sign
        number.parse().ok().filter(|number| is_number && *number <= MAX_LIMIT)
    }

    /// The features of a plan that match, with their numbers.
    fn stated<'p>(&self, plan: &'p Plan) -> impl Iterator<Item = (&'p Slug, u64)> {
        plan.features.keys().filter_map(|slug| Some((slug, self.number(slug)?)))
    }
}

impl Catalog {
    /// The catalog with these patterns instead of its own. Limits that were derived before stay.
    #[must_use]
    pub fn with_numbers(mut self, numbers: Numbers) -> Self {
        for kind in [Kind::User, Kind::Organization] {
            let plans = self.plan_set_mut(kind).plans.values_mut();
            plans.for_each(|plan| numbers.apply(plan));
        }
        self.numbers = numbers;
        self
    }

    /// The patterns of numbers in slugs.
    #[must_use]
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Notes on patterns that match nothing, or more than one feature of a plan, and on limits that outrank a number.
    #[must_use]
    pub fn number_notes(&self) -> Vec<String> {
        let Numbers(numbers) = &self.numbers;
        let unused = numbers.iter().filter(|(_, pattern)| {
            self.all_plans().all(|plan| pattern.stated(plan).next().is_none())
        });
        let unused = unused.map(|(feature, pattern)| {
            format!("numbers.{feature}: no feature of a plan matches `{pattern}`")
        });
        let mut notes: Vec<_> = unused.collect();
        for kind in [Kind::User, Kind::Organization] {
            for (slug, plan) in &self.plan_set(kind).plans {
                let note = |(feature, pattern): (&Slug, &NumberPattern)| {
                    note(feature, pattern, plan).map(|note| format!("{kind}.plans.{slug}: {note}"))
                };
                notes.extend(numbers.iter().filter_map(note));
            }
        }
        notes
    }
}

/// A note on the limit of a feature in a plan, unless exactly one slug states it.
fn note(feature: &Slug, pattern: &NumberPattern, plan: &Plan) -> Option<String> {
    let largest = pattern.stated(plan).map(|(_, number)| number).max()?;
    let slugs: Vec<_> = pattern.stated(plan).map(|(slug, _)| format!("`{slug}`")).collect();
    let slugs = slugs.join(", ");
    match plan.features.get(feature).copied().flatten() {
        Some(limit) if limit != largest => Some(format!(
            "`limits` states {feature} = {limit}, which outranks the number in {slugs}"
        )),
        _ if pattern.stated(plan).count() > 1 => {
            Some(format!("{slugs} state a limit of `{feature}`; the largest counts, {largest}"))
        }
        _ => None,
    }
}
