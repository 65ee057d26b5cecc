//! Keeps the catalog and the accounts true to what Clerk's Backend API says, for the deliveries that never came.
//!
//! What Clerk says enters like a delivery, as one more observation with its own dates: a webhook that tells of
//! something newer is never overwritten.

use crate::{
    access::Subject,
    accounts::Accounts,
    clerk::{Api, ApiError, Observation},
    deliveries::Deliveries,
    store::{Applied, Author, Backfill, Outcome, Store, StoreError},
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
/// How often doubtful subjects are looked for.
const DOUBTS_EVERY: Duration = Duration::from_secs(30);
/// How often a replica looks whether another is done with the backfill.
const BACKFILL_EVERY: Duration = Duration::from_secs(20);
/// How many of them are compared each time: far below Clerk's limit of 100 requests in 10 s.
const DOUBTS_AT_ONCE: i64 = 60;
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
    /// The key is of another instance than the webhooks: what it says is about other people.
    #[error(
        "CLERK_SECRET_KEY is of instance {key}, but the webhooks come from {webhooks}: \
         set the key of that instance"
    )]
    OtherInstance {
        /// The key's.
        key: String,
        /// That of the newest delivery.
        webhooks: String,
    },
    /// The database did not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What comparing one subject showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Clerk says nothing new.
    Same,
    /// Something was, or would be, changed.
    Healed(Outcome),
    /// What Clerk says is not understood; nothing is changed.
    NotUnderstood(String),
    /// Clerk knows of no subscription; nothing is changed.
    NotAtClerk,
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
        }
    }

    /// Whether the key is of the instance that the webhooks come from, as far as both are known.
    pub async fn check_instance(&self) -> Result<(), ReconcileError> {
        match (self.store.instance().await?, self.api.instance().await?) {
            (Some(webhooks), Some(key)) if webhooks != key => {
                Err(ReconcileError::OtherInstance { key, webhooks })
            }
            _ => Ok(()),
        }
    }

    /// Compares one subject with what Clerk says, and writes what is new; with `dry_run` only tells.
    pub async fn compare(
        &self,
        subject: &Subject,
        dry_run: bool,
    ) -> Result<Finding, ReconcileError> {
        let trace = self.metrics.traces.question("ask Clerk for a subscription");
        let found = trace.run(self.api.subscription(subject)).await?;
        drop(trace);
        let finding = match found {
            None => Finding::NotAtClerk,
            Some(found) => match self.deliveries.observe(&found.body, dry_run, Utc::now()).await? {
                outcome if outcome.changed().is_some() => Finding::Healed(outcome),
                Outcome::Parked(why) => Finding::NotUnderstood(why),
                _ => Finding::Same,
            },
        };
        if !dry_run {
            self.store.reconciled(subject).await?;
            self.count(&finding);
        }
        Ok(finding)
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
        while let Some(outcome) = outcomes.try_next().await? {
            sum.new += usize::from(outcome.changed().is_some());
            sum.not_understood += usize::from(matches!(outcome, Outcome::Parked(_)));
        }
        Ok(())
    }

    fn count(&self, finding: &Finding) {
        let result = match finding {
            Finding::Same => "same",
            Finding::Healed(_) => "healed",
            Finding::NotUnderstood(_) => "not_understood",
            Finding::NotAtClerk => "not_at_clerk",
        };
        self.metrics.reconciled.get_or_create(&Labels([("result", result)])).inc();
    }

    /// Asks for the plans now and then, and at once when an unknown one is told of.
    async fn keep_catalog(&self) -> Infallible {
        loop {
            if let Err(error) = self.refresh().await {
                self.metrics.clerk_errors.inc();
                tracing::warn!(error = chain(&error), "cannot refresh the catalog from Clerk");
            }
            sleep(CATALOG_AT_MOST).await;
            let _ = timeout(CATALOG_EVERY, self.deliveries.unknown_plan()).await;
        }
    }

    /// Puts in force what Clerk says of its plans now.
    pub async fn refresh(&self) -> Result<Applied, ReconcileError> {
        self.check_instance().await?;
        let trace = self.metrics.traces.question("ask Clerk for its plans");
        let catalog = trace.run(self.api.catalog()).await?;
        drop(trace);
        let applied = self.store.apply_catalog(Author::Clerk, &catalog, "Clerk").await?;
        if let Applied::New(number) = applied {
            tracing::info!(
                number,
                plans = catalog.plans(),
                "catalog {number} of Clerk is in force now"
            );
        }
        Ok(applied)
    }

    /// Compares doubtful subjects at a bounded rate.
    async fn heal(&self) -> Infallible {
        self.backfill_once().await;
        let mut tick = interval(DOUBTS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.heal_some().await {
                self.metrics.clerk_errors.inc();
                tracing::warn!(error = chain(&error), "cannot compare accounts with Clerk");
            }
        }
    }

    async fn heal_some(&self) -> Result<(), ReconcileError> {
        self.check_instance().await?;
        let catalog = self.accounts.catalog();
        for subject in self.store.doubtful(&catalog.catalog, DOUBTS_AT_ONCE).await? {
            let finding = self.compare(&subject, false).await?;
            tracing::info!(
                subject = subject.as_str(),
                ?finding,
                "compared a doubtful account with Clerk"
            );
        }
        Ok(())
    }

    /// Sees to it that all subscriptions were taken over once, here or by another replica. One that was cut short
    /// is begun again.
    async fn backfill_once(&self) {
        let mut pause = Duration::from_secs(1);
        loop {
            match self.backfill_if_ours().await {
                Ok(Backfill::Done | Backfill::Ours) => return,
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
