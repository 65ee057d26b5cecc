//! Asking: what is known of a user and the active organization, and what follows from it. The same for every
//! protocol, so that no two of them can answer differently.

use crate::{
    access::{self, Account, Catalog, Decision, Grace, Id, Question, Revision},
    accounts::{Accounts, Known, Need, Unavailable},
    store::Version,
};
use arc_swap::Guard;
use chrono::{DateTime, Utc};
use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

/// Answers from what this replica knows.
#[derive(Debug, Clone)]
pub struct Checks {
    accounts: Arc<Accounts>,
    grace: Grace,
}

/// Who is asked about: a user, an organization, or a user in the active organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payers<'i> {
    first: Id<'i>,
    second: Option<Id<'i>>,
}

impl<'i> Payers<'i> {
    /// Of these two; `None`: neither is named.
    #[must_use]
    pub fn of(user: Option<Id<'i>>, organization: Option<Id<'i>>) -> Option<Self> {
        match (user, organization) {
            (Some(first), second) | (None, second @ Some(first)) => {
                Some(Self { first, second: second.filter(|second| *second != first) })
            }
            (None, None) => None,
        }
    }

    /// The user first.
    pub fn iter(self) -> impl Iterator<Item = Id<'i>> {
        [Some(self.first), self.second].into_iter().flatten()
    }
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
        let decide = |accounts: &[&'a Account]| {
            access::decide(accounts, self.catalog(), self.grace, question, self.now)
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

    /// How long access outlives its dates.
    #[must_use]
    pub fn grace(&self) -> Grace {
        self.grace
    }
}

impl Checks {
    /// Decides with this grace.
    #[must_use]
    pub fn new(accounts: Arc<Accounts>, grace: Grace) -> Self {
        Self { accounts, grace }
    }

    /// What is known of these, as recent as needed; sees to a recent enough catalog, too.
    pub async fn facts(&self, payers: Payers<'_>, need: &Need) -> Result<Facts, Unavailable> {
        self.accounts.ensure_catalog(need).await?;
        let first = self.accounts.get(payers.first, need).await?;
        let second = match payers.second {
            Some(id) => Some(self.accounts.get(id, need).await?),
            None => None,
        };
        Ok(Facts { first, second })
    }

    /// The same for many, in their order. Each of them is read once, so that all answers about it agree.
    pub async fn each(
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

    /// How far behind this replica may be.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }
}
