//! Reconciles the catalog and the accounts with Clerk's Backend API, which repairs lost deliveries.
//!
//! An answer of Clerk is written like a delivery, as an observation with its own dates, so it never overwrites a newer
//! webhook.

mod agreement;
mod plans;

pub use plans::ClerkPlans;

use crate::{
    clerk::{BackendApi, BackendApiError, BackendSubscription},
    domain::{Parsed, Subject, summary},
    ingest::Deliveries,
    replica::Accounts,
    storage::{Backfill, Compared, Outcome, Store, StoreError},
    telemetry::{Labels, Telemetry, log_chain},
};
use chrono::Utc;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often Clerk's plans are fetched.
const CATALOG_INTERVAL: Duration = Duration::from_mins(10);
/// The shortest pause between two fetches of Clerk's plans, also while deliveries have unknown plans.
const MIN_CATALOG_INTERVAL: Duration = Duration::from_secs(2);
/// How often the database is queried for reconciliation candidates.
const CANDIDATES_INTERVAL: Duration = Duration::from_secs(30);
/// How often a replica checks whether another replica has finished the backfill.
const BACKFILL_INTERVAL: Duration = Duration::from_secs(20);
/// How many candidates are compared each time: far below Clerk's limit of 100 requests in 10 s.
const MAX_CANDIDATES: i64 = 60;
/// After so many failures in a row, the other candidates wait for the next tick: Clerk is likely to be unavailable.
const MAX_CONSECUTIVE_FAILURES: usize = 5;
/// How many imported items are written concurrently.
const CONCURRENT_WRITES: usize = 6;

/// Fetches plans and subscriptions from Clerk, and writes the differences.
#[derive(Debug)]
pub struct Reconciler {
    api: BackendApi,
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    deliveries: Arc<Deliveries>,
    telemetry: Telemetry,
}

/// Why a comparison with Clerk, or a refresh of the catalog, failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The Backend API failed.
    #[error(transparent)]
    Api(#[from] BackendApiError),
    /// The secret key belongs to another instance than the served one, which has other users.
    #[error(
        "CLERK_SECRET_KEY belongs to instance {key}, but CLERK_INSTANCE is {served}; use one instance"
    )]
    OtherInstance {
        /// The instance of the secret key.
        key: String,
        /// The served instance.
        served: String,
    },
    /// A plan in Clerk's list could not be parsed, so it is unknown which plans were retired.
    #[error("no retired plan was removed, because a plan in Clerk's list cannot be parsed: {0}")]
    Unreadable(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of comparing one subject with Clerk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconciled {
    /// The account agreed with Clerk already.
    Same,
    /// The account did not agree with Clerk and was repaired, or would be without `dry_run`.
    Healed(Outcome),
    /// The account still differs from Clerk's answer, because it has a newer observation.
    Differs(String),
    /// Clerk's answer could not be parsed completely.
    NotUnderstood(String),
    /// Clerk has no subscription for the subject; nothing is changed.
    NotAtClerk,
}

impl Reconciled {
    /// The value of the metric label `result`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Healed(_) => "healed",
            Self::Differs(_) => "differs",
            Self::NotUnderstood(_) => "not_understood",
            Self::NotAtClerk => "not_at_clerk",
        }
    }

    fn compared(&self) -> Compared {
        match self {
            Self::Same | Self::Healed(_) | Self::NotAtClerk => Compared::Agrees,
            Self::Differs(_) | Self::NotUnderstood(_) => Compared::Differs,
        }
    }
}

/// The progress of a backfill, or its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// Items read so far.
    pub read: usize,
    /// Items that Clerk has.
    pub total: usize,
    /// Items that changed an account.
    pub new: usize,
    /// Items that could not be parsed.
    pub not_understood: usize,
    /// Items that came without their payer.
    pub without_payer: usize,
}

