//! The origin of a catalog version: the author of its content, and the person who applied it.

/// The source of a catalog's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The catalog file of a starting replica. It is applied only if there is no catalog at all.
    Replica,
    /// A catalog file that a deployment or an operator applies, if this version is in force; `None`: any version.
    Operator(Option<u64>),
    /// Clerk's Backend API, if this version is in force; `None`: any version. Plans that it no longer lists are kept as
    /// retired.
    Clerk(Option<u64>),
    /// As `Clerk`, with the plans that it no longer lists removed.
    ClerkWithoutRetired(Option<u64>),
}

impl Author {
    pub(super) fn is_clerk(self) -> bool {
        matches!(self, Self::Clerk(_) | Self::ClerkWithoutRetired(_))
    }

    /// Whether the author may replace the version with this number; 0: there is none.
    pub(super) fn may_replace(self, now: u64) -> bool {
        match self {
            Self::Replica => now == 0,
            Self::Operator(expected)
            | Self::Clerk(expected)
            | Self::ClerkWithoutRetired(expected) => {
                expected.is_none_or(|expected| expected == now)
            }
        }
    }

    /// The author, who replaces only the version with this number.
    #[must_use]
    pub fn after(self, number: u64) -> Self {
        match self {
            Self::Replica => Self::Replica,
            Self::Operator(_) => Self::Operator(Some(number)),
            Self::Clerk(_) => Self::Clerk(Some(number)),
            Self::ClerkWithoutRetired(_) => Self::ClerkWithoutRetired(Some(number)),
        }
    }
}

/// The origin of a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin<'a> {
    /// The source, such as a file's name.
    pub source: &'a str,
    /// The person or deployment that applies it; empty for the service itself.
    pub applied_by: &'a str,
    /// The reason; may be empty.
    pub reason: &'a str,
}

impl<'a> Origin<'a> {
    /// An origin of the service itself.
    #[must_use]
    pub fn service(source: &'a str) -> Self {
        Self { source, ..Self::default() }
    }
}
