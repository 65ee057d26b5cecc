//! The subjects of a check: a user, an organization, or a user in the active organization.

use crate::domain::{InvalidSubject, Kind, Subject, SubjectRef};

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
        SubjectsParser { user, organization }.subjects()
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

/// Parses the subjects of a question from the fields in which a protocol names them.
#[derive(Debug, Default)]
pub struct SubjectsParser<'i> {
    user: Option<SubjectRef<'i>>,
    organization: Option<SubjectRef<'i>>,
}

/// Why a field does not name a subject of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The text is not an id of the kind that the field takes.
    #[error(transparent)]
    Invalid(#[from] InvalidSubject),
    /// The text is not an id of either kind.
    #[error("must be a Clerk id, `user_…` or `org_…`")]
    NotAnId,
    /// An earlier field names another subject of this kind.
    #[error("names a second {0}")]
    Second(Kind),
}

impl<'i> SubjectsParser<'i> {
    /// Adds the subject with this id, which must be of `kind` if the field takes only one kind.
    pub fn add(&mut self, kind: Option<Kind>, id: &'i str) -> Result<(), SubjectError> {
        let id = match kind {
            Some(kind) => SubjectRef::of(kind, id)?,
            None => id.try_into().map_err(|_| SubjectError::NotAnId)?,
        };
        let named = match id.kind() {
            Kind::User => &mut self.user,
            Kind::Organization => &mut self.organization,
        };
        match named.replace(id) {
            Some(earlier) if earlier != id => Err(SubjectError::Second(id.kind())),
            _ => Ok(()),
        }
    }

    /// The subjects that were added; `None` if there are none.
    #[must_use]
    pub fn subjects(self) -> Option<Subjects<'i>> {
        let (first, second) = match (self.user, self.organization) {
            (Some(user), organization) => (user, organization),
            (None, organization) => (organization?, None),
        };
        Some(Subjects { first, second })
    }
}

/// The subjects of a check, owned. A stream keeps them for as long as it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectsBuf {
    first: Subject,
    second: Option<Subject>,
}

impl From<Subjects<'_>> for SubjectsBuf {
    fn from(subjects: Subjects<'_>) -> Self {
        Self { first: subjects.first.into(), second: subjects.second.map(Into::into) }
    }
}

impl SubjectsBuf {
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
