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
    /// Who pays, also where the rest could not be understood.
    pub subject: Option<Subject>,
    /// What it means.
    pub reading: Reading,
}

/// What became of reading a delivery's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It tells something about a subject.
    News(News),
    /// It is authentic, and not about what anybody may use.
    Ignored(String),
    /// It should be about billing, and cannot be understood; kept for when it can.
    Parked(String),
}

/// What a delivery tells about one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The state of some of its items, and perhaps that these are all of them.
    Items {
        /// Who pays.
        subject: Subject,
        /// The items observed, each id once.
        items: Vec<Observation>,
        /// What a whole subscription says beyond its items.
        snapshot: Option<Snapshot>,
        /// Something odd that did not stand in the way.
        remark: Option<&'static str>,
    },
    /// The subject exists no more. Clerk never uses an id again, so this outranks all other news.
    Deleted {
        /// Who was deleted.
        subject: Subject,
        /// When Clerk said so.
        at: DateTime<Utc>,
    },
}

impl News {
    /// Whom the news is about.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Items { subject, .. } | Self::Deleted { subject, .. } => subject,
        }
    }
}

/// One item, as one delivery tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The item; its `updated_at` is the first part of the observation's version.
    pub item: Item,
    /// The plan's id, `cplan_…`: kept for people, nothing is decided from it.
    pub plan_id: Option<Arc<str>>,
    /// When Clerk sent it: decides between equal `updated_at`.
    pub sent_at: DateTime<Utc>,
}

/// What a whole subscription says beyond the state of its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When Clerk last changed the subscription: the first part of its version.
    pub updated_at: DateTime<Utc>,
    /// When Clerk sent it: decides between equal `updated_at`.
    pub sent_at: DateTime<Utc>,
    /// The ids of all its items: others are withdrawn. `None`: it came without items.
    pub listed: Option<Vec<Arc<str>>>,
    /// Whether the subscription as a whole is canceled; counts only where it came without items.
    pub canceled: bool,
}
