//! The explainer: derives answers of any time from what was recorded, with everything that was weighed.

use super::Subjects;
use crate::{
    domain::{
        self, Access, Account, Catalog, CatalogState, DatedCatalog, Decision, EvaluatedState,
        Explanation, HistoryChange, Item, Known, Observation, OverrideRecord, Question, Revision,
        Step, Subject, SubjectHistory, View, ViewError, ViewedAccount,
    },
    storage::{CatalogPoint, CatalogVersion, Records, Store, StoreError},
};
use chrono::{DateTime, SubsecRound, Utc};
use std::{cmp::Reverse, collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// The most instants that [`PastEvaluation::later`] returns.
const MAX_LATER: usize = 20;

/// Derives answers from the records in the database.
#[derive(Debug)]
pub struct Explainer {
    store: Arc<Store>,
    /// Reads use one connection at a time: background work has two.
    reading: Mutex<()>,
}

/// The point from which a question is answered.
#[derive(Debug, Clone)]
pub enum Viewpoint {
    /// An instant for which the answer holds, and one from which its knowledge is.
    At {
        /// The instant of the answer; `None`: now.
        as_of: Option<DateTime<Utc>>,
        /// The instant of the knowledge; `None`: now.
        known_at: Option<DateTime<Utc>>,
    },
    /// The state of an earlier answer.
    Receipt(Receipt),
}

/// The fields of an earlier answer that identify everything that it was decided from.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The state of the catalog and the accounts.
    pub revision: Revision,
    /// The instant of the answer.
    pub checked_at: DateTime<Utc>,
    /// How far the accounts may have been behind the database.
    pub stale_for: Option<Duration>,
}

/// Why a question cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nothing was ever recorded about the subjects.
    #[error(
        "nothing was ever recorded about it: check the id; if it is right, Clerk reported no subscription"
    )]
    UnknownSubject,
    /// The receipt does not fit the question or this database.
    #[error("{0}")]
    Receipt(&'static str),
    /// The history does not have what the view needs.
    #[error(transparent)]
    View(ViewError),
    /// The records cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The records and the instant of one answer.
#[derive(Debug, Clone)]
struct Point {
    at: DateTime<Utc>,
    known_at: DateTime<Utc>,
    stale_for: Option<Duration>,
    catalog: CatalogPoint,
    knowledge: Knowledge,
}

#[derive(Debug, Clone)]
enum Knowledge {
    /// Changes in effect at an instant, known at another; `None`: all.
    At(Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    /// The state of a receipt, with its instant.
    Revision(Revision, DateTime<Utc>),
}

/// The records for an answer, and for the answer that it is compared with.
#[derive(Debug)]
pub struct Recorded {
    histories: Vec<SubjectHistory>,
    point: Point,
    version: CatalogVersion,
    compared: Option<(Point, CatalogVersion)>,
}

/// The records from which the changes of a subject follow.
#[derive(Debug)]
pub struct History {
    records: SubjectHistory,
    /// Each state of the catalog, with the time of its beginning, oldest first.
    states: Vec<(DateTime<Utc>, CatalogVersion)>,
    /// The catalog before the first version.
    none: Catalog,
}

impl History {
    /// The changes until now, oldest first.
    ///
    /// # Errors
    ///
    /// If a text of an item is too long.
    pub fn changes(&self) -> Result<Vec<HistoryChange<'_>>, ExplainError> {
        let catalogs = self.states.iter().map(|(since, version)| DatedCatalog {
            number: version.number,
            since: *since,
            catalog: &version.catalog,
        });
        let catalogs: Vec<_> = catalogs.collect();
        domain::changes(&self.records, &catalogs, &self.none, Utc::now())
            .map_err(|error| ExplainError::View(ViewError::TooLong(error)))
    }

    /// From when on the changes are complete.
    #[must_use]
    pub fn complete_from(&self) -> DateTime<Utc> {
        self.records.complete_from.max(self.records.removed_at.unwrap_or(DateTime::UNIX_EPOCH))
    }
}

/// The inputs of an earlier decision.
#[derive(Debug)]
pub struct PastEvaluation<'r> {
    /// The accounts, the user's first.
    pub accounts: Vec<ViewedAccount<'r>>,
    /// The catalog.
    pub version: &'r CatalogVersion,
    /// The time of the knowledge.
    pub known_at: DateTime<Utc>,
    at: DateTime<Utc>,
    stale_for: Option<Duration>,
    /// Whether this is the state of a replica, which a revision names: that of now, or of a receipt.
    is_replica_state: bool,
    seen: Vec<&'r Observation>,
}

