//! A subject: the Clerk user or organization that holds plans.

use std::{fmt, str::FromStr, sync::Arc};

/// The kinds of subject. Each plan is for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A person, `user_…`.
    User,
    /// An organization, `org_…`.
    Organization,
}

impl Kind {
    /// The prefix of Clerk's ids of this kind.
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

/// The Clerk id of a user or an organization, `user_…` or `org_…`. Every value is well formed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

/// The borrowed form of a [`Subject`]: the Clerk id of a user or an organization. Every value is well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectRef<'i>(&'i str);

/// In bytes. Clerk's ids are shorter, and an id of this length can be stored and logged.
const MAX_ID_LEN: usize = 128;

impl<'i> SubjectRef<'i> {
    /// Parses an id of one kind. An id of the other kind is an error.
    pub fn of(kind: Kind, id: &'i str) -> Result<Self, InvalidSubject> {
        match id.strip_prefix(kind.prefix()) {
            Some(name) if id.len() <= MAX_ID_LEN && is_name(name) => Ok(Self(id)),
            _ => Err(InvalidSubject(kind)),
        }
    }

    /// Whether the subject is a user or an organization.
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

impl<'i> TryFrom<&'i str> for SubjectRef<'i> {
    type Error = InvalidSubject;

    fn try_from(id: &'i str) -> Result<Self, InvalidSubject> {
        let is_org = id.starts_with(Kind::Organization.prefix());
        Self::of(if is_org { Kind::Organization } else { Kind::User }, id)
    }
}

impl From<SubjectRef<'_>> for Subject {
    fn from(id: SubjectRef<'_>) -> Self {
        Self(id.0.into())
    }
}

impl Subject {
    /// Parses an id of one kind. An id of the other kind is an error.
    pub fn of(kind: Kind, id: &str) -> Result<Self, InvalidSubject> {
        SubjectRef::of(kind, id).map(Into::into)
    }

    /// Whether the subject is a user or an organization.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.id().kind()
    }

    /// Borrows the id.
    #[must_use]
    pub fn id(&self) -> SubjectRef<'_> {
        SubjectRef(&self.0)
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
        SubjectRef::try_from(id).map(Into::into)
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

/// The error for a text that is not a Clerk id of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a Clerk {0} id: `{prefix}` and then letters, digits, `_` or `-`, at most {MAX_ID_LEN} bytes",
    prefix = .0.prefix()
)]
pub struct InvalidSubject(Kind);
