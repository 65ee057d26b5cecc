//! `entitlements.v1.Overrides`: sets, ends and lists the exceptions that operators make.

mod request;
pub(super) mod response;

use super::{
    admin::{request::page_size, store_status},
    faults::{Faults, fault},
    pb,
};
use crate::{
    check::{EditedOverride, OverrideEditor, OverrideError},
    domain::Actor,
    server::auth::CallerShare,
    storage::OverrideRejection,
    telemetry::log_chain,
};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Code, Request, Response, Status};

/// The maximum number of calls in progress; further ones wait. Deliveries use the same connections.
const MAX_CALLS: usize = 4;

/// Implements the Overrides service.
pub struct OverridesApi {
    editor: OverrideEditor,
    permits: Semaphore,
}

impl OverridesApi {
    /// Creates the service on this editor.
    #[must_use]
    pub fn new(editor: OverrideEditor) -> Self {
        Self { editor, permits: Semaphore::new(MAX_CALLS) }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Status> {
        let permit = self.permits.acquire().await;
        permit.map_err(|_| Status::unavailable("the service is stopping"))
    }
}

#[tonic::async_trait]
impl pb::overrides_server::Overrides for OverridesApi {
    async fn set_override(
        &self,
        request: Request<pb::SetOverrideRequest>,
    ) -> Result<Response<pb::SetOverrideResponse>, Status> {
        let (caller, request) = (caller(&request), request.into_inner());
        let parsed = request::ParsedSet::of(request, caller)?;
        let (by, dry_run) = (parsed.new.set_by.clone(), parsed.conditions.dry_run);
        let _permit = self.permit().await?;
        let set = self.editor.set(parsed.new, parsed.allow_unknown, &parsed.conditions).await;
        let set = set.map_err(|error| failed(&error, "override.replaces", &by))?;
        log("override set", &set, &by, dry_run);
        Ok(Response::new(pb::SetOverrideResponse {
            r#override: Some(response::edited(&set, dry_run)),
            differences: set.differences(|found| response::difference(found, dry_run)),
            revision: if dry_run { String::new() } else { set.revision },
        }))
    }

    async fn end_override(
        &self,
        request: Request<pb::EndOverrideRequest>,
    ) -> Result<Response<pb::EndOverrideResponse>, Status> {
        let (caller, request) = (caller(&request), request.into_inner());
        let (end, conditions) = request::end(&request, caller)?;
        let (by, dry_run) = (&end.by, conditions.dry_run);
        let _permit = self.permit().await?;
        let ended = self.editor.end(&end, &conditions).await;
        let ended = ended.map_err(|error| failed(&error, "id", by))?;
        log("override ended", &ended, by, dry_run);
        Ok(Response::new(pb::EndOverrideResponse {
            r#override: Some(response::record(&ended.record)),
            differences: ended.differences(|found| response::difference(found, dry_run)),
            revision: if dry_run { String::new() } else { ended.revision },
        }))
    }

    async fn list_overrides(
        &self,
        request: Request<pb::ListOverridesRequest>,
    ) -> Result<Response<pb::ListOverridesResponse>, Status> {
        let (caller, request) = (caller(&request), request.into_inner());
        let mut faults = Faults::default();
        let size = page_size(request.page_size, &mut faults);
        let before = request::page_token(&request.page_token, &mut faults);
        let filter = request::filter(&request, &mut faults);
        faults.none(Some(()))?;
        let by = Actor { caller, ..Actor::default() };
        let failed = |error| failed(&OverrideError::Store(error), "", &by);
        let _permit = self.permit().await?;
        let revision = match &filter.subject {
            Some(subject) => self.editor.revision(subject).await.map_err(failed)?,
            None => String::new(),
        };
        let found = self.editor.list(&filter, before, size.into()).await.map_err(failed)?;
        let is_full = found.len() == size as usize;
        let next = found.last().filter(|_| is_full).map(|last| last.found.id.to_string());
        tracing::info!(caller = &*by.caller, count = found.len(), "overrides listed");
        Ok(Response::new(pb::ListOverridesResponse {
            overrides: found.iter().map(response::record).collect(),
            next_page_token: next.unwrap_or_default(),
            revision,
        }))
    }
}

/// The name of the authenticated caller; empty if callers are not authenticated.
fn caller<T>(request: &Request<T>) -> String {
    let share = request.extensions().get::<Arc<CallerShare>>();
    share.map(|share| share.caller.clone()).unwrap_or_default()
}

/// Logs a change, without the reasons that people wrote.
fn log(event: &'static str, changed: &EditedOverride, by: &Actor, dry_run: bool) {
    let (subject, id) = (changed.record.subject.as_str(), changed.record.found.id);
    let Actor { caller, on_behalf_of } = by;
    tracing::info!(%id, subject, caller, on_behalf_of, dry_run, "{event}");
}

/// Renders and logs an error; `field` is the field that names the changed or the replaced override.
fn failed(error: &OverrideError, field: &str, by: &Actor) -> Status {
    use OverrideRejection as R;
    let Actor { caller, on_behalf_of } = by;
    let rejection = match error {
        OverrideError::Store(error) => {
            tracing::error!(error = log_chain(error), caller, "override call failed");
            return store_status(error);
        }
        OverrideError::Invalid(field, fault) => {
            tracing::info!(caller, on_behalf_of, reason = %error, "override call refused");
            return self::fault(Code::InvalidArgument, field, fault);
        }
        OverrideError::Rejected(rejection) => rejection,
    };
    tracing::info!(caller, on_behalf_of, reason = %error, "override call refused");
    let (code, field) = match rejection {
        R::KeyReused => (Code::InvalidArgument, "idempotency_key"),
        R::EndsBeforeStart(_) => (Code::InvalidArgument, "override.expires_at"),
        R::NotFound(_) => (Code::NotFound, field),
        R::RevisionPassed => (Code::Aborted, "if_revision"),
        R::SubjectDeleted | R::TooMany => (Code::FailedPrecondition, "override.subject"),
        R::OtherTarget(_) | R::Replaced(..) | R::Ended(..) | R::Expired(..) | R::Gap(_) => {
            (Code::FailedPrecondition, field)
        }
    };
    fault(code, field, rejection)
}
