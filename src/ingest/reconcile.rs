//! Keeps the catalog and the accounts true to what Clerk's Backend API says, for the deliveries that never came.
//!
//! What Clerk says enters like a delivery, as one more observation with its own dates: a webhook that tells of
//! something newer is never overwritten.

mod agreement;

use crate::{
    clerk::{Api, ApiError, Observation, Plans},
    domain::{Reading, Subject, summary},
    ingest::Deliveries,
    replica::Accounts,
    storage::{Applied, Author, Backfill, Compared, Outcome, Store, StoreError},
    telemetry::{Labels, Metrics, chain},
};
use chrono::Utc;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often Clerk is asked for its plans.
const CATALOG_EVERY: Duration = Duration::from_mins(10);
/// The shortest time between two such questions, also while unknown plans are told of.
const CATALOG_AT_MOST: Duration = Duration::from_secs(2);
/// How often candidates are looked for.
const CANDIDATES_EVERY: Duration = Duration::from_secs(30);
/// How often a replica looks whether another is done with the backfill.
const BACKFILL_EVERY: Duration = Duration::from_secs(20);
/// How many candidates are compared each time: far below Clerk's limit of 100 requests in 10 s.
const CANDIDATES_AT_ONCE: i64 = 60;
/// After so many failures in a row the others wait for the next time: Clerk is likely to be away.
const FAILURES_IN_A_ROW: usize = 5;
/// How many observations are written at the same time.
const WRITERS: usize = 6;

/// Asks Clerk, and writes what is new.
#[derive(Debug)]
pub struct Reconciler {
    api: Api,
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    deliveries: Arc<Deliveries>,
    metrics: Arc<Metrics>,
}

/// Why something could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Clerk did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The key is of another instance than the one that is served: what it says is about other people.
    #[error(
        "CLERK_SECRET_KEY is of instance {key}, but CLERK_INSTANCE is {served}: set both of one instance"
    )]
    OtherInstance {
        /// The key's.
        key: String,
        /// The one that is served.
        served: String,
    },
    /// A plan could not be read, so that nobody knows whether it was retired.
    #[error("no plan is removed, because one of Clerk's list cannot be read: {0}")]
    Unreadable(String),
    /// The database did not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What comparing one subject showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The account agrees with Clerk, and did before.
    Same,
    /// The account agrees with Clerk now, or would, and did not before.
    Healed(Outcome),
    /// The account answers otherwise than Clerk's answer says: something that counts as newer is known here.
    Differs(String),
    /// What Clerk says could not be read, or not all of it.
    NotUnderstood(String),
    /// Clerk knows of no subscription; nothing is changed.
    NotAtClerk,
}

impl Finding {
    /// The one word for it, in metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Healed(_) => "healed",
            Self::Differs(_) => "differs",
            Self::NotUnderstood(_) => "not_understood",
            Self::NotAtClerk => "not_at_clerk",
        }
    }

    fn result(&self) -> Compared {
        match self {
            Self::Same | Self::Healed(_) | Self::NotAtClerk => Compared::Agrees,
            Self::Differs(_) | Self::NotUnderstood(_) => Compared::Differs,
        }
    }
}

/// What became of refreshing the catalog.
#[derive(Debug)]
pub struct Refreshed {
    /// Of the catalog.
    pub applied: Applied,
    /// Why plans of Clerk's list could not be read: what is known of them stays as it is.
    pub left_out: Vec<String>,
}

/// How far a backfill came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// Items that were read.
    pub read: usize,
    /// Items that Clerk has.
    pub total: usize,
    /// Those that were new here.
    pub new: usize,
    /// Those that were not understood.
    pub not_understood: usize,
    /// Those that came without their payer.
    pub without_payer: usize,
}

impl Reconciler {
    /// Asks through `api`.
    #[must_use]
    pub fn new(
        api: Api,
        store: Arc<Store>,
        accounts: Arc<Accounts>,
        deliveries: Arc<Deliveries>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { api, store, accounts, deliveries, metrics }
    }

    /// Takes over all that Clerk has, if that was never done, and then keeps catalog and accounts true, for ever.
    pub async fn run(&self) -> Infallible {
        tokio::select! {
            never = self.keep_catalog() => never,
            never = self.heal() => never,
            never = self.backfill_once() => never,
        }
    }

