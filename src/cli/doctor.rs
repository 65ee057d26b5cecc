//! `entitlements doctor`: checks everything that `serve` needs, and reports each problem with its fix.
//!
//! Invariants: it changes nothing, prints no secret, and every check has a timeout.

mod callers;
mod clerk;
mod database;
mod finding;
mod listeners;
mod settings;

use crate::{config::Settings, storage::Store};
use clap::Args;
use finding::{Finding, Severity};
use serde_json::json;
use std::process::ExitCode;

/// The `doctor` command.
#[derive(Debug, Args)]
pub(super) struct DoctorCommand {
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: Settings,
}

impl DoctorCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let report = if self.json { in_json } else { in_words };
        let worst = examine(&self.settings, report).await;
        Ok(ExitCode::from(u8::from(worst == Severity::Fail)))
    }
}

fn in_words(finding: &Finding) {
    let Finding { what, verdict, detail, fix } = finding;
    let fix = fix.as_ref().map(|fix| format!(" -> {fix}")).unwrap_or_default();
    say!("{:<4}  {what:<17}  {detail}{fix}", verdict.name());
}

fn in_json(finding: &Finding) {
    let Finding { what, verdict, detail, fix } = finding;
    let line = json!({ "verdict": verdict.name(), "check": what, "detail": detail, "fix": fix });
    say!("{line}");
}

/// Runs all checks, one after another, and reports each finding at once; returns the worst severity.
async fn examine(settings: &Settings, mut report: impl FnMut(&Finding)) -> Severity {
    let mut worst = Severity::Ok;
    let mut found = |finding: Finding| {
        worst = worst.max(finding.verdict);
        report(&finding);
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
            if database::connect(&store, &mut found).await {
                database::check(&store, &options, settings, &mut found).await;
                instances = store.instances().await.unwrap_or_default();
            }
            store.close().await;
        }
    }
    clerk::check(settings, &instances, &mut found).await;
    worst
}
