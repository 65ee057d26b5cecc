//! The events of `EventStream`: `provider_ready`, changes of the catalog, keep-alives, and `provider_shutdown`.

use super::{Answers, flags, stopping};
use crate::{api::proto_struct, check::EvaluationContext, replica::ChangeSubscription};
use futures_util::{Stream, stream};
use prost_types::Struct;
use serde_json::{Map, json};
use std::time::Duration;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tonic::Status;

/// The interval of keep-alive events on an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// One event of a stream.
pub(super) struct Event {
    pub(super) kind: &'static str,
    pub(super) data: Option<Struct>,
}

impl Event {
    fn bare(kind: &'static str) -> Self {
        Self { kind, data: None }
    }
}

/// The state of one open stream.
pub(super) struct Events {
    answers: Answers,
    watch: ChangeSubscription,
    /// The context with the catalog that was reported last.
    reported: EvaluationContext,
    stage: Stage,
    _slot: OwnedSemaphorePermit,
}

enum Stage {
    New,
    Open,
    Stopping,
    Over,
}

impl Events {
    /// Opens a stream of the events from now on.
    pub(super) fn of(
        answers: &Answers,
    ) -> Result<impl Stream<Item = Result<Event, Status>> + use<>, Status> {
        let slot = answers.slot()?;
        let (watch, reported) = (answers.checks.accounts().watch(), answers.checks.context());
        let events =
            Self { answers: answers.clone(), watch, reported, stage: Stage::New, _slot: slot };
        Ok(stream::unfold(events, async |mut events| Some((events.next().await?, events))))
    }

    async fn next(&mut self) -> Option<Result<Event, Status>> {
        let (event, stage) = match self.stage {
            Stage::New => (Ok(Event::bare("provider_ready")), Stage::Open),
            Stage::Open => self.next_open().await,
            Stage::Stopping => (Err(stopping()), Stage::Over),
            Stage::Over => return None,
        };
        self.stage = stage;
        Some(event)
    }

    async fn next_open(&mut self) -> (Result<Event, Status>, Stage) {
        let keep_alive_at = Instant::now() + KEEP_ALIVE;
        loop {
            tokio::select! {
                () = self.answers.draining.cancelled() => {
                    return (Ok(Event::bare("provider_shutdown")), Stage::Stopping);
                }
                () = self.watch.changed(|_| false) => {
                    if let Some(data) = self.changes() {
                        let kind = "configuration_change";
                        return (Ok(Event { kind, data: Some(data) }), Stage::Open);
                    }
                }
                () = sleep_until(keep_alive_at) => return (Ok(Event::bare("keep_alive")), Stage::Open),
            }
        }
    }

    /// The changes of the catalog that were not reported yet; `None` if there are none.
    fn changes(&mut self) -> Option<Struct> {
        let now = self.answers.checks.context();
        let changes = flags::changes(self.reported.catalog(), now.catalog());
        self.reported = now;
        let flags: Map<_, _> =
            changes.into_iter().map(|(key, word)| (key, json!({ "type": word }))).collect();
        let data = || proto_struct::of(&json!({ "flags": flags }));
        (!flags.is_empty()).then(data)
    }
}
