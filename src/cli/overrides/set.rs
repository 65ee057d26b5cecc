//! `override grant` and `override deny`.

use super::print_change;
use crate::{
    api::pb::{
        Deny, Grant, Override, SetOverrideRequest,
        grant::Number,
        r#override::{Effect, Target},
        overrides_client::OverridesClient,
    },
    cli::{
        client::{ServiceAddress, status_error},
        output::{Format, ProtoJson, say_json},
        times::{parse_future, timestamp},
    },
};
use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Args)]
pub(super) struct GrantArgs {
    #[command(flatten)]
    what: OverrideArgs,

    /// Limit, unless a plan or another override grants a larger one
    #[arg(long, value_name = "LIMIT", group = "number")]
    at_least: Option<u64>,

    /// Limit, even if a plan or another override grants a larger one
    #[arg(long, value_name = "LIMIT", group = "number")]
    exactly: Option<u64>,

    /// Without a limit
    #[arg(long, group = "number")]
    unlimited: bool,
}

#[derive(Debug, Args)]
pub(super) struct DenyArgs {
    #[command(flatten)]
    what: OverrideArgs,
}

/// The arguments that both have. One of `--until`, `--for` and `--permanent` is required.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("end").required(true))]
#[command(group = clap::ArgGroup::new("whose").required(true))]
struct OverrideArgs {
    /// Slug of the feature, without a scope
    #[arg(required_unless_present = "plan")]
    feature: Option<String>,

    /// Slug of a plan, with all that it has, instead of a feature
    #[arg(long, conflicts_with = "feature")]
    plan: Option<String>,

    /// Id of the user, `user_…`
    #[arg(long, value_name = "ID", group = "whose")]
    user: Option<String>,

    /// Id of the organization, `org_…`
    #[arg(long, value_name = "ID", group = "whose")]
    org: Option<String>,

    /// End: a date (its beginning, in UTC), an instant, as 2026-12-31T18:00:00Z, `tomorrow`, or `3h` for 3 hours from now
    #[arg(long, value_name = "TIME", value_parser = parse_future, group = "end")]
    until: Option<DateTime<Utc>>,

    /// Duration, such as 14d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, group = "end")]
    r#for: Option<Duration>,

    /// Without an end
    #[arg(long, group = "end")]
    permanent: bool,

    /// Beginning, as --until [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_future)]
    from: Option<DateTime<Utc>>,

    /// Person or team that answers for it
    #[arg(long, value_name = "NAME")]
    owner: String,

    /// Reason, for people
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Ticket or contract
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reference: String,

    /// Person on whose behalf you set it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    on_behalf_of: String,

    /// Id of the override that this one extends or corrects
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    replaces: String,

    /// Accept a feature or plan that the catalog does not have yet
    #[arg(long)]
    unknown: bool,

    /// Print only what would change
    #[arg(long)]
    dry_run: bool,
}

impl GrantArgs {
    pub(super) async fn run(self, service: &ServiceAddress, format: Format) -> anyhow::Result<()> {
        let unlimited = self.unlimited.then_some(Number::Unlimited(true));
        let at_least = self.at_least.map(Number::AtLeast);
        let number = at_least.or(self.exactly.map(Number::Exactly)).or(unlimited);
        self.what.set(Effect::Grant(Grant { number }), service, format).await
    }
}

impl DenyArgs {
    pub(super) async fn run(self, service: &ServiceAddress, format: Format) -> anyhow::Result<()> {
        self.what.set(Effect::Deny(Deny {}), service, format).await
    }
}

impl OverrideArgs {
    async fn set(
        self,
        effect: Effect,
        service: &ServiceAddress,
        format: Format,
    ) -> anyhow::Result<()> {
        let mut client = OverridesClient::new(service.connect().await?);
        let (dry_run, is_unknown) = (self.dry_run, self.unknown);
        let target = self.feature.clone().or(self.plan.clone()).unwrap_or_default();
        let request = service.request(self.request(effect)?)?;
        let set = client.set_override(request).await;
        let set = set.map_err(|status| status_error(&status))?.into_inner();
        if format == Format::Json {
            say_json(&ProtoJson::new().of("SetOverrideResponse", &set));
            return Ok(());
        }
        let verb = if dry_run { "would set" } else { "set" };
        print_change(verb, set.r#override.as_ref(), &set.differences);
        if is_unknown {
            say!("  --unknown: nothing checked that the catalog has `{target}`");
        }
        Ok(())
    }

    fn request(&self, effect: Effect) -> anyhow::Result<SetOverrideRequest> {
        let subject = subject(self.user.as_deref(), self.org.as_deref())?;
        let target = self.feature.clone().map(Target::Feature);
        let begins = self.from.unwrap_or_else(Utc::now);
        let lasts = self.r#for.map(|lasts| {
            let lasts = TimeDelta::from_std(lasts).ok();
            let end = lasts.and_then(|lasts| begins.checked_add_signed(lasts));
            end.context("--for is too long: say --permanent if it has no end")
        });
        let until = self.until.or(lasts.transpose()?);
        Ok(SetOverrideRequest {
            r#override: Some(Override {
                subject,
                target: target.or(self.plan.clone().map(Target::Plan)),
                effect: Some(effect),
                starts_at: self.from.map(timestamp),
                expires_at: until.map(timestamp),
                permanent: self.permanent,
                owner: self.owner.clone(),
                reason: self.reason.clone(),
                reference: self.reference.clone(),
                on_behalf_of: self.on_behalf_of.clone(),
                replaces: self.replaces.clone(),
                ..Override::default()
            }),
            // If a proxy repeats the call, nothing is set twice.
            idempotency_key: Uuid::now_v7().to_string(),
            dry_run: self.dry_run,
            if_revision: String::new(),
            allow_unknown: self.unknown,
        })
    }
}

/// The id of one of both flags, which must be of its kind.
fn subject(user: Option<&str>, org: Option<&str>) -> anyhow::Result<String> {
    for (flag, prefix, id) in [("--user", "user_", user), ("--org", "org_", org)] {
        if id.is_some_and(|id| !id.starts_with(prefix)) {
            bail!("{flag} needs an id that begins with `{prefix}`");
        }
    }
    Ok(user.or(org).unwrap_or_default().into())
}
