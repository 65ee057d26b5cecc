//! `entitlements explain`: derives an answer of any time again, with everything that was weighed.

use super::{
    client::{ServiceAddress, status_error},
    output::{Format, ProtoJson, STRONG, paint, say_json},
    render::{self, answer, instant, list, record, source},
    times::{parse_past, timestamp},
};
use crate::api::pb::{
    CatalogVersion, CheckFeatureResponse, Comparison, ExplainRequest, ExplainResponse, Item,
    Reason, Receipt, Step, explain_request::Target, statement, step::Kind,
    support_client::SupportClient,
};
use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use std::{process::ExitCode, time::Duration};

/// The most lines for steps, for later answers and for the causes of a difference: all fit on a screen of 25 lines.
const MAX_STEPS: usize = 7;
const MAX_LATER: usize = 3;
const MAX_CAUSES: usize = 4;

/// Derives an answer again, with everything that was weighed.
///
/// Exits with 0 if the feature or plan is or was allowed, 1 if it is denied, 2 if it cannot be explained.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements explain export --user user_2x
  entitlements explain export --user user_2x --at '2026-11-03 14:03'
  entitlements explain sso --org org_5y --as-of 'in 30days'")]
pub(super) struct ExplainCommand {
    /// Feature, optionally with a scope: `sso`, `org:sso`, `user:export`
    #[arg(required_unless_present = "plan")]
    feature: Option<String>,

    /// Plan, optionally with a scope, instead of a feature
    #[arg(long, conflicts_with = "feature")]
    plan: Option<String>,

    /// Id of the user, `user_…`
    #[arg(long, value_name = "ID", required_unless_present = "org")]
    user: Option<String>,

    /// Id of the organization, `org_…`
    #[arg(long, value_name = "ID")]
    org: Option<String>,

    /// The answer that a check got at this time: short for --as-of and --known-at. A time is a date, an instant such as
    /// 2026-11-03T14:03:00Z, `yesterday`, `3h` for 3 hours ago, or `in 3h`
    #[arg(long, value_name = "TIME", value_parser = parse_past, conflicts_with_all = ["as_of", "known_at", "revision"])]
    at: Option<DateTime<Utc>>,

    /// Use only changes that had taken effect at this time; it may be in the future
    #[arg(long, value_name = "TIME", value_parser = parse_past, conflicts_with = "revision")]
    as_of: Option<DateTime<Utc>>,

    /// Use only what was known at this time
    #[arg(long, value_name = "TIME", value_parser = parse_past, conflicts_with = "revision")]
    known_at: Option<DateTime<Utc>>,

    /// Receipt: `revision` of an earlier answer
    #[arg(long, value_name = "TOKEN", requires = "checked_at")]
    revision: Option<String>,

    /// Receipt: `checked_at` of the answer
    #[arg(long, value_name = "TIME", value_parser = parse_past, requires = "revision")]
    checked_at: Option<DateTime<Utc>>,

    /// Receipt: `stale_for` of the answer, such as 12s; omit it if the answer had none
    #[arg(long, value_name = "DURATION", requires = "revision", value_parser = humantime::parse_duration)]
    stale_for: Option<Duration>,

    #[command(flatten)]
    service: ServiceAddress,
}

impl ExplainCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let mut client = SupportClient::new(self.service.connect().await?);
        let request = self.service.request(self.request()?)?;
        let explained = client.explain(request).await.map_err(|status| status_error(&status))?;
        let explained = explained.into_inner();
        let allowed = explained.answer.as_ref().map(|answer| answer.allowed);
        match format {
            Format::Json => say_json(&ProtoJson::new().of("ExplainResponse", &explained)),
            Format::Text => self.print(&explained),
        }
        let allowed = allowed.context("the response of the service is incomplete")?;
        Ok(ExitCode::from(u8::from(!allowed)))
    }

    fn print(&self, explained: &ExplainResponse) {
        let target = self.feature.as_deref().or(self.plan.as_deref()).unwrap_or_default();
        print(target, explained);
        if let Some(comparison) = &explained.comparison {
            let is_earlier = self.known_at.or(self.at).is_some() || self.revision.is_some();
            compare(comparison, is_earlier, self.stale_for.is_some());
        }
    }

    fn request(&self) -> anyhow::Result<ExplainRequest> {
        let feature = self.feature.clone().map(Target::Feature);
        let receipt = self.revision.clone().map(|revision| {
            let stale_for = self.stale_for.map(TryInto::try_into).transpose()?;
            let checked_at = self.checked_at.map(timestamp);
            anyhow::Ok(Receipt { revision, checked_at, stale_for })
        });
        Ok(ExplainRequest {
            user_id: self.user.clone().unwrap_or_default(),
            organization_id: self.org.clone().unwrap_or_default(),
            target: feature.or(self.plan.clone().map(Target::Plan)),
            as_of: self.as_of.or(self.at).map(timestamp),
            known_at: self.known_at.or(self.at).map(timestamp),
            receipt: receipt.transpose()?,
        })
    }
}

