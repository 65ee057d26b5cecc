//! An opaque token for the state from which an answer was decided.

use super::{Subject, SubjectRef};
use std::{fmt::Write, str::FromStr};

/// The state of the catalog, and the revisions of some subjects.
///
/// A caller may send the token with a question about other subjects, so it identifies each subject, by a hash. It says
/// nothing about a subject that it does not have. It is opaque, not secret: a forged token can only cause a read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revision {
    /// The state of the catalog.
    pub catalog: CatalogState,
    subjects: Vec<(u64, u64)>,
}

/// The state of the catalog: its number, and the number of plan names learned so far; both only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CatalogState {
    /// The number of the catalog; 0: any catalog.
    pub number: u64,
    /// The number of known pairs of plan id and slug.
    pub names: u64,
}

/// More subjects than any answer has.
const MAX_SUBJECTS: usize = 200;

impl Revision {
    /// Builds the token for a state of the catalog and the revisions of subjects.
    #[must_use]
    pub fn token<'s>(
        catalog: CatalogState,
        subjects: impl IntoIterator<Item = (&'s Subject, u64)>,
    ) -> String {
        let mut text = String::with_capacity(64);
        let mut written = write!(text, "{}.{}", catalog.number, catalog.names);
        for (subject, revision) in subjects {
            written = written.and(write!(text, "_{:x}.{revision}", fnv1a(subject.as_str())));
        }
        written.expect("writing to a String cannot fail");
        text
    }

    /// The number of subjects in this token.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.subjects.len()
    }

    /// The revision of a subject in this token; `None` if the token does not have the subject.
    #[must_use]
    pub fn of(&self, id: SubjectRef<'_>) -> Option<u64> {
        let hash = fnv1a(id.as_str());
        self.subjects.iter().find(|(h, _)| *h == hash).map(|(_, revision)| *revision)
    }
}

impl FromStr for Revision {
    type Err = InvalidRevision;

    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        let mut parts = text.split('_');
        let (number, names) =
            parts.next().and_then(|c| c.split_once('.')).ok_or(InvalidRevision)?;
        let count = |text: &str| text.parse().map_err(|_| InvalidRevision);
        let catalog = CatalogState { number: count(number)?, names: count(names)? };
        let subjects = parts
            .map(|part| {
                let (hash, revision) = part.split_once('.')?;
                Some((u64::from_str_radix(hash, 16).ok()?, revision.parse().ok()?))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(InvalidRevision)?;
        if subjects.len() > MAX_SUBJECTS {
            Err(InvalidRevision)
        } else {
            Ok(Self { catalog, subjects })
        }
    }
}

/// The error for a text that is not a token of an earlier answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a `revision` from an earlier answer")]
pub struct InvalidRevision;

/// FNV-1a, 64 bits: equal on every replica and in every release.
/// Source: <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
