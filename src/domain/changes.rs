//! The changes of a subject: each record, catalog and passed date, with the features that the subject gained or lost.

use super::{
    Account, Catalog, Denial, Observation, Override, OverrideEnd, OverrideId, OverrideRecord,
    PreparedAccounts, Question, Reason, Slug, Statement, SubjectHistory, TooLong, Verdict, decide,
    history::Derived,
};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// A change of what is known about a subject, or of what it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryChange<'h> {
    /// The cause.
    pub cause: ChangeCause<'h>,
    /// When checks began to use it.
    pub known_at: DateTime<Utc>,
    /// When it took effect, as Clerk states it.
    pub effective_at: DateTime<Utc>,
    /// Whether newer information was known already, so that nothing changed.
    pub is_superseded: bool,
    /// The features whose answer changed, ordered by slug.
    pub features: Vec<FeatureChange>,
}

/// The cause of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeCause<'h> {
    /// The statements of one message.
    Observations(&'h [Observation]),
    /// An override that an operator set.
    Override(&'h OverrideRecord),
    /// The end of an override by an operator.
    OverrideEnd(&'h OverrideRecord, &'h OverrideEnd),
    /// The catalog with this number, or a plan name that was learned for it.
    Catalog(u64),
    /// The passing of time.
    Time,
}

/// The answers about one feature before and after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureChange {
    /// The feature.
    pub feature: Slug,
    /// The answer before.
    pub before: FeatureState,
    /// The answer after.
    pub after: FeatureState,
}

/// An answer about a feature, without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureState {
    /// Whether the feature is allowed.
    pub allowed: bool,
    /// The reason.
    pub reason: Reason,
    /// The plan that explains the answer.
    pub plan: Option<String>,
    /// The limit of the feature; `None`: without a limit, or denied.
    pub limit: Option<u64>,
}

/// A catalog with its number, and the time at which it came into force or a plan name was learned for it.
#[derive(Debug, Clone, Copy)]
pub struct DatedCatalog<'c> {
    /// The number.
    pub number: u64,
    /// The time.
    pub since: DateTime<Utc>,
    /// The catalog.
    pub catalog: &'c Catalog,
}

/// Lists the changes of a subject until `now`, oldest first. `catalogs` are all catalogs, oldest first; `none` is in
/// force before the first.
///
/// # Errors
///
/// If a text of an item is too long.
pub fn changes<'h>(
    history: &'h SubjectHistory,
    catalogs: &[DatedCatalog<'h>],
    none: &'h Catalog,
    now: DateTime<Utc>,
) -> Result<Vec<HistoryChange<'h>>, TooLong> {
    let mut events: Vec<_> = recorded(history).collect();
    let Some(first) = events.iter().map(|(at, _)| *at).min() else { return Ok(Vec::new()) };
    let later = catalogs.iter().filter(|catalog| catalog.since > first);
    events.extend(later.map(|catalog| (catalog.since, RecordedEvent::Catalog(*catalog))));
    events.sort_by_key(|(at, _)| *at);
    let initial = catalogs.iter().rfind(|catalog| catalog.since <= first);
    let mut walk = Walk {
        history,
        derived: Derived::default(),
        account: Account::unknown(history.subject.clone()),
        catalog: initial.map_or(none, |catalog| catalog.catalog),
        features: BTreeMap::new(),
        override_revisions: override_revisions(history),
        at: first,
        changes: Vec::new(),
    };
    walk.features = walk.answers();
    for (at, event) in events {
        walk.pass_time(at);
        walk.take(at, event)?;
    }
    walk.pass_time(now);
    Ok(walk.changes)
}

