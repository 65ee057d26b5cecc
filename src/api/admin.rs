//! `entitlements.v1.Admin`: lists and replays deliveries of the ledger, for operators.

use super::{
    entitlements::{
        request::{Faults, filter, page_size, position},
        response::instant,
    },
    pb,
};
use crate::telemetry::log_chain;
use crate::{
    ingest::{Deliveries, Replayed},
    storage::{DeliveryEntry, StoreError},
};
use chrono::Utc;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Implements the Admin service.
pub struct AdminApi {
    deliveries: Arc<Deliveries>,
}

impl AdminApi {
    /// Creates the service on this ledger.
    #[must_use]
    pub fn new(deliveries: Arc<Deliveries>) -> Self {
        Self { deliveries }
    }

    /// One page of the ledger, and the token of the next page (empty at the end).
    async fn page(
        &self,
        selected: Option<pb::DeliveryFilter>,
        size: u32,
        token: &str,
    ) -> Result<(Vec<DeliveryEntry>, String), Status> {
        let mut faults = Faults::default();
        let (selected, size) = (filter(selected, &mut faults), page_size(size, &mut faults));
        let selected = faults.none(Some(selected))?;
        let mut faults = Faults::default();
        let after = position("page_token", token, &mut faults);
        let after = faults.none(Some(after))?;
        let entries = self.deliveries.list(&selected, after.as_ref(), size).await;
        let entries = entries.map_err(|e| failed(&e))?;
        let is_full = entries.len() == size as usize;
        let last = entries.last().filter(|_| is_full).map(DeliveryEntry::position);
        let next = last.map(|p| format!("{}.{}", p.received_at.timestamp_micros(), p.svix_id));
        Ok((entries, next.unwrap_or_default()))
    }
}

#[tonic::async_trait]
impl pb::admin_server::Admin for AdminApi {
    async fn list_deliveries(
        &self,
        request: Request<pb::ListDeliveriesRequest>,
    ) -> Result<Response<pb::ListDeliveriesResponse>, Status> {
        let request = request.into_inner();
        let (entries, next_page_token) =
            self.page(request.filter, request.page_size, &request.page_token).await?;
        let deliveries = entries.into_iter().map(delivery).collect();
        Ok(Response::new(pb::ListDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn get_delivery(
        &self,
        request: Request<pb::GetDeliveryRequest>,
    ) -> Result<Response<pb::GetDeliveryResponse>, Status> {
        let svix_id = request.into_inner().svix_id;
        let found = self.deliveries.find(&svix_id).await.map_err(|e| failed(&e))?;
        let (entry, body) = found.ok_or_else(|| Status::not_found("there is no such delivery"))?;
        let body = body.map(Into::into);
        Ok(Response::new(pb::GetDeliveryResponse { delivery: Some(delivery(entry)), body }))
    }

    async fn replay_deliveries(
        &self,
        request: Request<pb::ReplayDeliveriesRequest>,
    ) -> Result<Response<pb::ReplayDeliveriesResponse>, Status> {
        let request = request.into_inner();
        let (entries, next_page_token) =
            self.page(request.filter, request.page_size, &request.page_token).await?;
        let mut replayed = Vec::with_capacity(entries.len());
        for entry in &entries {
            let done = self.deliveries.replay(entry, request.dry_run, Utc::now()).await;
            replayed.push(replayed_delivery(done.map_err(|e| failed(&e))?));
        }
        Ok(Response::new(pb::ReplayDeliveriesResponse { replayed, next_page_token }))
    }
}

fn delivery(entry: DeliveryEntry) -> pb::Delivery {
    pb::Delivery {
        svix_id: entry.svix_id,
        received_at: instant(Some(entry.received_at)),
        event: entry.event.unwrap_or_default(),
        sent_at: instant(entry.sent_at),
        subject: entry.subject.unwrap_or_default(),
        result: entry.result,
        detail: entry.detail.unwrap_or_default(),
        revision: entry.revision.and_then(|revision| revision.try_into().ok()),
        has_body: entry.has_body,
        body_sha256: hex::encode(entry.body_sha256),
        replayed_at: instant(entry.replayed_at),
    }
}

fn replayed_delivery(replayed: Replayed) -> pb::ReplayedDelivery {
    let (after, detail) = match &replayed.after {
        Some(outcome) => (outcome.word(), outcome.detail().unwrap_or_default()),
        None => (
            "gone",
            "the body is not stored any more: its retention ended, or its subject was deleted",
        ),
    };
    pb::ReplayedDelivery {
        after: after.into(),
        detail: detail.into(),
        svix_id: replayed.svix_id,
        before: replayed.before,
    }
}

fn failed(error: &StoreError) -> Status {
    tracing::error!(error = log_chain(error), "admin call failed");
    let reason = error.public_reason();
    if error.is_transient() { Status::unavailable(reason) } else { Status::internal(reason) }
}