impl Reconciler {
    /// A reconciler that fetches through `api`.
    #[must_use]
    pub fn new(
        api: BackendApi,
        store: Arc<Store>,
        accounts: Arc<Accounts>,
        deliveries: Arc<Deliveries>,
        telemetry: Telemetry,
    ) -> Self {
        Self { api, store, accounts, deliveries, telemetry }
    }

    /// Backfills all subscriptions once, and keeps the catalog and the accounts in line with Clerk, for ever.
    pub async fn run(self) -> Infallible {
        tokio::select! {
            never = self.keep_catalog() => never,
            never = self.keep_accounts() => never,
            never = self.backfill_once() => never,
        }
    }

    /// Prepares for comparing without a running service: checks the secret key, and loads the catalog.
    pub async fn prepare(&self) -> Result<(), ReconcileError> {
        self.check_instance().await?;
        Ok(self.accounts.reload_catalog().await?)
    }

    /// Checks that the secret key belongs to the served instance. If none is set, the key's instance is served.
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

    /// Compares one subject with Clerk, and writes Clerk's answer if it is newer; with `dry_run`, nothing is written. A
    /// failure is recorded like a result, so that the subject is not retried at once.
    pub async fn compare(
        &self,
        subject: &Subject,
        dry_run: bool,
    ) -> Result<Reconciled, ReconcileError> {
        let found = self.fetch_and_compare(subject, dry_run).await;
        if !dry_run {
            let (word, result) = match &found {
                Ok(finding) => (finding.name(), finding.compared()),
                Err(_) => ("failed", Compared::Failed),
            };
            self.telemetry.metrics.reconciled.get_or_create(&Labels([("result", word)])).inc();
            self.store.compared(subject, result).await?;
        }
        found
    }

    /// Restores a deleted subject if Clerk still has its subscription, and compares it with Clerk.
    pub async fn undelete(&self, subject: &Subject) -> Result<Reconciled, ReconcileError> {
        match self.fetch_and_compare(subject, true).await? {
            Reconciled::NotAtClerk | Reconciled::NotUnderstood(_) => {}
            Reconciled::Same | Reconciled::Healed(_) | Reconciled::Differs(_) => {
                if self.store.undelete(subject).await? {
                    tracing::info!(subject = subject.as_str(), "restored a deleted subject");
                }
            }
        }
        self.compare(subject, false).await
    }

    async fn fetch_and_compare(
        &self,
        subject: &Subject,
        dry_run: bool,
    ) -> Result<Reconciled, ReconcileError> {
        let trace = self.telemetry.traces.question("ask Clerk for a subscription");
        let found = trace.run(self.api.subscription(subject)).await?;
        drop(trace);
        let Some(found) = found else { return Ok(Reconciled::NotAtClerk) };
        let now = Utc::now();
        let (delivery, outcome) = self.deliveries.observe(&found.body, dry_run, now).await?;
        let update = match &delivery.event.parsed {
            Parsed::Update(update) if update.left_out().is_empty() => update,
            Parsed::Update(update) => {
                return Ok(Reconciled::NotUnderstood(summary(update.left_out())));
            }
            Parsed::Parked(why) | Parsed::Ignored(why) | Parsed::Foreign(why) => {
                return Ok(Reconciled::NotUnderstood(why.clone()));
            }
        };
        let changes = outcome.changed().is_some();
        if dry_run && changes {
            return Ok(Reconciled::Healed(outcome));
        }
        if !update.is_complete() {
            return Ok(Reconciled::NotUnderstood(
                "the subscription comes without its items".into(),
            ));
        }
        let account = self.store.account(subject).await?;
        let version = self.accounts.catalog();
        Ok(match agreement::difference(&account, update, &version.catalog, now) {
            Some(difference) => Reconciled::Differs(difference),
            None if changes => Reconciled::Healed(outcome),
            None => Reconciled::Same,
        })
    }

