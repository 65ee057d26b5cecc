//! `entitlements doctor`: what is wrong, and what to do.

use crate::{
    config::Settings,
    doctor::{Finding, Verdict, examine},
};
use clap::Args;
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
