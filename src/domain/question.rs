//! What is asked: a feature or a plan, by slug, scoped as Clerk scopes it.

use super::Kind;
use std::{fmt, str::FromStr, sync::Arc};

/// The name of a plan or a feature, as in Clerk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(Arc<str>);

/// Longer than any slug Clerk makes, short enough to store and to log.
const LONGEST: usize = 128;

impl Slug {
    /// The slug as Clerk writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = InvalidSlug;

    fn from_str(text: &str) -> Result<Self, InvalidSlug> {
        valid(text).map(|text| Self(text.into()))
    }
}

fn valid(text: &str) -> Result<&str, InvalidSlug> {
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(InvalidSlug);
    }
    Ok(text)
}

impl std::borrow::Borrow<str> for Slug {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text cannot be a slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a slug: 1 to {LONGEST} bytes without control characters")]
pub struct InvalidSlug;

/// Whose plans count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The user's and the organization's.
    Any,
    /// Those of one kind of payer.
    Only(Kind),
    /// Nobody's: the scope is none that Clerk knows, and its own `has()` denies it.
    Unknown,
}

impl Scope {
    /// Whether a payer of this kind counts.
    #[must_use]
    pub fn covers(self, kind: Kind) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => only == kind,
            Self::Unknown => false,
        }
    }
}

/// What is asked for, by its slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'q> {
    /// A feature that plans have.
    Feature(&'q str),
    /// A plan itself.
    Plan(&'q str),
}

/// One question, such as `org:sso`, borrowed from whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'q> {
    /// Whose plans count.
    pub scope: Scope,
    /// What is asked for.
    pub wanted: Wanted<'q>,
}

impl<'q> Question<'q> {
    /// Asks for a feature, of whoever is asked about.
    #[must_use]
    pub fn of(feature: &'q Slug) -> Self {
        Self { scope: Scope::Any, wanted: Wanted::Feature(feature.as_str()) }
    }

    /// Asks for a feature, as `slug` or `scope:slug`.
    pub fn feature(text: &'q str) -> Result<Self, InvalidSlug> {
        let (scope, slug) = split(text)?;
        Ok(Self { scope, wanted: Wanted::Feature(slug) })
    }

    /// Asks for a plan, as `slug` or `scope:slug`.
    pub fn plan(text: &'q str) -> Result<Self, InvalidSlug> {
        let (scope, slug) = split(text)?;
        Ok(Self { scope, wanted: Wanted::Plan(slug) })
    }
}

/// Splits at the first colon; the scopes are those of Clerk's `has()`.
fn split(text: &str) -> Result<(Scope, &str), InvalidSlug> {
    let Some((scope, slug)) = text.split_once(':') else {
        return Ok((Scope::Any, valid(text)?));
    };
    let scope = match scope {
        "u" | "user" => Scope::Only(Kind::User),
        "o" | "org" | "organization" => Scope::Only(Kind::Organization),
        _ => Scope::Unknown,
    };
    Ok((scope, valid(slug)?))
}
