//! Takes deliveries: reads them, writes them, and sees to it that nothing old is served afterwards. The same
//! way for a webhook and for a replay.

use crate::{
    access::{Message, Reading},
    accounts::Accounts,
    clerk,
    store::{Delivery, Entry, Filter, Outcome, Position, Store, StoreError},
    telemetry::{Labels, Metrics, trace_id},
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
    /// Takes into this store, and makes these accounts forget.
    #[must_use]
    pub fn new(store: Arc<Store>, accounts: Arc<Accounts>, metrics: Arc<Metrics>) -> Self {
        Self { store, accounts, metrics, unknown_plan: Notify::new() }
    }

    /// Waits until a plan is told of that is not in the catalog.
    pub async fn unknown_plan(&self) {
        self.unknown_plan.notified().await;
    }

    /// Takes what Clerk's Backend API says, if it changes something; with `dry_run` only tells what would become
    /// of it.
    pub async fn observe(
        &self,
        body: &serde_json::Value,
        dry_run: bool,
        now: DateTime<Utc>,
    ) -> Result<Outcome, StoreError> {
        let body = Bytes::from(body.to_string());
        // The same for the same content, so that asking twice tells nothing new.
        let svix_id = format!("api_{:x}", Sha256::digest(&body));
        let delivery = Delivery { message: clerk::read(&body, now), svix_id, body };
        let outcome = self.store.observe(&delivery, dry_run).await?;
        if !dry_run && outcome.changed().is_some() {
            self.settle(&delivery, &outcome);
        }
        Ok(outcome)
    }

    /// Takes an authentic body. When this returns, what it says is durable, and nothing older is served here.
    pub async fn take(
        &self,
        svix_id: &str,
        body: Bytes,
        now: DateTime<Utc>,
    ) -> Result<Outcome, StoreError> {
        let message = clerk::read(&body, now);
        let delivery = Delivery { svix_id: svix_id.into(), body, message };
        let trace = self.metrics.traces.work("write the delivery and the change log");
        trace.note("svix_id", delivery.svix_id.clone());
        let outcome = trace.run(self.store.record(&delivery)).await?;
        trace.note("result", outcome.word());
        drop(trace);
        self.settle(&delivery, &outcome);
        Ok(outcome)
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
        let message = clerk::read(&body, now);
        let delivery = Delivery { svix_id: svix_id.clone(), body, message };
        let outcome = self.store.replay(&delivery, dry_run).await?;
        if !dry_run {
            self.settle(&delivery, &outcome);
        }
        Ok(Replayed { svix_id, before, after: Some(outcome) })
    }

    /// What follows a commit: nothing old is served, and people can see what happened.
    fn settle(&self, delivery: &Delivery, outcome: &Outcome) {
        if let Some((subject, _)) = outcome.changed() {
            self.accounts.forget(subject);
        }
        self.metrics.deliveries.get_or_create(&Labels([("result", outcome.word())])).inc();
        log(delivery, outcome);
        self.note_unknown_plans(&delivery.message);
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
