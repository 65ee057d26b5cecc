//! `entitlements override`: sets, ends and lists exceptions, and carries them from one database to another.

mod dump;
mod set;

use super::{
    catalog::DirectDatabase,
    client::{ServiceAddress, status_error},
    output::{FAINT, Format, ProtoJson, STRONG, paint, say_json},
    render::{self, answer, counted, ended, instant, overriding},
};
use crate::api::pb::{
    Difference, EndOverrideRequest, ListOverridesRequest, Override,
    overrides_client::OverridesClient,
};
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// The subcommands of `override`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements override grant export --user user_2x --for 14d --owner ada --reason pilot
  entitlements override grant projects --org org_5y --at-least 40 --until 2026-12-31 --owner ada --reason contract
  entitlements override list --expiring 7d
  entitlements override end ID --reason 'the pilot is over'")]
pub(super) struct OverrideCommand {
    #[command(subcommand)]
    action: OverrideAction,

    #[command(flatten)]
    service: ServiceAddress,
}

#[derive(Debug, Subcommand)]
enum OverrideAction {
    /// Grant a feature or a plan to a user or an organization, until a date or permanently
    Grant(set::GrantArgs),
    /// Deny a feature or a plan, whatever grants it
    Deny(set::DenyArgs),
    /// List overrides, the newest first
    List(ListArgs),
    /// End an override before its time
    End(EndArgs),
    /// Print all overrides of `DATABASE_URL`, one JSON object in a line, for `override import`
    Export {
        #[command(flatten)]
        direct: DirectDatabase,
    },
    /// Add the overrides of an export that `DATABASE_URL` lacks, as after the restore of an older backup
    Import {
        /// File with the output of `override export`
        file: PathBuf,
        #[command(flatten)]
        direct: DirectDatabase,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only overrides of this user or organization, `user_…` or `org_…`
    subject: Option<String>,

    /// Only overrides of this feature
    #[arg(long, value_name = "SLUG")]
    feature: Option<String>,

    /// Only overrides of this plan
    #[arg(long, value_name = "SLUG")]
    plan: Option<String>,

    /// Only overrides for which this person or team answers
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,

    /// Only overrides that expire within this time, such as 14d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expiring: Option<Duration>,

    /// Also those that have expired, ended or been replaced
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct EndArgs {
    /// Id of the override, as `override list` prints it
    id: String,

    /// Reason, for people
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Person on whose behalf you end it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    on_behalf_of: String,

    /// Print only what would change
    #[arg(long)]
    dry_run: bool,
}

impl OverrideCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let Self { action, service } = self;
        match action {
            OverrideAction::Grant(grant) => grant.run(&service, format).await?,
            OverrideAction::Deny(deny) => deny.run(&service, format).await?,
            OverrideAction::List(list) => list.run(&service, format).await?,
            OverrideAction::End(end) => end.run(&service, format).await?,
            OverrideAction::Export { direct } => dump::export(&*direct.store().await?).await?,
            OverrideAction::Import { file, direct } => {
                dump::import(&*direct.store().await?, &file, format).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ListArgs {
    async fn run(self, service: &ServiceAddress, format: Format) -> anyhow::Result<()> {
        let mut client = OverridesClient::new(service.connect().await?);
        let mut request = ListOverridesRequest {
            subject: self.subject.unwrap_or_default(),
            feature: self.feature.unwrap_or_default(),
            plan: self.plan.unwrap_or_default(),
            owner: self.owner.unwrap_or_default(),
            expiring_within: self.expiring.map(TryInto::try_into).transpose()?,
            include_ended: self.all,
            page_size: 1000,
            page_token: String::new(),
        };
        let (json, mut count) = (ProtoJson::new(), 0);
        loop {
            let page = client.list_overrides(service.request(request.clone())?).await;
            let page = page.map_err(|status| status_error(&status))?.into_inner();
            count += page.overrides.len();
            for found in &page.overrides {
                match format {
                    Format::Text => print(found),
                    Format::Json => say_json(&json.of("Override", found)),
                }
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        if format == Format::Text {
            say!("{}", counted(count, "override"));
        }
        Ok(())
    }
}

fn print(found: &Override) {
    say!("{}  {}", paint(STRONG, &found.subject), overriding(found));
    let by = |caller: &str, person: &str| match (caller, person) {
        ("", "") => String::new(),
        ("", person) => format!(" for {person}"),
        (caller, "") => format!(" by {caller}"),
        (caller, person) => format!(" by {caller} for {person}"),
    };
    let replaces = match &*found.replaces {
        "" => String::new(),
        id => format!(", replaces {id}"),
    };
    let set_by = by(&found.set_by, &found.on_behalf_of);
    say!("    {}", paint(FAINT, &format!("set {}{set_by}{replaces}", instant(found.set_at))));
    if let Some(end) = &found.end {
        say!("    {}{}", ended(end), by(&end.ended_by, &end.on_behalf_of));
    }
}

impl EndArgs {
    async fn run(self, service: &ServiceAddress, format: Format) -> anyhow::Result<()> {
        let mut client = OverridesClient::new(service.connect().await?);
        let request = EndOverrideRequest {
            id: self.id,
            reason: self.reason.clone(),
            on_behalf_of: self.on_behalf_of,
            dry_run: self.dry_run,
            if_revision: String::new(),
        };
        let ended = client.end_override(service.request(request)?).await;
        let ended = ended.map_err(|status| status_error(&status))?.into_inner();
        if format == Format::Json {
            say_json(&ProtoJson::new().of("EndOverrideResponse", &ended));
            return Ok(());
        }
        let end = ended.r#override.as_ref().and_then(|found| found.end.as_ref());
        let verb = match end {
            // Its end was noted with another reason before.
            Some(end) if end.reason != self.reason.trim() => {
                format!("was {} already,", render::ended(end))
            }
            Some(_) | None if self.dry_run => "would end".into(),
            Some(_) | None => "ended".into(),
        };
        print_change(&verb, ended.r#override.as_ref(), &ended.differences);
        Ok(())
    }
}

/// Prints an override that was changed, or would be, and the answers that change.
fn print_change(verb: &str, found: Option<&Override>, differences: &[Difference]) {
    let Some(found) = found else { return };
    say!("{verb} for {}: {}", found.subject, overriding(found));
    for Difference { feature, before, after } in differences {
        let line = |said: &Option<_>| said.as_ref().map(answer).unwrap_or_default();
        say!("  {feature}: {}", line(before));
        say!("  {:>1$} {2}", "->", feature.len() + 1, line(after));
    }
    if differences.is_empty() {
        say!("  no answer changes");
    }
}
