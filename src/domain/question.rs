//! A question: for a feature or a plan, by slug, with Clerk's scopes.

use super::Kind;
use std::{fmt, str::FromStr, sync::Arc};

/// The slug of a plan or a feature in Clerk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(Arc<str>);

/// In bytes. Clerk's slugs are shorter, and a slug of this length can be stored and logged.
const MAX_SLUG_LEN: usize = 128;

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
    if text.is_empty() || text.len() > MAX_SLUG_LEN || text.chars().any(char::is_control) {
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

/// The error for a text that cannot be a slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a slug: 1 to {MAX_SLUG_LEN} bytes without control characters")]
pub struct InvalidSlug;

/// Which subjects' plans count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionScope {
    /// Both the user's and the organization's plans count.
    Any,
    /// Only the plans of one kind of subject count.
    Only(Kind),
    /// No plans count: Clerk does not know the scope, and its own `has()` denies it, too.
    Unknown,
}

impl QuestionScope {
    /// Whether plans of this kind of subject count.
    #[must_use]
    pub fn covers(self, kind: Kind) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => only == kind,
            Self::Unknown => false,
        }
    }
}

/// The feature or plan that a question asks for, by slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'q> {
    /// A feature that plans have.
    Feature(&'q str),
    /// A plan itself.
    Plan(&'q str),
}

/// A question such as `org:sso`; the slug is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'q> {
    /// Which subjects' plans count.
    pub scope: QuestionScope,
    /// The feature or plan asked for.
    pub wanted: Target<'q>,
}

impl<'q> Question<'q> {
    /// A question for a feature in any scope.
    #[must_use]
    pub fn of(feature: &'q Slug) -> Self {
        Self { scope: QuestionScope::Any, wanted: Target::Feature(feature.as_str()) }
    }

    /// Parses a question for a feature: `slug` or `scope:slug`.
    pub fn feature(text: &'q str) -> Result<Self, InvalidSlug> {
        let (scope, slug) = split(text)?;
        Ok(Self { scope, wanted: Target::Feature(slug) })
    }

    /// Parses a question for a plan: `slug` or `scope:slug`.
    pub fn plan(text: &'q str) -> Result<Self, InvalidSlug> {
        let (scope, slug) = split(text)?;
        Ok(Self { scope, wanted: Target::Plan(slug) })
    }
}

/// Splits at the first colon. The scopes are those of Clerk's `has()`.
fn split(text: &str) -> Result<(QuestionScope, &str), InvalidSlug> {
    let Some((scope, slug)) = text.split_once(':') else {
        return Ok((QuestionScope::Any, valid(text)?));
    };
    let scope = match scope {
        "u" | "user" => QuestionScope::Only(Kind::User),
        "o" | "org" | "organization" => QuestionScope::Only(Kind::Organization),
        _ => QuestionScope::Unknown,
    };
    Ok((scope, valid(slug)?))
}
