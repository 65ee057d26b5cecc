//! Everything that was recorded about one subject, and its account from any point of view: true at one instant, known at
//! another.

use super::{
    Account, Observation, Override, OverrideId, OverrideRecord, Statement, Subject, TooLong,
    history::Derived,
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use std::{cmp::Reverse, collections::BTreeMap};

/// Everything that was recorded about one subject.
#[derive(Debug, Clone)]
pub struct SubjectHistory {
    /// The subject.
    pub subject: Subject,
    /// Whether the database has a row for the subject.
    pub is_known: bool,
    /// The newest revision of the subject.
    pub revision: u64,
    /// All observations, in the order of their recording.
    pub observations: Vec<Observation>,
    /// All overrides, in the order of their setting.
    pub overrides: Vec<OverrideRecord>,
    /// From when on the history is complete: older observations that no later account uses may have been removed.
    pub complete_from: DateTime<Utc>,
    /// When the observations before a deletion were removed; `None`: they were not.
    pub removed_at: Option<DateTime<Utc>>,
}

/// A point from which to see a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Only changes that had taken effect then; `None`: all.
    pub as_of: Option<DateTime<Utc>>,
    /// Only what was known there.
    pub known: Known,
}

/// A state of knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// All that is recorded.
    All,
    /// All that was recorded until this instant.
    At(DateTime<Utc>),
    /// All that was recorded until a revision of the subject, of which an answer at this instant knew.
    Revision(u64, DateTime<Utc>),
}

/// The account from one point of view, and the observations behind it.
#[derive(Debug)]
pub struct ViewedAccount<'h> {
    /// The account.
    pub account: Account,
    /// The observation that decides the state of each item, by the id of the item.
    sources: BTreeMap<&'h str, &'h Observation>,
    /// The deletion, if the subject was deleted.
    pub deletion: Option<&'h Observation>,
    /// The records of the overrides of the account.
    pub overrides: Vec<&'h OverrideRecord>,
}

/// Why an account cannot be derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The state at the instant [`View::as_of`] was removed or never recorded.
    #[error("is before {}, from when on this history is complete", rounded_up(.0))]
    NotTrueSince(DateTime<Utc>),
    /// The knowledge of [`View::known`] was removed or never recorded.
    #[error("is before {}, from when on this history is complete", rounded_up(.0))]
    NotKnownSince(DateTime<Utc>),
    /// The subject never had the revision.
    #[error("names a state that this database never had")]
    NoRevision,
    /// The revision was recorded after the instant of the receipt.
    #[error("is of a state that was recorded after `checked_at`: are both from one answer?")]
    LaterRevision,
    /// A text of an item is too long.
    #[error(transparent)]
    TooLong(TooLong),
}

