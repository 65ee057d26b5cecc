//! The evaluator: gets the accounts of a user and the active organization, and decides from them. All protocols use it,
//! so they cannot answer differently.

mod cooperative_yield;
mod denial_log;
mod error;
mod explainer;
mod overrides;
mod reports;
mod subjects;

pub use cooperative_yield::CooperativeYield;
pub use error::{CheckError, CheckErrorKind};
pub use explainer::{
    ExplainError, Explainer, History, PastEvaluation, Receipt, Recorded, Viewpoint,
};
pub use overrides::{
    AnswerDifference, EditedOverride, OverrideEditor, OverrideError, OverrideFault,
};
pub use reports::{HoldersError, PreviewError, SubjectReports};
pub use subjects::{SubjectError, Subjects, SubjectsBuf, SubjectsParser};

use crate::{
    domain::{
        self, Account, Catalog, Decision, Denial, EvaluatedState, Explanation, Grant, PackedItems,
        PreparedAccounts, Question, Reason, Revision, Slug, SubjectRef,
    },
    replica::{Accounts, CachedAccount, Consistency, Unavailable},
    storage::CatalogVersion,
    telemetry::{Labels, Metrics, SampleRate, Sampler},
};
use arc_swap::Guard;
use chrono::{DateTime, SubsecRound, Utc};
use denial_log::DenialLog;
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::{BTreeSet, HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

/// Answers checks from the accounts and the catalog of this replica.
#[derive(Debug)]
pub struct Evaluator {
    accounts: Arc<Accounts>,
    /// One counter for each reason to allow, indexed by the reason.
    grants: [Counter; Grant::ALL.len()],
    /// One counter for each reason to deny, indexed by the reason.
    denials: [Counter; Denial::ALL.len()],
    log: DenialLog,
    /// Limits the log lines about failures: during an outage of the database, every check of an uncached account fails.
    failures: Sampler,
}

/// The accounts of the subjects that a check asks about.
#[derive(Debug, Clone)]
pub struct EvaluatedAccounts {
    first: CachedAccount,
    second: Option<CachedAccount>,
}

impl EvaluatedAccounts {
    /// The accounts, the user's first.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        [Some(&self.first), self.second.as_ref()]
            .into_iter()
            .flatten()
            .map(|cached| &*cached.account)
    }

    /// The user's account, or the organization's if no user is asked about.
    #[must_use]
    pub fn first(&self) -> &Account {
        &self.first.account
    }

    /// Each account alone, the user's first.
    pub fn each_alone(&self) -> impl Iterator<Item = Self> {
        let all = [Some(&self.first), self.second.as_ref()].into_iter().flatten();
        all.map(|cached| Self { first: cached.clone(), second: None })
    }

    /// An upper bound of the number of items in the accounts.
    #[must_use]
    pub fn items(&self) -> usize {
        self.accounts().map(|account| account.items.bytes() / PackedItems::MIN_PACKED_LEN).sum()
    }

    /// How far the accounts may be behind the database; `None`: not at all.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        self.first.stale_for.max(self.second.as_ref().and_then(|cached| cached.stale_for))
    }
}

/// The inputs of a decision beside the accounts: the catalog in use and the instant.
pub struct EvaluationContext {
    version: Guard<Arc<CatalogVersion>>,
    /// The instant at which checks are decided, in whole milliseconds.
    pub now: DateTime<Utc>,
}

