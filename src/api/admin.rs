//! `entitlements.v1.Admin`: lists and replays deliveries of the ledger, for operators.

pub(super) mod request;

use super::{entitlements::response::instant, faults::Faults, pb};
use crate::{
    ingest::{Deliveries, Replayed},
    storage::{DeliveryEntry, DeliveryPosition, StoreError},
    telemetry::log_chain,
};
use chrono::Utc;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Request, Response, Status};

/// A call that replays deliveries ends after this long, with a page token for the rest: a client allows a call a few
/// seconds, and what was replayed would not be reported if the call exceeded its deadline.
const MAX_REPLAY_DURATION: Duration = Duration::from_secs(2);

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
        let selected = request::filter(selected, &mut faults);
        let size = request::page_size(size, &mut faults);
        let after = request::position(token, &mut faults);
        faults.none(Some(()))?;
        let entries = self.deliveries.list(&selected, after.as_ref(), size).await;
        let entries = entries.map_err(|e| failed(&e))?;
        let is_full = entries.len() == size as usize;
        let next = entries.last().filter(|_| is_full).map(page_token).unwrap_or_default();
        Ok((entries, next))
    }

    /// Replays deliveries in their order, until one fails or [`MAX_REPLAY_DURATION`] is over. Returns an error only if
    /// none was replayed, because those that were replayed must be reported.
    async fn replay(
        &self,
        entries: &[DeliveryEntry],
        dry_run: bool,
    ) -> Result<Vec<pb::ReplayedDelivery>, Status> {
        let (began, mut replayed) = (Instant::now(), Vec::with_capacity(entries.len()));
        for entry in entries {
            match self.deliveries.replay(entry, dry_run, Utc::now()).await {
                Ok(done) => replayed.push(replayed_delivery(done)),
                Err(error) if replayed.is_empty() => return Err(failed(&error)),
                Err(error) => {
                    failed(&error);
                    break;
                }
            }
            if began.elapsed() > MAX_REPLAY_DURATION {
                break;
            }
        }
        Ok(replayed)
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
        let (entries, next_page) =
            self.page(request.filter, request.page_size, &request.page_token).await?;
        let replayed = self.replay(&entries, request.dry_run).await?;
        let next_page_token = match replayed.len().checked_sub(1) {
            Some(last) if replayed.len() < entries.len() => page_token(&entries[last]),
            _ => next_page,
        };
        Ok(Response::new(pb::ReplayDeliveriesResponse { replayed, next_page_token }))
    }
}

/// The token of the page after this delivery.
fn page_token(last: &DeliveryEntry) -> String {
    let DeliveryPosition { received_at, svix_id } = last.position();
    format!("{}.{svix_id}", received_at.timestamp_micros())
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
        Some(outcome) => (outcome.name(), outcome.detail().unwrap_or_default()),
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
    store_status(error)
}

/// Renders a failure of the database.
pub(super) fn store_status(error: &StoreError) -> Status {
    let reason = error.public_reason();
    if error.is_transient() { Status::unavailable(reason) } else { Status::internal(reason) }
}