impl Explainer {
    /// Creates the explainer.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, reading: Mutex::default() }
    }

    /// Reads what answers to questions about these subjects follow from.
    ///
    /// # Errors
    ///
    /// If nothing was recorded about the subjects, a receipt is of another question, or the database cannot be read.
    pub async fn recorded(
        &self,
        subjects: Subjects<'_>,
        viewpoint: Viewpoint,
    ) -> Result<Recorded, ExplainError> {
        let subjects: Vec<Subject> = subjects.iter().map(Into::into).collect();
        let is_receipt = matches!(viewpoint, Viewpoint::Receipt(_));
        let (point, compared) = points(viewpoint, Utc::now().trunc_subsecs(3));
        if let Knowledge::Revision(revision, _) = &point.knowledge
            && (revision.subjects() != subjects.len()
                || subjects.iter().any(|subject| revision.of(subject.id()).is_none()))
        {
            return Err(ExplainError::Receipt("is not of an answer about exactly these subjects"));
        }
        let catalogs: Vec<_> =
            [Some(&point), compared.as_ref()].into_iter().flatten().map(|p| p.catalog).collect();
        let reading = self.reading.lock().await;
        let Records { histories, catalogs } = self.store.records(&subjects, &catalogs).await?;
        drop(reading);
        if !is_receipt && histories.iter().all(|history| !history.is_known) {
            return Err(ExplainError::UnknownSubject);
        }
        let mut versions = catalogs.into_iter();
        let foreign = ExplainError::Receipt("names a catalog that this database never had");
        let version = versions.next().flatten().ok_or(foreign)?;
        let compared = compared.zip(versions.next().flatten());
        Ok(Recorded { histories, point, version, compared })
    }

    /// Lists the changes of a subject, oldest first, and from when on they are complete.
    ///
    /// # Errors
    ///
    /// If nothing was recorded about the subject, or the database cannot be read.
    pub async fn changes(&self, subject: &Subject) -> Result<History, ExplainError> {
        let _reading = self.reading.lock().await;
        let records = self.store.records(std::slice::from_ref(subject), &[]).await?;
        let history = records.histories.into_iter().find(|history| history.is_known);
        let history = history.ok_or(ExplainError::UnknownSubject)?;
        let states = self.store.catalog_states().await?;
        Ok(History { records: history, states, none: Catalog::default() })
    }
}

/// The point of an answer, and the point that it is compared with.
fn points(viewpoint: Viewpoint, now: DateTime<Utc>) -> (Point, Option<Point>) {
    match viewpoint {
        Viewpoint::At { as_of, known_at } => {
            let at = as_of.unwrap_or(now);
            let compared = match known_at {
                Some(_) => Some(Point::at(at, None, now)),
                None if at < now => Some(Point::at(at, Some(at), now)),
                None => None,
            };
            (Point::at(at, known_at, now), compared)
        }
        Viewpoint::Receipt(Receipt { revision, checked_at, stale_for }) => {
            let point = Point {
                at: checked_at,
                known_at: checked_at,
                stale_for,
                catalog: CatalogPoint::State(revision.catalog),
                knowledge: Knowledge::Revision(revision, checked_at),
            };
            (point, Some(Point::at(checked_at, None, now)))
        }
    }
}

impl Point {
    fn at(at: DateTime<Utc>, known_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        // The clock of the database may be ahead: what is recorded has taken effect now.
        let as_of = Some(at).filter(|at| *at < now);
        let in_force = as_of.into_iter().chain(known_at).min();
        Self {
            at,
            known_at: known_at.unwrap_or(now),
            stale_for: None,
            catalog: CatalogPoint::At { in_force, known: known_at },
            knowledge: Knowledge::At(as_of, known_at),
        }
    }

    fn view(&self, subject: &Subject) -> View {
        match &self.knowledge {
            Knowledge::At(as_of, known_at) => {
                View { as_of: *as_of, known: known_at.map_or(Known::All, Known::At) }
            }
            Knowledge::Revision(revision, checked_at) => {
                let revision = revision.of(subject.id()).unwrap_or(0);
                View { as_of: None, known: Known::Revision(revision, *checked_at) }
            }
        }
    }
}

impl Recorded {
    /// The inputs of the answer.
    ///
    /// # Errors
    ///
    /// If a part of the history was removed or never recorded.
    pub fn evaluation(&self) -> Result<PastEvaluation<'_>, ExplainError> {
        self.evaluation_at(&self.point, &self.version).map_err(ExplainError::View)
    }

    /// The inputs of the answer that it is compared with; `None` if there is none.
    #[must_use]
    pub fn compared(&self) -> Option<PastEvaluation<'_>> {
        let (point, version) = self.compared.as_ref()?;
        self.evaluation_at(point, version).ok()
    }

    /// Whether the answer is derived from a receipt.
    #[must_use]
    pub fn is_receipt(&self) -> bool {
        matches!(self.point.knowledge, Knowledge::Revision(..))
    }

    fn evaluation_at<'r>(
        &'r self,
        point: &Point,
        version: &'r CatalogVersion,
    ) -> Result<PastEvaluation<'r>, ViewError> {
        let views = self.histories.iter().map(|history| (history, point.view(&history.subject)));
        let seen = views.clone().flat_map(|(history, view)| history.seen(view)).collect();
        let accounts = views.map(|(history, view)| history.view(view));
        let (at, known_at, stale_for) = (point.at, point.known_at, point.stale_for);
        let accounts = accounts.collect::<Result<_, _>>()?;
        let is_replica_state =
            matches!(point.knowledge, Knowledge::At(None, None) | Knowledge::Revision(..));
        Ok(PastEvaluation { accounts, version, known_at, at, stale_for, is_replica_state, seen })
    }
}

