//! Who is asked about: a user, an organization, or a user in the active organization.

use crate::domain::{Id, Kind, Subject};

/// Those asked about, borrowed from whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payers<'i> {
    pub(super) first: Id<'i>,
    pub(super) second: Option<Id<'i>>,
}

impl<'i> Payers<'i> {
    /// Of these two; `None`: neither is named.
    #[must_use]
    pub fn of(user: Option<Id<'i>>, organization: Option<Id<'i>>) -> Option<Self> {
        match (user, organization) {
            (Some(first), second) => Some(Self { first, second }),
            (None, Some(first)) => Some(Self::of_one(first)),
            (None, None) => None,
        }
    }

    /// Of one alone.
    #[must_use]
    pub fn of_one(one: Id<'i>) -> Self {
        Self { first: one, second: None }
    }

    /// Of a user, in the active organization if there is one.
    #[must_use]
    pub fn of_user(user: Id<'i>, organization: Option<Id<'i>>) -> Self {
        Self { first: user, second: organization }
    }

    /// The user first.
    pub fn iter(self) -> impl Iterator<Item = Id<'i>> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

/// The same, kept for as long as a stream goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whom {
    first: Subject,
    second: Option<Subject>,
}

impl Whom {
    /// Of these two; `None`: neither is named.
    #[must_use]
    pub fn of(user: Option<Subject>, organization: Option<Subject>) -> Option<Self> {
        match (user, organization) {
            (Some(first), second) => Some(Self { first, second }),
            (None, Some(first)) => Some(Self { first, second: None }),
            (None, None) => None,
        }
    }

    /// To ask about.
    #[must_use]
    pub fn payers(&self) -> Payers<'_> {
        Payers { first: self.first.id(), second: self.second.as_ref().map(Subject::id) }
    }

    /// The user first.
    pub fn iter(&self) -> impl Iterator<Item = &Subject> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten()
    }

    /// The one of a kind.
    #[must_use]
    pub fn one(&self, kind: Kind) -> Option<&Subject> {
        self.iter().find(|subject| subject.kind() == kind)
    }

    /// Whether it is about this one.
    #[must_use]
    pub fn has(&self, subject: &Subject) -> bool {
        self.iter().any(|one| one == subject)
    }
}
