//! The keys of a catalog, by kind, and an identifier for each.
//!
//! A change of the catalog never gives an identifier another meaning: if two slugs would have the same one, neither has it,
//! and code that uses it no longer compiles.

use crate::domain::{Catalog, Kind, Plan, Slug};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

/// A kind of key, which becomes a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeyKind {
    Feature,
    /// A feature that has a limit in at least one plan.
    LimitedFeature,
    UserPlan,
    OrganizationPlan,
}

impl KeyKind {
    pub(super) const ALL: [Self; 4] =
        [Self::Feature, Self::LimitedFeature, Self::UserPlan, Self::OrganizationPlan];

    /// The name of the type, and that of its list.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Feature => ("Feature", "FEATURES"),
            Self::LimitedFeature => ("LimitedFeature", "LIMITED_FEATURES"),
            Self::UserPlan => ("UserPlan", "USER_PLANS"),
            Self::OrganizationPlan => ("OrganizationPlan", "ORGANIZATION_PLANS"),
        }
    }

    /// The kind in words.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Feature => "feature",
            Self::LimitedFeature => "limited feature",
            Self::UserPlan => "user plan",
            Self::OrganizationPlan => "organization plan",
        }
    }

    /// The comment of the type, as a phrase.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Feature => "a feature of the catalog",
            Self::LimitedFeature => "a feature that has a limit in at least one plan",
            Self::UserPlan => "a plan for users",
            Self::OrganizationPlan => "a plan for organizations",
        }
    }
}

/// A key in generated code. The literal is escaped as there, without its quotes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedKey {
    pub kind: KeyKind,
    pub literal: String,
}

impl NamedKey {
    pub(super) fn json(&self) -> Value {
        json!({ "kind": self.kind.noun(), "key": self.literal })
    }
}

/// As in `feature "sso"`.
impl fmt::Display for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind.noun(), self.literal)
    }
}

/// The keys of a catalog.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<KeyKind, BTreeSet<Slug>>);

impl Keys {
    /// The keys of a catalog. Plans that Clerk no longer lists count too, because they have holders.
    pub(super) fn of(catalog: &Catalog) -> Self {
        let plans = |kind: Kind| &catalog.plan_set(kind).plans;
        let all = || plans(Kind::User).values().chain(plans(Kind::Organization).values());
        let limited = |plan: &Plan| {
            let limited = plan.features.iter().filter(|(_, limit)| limit.is_some());
            limited.map(|(slug, _)| slug.clone()).collect::<Vec<_>>()
        };
        Self(BTreeMap::from([
            (KeyKind::Feature, catalog.features().cloned().collect()),
            (KeyKind::LimitedFeature, all().flat_map(limited).collect()),
            (KeyKind::UserPlan, plans(Kind::User).keys().cloned().collect()),
            (KeyKind::OrganizationPlan, plans(Kind::Organization).keys().cloned().collect()),
        ]))
    }

    /// The keys of a kind, sorted.
    pub(super) fn slugs(&self, kind: KeyKind) -> &BTreeSet<Slug> {
        &self.0[&kind]
    }

    /// The keys of a kind, sorted, each with an identifier. A limited feature has the identifier of the feature.
    pub(super) fn identified(
        &self,
        kind: KeyKind,
        reserved: &[&str],
        plain: fn(&str) -> String,
    ) -> Vec<(&Slug, String)> {
        let all = match kind {
            KeyKind::LimitedFeature => KeyKind::Feature,
            KeyKind::Feature | KeyKind::UserPlan | KeyKind::OrganizationPlan => kind,
        };
        let mut identified = identifiers(self.slugs(all), reserved, plain);
        identified.retain(|(slug, _)| self.slugs(kind).contains(*slug));
        identified
    }
}

/// An identifier for each slug, in the order of the slugs. If its plain name is reserved or that of another slug, the
/// bytes of the slug follow in hexadecimal.
fn identifiers<'s>(
    slugs: &'s BTreeSet<Slug>,
    reserved: &[&str],
    plain: fn(&str) -> String,
) -> Vec<(&'s Slug, String)> {
    let mut spelled = BTreeSet::new();
    loop {
        let name = |slug: &'s Slug| {
            let suffix = if spelled.contains(slug) {
                format!("X{}", hex::encode(slug.as_str()))
            } else {
                String::new()
            };
            (slug, plain(slug.as_str()) + &suffix)
        };
        let named: Vec<_> = slugs.iter().map(name).collect();
        let mut counts = BTreeMap::<_, usize>::new();
        for (_, name) in &named {
            *counts.entry(name).or_default() += 1;
        }
        let is_unfit = |name: &String| counts[name] > 1 || reserved.contains(&&**name);
        let unfit = named.iter().filter(|(slug, name)| is_unfit(name) && !spelled.contains(slug));
        let unfit: Vec<_> = unfit.map(|(slug, _)| *slug).collect();
        if unfit.is_empty() {
            return named;
        }
        spelled.extend(unfit);
    }
}

/// A slug in camel case, of ASCII letters and digits: `ApiAccess` for `api_access`, `api-access` and `apiAccess`. A `_`
/// stays between two digits.
pub(super) fn camel(slug: &str) -> String {
    let (mut name, mut begins, mut before) = (String::new(), true, ' ');
    for c in slug.chars() {
        if !c.is_alphanumeric() {
            begins = true;
            continue;
        }
        if !c.is_ascii() {
            write!(name, "U{:x}", u32::from(c)).expect("a string grows");
            (begins, before) = (true, ' ');
            continue;
        }
        begins |= before.is_ascii_lowercase() && c.is_ascii_uppercase();
        if begins && before.is_ascii_digit() && c.is_ascii_digit() {
            name.push('_');
        }
        name.push(if begins { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
        (begins, before) = (false, c);
    }
    if name.is_empty() { "X".into() } else { name }
}