fn print(target: &str, explained: &ExplainResponse) {
    let (Some(said), Some(catalog)) = (&explained.answer, &explained.catalog) else { return };
    say!("{target}: {}", answer(said));
    let stale = said.stale_for.map(|age| format!(", {} s behind the database", age.seconds));
    say!("  as of {}{}", instant(said.checked_at), stale.unwrap_or_default());
    say!("  {}", catalog_line(catalog));
    say!("{}", paint(STRONG, "weighed:"));
    let (decisive, others): (Vec<_>, Vec<_>) = explained.steps.iter().partition(|s| s.decisive);
    for found in decisive {
        say!("> {}", step(found));
        found.source.iter().for_each(|found| say!("    from {}", record(found)));
        let statement = found.source.iter().filter_map(|source| source.statement.as_ref());
        let other = statement.filter(|said| said.kind() == statement::Kind::Subscription);
        other.for_each(|said| say!("    {}", render::statement(said)));
    }
    list("  ", &others, MAX_STEPS, |found| step(found));
    if !explained.later.is_empty() {
        say!("{}", paint(STRONG, "later, by time alone:"));
        let line = |later: &&CheckFeatureResponse| {
            format!("{}: {}", instant(later.checked_at), answer(later))
        };
        list("  ", &explained.later.iter().collect::<Vec<_>>(), MAX_LATER, line);
    }
}

/// Prints the answer by other knowledge: by that of now if the explained answer `is_earlier`. That answer may have been
/// from stale data.
fn compare(comparison: &Comparison, is_earlier: bool, is_stale: bool) {
    let known = if is_earlier {
        "by all that is known now".into()
    } else {
        format!("by what was known at {}", instant(comparison.known_at))
    };
    if !comparison.differs {
        return say!("{known}: the same answer");
    }
    let other = comparison.answer.as_ref().map(answer).unwrap_or_default();
    if comparison.causes.is_empty() {
        let cause = if is_stale { "from stale data" } else { "from a cause that is not recorded" };
        return say!("{known}: {other}; the explained answer is {cause}");
    }
    say!("{known}: {other}; the answers differ because of");
    list("  ", &comparison.causes.iter().collect::<Vec<_>>(), MAX_CAUSES, |cause| source(cause));
}

fn catalog_line(catalog: &CatalogVersion) -> String {
    let grace = |grace: Option<prost_types::Duration>| {
        let grace = grace.and_then(|grace| Duration::try_from(grace).ok());
        grace.map_or("none".into(), |grace| humantime::format_duration(grace).to_string())
    };
    if catalog.number == 0 {
        return "no catalog".into();
    }
    format!(
        "catalog {} ({}, applied {}); grace: past_due {}, renewal {}, trial {}",
        catalog.number,
        catalog.source,
        instant(catalog.applied_at),
        grace(catalog.grace_past_due),
        grace(catalog.grace_renewal),
        grace(catalog.grace_trial),
    )
}

/// Renders a step in one line, such as `item csub_item_1 (pro, ended) of user_…: REASON_ENDED`.
fn step(step: &Step) -> String {
    let of = |what: String| format!("{what} of {}", step.subject);
    let name = match step.kind() {
        Kind::Item => of(format!("item {}", step.item.as_ref().map(item).unwrap_or_default())),
        Kind::Override => {
            let found = step.source.as_ref().and_then(|source| source.r#override.as_ref());
            let found = found.map(|found| format!(" {} ({})", found.id, render::effect(found)));
            of(format!("override{}", found.unwrap_or_default()))
        }
        Kind::DefaultPlan if step.plan.is_empty() => of("no default plan".into()),
        Kind::DefaultPlan => of(format!("default plan {}", step.plan)),
        Kind::Deletion => of("deletion".into()),
        Kind::Scope if step.reason() == Reason::UnknownScope => {
            "scope, which does not exist".into()
        }
        Kind::Scope => format!("scope of the question, which leaves out {}", step.subject),
        Kind::Catalog => "catalog, which has no such feature or plan".into(),
        Kind::Staleness => "stale data, from which no strict feature is granted".into(),
        Kind::Unspecified => "unknown kind of step".into(),
    };
    let until = step.until.map(|until| format!(", until {}", instant(Some(until))));
    let limit = step.limit.map(|limit| format!(", limit {limit}"));
    let (until, limit) = (until.unwrap_or_default(), limit.unwrap_or_default());
    format!("{name}{until}{limit}: {}", step.reason().as_str_name())
}

fn item(item: &Item) -> String {
    let plan = if item.plan.is_empty() { "unnamed plan" } else { &item.plan };
    let trial = if item.free_trial { ", trial" } else { "" };
    let canceled = item.canceled_at.map(|at| format!(", canceled {}", instant(Some(at))));
    let end = item.period_end.map(|end| format!(", period to {}", instant(Some(end))));
    let (canceled, end) = (canceled.unwrap_or_default(), end.unwrap_or_default());
    format!("{} ({plan}, {}{trial}{canceled}{end})", item.id, item.status)
}
