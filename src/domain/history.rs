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
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A statement about a subject, with the time and the cause of its recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Orders the observations of a subject by their recording.
    pub id: i64,
    /// When this service recorded the statement.
    pub known_at: DateTime<Utc>,
    /// The subject's revision after the recording.
    pub revision: u64,
    /// The id of the message that stated the statement: the `svix-id` of a delivery, or the id of an answer of Clerk's
    /// Backend API; empty for the reversal of a deletion.
    pub message: Arc<str>,
    /// Whether a replay of the ledger recorded it.
    pub is_replay: bool,
    /// The statement.
    pub statement: Statement,
}

/// A statement about a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
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
    /// The time of the change, as Clerk states it.
    #[must_use]
    pub fn stated_at(&self) -> DateTime<Utc> {
        match &self.statement {
            Statement::Item(observed) => observed.item.updated_at,
            Statement::Snapshot(snapshot) => snapshot.updated_at,
            Statement::Deleted(at) => *at,
            Statement::Undeleted => self.known_at,
        }
    }

    /// From when on checks can use the statement: since its change, or since its recording if Clerk's clock is ahead.
    #[must_use]
    pub fn effective_at(&self) -> DateTime<Utc> {
        self.stated_at().min(self.known_at)
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
        Derived::of(observations).account(subject)
    }
}

/// The ids of the observations that decide a part of the account, now or together with any later observations. Deleting the
/// others changes no account that is derived from these observations and later ones.
pub fn still_used<'o>(observations: impl IntoIterator<Item = &'o Observation>) -> BTreeSet<i64> {
    Derived::of(observations).still_used()
}

/// The newest state of each part of an account. Observations are added in the order of their recording.
#[derive(Default)]
pub(super) struct Derived<'o> {
    /// The last observation.
    last: Option<&'o Observation>,
    /// The deletion, if the subject is deleted.
    deletion: Option<&'o Observation>,
    items: BTreeMap<&'o str, DerivedItem<'o>>,
    /// The newest snapshot that listed its items.
    listing: Option<NewestSnapshot<'o>>,
    /// The newest snapshot without items.
    whole: Option<NewestSnapshot<'o>>,
}

/// The version of a snapshot (`updated_at` and `sent_at`, message), the snapshot, and the id of its observation.
type NewestSnapshot<'o> = ((Times, &'o str), &'o Snapshot, i64);

/// The newest plan that was named: times, plan id, slug, and the id of the observation.
type NewestPlan<'o> = (Times, Option<&'o str>, Option<&'o str>, Reverse<i64>);

/// The beginning of a version: `updated_at` and `sent_at`.
type Times = (DateTime<Utc>, DateTime<Utc>);

impl<'o> Derived<'o> {
    pub fn of(observations: impl IntoIterator<Item = &'o Observation>) -> Self {
        let mut derived = Self::default();
        for observation in observations {
            derived.add(observation);
        }
        derived
    }

    pub fn add(&mut self, observation: &'o Observation) {
        let Observation { id, message, statement, .. } = observation;
        self.last = Some(observation);
        match statement {
            Statement::Deleted(_) => {
                *self = Self { deletion: Some(observation), last: self.last, ..Self::default() };
            }
            Statement::Undeleted => self.deletion = None,
            Statement::Item(_) | Statement::Snapshot(_) if self.deletion.is_some() => {}
            Statement::Item(observed) => {
                let item = self.items.entry(&observed.item.id);
                item.or_insert_with(|| DerivedItem::new(observed)).add(*id, message, observed);
            }
            Statement::Snapshot(snapshot) => {
                let newest = match snapshot.listed {
                    Some(_) => &mut self.listing,
                    None => &mut self.whole,
                };
                let version = ((snapshot.updated_at, snapshot.sent_at), &**message);
                if newest.is_none_or(|(newest, ..)| version > newest) {
                    *newest = Some((version, snapshot, *id));
                }
            }
        }
    }

    pub fn account(&self, subject: Subject) -> Result<Account, TooLong> {
        let mut items: Vec<_> = self.items.values().map(|item| self.complete(item)).collect();
        // Stable: the items are sorted by id already.
        items.sort_by_key(|item| (item.period_start.is_none(), Reverse(item.period_start)));
        PackedItems::bound(&mut items);
        Ok(Account {
            revision: self.last.map_or(0, |last| last.revision),
            deleted_at: self.deletion.map(Observation::stated_at),
            items: PackedItems::pack(items)?,
            ..Account::unknown(subject)
        })
    }

