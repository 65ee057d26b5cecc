//! `entitlements.v1.Support`: explains answers, lists what changed for a subject, lists the holders of a feature, and
//! previews plans.

mod request;
mod response;

pub use response::preview as preview_response;

use super::{
    admin::{request::page_size, store_status},
    entitlements::response::instant,
    faults::{Faults, fault},
    pb,
};
use crate::{
    check::{
        ExplainError, Explainer, History, HoldersError, PreviewError, Recorded, SubjectReports,
    },
    domain::{Explanation, Subject, ViewError},
    storage::StoreError,
    telemetry::log_chain,
};
use request::ParsedExplain;
use std::sync::Arc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use tonic::{Code, Request, Response, Status};

/// The maximum number of calls in progress; further ones wait. A long history occupies a thread.
const MAX_CALLS: usize = 4;

/// Implements the Support service.
pub struct SupportApi {
    explainer: Explainer,
    reports: SubjectReports,
    permits: Arc<Semaphore>,
}

impl SupportApi {
    /// Creates the service on this explainer and these reports.
    #[must_use]
    pub fn new(explainer: Explainer, reports: SubjectReports) -> Self {
        Self { explainer, reports, permits: Arc::new(Semaphore::new(MAX_CALLS)) }
    }

    /// Runs the work of a call on a thread for blocking work, since a history can be long. The permit lasts until the work
    /// is done, even if the call has ended before.
    async fn work<T: Send + 'static>(
        permit: OwnedSemaphorePermit,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        let done = done.await.map_err(|error| {
            tracing::error!(error = log_chain(&error), "support call failed");
            Status::internal("the records cannot be evaluated: see the log")
        })?;
        done.map(Response::new)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_| Status::unavailable("the service is stopping"))
    }
}

#[tonic::async_trait]
impl pb::support_server::Support for SupportApi {
    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let request = request.into_inner();
        let ParsedExplain { subjects, viewpoint } = ParsedExplain::of(&request)?;
        let permit = self.permit().await?;
        let recorded = self.explainer.recorded(subjects, viewpoint).await;
        let recorded = recorded.map_err(|error| failed(&error, id_field(&request)))?;
        Self::work(permit, move || explanation(&request, &recorded)).await
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
        let permit = self.permit().await?;
        let history = self.explainer.changes(&subject).await;
        let history = history.map_err(|error| failed(&error, "subject"))?;
        Self::work(permit, move || page(&history, size, before)).await
    }

    async fn list_subjects(
        &self,
        request: Request<pb::ListSubjectsRequest>,
    ) -> Result<Response<pb::ListSubjectsResponse>, Status> {
        let request = request.into_inner();
        let (question, size) = request::holders(&request)?;
        let _permit = self.permit().await?;
        let render = |subject: &Subject, answer: Explanation<'_>| pb::CheckFeatureResponse {
            subject: subject.to_string(),
            ..answer.into()
        };
        let found = self.reports.holders(&question, request.page_token.clone(), size, render);
        let found = found.await.map_err(|error| match error {
            HoldersError::Unknown(_) => {
                fault(Code::InvalidArgument, request::target_field(&request), error)
            }
            HoldersError::Store(error) => store_failed(&error),
        });
        let (subjects, next) = found?;
        let next_page_token = next.unwrap_or_default();
        Ok(Response::new(pb::ListSubjectsResponse { subjects, next_page_token }))
    }

    async fn preview_plan(
        &self,
        request: Request<pb::PreviewPlanRequest>,
    ) -> Result<Response<pb::PreviewPlanResponse>, Status> {
        let pb::PreviewPlanRequest { subject, plan, counts } = request.into_inner();
        let subject = subject.parse::<Subject>();
        let subject =
            subject.map_err(|invalid| fault(Code::InvalidArgument, "subject", invalid))?;
        let counts = counts.into_iter().collect();
        let preview = self.reports.preview(&subject, &plan, &counts).await;
        let preview = preview.map_err(|error| preview_failed(&error))?;
        Ok(Response::new(response::preview(&preview)))
    }
}

fn preview_failed(error: &PreviewError) -> Status {
    match error {
        PreviewError::UnknownPlan(..) | PreviewError::TooLong(_) => {
            fault(Code::InvalidArgument, "plan", error)
        }
        PreviewError::UnknownFeature(..) | PreviewError::InvalidFeature(_) => {
            fault(Code::InvalidArgument, "counts", error)
        }
        PreviewError::SubjectDeleted => fault(Code::FailedPrecondition, "subject", error),
        PreviewError::Store(error) => store_failed(error),
    }
}

fn store_failed(error: &StoreError) -> Status {
    tracing::error!(error = log_chain(error), "support call failed");
    store_status(error)
}

fn explanation(
    request: &pb::ExplainRequest,
    recorded: &Recorded,
) -> Result<pb::ExplainResponse, Status> {
    let question = request::question_of(request)?;
    let evaluation = recorded.evaluation().map_err(|error| match error {
        ExplainError::View(ViewError::NotKnownSince(_)) if recorded.is_receipt() => {
            fault(Code::OutOfRange, "receipt", error)
        }
        error => failed(&error, id_field(request)),
    })?;
    Ok(response::explanation(&evaluation, recorded.compared().as_ref(), &question))
}

/// The page of changes before a position, newest first.
fn page(
    history: &History,
    size: u32,
    before: Option<usize>,
) -> Result<pb::ListHistoryResponse, Status> {
    let changes = history.changes().map_err(|error| failed(&error, "subject"))?;
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
        ExplainError::View(ViewError::NoRevision | ViewError::LaterRevision) => {
            fault(Code::InvalidArgument, "receipt.revision", error)
        }
        ExplainError::View(ViewError::TooLong(_)) => {
            tracing::error!(error = log_chain(error), "support call failed");
            Status::internal("the records of the subject cannot be read: see the log")
        }
        ExplainError::Store(error) => store_failed(error),
    }
}
