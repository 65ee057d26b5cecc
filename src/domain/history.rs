//! The history of a subject: all observations of it, and the account that follows from any set of them.
//!
//! The account is a function of the set of observations: each part of an item comes from the newest observation that has
//! this part, whatever the order of arrival. Only a deletion depends on the order: it removes everything that was
//! recorded before, and nothing is recorded until it is reverted. `storage` keeps the newest account up to date by the
//! same rules in SQL; a test compares both.

use super::{
    Account, Item, ObservedItem, PackedItems, Payment, Snapshot, Status, Subject, TooLong,
};
use chrono::{DateTime, Utc};
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

/// A fact about a subject, with the time and the cause of its recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When this service recorded the fact.
    pub known_at: DateTime<Utc>,
    /// The subject's revision after the recording.
    pub revision: u64,
    /// The id of the message that stated the fact: the `svix-id` of a delivery, or the id of an answer of Clerk's
    /// Backend API.
    pub message: Arc<str>,
    /// The fact.
    pub fact: Fact,
}

/// A fact about a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The state of an item.
    Item(ObservedItem),
    /// The data of a whole subscription beyond the state of its items.
    Snapshot(Snapshot),
    /// Clerk deleted the subject.
    Deleted(DateTime<Utc>),
    /// An operator reverted the deletion.
    Undeleted,
}

impl Observation {
    /// When the fact took effect: when Clerk changed the state, and at the latest when this service recorded it.
    #[must_use]
    pub fn effective_at(&self) -> DateTime<Utc> {
        let changed_at = match &self.fact {
            Fact::Item(observed) => observed.item.updated_at,
            Fact::Snapshot(snapshot) => snapshot.updated_at,
            Fact::Deleted(at) => *at,
            Fact::Undeleted => self.known_at,
        };
        changed_at.min(self.known_at)
    }
}

impl Account {
    /// The account that follows from these observations, in the order of their recording.
    ///
    /// # Errors
    ///
    /// If a text of an item is too long.
    pub fn derive<'o>(
        subject: Subject,
        observations: impl IntoIterator<Item = &'o Observation>,
    ) -> Result<Self, TooLong> {
        let mut derived = Derived::default();
        for observation in observations {
            derived.add(observation);
        }
        derived.account(subject)
    }
}

/// The newest state of each part of an account.
#[derive(Default)]
struct Derived<'o> {
    revision: u64,
    deleted_at: Option<DateTime<Utc>>,
    items: BTreeMap<&'o str, DerivedItem<'o>>,
    /// The newest snapshot that listed its items.
    listing: Option<(SnapshotVersion<'o>, &'o Snapshot)>,
    /// The newest snapshot without items.
    whole: Option<(SnapshotVersion<'o>, &'o Snapshot)>,
}

/// Orders snapshots: `updated_at`, `sent_at`, message.
type SnapshotVersion<'o> = (DateTime<Utc>, DateTime<Utc>, &'o str);

impl<'o> Derived<'o> {
    fn add(&mut self, observation: &'o Observation) {
        let message = &*observation.message;
        self.revision = self.revision.max(observation.revision);
        match &observation.fact {
            Fact::Deleted(at) => {
                *self = Self { deleted_at: Some(*at), revision: self.revision, ..Self::default() };
            }
            Fact::Undeleted => self.deleted_at = None,
            Fact::Item(_) | Fact::Snapshot(_) if self.deleted_at.is_some() => {}
            Fact::Item(observed) => self.add_item(message, observed),
            Fact::Snapshot(snapshot) => {
                let kind = match snapshot.listed {
                    Some(_) => &mut self.listing,
                    None => &mut self.whole,
                };
                let version = (snapshot.updated_at, snapshot.sent_at, message);
                if kind.as_ref().is_none_or(|(newest, _)| version > *newest) {
                    *kind = Some((version, snapshot));
                }
            }
        }
    }

    fn add_item(&mut self, message: &'o str, observed: &'o ObservedItem) {
        let version = ((observed.item.updated_at, observed.sent_at), observed.item.rank(), message);
        let new = || DerivedItem::new(version, observed);
        let item = self.items.entry(&observed.item.id).or_insert_with(new);
        item.add(version, observed);
    }

    fn account(self, subject: Subject) -> Result<Account, TooLong> {
        let mut items: Vec<_> = self.items.values().map(|item| self.complete(item)).collect();
        // Stable: the items are sorted by id already.
        items.sort_by_key(|item| (item.period_start.is_none(), Reverse(item.period_start)));
        PackedItems::bound(&mut items);
        Ok(Account {
            revision: self.revision,
            deleted_at: self.deleted_at,
            items: PackedItems::pack(items)?,
            ..Account::unknown(subject)
        })
    }

