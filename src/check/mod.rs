//! Asking: what is known of a user and the active organization, and what follows from it. The same for every
//! protocol, so that no two of them can answer differently.

mod denial_log;
mod error;
mod pieces;
mod subjects;

pub use error::{Failure, FailureKind};
pub use pieces::Pieces;
pub use subjects::{Payers, Whom};

use crate::{
    domain::{
        self, Account, Catalog, Decision, Denial, Grace, Grant, Id, Items, PreparedAccounts,
        Question, Revision, Slug, Verdict,
    },
    replica::{Accounts, Known, Need, Unavailable},
    storage::Version,
    telemetry::{Labels, Metrics, Sampler, Share},
};
use arc_swap::Guard;
use chrono::{DateTime, Utc};
use denial_log::Denials;
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::{BTreeSet, HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

/// Answers from what this replica knows.
#[derive(Debug)]
pub struct Checks {
    accounts: Arc<Accounts>,
    grace: Grace,
    /// A counter for each reason, by its place.
    grants: [Counter; Grant::ALL.len()],
    denials: [Counter; Denial::ALL.len()],
    log: Denials,
    /// Which failures are logged: while the database is away, every check of what is not cached fails.
    failures: Sampler,
}

/// What is known of those who are asked about.
#[derive(Debug, Clone)]
pub struct Facts {
    first: Known,
    second: Option<Known>,
}

impl Facts {
    /// The accounts, the user's first.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().map(|known| &*known.account)
    }

    /// What is known of each alone, the user first.
    pub fn each_alone(&self) -> impl Iterator<Item = Self> {
        let all = [Some(&self.first), self.second.as_ref()].into_iter().flatten();
        all.map(|known| Self { first: known.clone(), second: None })
    }

    /// How many items the accounts have, at most.
    #[must_use]
    pub fn items(&self) -> usize {
        self.accounts().map(|account| account.items.bytes() / Items::SHORTEST).sum()
    }

    /// How far behind they may be; `None`: not at all.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        self.first.stale_for.max(self.second.as_ref().and_then(|known| known.stale_for))
    }
}

/// What decides beside the facts: the catalog in use, and the instant.
pub struct Moment {
    version: Guard<Arc<Version>>,
    grace: Grace,
    /// The instant.
    pub now: DateTime<Utc>,
}

impl Moment {
    /// The answer to a question about these facts, at this moment.
    #[must_use]
    pub fn decide<'a>(&'a self, facts: &'a Facts, question: &Question<'_>) -> Decision<'a> {
        self.decide_at(self.now, facts, question)
    }

    /// The same at another instant: what will follow from these facts, or followed.
    #[must_use]
    pub fn decide_at<'a>(
        &'a self,
        at: DateTime<Utc>,
        facts: &'a Facts,
        question: &Question<'_>,
    ) -> Decision<'a> {
        let decide = |accounts: &[&'a Account]| {
            domain::decide(accounts, self.catalog(), self.grace, question, at)
        };
        let first = &*facts.first.account;
        let decision = match &facts.second {
            None => decide(&[first]),
            Some(second) => decide(&[first, &second.account]),
        };
        match facts.stale_for() {
            None => decision,
            Some(_) => decision.although_stale(self.catalog(), question.wanted),
        }
    }

    /// The same facts, prepared for many questions.
    #[must_use]
    pub fn prepare<'a>(&'a self, facts: &'a Facts) -> Prepared<'a> {
        let accounts = PreparedAccounts::new(facts.accounts(), self.catalog(), self.grace);
        Prepared { moment: self, accounts, is_stale: facts.stale_for().is_some() }
    }

    /// Every feature of which anything is known: by a plan, or by an override of these subjects.
    #[must_use]
    pub fn features<'a>(&'a self, facts: &'a Facts) -> BTreeSet<&'a Slug> {
        let overrides = facts.accounts().flat_map(|account| &account.overrides);
        self.catalog().features().chain(overrides.map(|found| &found.feature)).collect()
    }

    /// The token for the state that answers about these facts are given from.
    #[must_use]
    pub fn revision(&self, facts: &Facts) -> String {
        let states = facts.accounts().map(|account| (&account.subject, account.revision));
        Revision::token(self.version.number, states)
    }

    /// The catalog in use.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.version.catalog
    }

    /// Its number.
    #[must_use]
    pub fn catalog_number(&self) -> u64 {
        self.version.number
    }

    /// How many names plans were seen with, where these facts depend on them: an item whose plan's slug was never said.
    #[must_use]
    pub fn plan_names(&self, facts: &Facts) -> usize {
        let mut items = facts.accounts().flat_map(|account| &account.items);
        if items.any(|item| item.plan.is_none()) { self.version.names.count() } else { 0 }
    }

    /// How long access outlives its dates.
    #[must_use]
    pub fn grace(&self) -> Grace {
        self.grace
    }
}

