//! `entitlements doctor`: looks at everything that `serve` needs, and says in words what is wrong and what to do about
//! it.
//!
//! What must always hold: it changes nothing, it prints no secret, and no check waits for ever.

mod callers;
mod clerk;
mod database;
mod finding;
mod listeners;
mod settings;

use crate::{config::Settings, storage::Store};
use clap::Args;
use finding::{Finding, Verdict};
use serde_json::json;
use std::process::ExitCode;

/// Looks at everything that `serve` needs.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// One JSON object a line instead of sentences
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: Settings,
}

impl Doctor {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let tell = if self.json { in_json } else { in_words };
        let worst = examine(&self.settings, tell).await;
        Ok(ExitCode::from(u8::from(worst == Verdict::Fail)))
    }
}

fn in_words(finding: &Finding) {
    let Finding { what, verdict, seen, way_out } = finding;
    let way_out = way_out.as_ref().map(|way_out| format!(" -> {way_out}")).unwrap_or_default();
    say!("{:<4}  {what:<17}  {seen}{way_out}", verdict.word());
}

fn in_json(finding: &Finding) {
    let Finding { what, verdict, seen, way_out } = finding;
    let line =
        json!({ "verdict": verdict.word(), "check": what, "finding": seen, "way_out": way_out });
    say!("{line}");
}

/// Makes all checks, one after another, and tells each finding as soon as it is there.
async fn examine(settings: &Settings, mut tell: impl FnMut(&Finding)) -> Verdict {
    let mut worst = Verdict::Ok;
    let mut found = |finding: Finding| {
        worst = worst.max(finding.verdict);
        tell(&finding);
    };
    settings::all(settings).into_iter().for_each(&mut found);
    for finding in listeners::all(settings).await {
        found(finding);
    }
    for finding in callers::all(settings).await {
        found(finding);
    }
    let mut instances = Vec::new();
    match settings.database.options() {
        Err(error) => found(database::unusable(&error)),
        Ok(options) => {
            let store = Store::new(options.clone());
            if database::reach(&store, &mut found).await {
                database::look(&store, &options, settings, &mut found).await;
                instances = store.instances().await.unwrap_or_default();
            }
            store.close().await;
        }
    }
    clerk::look(settings, &instances, &mut found).await;
    worst
}