#[derive(Clone, Copy)]
enum RecordedEvent<'h> {
    Observations(&'h [Observation]),
    Override(&'h OverrideRecord),
    OverrideEnd(&'h OverrideRecord, &'h OverrideEnd),
    Catalog(DatedCatalog<'h>),
}

/// The messages and overrides of a history, each with the time of its recording. A replacement ends the older override
/// itself, and a deletion ends all.
fn recorded(history: &SubjectHistory) -> impl Iterator<Item = (DateTime<Utc>, RecordedEvent<'_>)> {
    let is_same = |a: &Observation, b: &Observation| {
        (&a.message, a.known_at, a.revision) == (&b.message, b.known_at, b.revision)
    };
    let messages = history.observations.chunk_by(is_same);
    let messages = messages.map(|chunk| (chunk[0].known_at, RecordedEvent::Observations(chunk)));
    let set = history.overrides.iter();
    let set = set.map(|record| (record.found.set_at, RecordedEvent::Override(record)));
    let ended = history.overrides.iter().filter_map(|record| Some((record, record.end.as_ref()?)));
    let is_deletion = |found: &&Observation| matches!(found.statement, Statement::Deleted(_));
    let deletions = history.observations.iter().filter(is_deletion);
    let deletions: BTreeSet<_> = deletions.map(|found| found.revision).collect();
    let is_own =
        move |end: &OverrideEnd| end.replaced_by.is_none() && !deletions.contains(&end.revision);
    let ended = ended.filter(move |(_, end)| is_own(end));
    let ended = ended.map(|(record, end)| (end.at, RecordedEvent::OverrideEnd(record, end)));
    messages.chain(set).chain(ended)
}

fn override_revisions(history: &SubjectHistory) -> BTreeSet<u64> {
    let set = history.overrides.iter().map(|record| record.revision);
    let ended = history.overrides.iter().filter_map(|record| record.end.as_ref());
    set.chain(ended.map(|end| end.revision)).collect()
}

/// The state of a subject while its events are applied one after another.
struct Walk<'h> {
    history: &'h SubjectHistory,
    derived: Derived<'h>,
    account: Account,
    catalog: &'h Catalog,
    features: BTreeMap<Slug, FeatureState>,
    /// The revisions that changes of overrides made.
    override_revisions: BTreeSet<u64>,
    at: DateTime<Utc>,
    changes: Vec<HistoryChange<'h>>,
}

impl<'h> Walk<'h> {
    /// Adds the changes that time alone made before `until`.
    fn pass_time(&mut self, until: DateTime<Utc>) {
        let boundary = |walk: &Self| walk.account.next_boundary(walk.catalog, walk.at);
        while let Some(at) = boundary(self).filter(|at| *at <= until) {
            self.at = at;
            let features = self.changed_features();
            if !features.is_empty() {
                self.push(ChangeCause::Time, at, false, features);
            }
        }
        self.at = until;
    }

    fn take(&mut self, at: DateTime<Utc>, event: RecordedEvent<'h>) -> Result<(), TooLong> {
        let (cause, effective_at, is_superseded) = match event {
            RecordedEvent::Observations(observations) => {
                let is_superseded = !self.add(observations)?;
                let stated_at = observations.iter().map(Observation::stated_at).max();
                (ChangeCause::Observations(observations), stated_at.unwrap_or(at), is_superseded)
            }
            RecordedEvent::Override(record) => {
                self.replace_override(record.replaces, Some(&record.found));
                (ChangeCause::Override(record), record.found.begins_at(), false)
            }
            RecordedEvent::OverrideEnd(record, end) => {
                self.replace_override(Some(record.found.id), None);
                (ChangeCause::OverrideEnd(record, end), at, false)
            }
            RecordedEvent::Catalog(dated) => {
                self.catalog = dated.catalog;
                (ChangeCause::Catalog(dated.number), at, false)
            }
        };
        let features = if is_superseded { Vec::new() } else { self.changed_features() };
        if !features.is_empty() || !matches!(cause, ChangeCause::Catalog(_)) {
            self.push(cause, effective_at, is_superseded, features);
        }
        Ok(())
    }

    fn replace_override(&mut self, removed: Option<OverrideId>, added: Option<&Override>) {
        let overrides = std::mem::take(&mut self.account.overrides).into_iter();
        let kept = overrides.filter(|found| Some(found.id) != removed);
        self.account.overrides = kept.chain(added.cloned()).collect();
    }

    /// Adds the statements of one message; returns whether they were applied: a superseded message keeps the revision.
    fn add(&mut self, observations: &'h [Observation]) -> Result<bool, TooLong> {
        for observation in observations {
            self.derived.add(observation);
        }
        let derived = self.derived.account(self.history.subject.clone())?;
        let is_deleted = derived.deleted_at.is_some();
        let overrides = std::mem::take(&mut self.account.overrides);
        let overrides = if is_deleted { [].into() } else { overrides };
        let account = Account { overrides, ..derived };
        // A superseded message has the revision of an earlier record.
        let is_changed = is_deleted
            || (account.revision != self.account.revision
                && !self.override_revisions.contains(&account.revision));
        self.account = account;
        Ok(is_changed)
    }

    fn push(
        &mut self,
        cause: ChangeCause<'h>,
        effective_at: DateTime<Utc>,
        is_superseded: bool,
        features: Vec<FeatureChange>,
    ) {
        self.changes.push(HistoryChange {
            cause,
            known_at: self.at,
            effective_at,
            is_superseded,
            features,
        });
    }

    /// The features whose answer is another one than before.
    fn changed_features(&mut self) -> Vec<FeatureChange> {
        let now = self.answers();
        let before = std::mem::replace(&mut self.features, now);
        let slugs: BTreeSet<_> = before.keys().chain(self.features.keys()).collect();
        let changes = slugs.into_iter().filter_map(|feature| {
            let before = before.get(feature).cloned().unwrap_or(FeatureState::UNKNOWN);
            let after = self.features.get(feature).cloned();
            let after = after.unwrap_or_else(|| self.answer(feature));
            let is_same = before.is_same_answer(&after);
            (!is_same).then(|| FeatureChange { feature: feature.clone(), before, after })
        });
        changes.collect()
    }

    fn answer(&self, feature: &Slug) -> FeatureState {
        decide(&[&self.account], self.catalog, &Question::of(feature), self.at).verdict.into()
    }

    /// The answers about all features of the catalog and of the overrides.
    fn answers(&self) -> BTreeMap<Slug, FeatureState> {
        states(&self.account, self.catalog, self.at)
    }
}

/// The answers about all features that concern an account.
pub(super) fn states(
    account: &Account,
    catalog: &Catalog,
    at: DateTime<Utc>,
) -> BTreeMap<Slug, FeatureState> {
    let prepared = PreparedAccounts::new([account], catalog);
    let features = account.features(catalog).into_iter();
    let decided = features.map(|feature| {
        let decision = prepared.decide(&Question::of(feature), at);
        (feature.clone(), decision.verdict.into())
    });
    decided.collect()
}

impl FeatureState {
    /// Whether both allow with one limit, or both deny.
    pub(super) fn is_same_answer(&self, other: &Self) -> bool {
        (self.allowed, self.limit) == (other.allowed, other.limit)
    }

    /// The answer about a feature that neither a plan for this kind of subject nor an override has.
    pub(super) const UNKNOWN: Self = Self {
        allowed: false,
        reason: Reason::Denial(Denial::UnknownFeature),
        plan: None,
        limit: None,
    };
}

impl From<Verdict<'_>> for FeatureState {
    fn from(verdict: Verdict<'_>) -> Self {
        match verdict {
            Verdict::Allowed { reason, plan, limit, .. } => FeatureState {
                allowed: true,
                reason: Reason::Grant(reason),
                plan: plan.map(Into::into),
                limit,
            },
            Verdict::Denied { reason, plan, .. } => FeatureState {
                allowed: false,
                reason: Reason::Denial(reason),
                plan: plan.map(Into::into),
                limit: None,
            },
        }
    }
}