    /// An item with the parts that older observations and snapshots decide.
    fn complete(&self, item: &DerivedItem<'o>) -> Item<&'o str> {
        item.merged().completed(
            self.withdrawal(item).is_some(),
            self.cancellation(item).is_some(),
            item.last_period_end.map(|(_, end, _)| end),
        )
    }

    /// The id of the snapshot that withdraws an item.
    fn withdrawal(&self, item: &DerivedItem<'o>) -> Option<i64> {
        let ((shown, _), listing, id) = self.listing?;
        let mut listed = listing.listed.iter().flatten();
        let is_absent = listed.all(|id| **id != *item.newest.item.id);
        (item.version.0 <= shown && is_absent).then_some(id)
    }

    /// The id of the snapshot that cancels all items that are not newer.
    fn cancellation(&self, item: &DerivedItem<'o>) -> Option<i64> {
        let ((shown, _), whole, id) = self.whole?;
        let is_newest = self.listing.is_none_or(|((listed, _), ..)| listed <= shown);
        (whole.canceled && item.version.0 <= shown && is_newest).then_some(id)
    }

    /// The id of the observation that decides the state of each item: its newest one, or a snapshot that changed it.
    pub fn decisive_ids(&self) -> impl Iterator<Item = (&'o str, i64)> {
        self.items.iter().map(|(id, item)| {
            let by_snapshot = self.withdrawal(item).or_else(|| {
                let is_active = matches!(item.newest.item.status, Status::Active);
                self.cancellation(item).filter(|_| is_active)
            });
            (*id, by_snapshot.unwrap_or(item.newest_id))
        })
    }

    /// The deletion, if the subject is deleted.
    pub fn deletion(&self) -> Option<&'o Observation> {
        self.deletion
    }

    fn still_used(&self) -> BTreeSet<i64> {
        let snapshots = [self.listing, self.whole].into_iter().flatten().map(|(_, _, id)| id);
        let others = [self.last, self.deletion].into_iter().flatten().map(|other| other.id);
        self.items
            .values()
            .flat_map(DerivedItem::still_used)
            .chain(snapshots)
            .chain(others)
            .collect()
    }
}

/// The newest observation of an item, and the parts that older ones may decide. Each part has the id of its observation.
struct DerivedItem<'o> {
    /// Times, rank, message.
    version: (Times, i16, &'o str),
    newest: &'o ObservedItem,
    newest_id: i64,
    plan: Option<NewestPlan<'o>>,
    active_id: Option<i64>,
    /// The newest time at which nothing was owed.
    paid_at: Option<(DateTime<Utc>, Reverse<i64>)>,
    /// The newest end of a period: the time of the change, the end, and the id of the observation.
    last_period_end: Option<(DateTime<Utc>, DateTime<Utc>, Reverse<i64>)>,
    /// The times of failed payments, by the time of the change.
    failed: BTreeMap<DateTime<Utc>, (DateTime<Utc>, i64)>,
}

impl<'o> DerivedItem<'o> {
    fn new(first: &'o ObservedItem) -> Self {
        Self {
            version: ((DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MIN_UTC), 0, ""),
            newest: first,
            newest_id: 0,
            plan: None,
            active_id: None,
            paid_at: None,
            last_period_end: None,
            failed: BTreeMap::new(),
        }
    }

    fn add(&mut self, id: i64, message: &'o str, observed: &'o ObservedItem) {
        let item = &observed.item;
        let times = (item.updated_at, observed.sent_at);
        let version = (times, item.rank(), message);
        if version > self.version {
            (self.version, self.newest, self.newest_id) = (version, observed, id);
        }
        let (plan_id, slug) = (item.plan_id.as_deref(), item.plan.as_deref());
        // Of equal parts, the first counts.
        self.plan = self.plan.max(plan_id.or(slug).map(|_| (times, plan_id, slug, Reverse(id))));
        self.active_id = self.active_id.or(item.was_active.then_some(id));
        self.last_period_end = self
            .last_period_end
            .max(item.period_end.map(|end| (item.updated_at, end, Reverse(id))));
        match observed.payment {
            Payment::UpToDate => {
                self.paid_at = self.paid_at.max(Some((item.updated_at, Reverse(id))));
            }
            Payment::FailedBy(at) => {
                let failed = self.failed.entry(item.updated_at).or_insert((at, id));
                *failed = (*failed).min((at, id));
            }
            Payment::Unknown => {}
        }
    }

    fn merged(&self) -> Item<&'o str> {
        let item = &self.newest.item;
        let (plan_id, plan) = self.plan.map(|(_, id, slug, _)| (id, slug)).unwrap_or_default();
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
            was_active: self.active_id.is_some(),
            seats: item.seats,
            updated_at: item.updated_at,
        }
    }

    /// The first failed payment since the last successful one. A date from before that one is of an older failure.
    fn past_due_at(&self) -> Option<DateTime<Utc>> {
        let item = &self.newest.item;
        let is_past_due = matches!(item.status, Status::PastDue);
        let paid_at = self.paid_at();
        let since =
            self.open_failures().map(
                |(changed_at, (failed_at, _))| {
                    if *failed_at >= paid_at { *failed_at } else { *changed_at }
                },
            );
        let first = since.min().filter(|_| is_past_due || matches!(item.status, Status::Active));
        first.or(item.past_due_at.filter(|_| is_past_due))
    }

    fn paid_at(&self) -> DateTime<Utc> {
        self.paid_at.map_or(DateTime::<Utc>::MIN_UTC, |(at, _)| at)
    }

    /// The failed payments since the last successful one.
    fn open_failures(&self) -> impl Iterator<Item = (&DateTime<Utc>, &(DateTime<Utc>, i64))> {
        self.failed.range(self.paid_at()..)
    }

    fn still_used(&self) -> impl Iterator<Item = i64> {
        let parts = [
            Some(self.newest_id),
            self.plan.map(|(.., Reverse(id))| id),
            self.active_id,
            self.paid_at.map(|(_, Reverse(id))| id),
            self.last_period_end.map(|(.., Reverse(id))| id),
        ];
        parts.into_iter().flatten().chain(self.open_failures().map(|(_, (_, id))| *id))
    }
}