impl EvaluationContext {
    /// Decides a question from these accounts, at [`Self::now`].
    #[must_use]
    pub fn decide<'a>(
        &'a self,
        evaluated: &'a EvaluatedAccounts,
        question: &Question<'_>,
    ) -> Decision<'a> {
        self.decide_at(self.now, evaluated, question)
    }

    /// Decides a question from these accounts as of another instant, in the future or the past.
    #[must_use]
    pub fn decide_at<'a>(
        &'a self,
        at: DateTime<Utc>,
        evaluated: &'a EvaluatedAccounts,
        question: &Question<'_>,
    ) -> Decision<'a> {
        let decide =
            |accounts: &[&'a Account]| domain::decide(accounts, self.catalog(), question, at);
        let first = &*evaluated.first.account;
        let decision = match &evaluated.second {
            None => decide(&[first]),
            Some(second) => decide(&[first, &second.account]),
        };
        match evaluated.stale_for() {
            None => decision,
            Some(_) => decision.deny_strict_if_stale(self.catalog(), question.wanted),
        }
    }

    /// Explains a decision that was made from these accounts at [`Self::now`].
    #[must_use]
    pub fn explain<'a>(
        &self,
        evaluated: &EvaluatedAccounts,
        decision: Decision<'a>,
    ) -> Explanation<'a> {
        Explanation::new(decision, self.state(evaluated))
    }

    /// The state of the data behind answers about these accounts.
    #[must_use]
    pub fn state(&self, evaluated: &EvaluatedAccounts) -> EvaluatedState {
        let (stale_for, revision) = (evaluated.stale_for(), self.revision(evaluated));
        EvaluatedState { checked_at: self.now, stale_for, revision }
    }

    /// Prepares the accounts for many questions.
    #[must_use]
    pub fn prepare<'a>(&'a self, evaluated: &'a EvaluatedAccounts) -> PreparedEvaluation<'a> {
        let accounts = PreparedAccounts::new(evaluated.accounts(), self.catalog());
        PreparedEvaluation { evaluation: self, evaluated, accounts }
    }

    /// Every feature that a plan has or that an override of these accounts names.
    #[must_use]
    pub fn features<'a>(&'a self, evaluated: &'a EvaluatedAccounts) -> BTreeSet<&'a Slug> {
        let overrides = evaluated.accounts().flat_map(|account| &account.overrides);
        self.catalog().features().chain(overrides.filter_map(|o| o.effect.feature())).collect()
    }

    /// The token for the state of the catalog and of these accounts.
    #[must_use]
    pub fn revision(&self, evaluated: &EvaluatedAccounts) -> String {
        let states = evaluated.accounts().map(|account| (&account.subject, account.revision));
        Revision::token(self.version.state(), states)
    }

    /// The catalog in use.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.version.catalog
    }

    /// The number of the catalog in use.
    #[must_use]
    pub fn catalog_number(&self) -> u64 {
        self.version.number
    }
}

/// The state of an account that was read from the database for this answer.
fn fresh_state(
    account: &Account,
    version: &CatalogVersion,
    checked_at: DateTime<Utc>,
) -> EvaluatedState {
    let revision = Revision::token(version.state(), [(&account.subject, account.revision)]);
    EvaluatedState { checked_at, stale_for: None, revision }
}

/// Accounts prepared for many questions at one instant.
pub struct PreparedEvaluation<'a> {
    evaluation: &'a EvaluationContext,
    evaluated: &'a EvaluatedAccounts,
    accounts: PreparedAccounts<'a>,
}

impl<'a> PreparedEvaluation<'a> {
    /// Decides as [`EvaluationContext::decide`] does.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Decision<'a> {
        self.decide_at(self.evaluation.now, question)
    }

    /// Decides as [`EvaluationContext::decide_at`] does.
    #[must_use]
    pub fn decide_at(&self, at: DateTime<Utc>, question: &Question<'_>) -> Decision<'a> {
        self.unless_stale(question, self.accounts.decide(question, at))
    }

    fn unless_stale(&self, question: &Question<'_>, decision: Decision<'a>) -> Decision<'a> {
        match self.evaluated.stale_for() {
            None => decision,
            Some(_) => decision.deny_strict_if_stale(self.evaluation.catalog(), question.wanted),
        }
    }

    /// Decides as [`PreparedAccounts::decide_as_part`] does.
    #[must_use]
    pub fn decide_as_part(&self, question: &Question<'_>) -> Decision<'a> {
        self.unless_stale(question, self.accounts.decide_as_part(question, self.evaluation.now))
    }

    /// Decides and explains, as of now.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation<'a> {
        self.evaluation.explain(self.evaluated, self.decide(question))
    }

    /// The number of items that each question examines.
    #[must_use]
    pub fn items(&self) -> usize {
        self.accounts.items()
    }
}

impl Evaluator {
    /// An evaluator that logs denials at the rate `log_denials`.
    #[must_use]
    pub fn new(
        accounts: Arc<Accounts>,
        metrics: &Metrics,
        log_denials: Option<SampleRate>,
    ) -> Self {
        let counter = |reason| metrics.checks.get_or_create_owned(&Labels([("reason", reason)]));
        Self {
            accounts,
            grants: Grant::ALL.map(|grant| counter(grant.name())),
            denials: Denial::ALL.map(|denial| counter(denial.name())),
            log: DenialLog::new(log_denials),
            failures: Sampler::new(SampleRate::PerSecond(1)),
        }
    }

