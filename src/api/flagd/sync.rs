//! `flagd.sync.v1.FlagSyncService`: the flag set of a selected subject, now and whenever it changes.

use super::{Answers, context, flag_set::flag_set, pb::sync as pb, stopping};
use crate::{check::Whom, replica::Watch};
use futures_util::{Stream, stream};
use prost_types::Struct;
use std::{pin::Pin, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tonic::{Request, Response, Status};

/// By this name it is counted.
const PROTOCOL: &str = "flagd-sync";
/// How long to wait before what could not be read, or may be outdated, is read again.
const AGAIN: Duration = Duration::from_secs(1);

/// A flag set that is sent whenever it changes.
struct Synced {
    answers: Answers,
    whom: Whom,
    watch: Watch,
    /// What the caller has.
    sent: String,
    /// Whether more is to be read although nothing rang.
    is_settled: bool,
    is_over: bool,
    _slot: OwnedSemaphorePermit,
}

impl Synced {
    async fn next(&mut self) -> Option<Result<String, Status>> {
        while !self.is_over {
            if !self.sent.is_empty() && !self.waited().await {
                self.is_over = true;
                return Some(Err(stopping()));
            }
            match self.answers.flag_set(&self.whom).await {
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

    /// Waits until there may be something new; false if the service stops.
    async fn waited(&mut self) -> bool {
        let is_settled = self.is_settled;
        let again =
            async { if is_settled { std::future::pending().await } else { sleep(AGAIN).await } };
        tokio::select! {
            () = self.answers.draining.cancelled() => false,
            () = self.watch.touched(|subject| self.whom.has(subject)) => true,
            () = again => true,
        }
    }
}

impl Answers {
    /// The flag set of these, and whether it may be outdated.
    async fn flag_set(&self, whom: &Whom) -> Result<(String, bool), Status> {
        let facts = self.facts(whom).await?;
        let moment = self.checks.moment();
        Ok((flag_set(&moment, &facts, whom).await, facts.stale_for().is_some()))
    }

    /// The flag set of who is selected.
    async fn fetch<T>(&self, request: &Request<T>, field: &str) -> Result<String, Status> {
        let whom = context::selected(request.metadata(), field)?;
        Ok(self.flag_set(&whom).await?.0)
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
        let opened = selected.and_then(|whom| Ok((whom, self.slot()?)));
        let (whom, _slot) = self.counted(PROTOCOL, "stream", opened)?;
        let watch = self.checks.accounts().watch();
        let (answers, sent) = (self.clone(), String::new());
        let synced = Synced { answers, whom, watch, sent, is_settled: true, is_over: false, _slot };
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

    /// Python's provider asks for it first, and fails if the field is not there.
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
