//! `entitlements history`: lists what changed for a user or an organization.

use super::{
    client::{ServiceAddress, status_error},
    output::{BAD, Format, GOOD, ProtoJson, WARN, paint, say_json},
    render::{ended, instant, overriding, statement},
};
use crate::api::pb::{
    Change, FeatureChange, FeatureState, ListHistoryRequest, change::Cause,
    support_client::SupportClient,
};
use clap::{Args, value_parser};
use std::process::ExitCode;

/// Prints the time at which each change became known, its cause, and the features that were gained (+), lost (-) or
/// changed (~), newest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements history user_2x
  entitlements history org_5y --limit 100 --json")]
pub(super) struct HistoryCommand {
    /// Id of the user or organization, `user_…` or `org_…`
    subject: String,

    /// Maximum number of changes to list
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    service: ServiceAddress,
}

impl HistoryCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let mut client = SupportClient::new(self.service.connect().await?);
        let (json, mut page_token, mut left) = (ProtoJson::new(), String::new(), self.limit);
        while left > 0 {
            let page_size = left.min(1000);
            let page = ListHistoryRequest { subject: self.subject.clone(), page_size, page_token };
            let page = client.list_history(self.service.request(page)?).await;
            let page = page.map_err(|status| status_error(&status))?.into_inner();
            for change in &page.changes {
                match format {
                    Format::Text => print(change),
                    Format::Json => say_json(&json.of("Change", change)),
                }
            }
            left = left.saturating_sub(u32::try_from(page.changes.len())?);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                let complete_from = instant(page.complete_from);
                if format == Format::Text {
                    say!("complete since {complete_from}; older changes may be missing");
                }
                return Ok(ExitCode::SUCCESS);
            }
        }
        if format == Format::Text {
            say!("and older changes: use a larger --limit");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(change: &Change) {
    let late = if change.known_at == change.effective_at {
        String::new()
    } else {
        format!(", in effect since {}", instant(change.effective_at))
    };
    let superseded = if change.superseded { ", superseded: nothing changed" } else { "" };
    say!("{}  {}{late}{superseded}", instant(change.known_at), cause(change));
    change.statements.iter().for_each(|found| say!("    {}", statement(found)));
    change.features.iter().for_each(|found| say!("    {}", feature(found)));
}

fn cause(change: &Change) -> String {
    let message = &change.message;
    match change.cause() {
        Cause::Webhook => format!("webhook {message}"),
        Cause::Reconciliation => format!("Clerk's Backend API {message}"),
        Cause::Replay => format!("replay of {message}"),
        Cause::Undeletion => "undeletion by an operator".into(),
        Cause::Catalog => format!("catalog {}", change.catalog),
        Cause::Time => "time".into(),
        Cause::Override | Cause::OverrideEnd => {
            let found = change.r#override.as_ref();
            let said = found.map(overriding).unwrap_or_default();
            let end = found.and_then(|found| found.end.as_ref());
            let replaces = found.filter(|found| !found.replaces.is_empty());
            let replaces = replaces.map(|found| format!(", replaces {}", found.replaces));
            if let Some(end) = end.filter(|_| change.cause() == Cause::OverrideEnd) {
                format!("override {}; {said}", ended(end))
            } else {
                format!("override {said}{}", replaces.unwrap_or_default())
            }
        }
        Cause::Unspecified => "unknown cause".into(),
    }
}

/// Renders a gained, lost or changed feature.
fn feature(change: &FeatureChange) -> String {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let is_allowed = |state: Option<&FeatureState>| state.is_some_and(|state| state.allowed);
    let limit = |state: Option<&FeatureState>| match state.and_then(|state| state.limit) {
        Some(limit) => format!("limit {limit}"),
        None => "no limit".into(),
    };
    let reason = after.map_or("", |state| state.reason().as_str_name());
    let name = &change.feature;
    match (is_allowed(before), is_allowed(after)) {
        (false, true) => paint(GOOD, &format!("+ {name}: {reason}, {}", limit(after))),
        (true, false) => paint(BAD, &format!("- {name}: {reason}")),
        (_, _) => paint(WARN, &format!("~ {name}: {} -> {}", limit(before), limit(after))),
    }
}