    /// Gets the accounts of these subjects. They and the catalog are as recent as `consistency` requires.
    pub async fn evaluated_accounts(
        &self,
        subjects: Subjects<'_>,
        consistency: &Consistency,
    ) -> Result<EvaluatedAccounts, CheckError> {
        self.load_accounts(subjects, consistency).await.map_err(|error| self.error(&error))
    }

    async fn load_accounts(
        &self,
        subjects: Subjects<'_>,
        consistency: &Consistency,
    ) -> Result<EvaluatedAccounts, Unavailable> {
        self.accounts.ensure_catalog(consistency).await?;
        let first = self.accounts.get(subjects.first, consistency).await?;
        let second = match subjects.second {
            Some(id) => Some(self.accounts.get(id, consistency).await?),
            None => None,
        };
        Ok(EvaluatedAccounts { first, second })
    }

    /// Answers a question about these subjects from their accounts, and counts and samples the answer.
    #[must_use]
    pub fn answer<'a>(
        &self,
        evaluation: &'a EvaluationContext,
        evaluated: &'a EvaluatedAccounts,
        subjects: Subjects<'_>,
        question: &Question<'_>,
    ) -> Explanation<'a> {
        let answer = evaluation.explain(evaluated, evaluation.decide(evaluated, question));
        self.count(subjects, question, &answer);
        answer
    }

    /// Answers one of many questions from prepared accounts, counts the answer, and yields to other tasks now and then.
    pub async fn answer_next<'a>(
        &self,
        prepared: &PreparedEvaluation<'a>,
        yielding: &mut CooperativeYield,
        subjects: Subjects<'_>,
        question: &Question<'_>,
    ) -> Explanation<'a> {
        let answer = prepared.explain(question);
        self.count(subjects, question, &answer);
        yielding.answered(prepared.items()).await;
        answer
    }

    fn count(&self, subjects: Subjects<'_>, question: &Question<'_>, answer: &Explanation<'_>) {
        match answer.reason {
            Reason::Grant(reason) => self.grants[reason as usize].inc(),
            Reason::Denial(reason) => self.denials[reason as usize].inc(),
        };
        self.log.note(subjects, question, answer);
    }

    /// Gets the accounts for many questions, in their order. Each account is fetched once, so that all answers about it
    /// agree.
    pub async fn each(
        &self,
        questions: impl Iterator<Item = Subjects<'_>>,
        consistency: &Consistency,
    ) -> Result<Vec<EvaluatedAccounts>, CheckError> {
        self.load_each(questions, consistency).await.map_err(|error| self.error(&error))
    }

    async fn load_each(
        &self,
        questions: impl Iterator<Item = Subjects<'_>>,
        consistency: &Consistency,
    ) -> Result<Vec<EvaluatedAccounts>, Unavailable> {
        self.accounts.ensure_catalog(consistency).await?;
        let (mut all, mut last) =
            (Vec::<EvaluatedAccounts>::with_capacity(questions.size_hint().0), None);
        let mut loaded = HashMap::new();
        for subjects in questions {
            if let (Some(evaluated), true) = (all.last(), last == Some(subjects)) {
                all.push(evaluated.clone());
                continue;
            }
            for id in subjects.iter() {
                if let hash_map::Entry::Vacant(place) = loaded.entry(id) {
                    place.insert(self.accounts.get(id, consistency).await?);
                }
            }
            let of = |id: SubjectRef<'_>| loaded[&id].clone();
            all.push(EvaluatedAccounts {
                first: of(subjects.first),
                second: subjects.second.map(of),
            });
            last = Some(subjects);
        }
        Ok(all)
    }

    /// The context for deciding now: the catalog in use and the current time. The time is in whole milliseconds, as in
    /// answers, so that deciding again at `checked_at` gives the same answer.
    #[must_use]
    pub fn context(&self) -> EvaluationContext {
        let now = Utc::now().trunc_subsecs(3);
        EvaluationContext { version: self.accounts.catalog(), now }
    }

    /// The error that a caller may see for a failure; logs the details, at most once a second.
    #[must_use]
    pub fn error(&self, error: &Unavailable) -> CheckError {
        CheckError::of(error, &self.failures)
    }

    /// The accounts of this replica.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }
}