impl<'r> PastEvaluation<'r> {
    /// The answer to a question.
    #[must_use]
    pub fn answer(&self, question: &Question<'_>) -> Explanation<'_> {
        self.explain(self.decide(question, self.at), self.at)
    }

    /// The instants after the answer at which time alone changes it, each with the answer from then on.
    #[must_use]
    pub fn later(&self, question: &Question<'_>) -> Vec<Explanation<'_>> {
        let (mut later, mut next) = (Vec::new(), self.decide(question, self.at).valid_until);
        while let (Some(at), true) = (next, later.len() < MAX_LATER) {
            let decision = self.decide(question, at);
            next = decision.valid_until;
            later.push(self.explain(decision, at));
        }
        later
    }

    /// Everything that is weighed for the answer, the decisive step first.
    #[must_use]
    pub fn steps(&self, question: &Question<'_>) -> Vec<Step<'_>> {
        let verdict = self.decide(question, self.at).verdict;
        domain::steps(&self.accounts(), &self.version.catalog, question, &verdict, self.at)
    }

    /// The observations that only one of two evaluations has, the newest first.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<&'r Observation> {
        let mut only = only_in_one(&self.seen, &other.seen, |one| one.id);
        only.sort_by_key(|one| Reverse((one.known_at, one.id)));
        only
    }

    /// The overrides that only one of two evaluations has, of those that may concern the question; the newest first.
    #[must_use]
    pub fn changed_overrides(
        &self,
        other: &Self,
        question: &Question<'_>,
    ) -> Vec<&'r OverrideRecord> {
        let mut only = only_in_one(&self.overrides(), &other.overrides(), |o| o.found.id);
        only.retain(|o| o.found.effect.may_concern(question));
        only.sort_by_key(|o| Reverse(o.found.set_at));
        only
    }

    fn overrides(&self) -> Vec<&'r OverrideRecord> {
        self.accounts.iter().flat_map(|viewed| viewed.overrides.iter().copied()).collect()
    }

    /// The account of a subject, with its observations.
    #[must_use]
    pub fn account(&self, subject: Option<&Subject>) -> Option<&ViewedAccount<'r>> {
        self.accounts.iter().find(|viewed| Some(&viewed.account.subject) == subject)
    }

    /// The access that an item of a subject grants, and the slug of its plan in the catalog.
    #[must_use]
    pub fn item_state(
        &self,
        subject: Option<&Subject>,
        item: &Item<&str>,
    ) -> Option<(Access, Option<&str>)> {
        let (account, catalog) = (&self.account(subject)?.account, &self.version.catalog);
        let access = account.standing(catalog.grace).access(item, self.at);
        let plans = catalog.plan_set(account.subject.kind());
        let plan = plans.find(item.plan_id, item.plan).map(|(slug, _)| slug.as_str());
        Some((access, plan))
    }

    fn accounts(&self) -> Vec<&Account> {
        self.accounts.iter().map(|viewed| &viewed.account).collect()
    }

    fn decide(&self, question: &Question<'_>, at: DateTime<Utc>) -> Decision<'_> {
        let catalog = &self.version.catalog;
        let decision = domain::decide(&self.accounts(), catalog, question, at);
        match self.stale_for {
            None => decision,
            Some(_) => decision.deny_strict_if_stale(catalog, question.wanted),
        }
    }

    fn explain<'d>(&self, decision: Decision<'d>, at: DateTime<Utc>) -> Explanation<'d> {
        let states = self.accounts.iter().map(|viewed| &viewed.account);
        let states = states.map(|account| (&account.subject, account.revision));
        let state: CatalogState = self.version.state();
        let revision =
            if self.is_replica_state { Revision::token(state, states) } else { String::new() };
        let state = EvaluatedState { checked_at: at, stale_for: self.stale_for, revision };
        Explanation::new(decision, state)
    }
}

/// The records that only one of two lists has.
fn only_in_one<T: Copy, K: Ord>(ours: &[T], theirs: &[T], id: impl Fn(T) -> K) -> Vec<T> {
    let ids = |all: &[T]| all.iter().map(|one| id(*one)).collect::<BTreeSet<_>>();
    let (our_ids, their_ids) = (ids(ours), ids(theirs));
    let only_ours = ours.iter().filter(|one| !their_ids.contains(&id(**one)));
    let only_theirs = theirs.iter().filter(|one| !our_ids.contains(&id(**one)));
    only_ours.chain(only_theirs).copied().collect()
}