    /// Makes ready for comparing without a running service: the key is checked, and the catalog read.
    pub async fn prepare(&self) -> Result<(), ReconcileError> {
        self.check_instance().await?;
        Ok(self.accounts.reload_catalog().await?)
    }

    /// Whether the key is of the instance that is served. Where nothing else says which one that is, the key does.
    pub async fn check_instance(&self) -> Result<(), ReconcileError> {
        let Some(key) = self.api.instance().await? else { return Ok(()) };
        let instance = self.deliveries.instance();
        instance.pin(key.clone());
        match instance.served() {
            Some(served) if served != key => {
                Err(ReconcileError::OtherInstance { key, served: served.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Compares one subject with what Clerk says, and writes what is new; with `dry_run` only tells. A failure is noted
    /// like a finding, so that the subject is not tried again at once.
    pub async fn compare(
        &self,
        subject: &Subject,
        dry_run: bool,
    ) -> Result<Finding, ReconcileError> {
        let found = self.look(subject, dry_run).await;
        if !dry_run {
            let (word, result) = match &found {
                Ok(finding) => (finding.word(), finding.result()),
                Err(_) => ("failed", Compared::Failed),
            };
            self.metrics.reconciled.get_or_create(&Labels([("result", word)])).inc();
            self.store.compared(subject, result).await?;
        }
        found
    }

    /// Takes back the deletion of a subject that Clerk still knows; it then has what Clerk says.
    pub async fn undelete(&self, subject: &Subject) -> Result<Finding, ReconcileError> {
        match self.look(subject, true).await? {
            Finding::NotAtClerk | Finding::NotUnderstood(_) => {}
            Finding::Same | Finding::Healed(_) | Finding::Differs(_) => {
                if self.store.undelete(subject).await? {
                    tracing::info!(subject = subject.as_str(), "took back a deletion");
                }
            }
        }
        self.compare(subject, false).await
    }

    async fn look(&self, subject: &Subject, dry_run: bool) -> Result<Finding, ReconcileError> {
        let trace = self.metrics.traces.question("ask Clerk for a subscription");
        let found = trace.run(self.api.subscription(subject)).await?;
        drop(trace);
        let Some(found) = found else { return Ok(Finding::NotAtClerk) };
        let now = Utc::now();
        let (delivery, outcome) = self.deliveries.observe(&found.body, dry_run, now).await?;
        let news = match &delivery.message.reading {
            Reading::News(news) if news.left_out().is_empty() => news,
            Reading::News(news) => return Ok(Finding::NotUnderstood(summary(news.left_out()))),
            Reading::Parked(why) | Reading::Ignored(why) | Reading::Foreign(why) => {
                return Ok(Finding::NotUnderstood(why.clone()));
            }
        };
        let changes = outcome.changed().is_some();
        if dry_run && changes {
            return Ok(Finding::Healed(outcome));
        }
        if !news.is_complete() {
            return Ok(Finding::NotUnderstood("it does not list its items".into()));
        }
        let account = self.store.account(subject).await?;
        let version = self.accounts.catalog();
        Ok(match agreement::difference(&account, news, &version.catalog, now) {
            Some(difference) => Finding::Differs(difference),
            None if changes => Finding::Healed(outcome),
            None => Finding::Same,
        })
    }

    /// Takes over all items that Clerk has; tells after each page how far it came.
    pub async fn backfill(
        &self,
        told: impl Fn(&Backfilled) + Send,
    ) -> Result<Backfilled, ReconcileError> {
        let (mut sum, mut offset) = (Backfilled::default(), Some(0));
        while let Some(from) = offset {
            let page = self.api.items(from).await?;
            sum.read = page.next.unwrap_or(page.total);
            sum.total = page.total;
            sum.without_payer += page.without_payer;
            self.take_over(page.observed, &mut sum).await?;
            self.store.claim_backfill(true).await?;
            offset = page.next;
            told(&sum);
        }
        self.store.backfilled().await?;
        Ok(sum)
    }

    async fn take_over(
        &self,
        observed: Vec<Observation>,
        sum: &mut Backfilled,
    ) -> Result<(), StoreError> {
        let write = |item: Observation| {
            let deliveries = self.deliveries.clone();
            async move { deliveries.observe(&item.body, false, Utc::now()).await }
        };
        let writes = observed.into_iter().map(write).collect::<Vec<_>>();
        let mut outcomes = stream::iter(writes).buffer_unordered(WRITERS);
        while let Some((_, outcome)) = outcomes.try_next().await? {
            sum.new += usize::from(outcome.changed().is_some());
            sum.not_understood += usize::from(matches!(outcome, Outcome::Parked(_)));
        }
        Ok(())
    }

    /// Asks for the plans now and then, and at once when an unknown one is told of.
    async fn keep_catalog(&self) -> Infallible {
        loop {
            if let Err(error) = self.refresh(false).await {
                self.metrics.clerk_errors.inc();
                tracing::warn!(error = chain(&error), "cannot refresh the catalog from Clerk");
            }
            sleep(CATALOG_AT_MOST).await;
            let _ = timeout(CATALOG_EVERY, self.deliveries.unknown_plan()).await;
        }
    }

    /// Puts in force what Clerk says of its plans now. A plan that it lists no longer stays, as retired, unless those
    /// are to be removed.
    pub async fn refresh(&self, remove_retired: bool) -> Result<Refreshed, ReconcileError> {
        self.check_instance().await?;
        let trace = self.metrics.traces.question("ask Clerk for its plans");
        let Plans { catalog, left_out } = trace.run(self.api.plans()).await?;
        drop(trace);
        for why in &left_out {
            tracing::warn!(why, "a plan of Clerk's list cannot be read: it stays as it is known");
        }
        if let (true, Some(why)) = (remove_retired, left_out.first()) {
            return Err(ReconcileError::Unreadable(why.clone()));
        }
        let author = if remove_retired { Author::ClerkWithoutRetired } else { Author::Clerk };
        let applied = self.store.apply_catalog(author, &catalog, "Clerk").await?;
        if let Applied::New(number) = applied {
            tracing::info!(
                number,
                plans = catalog.plans(),
                "catalog {number} of Clerk is in force now"
            );
        }
        Ok(Refreshed { applied, left_out })
    }

    /// Compares candidates at a bounded rate.
    async fn heal(&self) -> Infallible {
        let mut tick = interval(CANDIDATES_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.heal_some().await {
                self.metrics.clerk_errors.inc();
                tracing::warn!(error = chain(&error), "cannot compare accounts with Clerk");
            }
        }
    }

    /// Compares the candidates that are due. One whose comparison fails does not keep the others from theirs.
    async fn heal_some(&self) -> Result<(), ReconcileError> {
        self.check_instance().await?;
        let catalog = self.accounts.catalog().catalog.clone();
        let mut failures = 0;
        for subject in self.store.candidates(&catalog, CANDIDATES_AT_ONCE).await? {
            match self.compare(&subject, false).await {
                Ok(finding) => {
                    failures = 0;
                    let subject = subject.as_str();
                    tracing::info!(subject, ?finding, "compared an account with Clerk");
                }
                Err(error) => {
                    failures += 1;
                    self.metrics.clerk_errors.inc();
                    let (subject, error) = (subject.as_str(), chain(&error));
                    tracing::warn!(subject, error, "cannot compare an account with Clerk");
                }
            }
            if failures == FAILURES_IN_A_ROW {
                break;
            }
        }
        Ok(())
    }

    /// Sees to it that all subscriptions were taken over once, here or by another replica. One that was cut short
    /// is begun again.
    async fn backfill_once(&self) -> Infallible {
        let mut pause = Duration::from_secs(1);
        loop {
            match self.backfill_if_ours().await {
                Ok(Backfill::Done | Backfill::Ours) => std::future::pending().await,
                Ok(Backfill::Theirs) => sleep(BACKFILL_EVERY).await,
                Err(error) => {
                    self.metrics.clerk_errors.inc();
                    tracing::warn!(error = chain(&error), "cannot backfill from Clerk");
                    sleep(pause).await;
                    pause = (pause * 2).min(CATALOG_EVERY);
                }
            }
        }
    }

    async fn backfill_if_ours(&self) -> Result<Backfill, ReconcileError> {
        self.check_instance().await?;
        let claim = self.store.claim_backfill(false).await?;
        if claim == Backfill::Ours {
            let Backfilled { total, new, not_understood, without_payer, .. } =
                self.backfill(|_| ()).await?;
            tracing::info!(
                total,
                new,
                not_understood,
                without_payer,
                "took over {total} subscription items from Clerk"
            );
        }
        Ok(claim)
    }
}