    /// Imports all subscription items from Clerk, and reports the progress after each page.
    pub async fn backfill(
        &self,
        progress: impl Fn(&Backfilled) + Send,
    ) -> Result<Backfilled, ReconcileError> {
        let (mut sum, mut offset) = (Backfilled::default(), Some(0));
        while let Some(from) = offset {
            let page = self.api.items(from).await?;
            sum.read = page.next.unwrap_or(page.total);
            sum.total = page.total;
            sum.without_payer += page.without_payer;
            self.import_page(page.observed, &mut sum).await?;
            self.store.claim_backfill(true).await?;
            offset = page.next;
            progress(&sum);
        }
        self.store.backfilled().await?;
        Ok(sum)
    }

    async fn import_page(
        &self,
        observed: Vec<BackendSubscription>,
        sum: &mut Backfilled,
    ) -> Result<(), StoreError> {
        let write = |item: BackendSubscription| {
            let deliveries = self.deliveries.clone();
            async move { deliveries.observe(&item.body, false, Utc::now()).await }
        };
        let writes = observed.into_iter().map(write).collect::<Vec<_>>();
        let mut outcomes = stream::iter(writes).buffer_unordered(CONCURRENT_WRITES);
        while let Some((_, outcome)) = outcomes.try_next().await? {
            sum.new += usize::from(outcome.changed().is_some());
            sum.not_understood += usize::from(matches!(outcome, Outcome::Parked(_)));
        }
        Ok(())
    }

    /// Refreshes the catalog at intervals, and soon after a delivery with an unknown plan.
    async fn keep_catalog(&self) -> Infallible {
        loop {
            if let Err(error) = self.refresh().await {
                self.telemetry.metrics.clerk_errors.inc();
                tracing::warn!(error = log_chain(&error), "cannot refresh the catalog from Clerk");
            }
            sleep(MIN_CATALOG_INTERVAL).await;
            let _ = timeout(CATALOG_INTERVAL, self.deliveries.unknown_plan()).await;
        }
    }

    /// Compares reconciliation candidates with Clerk, at a bounded rate, for ever.
    async fn keep_accounts(&self) -> Infallible {
        let mut tick = interval(CANDIDATES_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.compare_candidates().await {
                self.telemetry.metrics.clerk_errors.inc();
                tracing::warn!(error = log_chain(&error), "cannot compare accounts with Clerk");
            }
        }
    }

    /// Compares the candidates that are due. A failed comparison does not prevent the next ones.
    async fn compare_candidates(&self) -> Result<(), ReconcileError> {
        self.check_instance().await?;
        let catalog = self.accounts.catalog().catalog.clone();
        let mut failures = 0;
        for subject in self.store.candidates(&catalog, MAX_CANDIDATES).await? {
            match self.compare(&subject, false).await {
                Ok(finding) => {
                    failures = 0;
                    let subject = subject.as_str();
                    tracing::info!(subject, ?finding, "compared an account with Clerk");
                }
                Err(error) => {
                    failures += 1;
                    self.telemetry.metrics.clerk_errors.inc();
                    let (subject, error) = (subject.as_str(), log_chain(&error));
                    tracing::warn!(subject, error, "cannot compare an account with Clerk");
                }
            }
            if failures == MAX_CONSECUTIVE_FAILURES {
                break;
            }
        }
        Ok(())
    }

    /// Makes sure that all subscriptions were backfilled once, by this replica or another one. An interrupted backfill
    /// is started again.
    async fn backfill_once(&self) -> Infallible {
        let mut pause = Duration::from_secs(1);
        loop {
            match self.backfill_if_ours().await {
                Ok(Backfill::Done | Backfill::Ours) => std::future::pending().await,
                Ok(Backfill::Theirs) => sleep(BACKFILL_INTERVAL).await,
                Err(error) => {
                    self.telemetry.metrics.clerk_errors.inc();
                    tracing::warn!(error = log_chain(&error), "cannot backfill from Clerk");
                    sleep(pause).await;
                    pause = (pause * 2).min(CATALOG_INTERVAL);
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
                "backfill: imported {total} subscription items from Clerk"
            );
        }
        Ok(claim)
    }
}
