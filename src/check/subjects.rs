//! The subjects of a check: a user, an organization, or a user in the active organization.

use crate::domain::{Kind, Subject, SubjectRef};

/// The subjects of a check, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subjects<'i> {
    pub(super) first: SubjectRef<'i>,
    pub(super) second: Option<SubjectRef<'i>>,
}

impl<'i> Subjects<'i> {
    /// A user, an organization or both; `None` if there is neither.
    #[must_use]
    pub fn of(user: Option<SubjectRef<'i>>, organization: Option<SubjectRef<'i>>) -> Option<Self> {
        match (user, organization) {
            (Some(first), second) => Some(Self { first, second }),
            (None, Some(first)) => Some(Self::of_one(first)),
            (None, None) => None,
        }
    }

    /// One subject alone.
    #[must_use]
    pub fn of_one(one: SubjectRef<'i>) -> Self {
        Self { first: one, second: None }
    }

    /// A user, with the active organization if there is one.
    #[must_use]
    pub fn of_user(user: SubjectRef<'i>, organization: Option<SubjectRef<'i>>) -> Self {
        Self { first: user, second: organization }
    }

    /// The subjects, the user first.
    pub fn iter(self) -> impl Iterator<Item = SubjectRef<'i>> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

/// The subjects of a check, owned. A stream keeps them for as long as it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectsBuf {
    first: Subject,
    second: Option<Subject>,
}

impl SubjectsBuf {
    /// A user, an organization or both; `None` if there is neither.
    #[must_use]
    pub fn of(user: Option<Subject>, organization: Option<Subject>) -> Option<Self> {
        match (user, organization) {
            (Some(first), second) => Some(Self { first, second }),
            (None, Some(first)) => Some(Self { first, second: None }),
            (None, None) => None,
        }
    }

    /// Borrows the subjects.
    #[must_use]
    pub fn as_subjects(&self) -> Subjects<'_> {
        Subjects { first: self.first.id(), second: self.second.as_ref().map(Subject::id) }
    }

    /// The subjects, the user first.
    pub fn iter(&self) -> impl Iterator<Item = &Subject> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten()
    }

    /// The subject of a kind.
    #[must_use]
    pub fn one(&self, kind: Kind) -> Option<&Subject> {
        self.iter().find(|subject| subject.kind() == kind)
    }

    /// Whether this subject is one of them.
    #[must_use]
    pub fn has(&self, subject: &Subject) -> bool {
        self.iter().any(|one| one == subject)
    }
}
