//! `flagd.sync.v1.FlagSyncService`: sends the flag set of the selected subjects, and again whenever it changes.

use super::{Answers, context, flag_set::flag_set, pb::sync as pb, stopping};
use crate::{check::SubjectsBuf, replica::ChangeSubscription};
use futures_util::{Stream, stream};
use prost_types::Struct;
use std::{pin::Pin, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tonic::{Request, Response, Status};

/// The label `protocol` of the metrics.
const PROTOCOL: &str = "flagd-sync";
/// How long to wait before a flag set that failed to load, or may be stale, is loaded again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The state of one open stream.
struct SyncStream {
    answers: Answers,
    subjects: SubjectsBuf,
    watch: ChangeSubscription,
    /// The flag set that was sent last; empty before the first one.
    sent: String,
    /// Whether the last load succeeded and was not stale: else it is retried without a notification.
    is_settled: bool,
    is_over: bool,
    _slot: OwnedSemaphorePermit,
}

impl SyncStream {
    async fn next(&mut self) -> Option<Result<String, Status>> {
        while !self.is_over {
            if !self.sent.is_empty() && !self.wait().await {
                self.is_over = true;
                return Some(Err(stopping()));
            }
            match self.answers.flag_set(&self.subjects).await {
                Ok((set, is_stale)) => {
                    self.is_settled = !is_stale;
                    if set != self.sent {
                        self.sent.clone_from(&set);
                        return Some(Ok(set));
                    }
                }
                Err(error) if self.sent.is_empty() => return Some(Err(error)),
                Err(_) => self.is_settled = false,
            }
        }
        None
    }

    /// Waits until the flag set may have changed; `false` if the service stops.
    async fn wait(&mut self) -> bool {
        let is_settled = self.is_settled;
        let retry = async {
            if is_settled { std::future::pending().await } else { sleep(RETRY_INTERVAL).await }
        };
        tokio::select! {
            () = self.answers.draining.cancelled() => false,
            () = self.watch.changed(|subject| self.subjects.has(subject)) => true,
            () = retry => true,
        }
    }
}

impl Answers {
    /// Renders the flag set of these subjects; the second value is whether it may be stale.
    async fn flag_set(&self, subjects: &SubjectsBuf) -> Result<(String, bool), Status> {
        let evaluated = self.evaluated_accounts(subjects).await?;
        let evaluation = self.checks.context();
        Ok((flag_set(&evaluation, &evaluated, subjects).await, evaluated.stale_for().is_some()))
    }

    /// The flag set of the subjects that the request selects.
    async fn fetch<T>(&self, request: &Request<T>, field: &str) -> Result<String, Status> {
        let subjects = context::selected(request.metadata(), field)?;
        Ok(self.flag_set(&subjects).await?.0)
    }
}

#[tonic::async_trait]
impl pb::flag_sync_service_server::FlagSyncService for Answers {
    type SyncFlagsStream =
        Pin<Box<dyn Stream<Item = Result<pb::SyncFlagsResponse, Status>> + Send>>;

    async fn sync_flags(
        &self,
        request: Request<pb::SyncFlagsRequest>,
    ) -> Result<Response<Self::SyncFlagsStream>, Status> {
        #[expect(deprecated, reason = "older providers send it")]
        let field = &request.get_ref().selector;
        let selected = context::selected(request.metadata(), field);
        let opened = selected.and_then(|subjects| Ok((subjects, self.slot()?)));
        let (subjects, _slot) = self.counted(PROTOCOL, "stream", opened)?;
        let watch = self.checks.accounts().watch();
        let (answers, sent) = (self.clone(), String::new());
        let synced =
            SyncStream { answers, subjects, watch, sent, is_settled: true, is_over: false, _slot };
        let sets = stream::unfold(synced, async |mut synced| {
            let next = synced.next().await?;
            Some((next.map(response), synced))
        });
        Ok(Response::new(Box::pin(sets)))
    }

    async fn fetch_all_flags(
        &self,
        request: Request<pb::FetchAllFlagsRequest>,
    ) -> Result<Response<pb::FetchAllFlagsResponse>, Status> {
        #[expect(deprecated, reason = "older providers send it")]
        let field = &request.get_ref().selector;
        let fetched = self.fetch(&request, field).await;
        let flag_configuration = self.counted(PROTOCOL, "fetched", fetched)?;
        Ok(Response::new(pb::FetchAllFlagsResponse { flag_configuration }))
    }

    /// Python's provider calls this first, and fails if the field is absent.
    async fn get_metadata(
        &self,
        _: Request<pb::GetMetadataRequest>,
    ) -> Result<Response<pb::GetMetadataResponse>, Status> {
        Ok(Response::new(pb::GetMetadataResponse { metadata: Some(Struct::default()) }))
    }
}

fn response(flag_configuration: String) -> pb::SyncFlagsResponse {
    pb::SyncFlagsResponse { flag_configuration, sync_context: Some(Struct::default()) }
}
