//! Records deliveries: parses a body, writes it to the store, and invalidates the account that changed. Webhooks,
//! replays and imports from Clerk's Backend API share this path.

pub mod reconcile;
mod served_instance;

pub use served_instance::ServedInstance;

use crate::{
    clerk::{self, OBSERVATION_ID_PREFIX, Verified},
    domain::{Parsed, Subject, WebhookEvent},
    replica::Accounts,
    storage::{
        Delivery, DeliveryEntry, DeliveryFilter, DeliveryPosition, Names, Outcome, SharedItem,
        Store, StoreError, WriteMode,
    },
    telemetry::{Labels, Telemetry, log_chain, trace_id},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::Notify;

/// Records deliveries and reports what they show.
#[derive(Debug)]
pub struct Deliveries {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    telemetry: Telemetry,
    instance: ServedInstance,
    unknown_plan: Notify,
}

/// The result of replaying a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The delivery's id.
    pub svix_id: String,
    /// The result before the replay.
    pub before: String,
    /// The outcome of the replay; `None`: the body was deleted, so it cannot be replayed.
    pub after: Option<Outcome>,
}

impl Deliveries {
    /// Records deliveries of `instance` in `store`, and invalidates accounts in `accounts`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        accounts: Arc<Accounts>,
        instance: ServedInstance,
        telemetry: Telemetry,
    ) -> Self {
        Self { store, accounts, telemetry, instance, unknown_plan: Notify::new() }
    }

    /// The Clerk instance whose deliveries are recorded.
    #[must_use]
    pub fn instance(&self) -> &ServedInstance {
        &self.instance
    }

    /// Waits until a delivery has a plan that is not in the catalog.
    pub async fn unknown_plan(&self) {
        self.unknown_plan.notified().await;
    }

    /// Imports a body from Clerk's Backend API. It is written only if it changes the account. With `dry_run`, nothing
    /// is written, and the outcome is the one that writing would have.
    pub async fn observe(
        &self,
        body: &Bytes,
        dry_run: bool,
        now: DateTime<Utc>,
    ) -> Result<(Delivery, Outcome), StoreError> {
        // A hash of the content, so that importing equal content twice is a duplicate.
        let svix_id = format!("{OBSERVATION_ID_PREFIX}{:x}", Sha256::digest(body));
        let delivery = self.parse(svix_id, body.clone(), None, now);
        let outcome = self.store.write(&delivery, WriteMode::Import { dry_run }).await?;
        if !dry_run && outcome.changed().is_some() {
            self.after_commit(&delivery, &outcome).await;
        }
        Ok((delivery, outcome))
    }

    /// Records an authentic webhook. When this returns, the delivery is durable, and this replica does not serve the
    /// state before it.
    pub async fn take(
        &self,
        verified: &Verified,
        body: Bytes,
        now: DateTime<Utc>,
    ) -> Result<Outcome, StoreError> {
        let delivery = self.parse(verified.id.clone(), body, Some(verified.signed_at), now);
        let trace = self.telemetry.traces.work("write the delivery and the change log");
        trace.note("svix_id", delivery.svix_id.clone());
        let outcome = trace.run(self.store.write(&delivery, WriteMode::Record)).await?;
        trace.note("result", outcome.name());
        drop(trace);
        self.after_commit(&delivery, &outcome).await;
        Ok(outcome)
    }

    /// Parses a body. A body from another Clerk instance than the served one becomes [`Parsed::Foreign`].
    fn parse(
        &self,
        svix_id: String,
        body: Bytes,
        signed_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Delivery {
        let mut event = clerk::read(&body, signed_at, now);
        if let Some(why) = self.instance.refuses(event.instance.as_deref()) {
            event.parsed = Parsed::Foreign(why);
        }
        let new = match &event.parsed {
            Parsed::Update(update) => self.accounts.catalog().names.new_in(update),
            Parsed::Ignored(_) | Parsed::Parked(_) | Parsed::Foreign(_) => Vec::new(),
        };
        let names = Names { new, seen_at: event.sent_at.or(signed_at).unwrap_or(now) };
        Delivery { svix_id, body, signed_at, event, names }
    }

    /// The deliveries that match the filter, newest first.
    pub async fn list(
        &self,
        filter: &DeliveryFilter,
        after: Option<&DeliveryPosition>,
        limit: u32,
    ) -> Result<Vec<DeliveryEntry>, StoreError> {
        self.store.deliveries(filter, after, limit).await
    }

    /// One delivery, with its body unless that was deleted.
    pub async fn find(
        &self,
        svix_id: &str,
    ) -> Result<Option<(DeliveryEntry, Option<Bytes>)>, StoreError> {
        let filter = DeliveryFilter { svix_id: Some(svix_id.into()), ..DeliveryFilter::default() };
        let Some(entry) = self.store.deliveries(&filter, None, 1).await?.pop() else {
            return Ok(None);
        };
        let body = self.store.body(svix_id).await?;
        Ok(Some((entry, body)))
    }

    /// Parses a recorded delivery again, by the rules of this release, and applies it. With `dry_run`, nothing is
    /// written, and the outcome is the one that writing would have.
    pub async fn replay(
        &self,
        entry: &DeliveryEntry,
        dry_run: bool,
        now: DateTime<Utc>,
    ) -> Result<Replayed, StoreError> {
        let (svix_id, before) = (entry.svix_id.clone(), entry.result.clone());
        let Some(body) = self.store.body(&svix_id).await? else {
            return Ok(Replayed { svix_id, before, after: None });
        };
        let delivery = self.parse(svix_id.clone(), body, entry.signed_at, now);
        let outcome = self.store.write(&delivery, WriteMode::Replay { dry_run }).await?;
        if !dry_run {
            self.after_commit(&delivery, &outcome).await;
        }
        Ok(Replayed { svix_id, before, after: Some(outcome) })
    }

    /// Invalidates the changed account, loads new plan names, counts, logs and warns. Call it after the commit.
    async fn after_commit(&self, delivery: &Delivery, outcome: &Outcome) {
        if let Some((subject, _)) = outcome.changed() {
            self.accounts.invalidate(subject);
        }
        if !delivery.names.new.is_empty()
            && let Err(error) = self.accounts.reload_catalog().await
        {
            // The change log has the new names as well.
            tracing::warn!(
                error = log_chain(&error),
                "cannot load new plan names, retrying from the change log"
            );
        }
        self.telemetry
            .metrics
            .deliveries
            .get_or_create(&Labels([("result", outcome.name())]))
            .inc();
        log(delivery, outcome);
        match &delivery.event.parsed {
            Parsed::Foreign(_) => drop(self.telemetry.metrics.foreign_deliveries.inc()),
            Parsed::Update(_) | Parsed::Ignored(_) | Parsed::Parked(_) => {
                self.report_mixed_instances(delivery);
                self.report_unknown_plans(&delivery.event);
            }
        }
        if let Outcome::Applied { subject, shared, .. } = outcome {
            self.report_shared_items(subject, shared).await;
        }
    }

    /// Warns if several instances send here and none is configured: their plans are mixed, though their users differ.
    fn report_mixed_instances(&self, delivery: &Delivery) {
        let Some(instance) = delivery.event.instance.as_deref() else { return };
        if let Some(first) = self.instance.differs_from_first(instance) {
            self.telemetry.metrics.mixed_instances.inc();
            tracing::warn!(
                svix_id = delivery.svix_id,
                instance,
                first,
                "deliveries from several Clerk instances: set CLERK_INSTANCE to the one to serve"
            );
        }
    }

    /// An item belongs to one subject. If two subjects hold it, both are marked for comparison with Clerk.
    async fn report_shared_items(&self, subject: &Subject, shared: &[SharedItem]) {
        for SharedItem { item, other } in shared {
            self.telemetry.metrics.shared_items.inc();
            tracing::warn!(
                item,
                subject = subject.as_str(),
                other = other.as_str(),
                "two subjects hold the same item; both will be compared with Clerk"
            );
            for one in [subject, other] {
                let why = "another subject holds one of its items";
                if let Err(error) = self.store.request_reconciliation(one, why).await {
                    let subject = one.as_str();
                    tracing::warn!(
                        subject,
                        error = log_chain(&error),
                        "cannot mark a subject for comparison with Clerk"
                    );
                }
            }
        }
    }

    /// Warns of plans that are not in the catalog: they grant no more than the default plan, and customers may be paying for them.
    fn report_unknown_plans(&self, event: &WebhookEvent) {
        let Parsed::Update(update) = &event.parsed else { return };
        let subject = update.subject().as_str();
        for plan in self.accounts.catalog().catalog.unknown_plans(update) {
            self.telemetry.metrics.unknown_plans.inc();
            self.unknown_plan.notify_one();
            tracing::warn!(
                plan,
                subject,
                "the plan `{plan}` is not in the catalog: it grants only the default plan"
            );
        }
    }
}

/// Logs one line for each delivery.
fn log(delivery: &Delivery, outcome: &Outcome) {
    let event = delivery.event.event.as_deref().unwrap_or("unreadable");
    let (detail, subject) = (outcome.detail(), outcome.changed().map(|(s, _)| s.as_str()));
    let (svix_id, result, trace_id) = (&delivery.svix_id, outcome.name(), trace_id());
    match outcome {
        Outcome::Parked(_) | Outcome::Duplicate { same_body: false } => {
            tracing::warn!(svix_id, event, subject, result, detail, trace_id, "{event}: {result}");
        }
        _ => {
            tracing::info!(svix_id, event, subject, result, detail, trace_id, "{event}: {result}");
        }
    }
}
