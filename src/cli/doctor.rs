//! `entitlements doctor`: checks everything that `serve` needs, and reports each problem with its fix.
//!
//! Invariants: it changes nothing, prints no secret, and every check has a timeout.

mod callers;
mod clerk;
mod database;
mod finding;
mod listeners;
mod settings;

use super::{
    output::{BAD, Format, GOOD, WARN, paint, say_json},
    render::counted,
};
use crate::{config::Settings, storage::Store};
use clap::Args;
use finding::{Finding, Severity};
use serde_json::json;
use std::process::ExitCode;

/// Checks settings, listeners, database and Clerk's API as `serve` uses them, and reports each problem with its fix.
///
/// Exits with 0 if `serve` would work, 1 if it would not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements doctor
  entitlements doctor --json | jq 'select(.verdict != \"ok\")'")]
pub(super) struct DoctorCommand {
    #[command(flatten)]
    settings: Settings,
}

impl DoctorCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let (mut worst, mut counts) = (Severity::Ok, [0; 3]);
        examine(&self.settings, |finding| {
            worst = worst.max(finding.verdict);
            counts[finding.verdict as usize] += 1;
            match format {
                Format::Text => in_words(finding),
                Format::Json => in_json(finding),
            }
        })
        .await;
        if format == Format::Text {
            let [ok, warnings, failures] = counts;
            let (checks, warnings) = (ok + warnings + failures, counted(warnings, "warning"));
            say!("{}: {warnings}, {}", counted(checks, "check"), counted(failures, "failure"));
        }
        Ok(ExitCode::from(u8::from(worst == Severity::Fail)))
    }
}

fn in_words(finding: &Finding) {
    let Finding { what, verdict, detail, fix } = finding;
    let fix = fix.as_ref().map(|fix| format!(" -> {fix}")).unwrap_or_default();
    let style = match verdict {
        Severity::Ok => GOOD,
        Severity::Warn => WARN,
        Severity::Fail => BAD,
    };
    say!("{}  {what:<17}  {detail}{fix}", paint(style, &format!("{:<4}", verdict.name())));
}

fn in_json(finding: &Finding) {
    let Finding { what, verdict, detail, fix } = finding;
    say_json(&json!({ "verdict": verdict.name(), "check": what, "detail": detail, "fix": fix }));
}

/// Runs all checks, one after another, and reports each finding at once.
async fn examine(settings: &Settings, mut report: impl FnMut(&Finding)) {
    let mut found = |finding: Finding| report(&finding);
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
}
