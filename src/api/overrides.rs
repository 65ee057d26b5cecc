//! `entitlements.v1.Overrides`: sets, ends and lists the exceptions that operators make.

mod request;
pub(super) mod response;

use super::{
    admin::{request::page_size, store_status},
    faults::{Faults, fault},
    pb,
};
use crate::{
    check::{OverrideEditor, OverrideEffect, OverrideError},
    server::auth::CallerShare,
    storage::OverrideRejection,
    telemetry::log_chain,
};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// Implements the Overrides service.
pub struct OverridesApi {
    editor: OverrideEditor,
}

impl OverridesApi {
    /// Creates the service on this editor.
    #[must_use]
    pub fn new(editor: OverrideEditor) -> Self {
        Self { editor }
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
        let set = self.editor.set(parsed.new, parsed.allow_unknown, &parsed.conditions).await;
        let set = set.map_err(|error| failed(&error, "override.replaces"))?;
        log("override set", &set, parsed.conditions.dry_run);
        Ok(Response::new(pb::SetOverrideResponse {
            r#override: Some(response::record(&set.record)),
            differences: set.differences(response::difference),
            revision: set.revision,
        }))
    }

    async fn end_override(
        &self,
        request: Request<pb::EndOverrideRequest>,
    ) -> Result<Response<pb::EndOverrideResponse>, Status> {
        let (caller, request) = (caller(&request), request.into_inner());
        let (end, conditions) = request::end(request, caller)?;
        let ended = self.editor.end(&end, &conditions).await;
        let ended = ended.map_err(|error| failed(&error, "id"))?;
        log("override ended", &ended, conditions.dry_run);
        Ok(Response::new(pb::EndOverrideResponse {
            r#override: Some(response::record(&ended.record)),
            differences: ended.differences(response::difference),
            revision: ended.revision,
        }))
    }

    async fn list_overrides(
        &self,
        request: Request<pb::ListOverridesRequest>,
    ) -> Result<Response<pb::ListOverridesResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let size = page_size(request.page_size, &mut faults);
        let before = request::page_token(&request.page_token, &mut faults);
        let filter = request::filter(request, &mut faults);
        faults.none(Some(()))?;
        let failed = |error| failed(&OverrideError::Store(error), "");
        let revision = match &filter.subject {
            Some(subject) => self.editor.revision(subject).await.map_err(failed)?,
            None => String::new(),
        };
        let found = self.editor.list(&filter, before, size.into()).await.map_err(failed)?;
        let is_full = found.len() == size as usize;
        let next = found.last().filter(|_| is_full).map(|last| last.found.id.to_string());
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

/// Logs a change, without the texts that people wrote.
fn log(event: &'static str, changed: &OverrideEffect, dry_run: bool) {
    let (record, id) = (&changed.record, changed.record.found.id);
    let by = record.end.as_ref().map_or(&record.set_by, |end| &end.by);
    let (subject, caller) = (record.subject.as_str(), &*by.caller);
    tracing::info!(%id, subject, caller, dry_run, "{event}");
}

/// Renders an error; `field` is the field that names the changed or the replaced override.
fn failed(error: &OverrideError, field: &str) -> Status {
    use OverrideRejection as R;
    let rejection = match error {
        OverrideError::Invalid(field, found) => {
            return fault(Code::InvalidArgument, field, found);
        }
        OverrideError::Rejected(rejection) => rejection,
        OverrideError::Store(error) => {
            tracing::error!(error = log_chain(error), "override call failed");
            return store_status(error);
        }
    };
    let (code, field) = match rejection {
        R::KeyReused => (Code::InvalidArgument, "idempotency_key"),
        R::EndsBeforeStart(_) => (Code::InvalidArgument, "override.expires_at"),
        R::NotFound(_) => (Code::NotFound, field),
        R::RevisionPassed => (Code::Aborted, "if_revision"),
        R::SubjectDeleted | R::TooMany => (Code::FailedPrecondition, "override.subject"),
        R::OtherTarget(_) | R::Replaced(..) | R::Ended(..) | R::Expired(..) => {
            (Code::FailedPrecondition, field)
        }
    };
    fault(code, field, rejection)
}