/// Facts that many questions are asked about at a moment.
pub struct Prepared<'a> {
    moment: &'a Moment,
    accounts: PreparedAccounts<'a>,
    is_stale: bool,
}

impl<'a> Prepared<'a> {
    /// Answers as [`Moment::decide`] does.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Decision<'a> {
        self.decide_at(self.moment.now, question)
    }

    /// Answers as [`Moment::decide_at`] does.
    #[must_use]
    pub fn decide_at(&self, at: DateTime<Utc>, question: &Question<'_>) -> Decision<'a> {
        let decision = self.accounts.decide(question, at);
        if self.is_stale {
            decision.although_stale(self.moment.catalog(), question.wanted)
        } else {
            decision
        }
    }

    /// How many items there are to look at for each question.
    #[must_use]
    pub fn items(&self) -> usize {
        self.accounts.items()
    }
}

impl Checks {
    /// Decides with this grace; logs this share of the denials.
    #[must_use]
    pub fn new(
        accounts: Arc<Accounts>,
        grace: Grace,
        metrics: &Metrics,
        log_denials: Option<Share>,
    ) -> Self {
        let counter = |reason| metrics.checks.get_or_create_owned(&Labels([("reason", reason)]));
        Self {
            accounts,
            grace,
            grants: Grant::ALL.map(|grant| counter(grant.name())),
            denials: Denial::ALL.map(|denial| counter(denial.name())),
            log: Denials::new(log_denials),
            failures: Sampler::new(Share::PerSecond(1)),
        }
    }

    /// What is known of these, as recent as needed; sees to a recent enough catalog, too.
    pub async fn facts(&self, payers: Payers<'_>, need: &Need) -> Result<Facts, Failure> {
        self.known(payers, need).await.map_err(|error| self.failure(&error))
    }

    async fn known(&self, payers: Payers<'_>, need: &Need) -> Result<Facts, Unavailable> {
        self.accounts.ensure_catalog(need).await?;
        let first = self.accounts.get(payers.first, need).await?;
        let second = match payers.second {
            Some(id) => Some(self.accounts.get(id, need).await?),
            None => None,
        };
        Ok(Facts { first, second })
    }

    /// Answers a question about these, whose facts they are; counts the answer.
    #[must_use]
    pub fn decide<'a>(
        &self,
        moment: &'a Moment,
        facts: &'a Facts,
        payers: Payers<'_>,
        question: &Question<'_>,
    ) -> Decision<'a> {
        let decision = moment.decide(facts, question);
        self.count(payers, question, &decision);
        decision
    }

    /// Answers one of many questions about prepared facts, counts the answer, and gives way after each piece of work.
    pub async fn decide_next<'a>(
        &self,
        prepared: &Prepared<'a>,
        pieces: &mut Pieces,
        payers: Payers<'_>,
        question: &Question<'_>,
    ) -> Decision<'a> {
        let decision = prepared.decide(question);
        self.count(payers, question, &decision);
        pieces.answered(prepared.items()).await;
        decision
    }

    fn count(&self, payers: Payers<'_>, question: &Question<'_>, decision: &Decision<'_>) {
        match decision.verdict {
            Verdict::Allowed { reason, .. } => self.grants[reason as usize].inc(),
            Verdict::Denied { reason, .. } => self.denials[reason as usize].inc(),
        };
        self.log.note(payers, question, decision);
    }

    /// The same for many, in their order. Each of them is read once, so that all answers about it agree.
    pub async fn each(
        &self,
        asked: impl Iterator<Item = Payers<'_>>,
        need: &Need,
    ) -> Result<Vec<Facts>, Failure> {
        self.all(asked, need).await.map_err(|error| self.failure(&error))
    }

    async fn all(
        &self,
        asked: impl Iterator<Item = Payers<'_>>,
        need: &Need,
    ) -> Result<Vec<Facts>, Unavailable> {
        self.accounts.ensure_catalog(need).await?;
        let (mut all, mut last) = (Vec::<Facts>::with_capacity(asked.size_hint().0), None);
        let mut known = HashMap::new();
        for payers in asked {
            if let (Some(facts), true) = (all.last(), last == Some(payers)) {
                all.push(facts.clone());
                continue;
            }
            for id in payers.iter() {
                if let hash_map::Entry::Vacant(place) = known.entry(id) {
                    place.insert(self.accounts.get(id, need).await?);
                }
            }
            let of = |id: Id<'_>| known[&id].clone();
            all.push(Facts { first: of(payers.first), second: payers.second.map(of) });
            last = Some(payers);
        }
        Ok(all)
    }

    /// Now, with the catalog in use.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { version: self.accounts.catalog(), grace: self.grace, now: Utc::now() }
    }

    /// What a caller may know of a failure.
    #[must_use]
    pub fn failure(&self, error: &Unavailable) -> Failure {
        Failure::of(error, &self.failures)
    }

    /// What this replica knows.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }
}
