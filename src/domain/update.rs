//! What one delivery says, in our words.

use super::{Item, Subject};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// What a delivery carries: its body, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Clerk's name of the event, such as `subscription.updated`.
    pub event: Option<String>,
    /// When Clerk sent it, as the body says.
    pub sent_at: Option<DateTime<Utc>>,
    /// The Clerk instance that sent it.
    pub instance: Option<String>,
    /// The payer, also where the rest could not be understood.
    pub subject: Option<Subject>,
    /// What it means.
    pub reading: Reading,
}

/// What became of reading a delivery's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It says something about a subject.
    News(News),
    /// It is authentic, and not about what anybody may use.
    Ignored(String),
    /// It should be about billing, and cannot be understood; kept for when it can.
    Parked(String),
    /// It is about another Clerk instance than the one that is served here.
    Foreign(String),
}

/// What a delivery says about one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The state of some of its items, and perhaps that these are all of them.
    Items {
        /// The payer.
        subject: Subject,
        /// The items observed, each id once.
        items: Vec<Observation>,
        /// What a whole subscription says beyond its items.
        snapshot: Option<Snapshot>,
        /// Something odd that did not stand in the way.
        remark: Option<&'static str>,
        /// The parts that could not be read, one sentence each. The rest counts.
        left_out: Vec<String>,
    },
    /// The subject exists no more. Clerk never uses an id again, so this outranks all other news.
    Deleted {
        /// The subject that was deleted.
        subject: Subject,
        /// When Clerk said so.
        at: DateTime<Utc>,
    },
}

impl News {
    /// The subject that the news is about.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Items { subject, .. } | Self::Deleted { subject, .. } => subject,
        }
    }

    /// The items observed.
    #[must_use]
    pub fn items(&self) -> &[Observation] {
        match self {
            Self::Items { items, .. } => items,
            Self::Deleted { .. } => &[],
        }
    }

    /// Whether it says all that a subject has.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Items { snapshot, .. } => {
                snapshot.as_ref().is_some_and(|snapshot| snapshot.listed.is_some())
            }
            Self::Deleted { .. } => true,
        }
    }

    /// The parts that could not be read.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        match self {
            Self::Items { left_out, .. } => left_out,
            Self::Deleted { .. } => &[],
        }
    }

    /// What people should know about the reading, for the ledger.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let Self::Items { remark, left_out, .. } = self else { return None };
        let left_out = (!left_out.is_empty()).then(|| format!("left out: {}", summary(left_out)));
        let notes: Vec<_> = remark.map(str::to_owned).into_iter().chain(left_out).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// The first few of several parts that could not be read, and how many more there are.
#[must_use]
pub fn summary(parts: &[String]) -> String {
    const NAMED: usize = 4;
    let named = parts[..parts.len().min(NAMED)].join("; ");
    match parts.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

/// One item, as one delivery has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The item; its `updated_at` is the first part of the observation's version.
    pub item: Item,
    /// What the observation says of the item's payment.
    pub payment: Payment,
    /// When Clerk sent it: decides between equal `updated_at`.
    pub sent_at: DateTime<Utc>,
}

/// What an observation says of an item's payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payment {
    /// The item is active in a period that was still running: nothing is owed.
    UpToDate,
    /// A payment had failed, at this instant or earlier.
    FailedBy(DateTime<Utc>),
    /// Nothing.
    Unknown,
}

/// The names of a plan that an event says together: Clerk's id, which stays, and the slug, which can be changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanName {
    /// The plan's id, `cplan_…`.
    pub id: Arc<str>,
    /// Its slug.
    pub slug: Arc<str>,
}

/// What a whole subscription says beyond the state of its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The newest change that it shows: the first part of its version.
    pub updated_at: DateTime<Utc>,
    /// When Clerk sent it: decides between equal `updated_at`.
    pub sent_at: DateTime<Utc>,
    /// The ids of all its items: others are withdrawn. `None`: it came without items.
    pub listed: Option<Vec<Arc<str>>>,
    /// Whether the subscription as a whole is canceled; counts only where it came without items.
    pub canceled: bool,
}
