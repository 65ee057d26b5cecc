//! Who pays: a Clerk user or organization.

use std::{fmt, str::FromStr, sync::Arc};

/// The two kinds of payer; plans belong to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A person, `user_…`.
    User,
    /// An organization, `org_…`.
    Organization,
}

impl Kind {
    /// What Clerk's ids of this kind begin with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::User => "user_",
            Self::Organization => "org_",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Organization => "organization",
        })
    }
}

/// A payer's Clerk id, `user_…` or `org_…`: it is well formed because it exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

/// The same, borrowed from whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id<'i>(&'i str);

/// Longer than any id Clerk makes, short enough to store and to log.
const LONGEST: usize = 128;

impl<'i> Id<'i> {
    /// Parses the id of one kind; an id of the other kind is refused.
    pub fn of(kind: Kind, id: &'i str) -> Result<Self, InvalidSubject> {
        match id.strip_prefix(kind.prefix()) {
            Some(name) if id.len() <= LONGEST && is_name(name) => Ok(Self(id)),
            _ => Err(InvalidSubject(kind)),
        }
    }

    /// Whether a user or an organization pays.
    #[must_use]
    pub fn kind(self) -> Kind {
        if self.0.starts_with(Kind::User.prefix()) { Kind::User } else { Kind::Organization }
    }

    /// The id as Clerk writes it.
    #[must_use]
    pub fn as_str(self) -> &'i str {
        self.0
    }
}

impl From<Id<'_>> for Subject {
    fn from(id: Id<'_>) -> Self {
        Self(id.0.into())
    }
}

impl Subject {
    /// Parses the id of one kind; an id of the other kind is refused.
    pub fn of(kind: Kind, id: &str) -> Result<Self, InvalidSubject> {
        Id::of(kind, id).map(Into::into)
    }

    /// Whether a user or an organization pays.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.id().kind()
    }

    /// The id, to ask with.
    #[must_use]
    pub fn id(&self) -> Id<'_> {
        Id(&self.0)
    }

    /// The id as Clerk writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Subject {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(id: &str) -> Result<Self, InvalidSubject> {
        let is_org = id.starts_with(Kind::Organization.prefix());
        Self::of(if is_org { Kind::Organization } else { Kind::User }, id)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The text is not the Clerk id of a payer of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a Clerk {0} id: `{prefix}` and then letters, digits, `_` or `-`, at most {LONGEST} bytes",
    prefix = .0.prefix()
)]
pub struct InvalidSubject(Kind);
