//! An opaque token for the state behind an answer.

use super::{Id, Subject};
use std::{fmt::Write, str::FromStr};

/// The state of a catalog and of some subjects: at these versions.
///
/// A caller may send it back with a question about other subjects, of which it then says nothing; so each
/// subject is told by a hash. It is opaque, not secret: forging one can only cause a read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revision {
    /// The number of the catalog; 0: any.
    pub catalog: u64,
    subjects: Vec<(u64, u64)>,
}

/// More subjects than any answer is about.
const MOST: usize = 200;

impl Revision {
    /// The token for the state with this catalog, and of these subjects.
    #[must_use]
    pub fn token<'s>(
        catalog: u64,
        subjects: impl IntoIterator<Item = (&'s Subject, u64)>,
    ) -> String {
        let mut text = String::with_capacity(64);
        let mut written = write!(text, "{catalog}");
        for (subject, revision) in subjects {
            written = written.and(write!(text, "_{:x}.{revision}", fnv1a(subject.as_str())));
        }
        written.expect("a String takes everything");
        text
    }

    /// The revision of a subject that this state has; 0 if it says nothing of the subject.
    #[must_use]
    pub fn of(&self, id: Id<'_>) -> u64 {
        let hash = fnv1a(id.as_str());
        self.subjects.iter().find(|(h, _)| *h == hash).map_or(0, |(_, revision)| *revision)
    }
}

impl FromStr for Revision {
    type Err = InvalidRevision;

    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        let mut parts = text.split('_');
        let catalog = parts.next().and_then(|c| c.parse().ok()).ok_or(InvalidRevision)?;
        let subjects = parts
            .map(|part| {
                let (hash, revision) = part.split_once('.')?;
                Some((u64::from_str_radix(hash, 16).ok()?, revision.parse().ok()?))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(InvalidRevision)?;
        if subjects.len() > MOST { Err(InvalidRevision) } else { Ok(Self { catalog, subjects }) }
    }
}

/// The text is no revision that an answer could have carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a `revision` as an earlier answer gave it")]
pub struct InvalidRevision;

/// FNV-1a, 64 bits: the same on every replica and in every release.
/// Source: <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
