//! An opaque token for the state behind an answer.

use super::Subject;
use std::{fmt, str::FromStr};

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
    /// The state with this catalog, of no subject yet.
    #[must_use]
    pub fn of_catalog(catalog: u64) -> Self {
        Self { catalog, subjects: Vec::new() }
    }

    /// This state, and a subject's.
    #[must_use]
    pub fn and(mut self, subject: &Subject, revision: u64) -> Self {
        self.subjects.push((fnv1a(subject.as_str()), revision));
        self
    }

    /// The revision of a subject that this state has; 0 if it says nothing of the subject.
    #[must_use]
    pub fn of(&self, subject: &Subject) -> u64 {
        let hash = fnv1a(subject.as_str());
        self.subjects.iter().find(|(h, _)| *h == hash).map_or(0, |(_, revision)| *revision)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.catalog)?;
        self.subjects.iter().try_for_each(|(hash, revision)| write!(f, "_{hash:x}.{revision}"))
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
