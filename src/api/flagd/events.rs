//! What `EventStream` tells: that it is there, what changes in the catalog, and that it goes.

use super::{Answers, flags, metadata, stopping};
use crate::{check::Moment, replica::Watch};
use futures_util::{Stream, stream};
use prost_types::Struct;
use serde_json::{Map, json};
use std::time::Duration;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tonic::Status;

/// How often something is said when there is nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// One event, in flagd's metadata.
pub(super) struct Event {
    pub(super) word: &'static str,
    pub(super) data: Option<Struct>,
}

impl Event {
    fn bare(word: &'static str) -> Self {
        Self { word, data: None }
    }
}

/// A stream of events.
pub(super) struct Events {
    answers: Answers,
    watch: Watch,
    /// When the catalog was in use of which all was told.
    told: Moment,
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
    /// The events from now on.
    pub(super) fn of(
        answers: &Answers,
    ) -> Result<impl Stream<Item = Result<Event, Status>> + use<>, Status> {
        let slot = answers.slot()?;
        let (watch, told) = (answers.checks.accounts().watch(), answers.checks.moment());
        let events = Self { answers: answers.clone(), watch, told, stage: Stage::New, _slot: slot };
        Ok(stream::unfold(events, async |mut events| Some((events.next().await?, events))))
    }

    async fn next(&mut self) -> Option<Result<Event, Status>> {
        let (event, stage) = match self.stage {
            Stage::New => (Ok(Event::bare("provider_ready")), Stage::Open),
            Stage::Open => self.happens().await,
            Stage::Stopping => (Err(stopping()), Stage::Over),
            Stage::Over => return None,
        };
        self.stage = stage;
        Some(event)
    }

    async fn happens(&mut self) -> (Result<Event, Status>, Stage) {
        let silent = Instant::now() + KEEP_ALIVE;
        loop {
            tokio::select! {
                () = self.answers.draining.cancelled() => {
                    return (Ok(Event::bare("provider_shutdown")), Stage::Stopping);
                }
                () = self.watch.touched(|_| false) => {
                    if let Some(data) = self.changes() {
                        let word = "configuration_change";
                        return (Ok(Event { word, data: Some(data) }), Stage::Open);
                    }
                }
                () = sleep_until(silent) => return (Ok(Event::bare("keep_alive")), Stage::Open),
            }
        }
    }

    /// What was not told of the catalog yet, if there is anything.
    fn changes(&mut self) -> Option<Struct> {
        let now = self.answers.checks.moment();
        let changes = flags::changes(self.told.catalog(), now.catalog());
        self.told = now;
        let flags: Map<_, _> =
            changes.into_iter().map(|(key, word)| (key, json!({ "type": word }))).collect();
        let data = || metadata::to_struct(Map::from_iter([("flags".into(), flags.clone().into())]));
        (!flags.is_empty()).then(data)
    }
}
