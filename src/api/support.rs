//! `entitlements.v1.Support`: explains answers, and lists what changed for a subject.

mod request;
mod response;

use super::{
    admin::request::page_size,
    entitlements::response::instant,
    faults::{Faults, fault},
    pb,
};
use crate::{
    check::{ExplainError, Explainer, History},
    domain::{Subject, ViewError},
    storage::StoreError,
    telemetry::log_chain,
};
use request::ParsedExplain;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::{JoinError, spawn_blocking},
};
use tonic::{Code, Request, Response, Status};

/// The maximum number of calls in progress; further ones wait. They share two connections with background work, and a
/// long history occupies a thread.
const MAX_CALLS: usize = 4;

/// Implements the Support service.
pub struct SupportApi {
    explainer: Explainer,
    permits: Semaphore,
}

impl SupportApi {
    /// Creates the service on this explainer.
    #[must_use]
    pub fn new(explainer: Explainer) -> Self {
        Self { explainer, permits: Semaphore::new(MAX_CALLS) }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.permits.acquire().await.map_err(|_| Status::unavailable("the service is stopping"))
    }
}

#[tonic::async_trait]
impl pb::support_server::Support for SupportApi {
    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let request = request.into_inner();
        let ParsedExplain { subjects, question, viewpoint } = ParsedExplain::of(&request)?;
        let _permit = self.permit().await?;
        let recorded = self.explainer.recorded(subjects, viewpoint).await;
        let recorded = recorded.map_err(|error| failed(&error, id_field(&request)))?;
        let evaluation = recorded.evaluation().map_err(|error| match error {
            ExplainError::View(ViewError::NotKnownSince(_)) if recorded.is_receipt() => {
                fault(Code::OutOfRange, "receipt", error)
            }
            error => failed(&error, id_field(&request)),
        })?;
        let compared = recorded.compared();
        Ok(Response::new(response::explanation(&evaluation, compared.as_ref(), &question)))
    }

    async fn list_history(
        &self,
        request: Request<pb::ListHistoryRequest>,
    ) -> Result<Response<pb::ListHistoryResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let subject = request.subject.parse::<Subject>();
        let subject = subject.map_err(|invalid| faults.add("subject", invalid)).ok();
        let size = page_size(request.page_size, &mut faults);
        let before = request::position(&request.page_token, &mut faults);
        let subject = faults.none(subject)?;
        let _permit = self.permit().await?;
        let history = self.explainer.changes(&subject).await;
        let history = history.map_err(|error| failed(&error, "subject"))?;
        let page = spawn_blocking(move || page(&history, size, before)).await;
        let page = page.map_err(|error| failed_task(&error))?;
        page.map(Response::new).map_err(|error| failed(&error, "subject"))
    }
}

/// The page of changes before a position, newest first.
fn page(
    history: &History,
    size: u32,
    before: Option<usize>,
) -> Result<pb::ListHistoryResponse, ExplainError> {
    let changes = history.changes()?;
    let end = before.unwrap_or(changes.len()).min(changes.len());
    let start = end.saturating_sub(size as usize);
    Ok(pb::ListHistoryResponse {
        changes: changes[start..end].iter().rev().map(response::change).collect(),
        next_page_token: if start == 0 { String::new() } else { start.to_string() },
        complete_from: instant(Some(history.complete_from())),
    })
}

/// The field that names the first subject of a request.
fn id_field(request: &pb::ExplainRequest) -> &'static str {
    if request.user_id.is_empty() { "organization_id" } else { "user_id" }
}

/// Renders an error; `subject` is the field that names the subject.
fn failed(error: &ExplainError, subject: &str) -> Status {
    match error {
        ExplainError::UnknownSubject => fault(Code::NotFound, subject, error),
        ExplainError::Receipt(_) => fault(Code::InvalidArgument, "receipt.revision", error),
        ExplainError::View(ViewError::NotTrueSince(_)) => fault(Code::OutOfRange, "as_of", error),
        ExplainError::View(ViewError::NotKnownSince(_)) => {
            fault(Code::OutOfRange, "known_at", error)
        }
        ExplainError::View(ViewError::NoRevision | ViewError::TooLong(_)) => {
            tracing::error!(error = log_chain(error), "support call failed");
            Status::internal("the records of the subject cannot be read: see the log")
        }
        ExplainError::Store(error) => unreadable(error),
    }
}

fn failed_task(error: &JoinError) -> Status {
    tracing::error!(error = log_chain(error), "support call failed");
    Status::internal("the history cannot be listed: see the log")
}

fn unreadable(error: &StoreError) -> Status {
    tracing::error!(error = log_chain(error), "support call failed");
    let reason = error.public_reason();
    if error.is_transient() { Status::unavailable(reason) } else { Status::internal(reason) }
}