/// The instant, rounded up to whole milliseconds, the precision of all dates in our protocols.
fn rounded_up(at: &DateTime<Utc>) -> String {
    (*at + TimeDelta::microseconds(999)).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// How far the clock of a replica may be behind that of the database.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);

impl SubjectHistory {
    /// The account as it was true and known there.
    ///
    /// # Errors
    ///
    /// If the observations that the view needs were removed, or if the subject never had the revision.
    pub fn view(&self, view: View) -> Result<ViewedAccount<'_>, ViewError> {
        self.ensure_complete(view)?;
        let derived = Derived::of(self.seen(view));
        let mut account = derived.account(self.subject.clone()).map_err(ViewError::TooLong)?;
        account.revision = match view {
            View { as_of: None, known: Known::All } => self.revision,
            View { known: Known::Revision(revision, _), .. } => revision,
            View { .. } => account.revision,
        };
        let sources = derived.decisive_ids();
        let sources = sources.filter_map(|(item, id)| Some((item, self.observation(id)?)));
        Ok(ViewedAccount {
            account: Account { overrides: self.overrides(view), ..account },
            sources: sources.collect(),
            deletion: derived.deletion(),
            overrides: self.overrides_seen(view).collect(),
        })
    }

    /// The observations that the view shows.
    pub fn seen(&self, view: View) -> impl Iterator<Item = &Observation> {
        let is_known = move |observation: &&Observation| match view.known {
            Known::All => true,
            Known::At(known_at) => observation.known_at <= known_at,
            Known::Revision(revision, _) => observation.revision <= revision,
        };
        let is_true = move |observation: &&Observation| {
            view.as_of.is_none_or(|at| observation.effective_at() <= at)
        };
        self.observations.iter().filter(is_known).filter(is_true)
    }

    fn overrides(&self, view: View) -> Box<[Override]> {
        self.overrides_seen(view).map(|record| record.found.clone()).collect()
    }

    /// The overrides that the view shows and that were neither ended nor replaced there.
    fn overrides_seen(&self, view: View) -> impl Iterator<Item = &OverrideRecord> {
        let is_seen = move |at: DateTime<Utc>, revision: u64| {
            let is_known = match view.known {
                Known::All => true,
                Known::At(known_at) => at <= known_at,
                Known::Revision(last, _) => revision <= last,
            };
            is_known && view.as_of.is_none_or(|as_of| at <= as_of)
        };
        self.overrides.iter().filter(move |record| {
            let has_ended = record.end.as_ref().is_some_and(|end| is_seen(end.at, end.revision));
            is_seen(record.found.set_at, record.revision) && !has_ended
        })
    }

    fn observation(&self, id: i64) -> Option<&Observation> {
        let at = self.observations.binary_search_by_key(&id, |observation| observation.id);
        at.ok().map(|at| &self.observations[at])
    }

    /// When the subject reached the newest of its recorded revisions up to this one. Later records of it changed nothing.
    fn reached_at(&self, revision: u64) -> Option<DateTime<Utc>> {
        let observed = self.observations.iter().map(|found| (found.revision, found.known_at));
        let set = self.overrides.iter().map(|record| (record.revision, record.found.set_at));
        let ended = self.overrides.iter().filter_map(|record| record.end.as_ref());
        let all = observed.chain(set).chain(ended.map(|end| (end.revision, end.at)));
        let all = all.filter(|(reached, _)| *reached <= revision);
        all.max_by_key(|(reached, at)| (*reached, Reverse(*at))).map(|(_, at)| at)
    }

    /// Returns an error if the view needs an observation that was removed.
    fn ensure_complete(&self, view: View) -> Result<(), ViewError> {
        let first = self.complete_from;
        if view.as_of.is_some_and(|as_of| as_of < first) {
            return Err(ViewError::NotTrueSince(first));
        }
        match view.known {
            Known::At(known_at) if known_at < first => return Err(ViewError::NotKnownSince(first)),
            Known::All | Known::At(_) => {}
            Known::Revision(revision, checked_at) => {
                if self.revision < revision {
                    return Err(ViewError::NoRevision);
                }
                let reached_at = self.reached_at(revision).map(|at| at - MAX_CLOCK_SKEW);
                if reached_at.is_some_and(|at| at > checked_at) {
                    return Err(ViewError::LaterRevision);
                }
                // Observations of this revision may be removed if a later one is as old.
                let is_old =
                    |later: &Observation| later.revision > revision && later.known_at < first;
                if self.observations.iter().any(is_old) {
                    return Err(ViewError::NotKnownSince(first));
                }
            }
        }
        self.ensure_after_removal(view)
    }

    /// If a deletion removed the history, only views that show the deletion can be derived.
    fn ensure_after_removal(&self, view: View) -> Result<(), ViewError> {
        let Some(removed_at) = self.removed_at else { return Ok(()) };
        let mut earlier = self.observations.iter().filter(|found| found.known_at <= removed_at);
        let is_deletion = |found: &&Observation| matches!(found.statement, Statement::Deleted(_));
        let Some(deletion) = earlier.rfind(is_deletion) else { return Ok(()) };
        if self.seen(view).any(|seen| seen.id == deletion.id) {
            return Ok(());
        }
        let is_known = self.seen(View { as_of: None, ..view }).any(|seen| seen.id == deletion.id);
        Err(if is_known {
            ViewError::NotTrueSince(deletion.effective_at())
        } else {
            ViewError::NotKnownSince(deletion.known_at)
        })
    }
}

impl<'h> ViewedAccount<'h> {
    /// The observation that decides the state of an item.
    #[must_use]
    pub fn source(&self, item: &str) -> Option<&'h Observation> {
        self.sources.get(item).copied()
    }

    /// The record of an override.
    #[must_use]
    pub fn record(&self, id: OverrideId) -> Option<&'h OverrideRecord> {
        self.overrides.iter().find(|record| record.found.id == id).copied()
    }
}