    /// An item with the parts that older observations and snapshots decide.
    fn complete(&self, item: &DerivedItem<'o>) -> Item<&'o str> {
        let (times, ..) = item.version;
        let listing = self.listing.as_ref().map(|((updated_at, sent_at, _), listing)| {
            ((*updated_at, *sent_at), listing.listed.iter().flatten())
        });
        let is_withdrawn = listing.clone().is_some_and(|(shown, mut listed)| {
            times <= shown && listed.all(|id| **id != *item.newest.item.id)
        });
        let is_canceled = self.whole.as_ref().is_some_and(|((updated_at, sent_at, _), whole)| {
            let shown = (*updated_at, *sent_at);
            whole.canceled && times <= shown && listing.is_none_or(|(listed, _)| listed <= shown)
        });
        item.merged().completed(is_withdrawn, is_canceled, item.last_period_end.map(|(_, end)| end))
    }
}

/// Orders the observations of an item: `updated_at` and `sent_at`, rank, message.
type ItemVersion<'o> = ((DateTime<Utc>, DateTime<Utc>), i16, &'o str);

/// Orders the observations that name a plan: `updated_at` and `sent_at`, id, slug.
type PlanVersion<'o> = ((DateTime<Utc>, DateTime<Utc>), Option<&'o str>, Option<&'o str>);

/// The newest observation of an item, and the parts that older ones may decide.
struct DerivedItem<'o> {
    version: ItemVersion<'o>,
    newest: &'o ObservedItem,
    /// The newest plan that was named.
    plan: Option<PlanVersion<'o>>,
    was_active: bool,
    /// The newest time at which nothing was owed.
    paid_at: Option<DateTime<Utc>>,
    /// The newest end of a period, after the time of the change.
    last_period_end: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The times of failed payments, by the time of the change.
    failed: BTreeMap<DateTime<Utc>, DateTime<Utc>>,
}

impl<'o> DerivedItem<'o> {
    fn new(version: ItemVersion<'o>, newest: &'o ObservedItem) -> Self {
        Self {
            version,
            newest,
            plan: None,
            was_active: false,
            paid_at: None,
            last_period_end: None,
            failed: BTreeMap::new(),
        }
    }

    fn add(&mut self, version: ItemVersion<'o>, observed: &'o ObservedItem) {
        if version > self.version {
            (self.version, self.newest) = (version, observed);
        }
        let (item, (times, ..)) = (&observed.item, version);
        let (id, slug) = (item.plan_id.as_deref(), item.plan.as_deref());
        self.plan = self.plan.max(id.or(slug).map(|_| (times, id, slug)));
        self.was_active |= item.was_active;
        self.last_period_end =
            self.last_period_end.max(item.period_end.map(|end| (item.updated_at, end)));
        match observed.payment {
            Payment::UpToDate => self.paid_at = self.paid_at.max(Some(item.updated_at)),
            Payment::FailedBy(at) => {
                let failed = self.failed.entry(item.updated_at).or_insert(at);
                *failed = at.min(*failed);
            }
            Payment::Unknown => {}
        }
    }

    fn merged(&self) -> Item<&'o str> {
        let (item, (_, plan_id, plan)) = (&self.newest.item, self.plan.unwrap_or_default());
        Item {
            id: &*item.id,
            plan,
            plan_id,
            status: Status::from(item.status.as_str()),
            free_trial: item.free_trial,
            period_start: item.period_start,
            period_end: item.period_end,
            canceled_at: item.canceled_at,
            past_due_at: self.past_due_at(),
            was_active: self.was_active,
            seats: item.seats,
            updated_at: item.updated_at,
        }
    }

    /// The first failed payment since the last successful one. A date from before that one is of an older failure.
    fn past_due_at(&self) -> Option<DateTime<Utc>> {
        let item = &self.newest.item;
        let is_past_due = matches!(item.status, Status::PastDue);
        let paid_at = self.paid_at.unwrap_or(DateTime::<Utc>::MIN_UTC);
        let since = self.failed.range(paid_at..).map(|(changed_at, failed_at)| {
            if *failed_at >= paid_at { *failed_at } else { *changed_at }
        });
        let first = since.min().filter(|_| is_past_due || matches!(item.status, Status::Active));
        first.or(item.past_due_at.filter(|_| is_past_due))
    }
}
