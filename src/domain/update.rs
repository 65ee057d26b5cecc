//! The content of a delivery in terms of the domain.

use super::{Item, Subject};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// A parsed webhook body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEvent {
    /// Clerk's name of the event, such as `subscription.updated`.
    pub event: Option<String>,
    /// When Clerk sent the event, according to the body.
    pub sent_at: Option<DateTime<Utc>>,
    /// The Clerk instance that sent the event.
    pub instance: Option<String>,
    /// The subject, also if the rest could not be parsed.
    pub subject: Option<Subject>,
    /// The result of parsing.
    pub parsed: Parsed,
}

/// The result of parsing a delivery's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The body updates a subject.
    Update(SubscriptionUpdate),
    /// The body is authentic and does not concern entitlements, for this reason.
    Ignored(String),
    /// The body should concern billing and could not be parsed, for this reason. It is kept for replay.
    Parked(String),
    /// The body is from another Clerk instance than the served one; the text is the reason.
    Foreign(String),
}

/// The update of one subject by a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionUpdate {
    /// The state of some or all items of a subject.
    Items {
        /// The subject that holds the items.
        subject: Subject,
        /// The items observed, each id once.
        items: Vec<ObservedItem>,
        /// The data of a whole subscription beyond its items.
        snapshot: Option<Snapshot>,
        /// An oddity of the body that did not prevent parsing.
        remark: Option<&'static str>,
        /// The parts that could not be parsed, one sentence each. The rest is used.
        left_out: Vec<String>,
    },
    /// The subject was deleted. Clerk never reuses an id, so a deletion overrides all other updates.
    Deleted {
        /// The subject that was deleted.
        subject: Subject,
        /// When Clerk reported the deletion.
        at: DateTime<Utc>,
    },
}

impl SubscriptionUpdate {
    /// The subject of the update.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Items { subject, .. } | Self::Deleted { subject, .. } => subject,
        }
    }

    /// The items observed; empty for a deletion.
    #[must_use]
    pub fn items(&self) -> &[ObservedItem] {
        match self {
            Self::Items { items, .. } => items,
            Self::Deleted { .. } => &[],
        }
    }

    /// Whether the update covers all items of the subject.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Items { snapshot, .. } => {
                snapshot.as_ref().is_some_and(|snapshot| snapshot.listed.is_some())
            }
            Self::Deleted { .. } => true,
        }
    }

    /// The parts that could not be parsed, one sentence each.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        match self {
            Self::Items { left_out, .. } => left_out,
            Self::Deleted { .. } => &[],
        }
    }

    /// A note for the ledger about oddities and parts that could not be parsed.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let Self::Items { remark, left_out, .. } = self else { return None };
        let left_out = (!left_out.is_empty()).then(|| format!("left out: {}", summary(left_out)));
        let notes: Vec<_> = remark.map(str::to_owned).into_iter().chain(left_out).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// The first four of the parts that could not be parsed, and how many more there are.
#[must_use]
pub fn summary(parts: &[String]) -> String {
    const MAX_NAMED: usize = 4;
    let named = parts[..parts.len().min(MAX_NAMED)].join("; ");
    match parts.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

/// An item as one delivery reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedItem {
    /// The item; its `updated_at` is the first part of the observation's version.
    pub item: Item,
    /// The state of the item's payment.
    pub payment: Payment,
    /// When Clerk sent the observation: decides between equal `updated_at`.
    pub sent_at: DateTime<Utc>,
}

/// The state of an item's payment, according to one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payment {
    /// The item is active and its period was still running: nothing is owed.
    UpToDate,
    /// A payment had failed, at this instant or earlier.
    FailedBy(DateTime<Utc>),
    /// The observation does not show it.
    Unknown,
}

/// The id and slug of a plan that occur together in an event. The id stays; the slug can be changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanName {
    /// The plan's id, `cplan_…`.
    pub id: Arc<str>,
    /// The plan's slug.
    pub slug: Arc<str>,
}

/// The data of a whole subscription beyond the state of its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The newest change in the subscription: the first part of the snapshot's version.
    pub updated_at: DateTime<Utc>,
    /// When Clerk sent the snapshot: decides between equal `updated_at`.
    pub sent_at: DateTime<Utc>,
    /// The ids of all items: others are withdrawn. `None`: the subscription came without items.
    pub listed: Option<Vec<Arc<str>>>,
    /// Whether the whole subscription is canceled; used only if it came without items.
    pub canceled: bool,
}
