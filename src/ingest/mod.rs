//! Takes deliveries: reads them, writes them, and sees to it that nothing old is served afterwards. The same
//! way for a webhook and for a replay.

pub mod reconcile;
mod served_instance;

pub use served_instance::ServedInstance;

use crate::{
    clerk::{self, OBSERVED, Verified},
    domain::{Message, Reading, Subject},
    replica::Accounts,
    storage::{Delivery, Entry, Filter, Names, Outcome, Position, Shared, Store, StoreError},
    telemetry::{Labels, Metrics, chain, trace_id},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::Notify;

/// Takes deliveries into the store.
#[derive(Debug)]
pub struct Deliveries {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    instance: ServedInstance,
    unknown_plan: Notify,
}

/// What became of a delivery that was replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Its id.
    pub svix_id: String,
    /// The result it had.
    pub before: String,
    /// What became of it now; `None`: its body is gone.
    pub after: Option<Outcome>,
}

impl Deliveries {
    /// Takes deliveries of one Clerk instance into this store, and invalidates these accounts.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        accounts: Arc<Accounts>,
        instance: ServedInstance,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, accounts, metrics, instance, unknown_plan: Notify::new() }
    }

    /// The Clerk instance whose deliveries are taken.
    #[must_use]
    pub fn instance(&self) -> &ServedInstance {
        &self.instance
    }

    /// Waits until a plan is told of that is not in the catalog.
    pub async fn unknown_plan(&self) {
        self.unknown_plan.notified().await;
    }

    /// Takes what Clerk's Backend API says, if it changes something; with `dry_run` only tells what would become
    /// of it.
    pub async fn observe(
        &self,
        body: &Bytes,
        dry_run: bool,
        now: DateTime<Utc>,
    ) -> Result<(Delivery, Outcome), StoreError> {
        // The same for the same content, so that asking twice tells nothing new.
        let svix_id = format!("{OBSERVED}{:x}", Sha256::digest(body));
        let delivery = self.read(svix_id, body.clone(), None, now);
        let outcome = self.store.observe(&delivery, dry_run).await?;
        if !dry_run && outcome.changed().is_some() {
            self.settle(&delivery, &outcome).await;
        }
        Ok((delivery, outcome))
    }

    /// Takes an authentic body. When this returns, what it says is durable, and nothing older is served here.
    pub async fn take(
        &self,
        verified: &Verified,
        body: Bytes,
        now: DateTime<Utc>,
    ) -> Result<Outcome, StoreError> {
        let delivery = self.read(verified.id.clone(), body, Some(verified.signed_at), now);
        let trace = self.metrics.traces.work("write the delivery and the change log");
        trace.note("svix_id", delivery.svix_id.clone());
        let outcome = trace.run(self.store.record(&delivery)).await?;
        trace.note("result", outcome.word());
        drop(trace);
        self.settle(&delivery, &outcome).await;
        Ok(outcome)
    }

    /// What a body says, as far as it is about the instance that is served here.
    fn read(
        &self,
        svix_id: String,
        body: Bytes,
        signed_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Delivery {
        let mut message = clerk::read(&body, signed_at, now);
        if let Some(why) = self.instance.refuses(message.instance.as_deref()) {
            message.reading = Reading::Foreign(why);
        }
        let new = match &message.reading {
            Reading::News(news) => self.accounts.catalog().names.new_in(news),
            Reading::Ignored(_) | Reading::Parked(_) | Reading::Foreign(_) => Vec::new(),
        };
        let names = Names { new, seen_at: message.sent_at.or(signed_at).unwrap_or(now) };
        Delivery { svix_id, body, signed_at, message, names }
    }

    /// The deliveries that fit, newest first.
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        self.store.deliveries(filter, after, limit).await
    }

    /// One delivery and its body, if that is still there.
    pub async fn find(&self, svix_id: &str) -> Result<Option<(Entry, Option<Bytes>)>, StoreError> {
        let filter = Filter { svix_id: Some(svix_id.into()), ..Filter::default() };
        let Some(entry) = self.store.deliveries(&filter, None, 1).await?.pop() else {
            return Ok(None);
        };
        let body = self.store.body(svix_id).await?;
        Ok(Some((entry, body)))
    }

    /// Reads a delivery by today's rules and applies it; with `dry_run` only tells what would become of it.
    pub async fn replay(
        &self,
        entry: &Entry,
        dry_run: bool,
        now: DateTime<Utc>,
    ) -> Result<Replayed, StoreError> {
        let (svix_id, before) = (entry.svix_id.clone(), entry.result.clone());
        let Some(body) = self.store.body(&svix_id).await? else {
            return Ok(Replayed { svix_id, before, after: None });
        };
        let delivery = self.read(svix_id.clone(), body, entry.signed_at, now);
        let outcome = self.store.replay(&delivery, dry_run).await?;
        if !dry_run {
            self.settle(&delivery, &outcome).await;
        }
        Ok(Replayed { svix_id, before, after: Some(outcome) })
    }

    /// What follows a commit: nothing old is served, and people can see what happened.
    async fn settle(&self, delivery: &Delivery, outcome: &Outcome) {
        if let Some((subject, _)) = outcome.changed() {
            self.accounts.forget(subject);
        }
        if !delivery.names.new.is_empty()
            && let Err(error) = self.accounts.reload_catalog().await
        {
            // The change log says it once more.
            tracing::warn!(error = chain(&error), "cannot read the names of plans at once");
        }
        self.metrics.deliveries.get_or_create(&Labels([("result", outcome.word())])).inc();
        log(delivery, outcome);
        match &delivery.message.reading {
            Reading::Foreign(_) => drop(self.metrics.foreign_deliveries.inc()),
            Reading::News(_) | Reading::Ignored(_) | Reading::Parked(_) => {
                self.note_mixture(delivery);
                self.note_unknown_plans(&delivery.message);
            }
        }
        if let Outcome::Applied { subject, shared, .. } = outcome {
            self.note_shared(subject, shared).await;
        }
    }

    /// Several instances send here, and nothing says which one is served: their ids are of different people, but their
    /// plans are mixed.
    fn note_mixture(&self, delivery: &Delivery) {
        let Some(instance) = delivery.message.instance.as_deref() else { return };
        if let Some(first) = self.instance.differs_from_first(instance) {
            self.metrics.mixed_instances.inc();
            tracing::warn!(
                svix_id = delivery.svix_id,
                instance,
                first,
                "deliveries of several Clerk instances: set CLERK_INSTANCE to the one to serve"
            );
        }
    }

    /// An item belongs to one subject; where two have it, both are compared with Clerk.
    async fn note_shared(&self, subject: &Subject, shared: &[Shared]) {
        for Shared { item, other } in shared {
            self.metrics.shared_items.inc();
            tracing::warn!(
                item,
                subject = subject.as_str(),
                other = other.as_str(),
                "two subjects hold the same item: both are compared with Clerk"
            );
            for one in [subject, other] {
                let why = "another subject holds one of its items";
                if let Err(error) = self.store.want_compared(one, why).await {
                    let subject = one.as_str();
                    tracing::warn!(subject, error = chain(&error), "cannot note a candidate");
                }
            }
        }
    }

    /// A plan that is not in the catalog grants nothing: somebody should know before a customer does.
    fn note_unknown_plans(&self, message: &Message) {
        let Reading::News(news) = &message.reading else { return };
        let subject = news.subject().as_str();
        for plan in self.accounts.catalog().catalog.unknown_plans(news) {
            self.metrics.unknown_plans.inc();
            self.unknown_plan.notify_one();
            tracing::warn!(
                plan,
                subject,
                "the plan `{plan}` is not in the catalog and grants nothing"
            );
        }
    }
}

/// One line for each delivery.
fn log(delivery: &Delivery, outcome: &Outcome) {
    let event = delivery.message.event.as_deref().unwrap_or("unreadable");
    let (detail, subject) = (outcome.detail(), outcome.changed().map(|(s, _)| s.as_str()));
    let (svix_id, result, trace_id) = (&delivery.svix_id, outcome.word(), trace_id());
    match outcome {
        Outcome::Parked(_) | Outcome::Duplicate { same_body: false } => {
            tracing::warn!(svix_id, event, subject, result, detail, trace_id, "{event}: {result}");
        }
        _ => {
            tracing::info!(svix_id, event, subject, result, detail, trace_id, "{event}: {result}");
        }
    }
}
