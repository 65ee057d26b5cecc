//! `entitlements check`: asks a running service whether a feature or a plan is allowed.

use super::{
    client::{ServiceAddress, status_error},
    output::{Format, ProtoJson, say_json},
    render,
};
use crate::api::pb::{
    Account, CheckFeatureRequest, CheckFeatureResponse, CheckPlanRequest, CheckPlanResponse,
    ExplainRequest, ExplainResponse, ListEntitlementsRequest, Reason, Step,
    entitlements_client::EntitlementsClient, explain_request::Target, step::Kind,
    support_client::SupportClient,
};
use clap::Args;
use std::process::ExitCode;
use tonic::{Code, transport::Channel};

/// Prints the answer and its reason. A denial also tells which plans the subjects hold and which plans would allow the
/// feature, if the caller has the scope `support`.
///
/// Exits with 0 if the feature or plan is allowed, 1 if it is denied, 2 if the check failed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements check export --user user_2x
  entitlements check org:sso --user user_2x --org org_5y --json
  entitlements check --plan pro --user user_2x")]
pub(super) struct CheckCommand {
    /// Feature, optionally with a scope: `sso`, `org:sso`, `user:export`
    #[arg(required_unless_present = "plan")]
    feature: Option<String>,

    /// Plan, optionally with a scope, instead of a feature
    #[arg(long, value_name = "SLUG", conflicts_with = "feature")]
    plan: Option<String>,

    /// Id of the user, `user_…`
    #[arg(long, value_name = "ID", required_unless_present = "org")]
    user: Option<String>,

    /// Id of the active organization, `org_…`
    #[arg(long, value_name = "ID")]
    org: Option<String>,

    #[command(flatten)]
    service: ServiceAddress,
}

impl CheckCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let channel = self.service.connect().await?;
        let answer = self.ask(channel.clone()).await?;
        match format {
            Format::Json => say_json(&ProtoJson::new().of("CheckFeatureResponse", &answer)),
            Format::Text => {
                let target = self.feature.as_ref().or(self.plan.as_ref());
                say!("{}: {}", target.map_or("", String::as_str), render::answer(&answer));
                if !answer.allowed {
                    self.advise(channel).await?;
                }
            }
        }
        Ok(ExitCode::from(u8::from(!answer.allowed)))
    }

    async fn ask(&self, channel: Channel) -> anyhow::Result<CheckFeatureResponse> {
        let mut client = EntitlementsClient::new(channel);
        let (user_id, organization_id) = self.ids();
        let answer = if let Some(plan) = self.plan.clone() {
            let request =
                CheckPlanRequest { user_id, organization_id, plan, ..CheckPlanRequest::default() };
            let answer = client.check_plan(self.service.request(request)?).await;
            answer.map(|answer| of_plan(answer.into_inner()))
        } else {
            let feature = self.feature.clone().unwrap_or_default();
            let request = CheckFeatureRequest {
                user_id,
                organization_id,
                feature,
                ..CheckFeatureRequest::default()
            };
            let answer = client.check_feature(self.service.request(request)?).await;
            answer.map(tonic::Response::into_inner)
        };
        answer.map_err(|status| status_error(&status))
    }

    fn ids(&self) -> (String, String) {
        (self.user.clone().unwrap_or_default(), self.org.clone().unwrap_or_default())
    }

    /// Prints which plans the subjects hold, and what would allow the feature. Only callers with the scope `support` may
    /// know it, so its absence is no error.
    async fn advise(&self, channel: Channel) -> anyhow::Result<()> {
        let (user_id, organization_id) = self.ids();
        let feature = self.feature.clone().map(Target::Feature);
        let target = feature.or(self.plan.clone().map(Target::Plan));
        let request =
            ExplainRequest { user_id, organization_id, target, ..ExplainRequest::default() };
        let request = self.service.request(request)?;
        match SupportClient::new(channel.clone()).explain(request).await {
            Ok(explained) => self.advise_from(explained.get_ref()),
            Err(status) if status.code() == Code::NotFound => self.advise_unknown(channel).await?,
            Err(_) => {}
        }
        Ok(())
    }

    fn advise_from(&self, explained: &ExplainResponse) {
        explained.steps.iter().for_each(print_step);
        let denied = explained.answer.as_ref().map(CheckFeatureResponse::reason);
        let plans = explained.granting_plans.iter().map(|found| {
            // Without an organization in the question, no organization's plan counts.
            let hint = match (&*found.kind, &self.user, &self.org) {
                ("user", None, _) => " (ask with --user)",
                ("organization", _, None) => " (ask with --org)",
                _ => "",
            };
            format!("the {} plan {}{hint}", found.kind, found.plan)
        });
        let plans: Vec<_> = plans.collect();
        let grant = "an override (`entitlements override grant`)";
        match denied {
            Some(Reason::OverrideDenies) => {
                say!("  would allow it: the end of that override (`entitlements override end`)");
            }
            Some(
                Reason::SubjectDeleted | Reason::UnknownScope | Reason::OutOfScope | Reason::Stale,
            )
            | None => {}
            Some(_) if plans.is_empty() => say!("  would allow it: {grant}"),
            Some(_) => say!("  would allow it: {}, or {grant}", plans.join(", ")),
        }
    }

    /// Prints what is known about subjects of which no webhook was ever received.
    async fn advise_unknown(&self, channel: Channel) -> anyhow::Result<()> {
        let (user_id, organization_id) = self.ids();
        let request = ListEntitlementsRequest {
            user_id,
            organization_id,
            ..ListEntitlementsRequest::default()
        };
        let request = self.service.request(request)?;
        let Ok(listed) = EntitlementsClient::new(channel).list_entitlements(request).await else {
            return Ok(());
        };
        for Account { subject, default_plan, .. } in &listed.get_ref().accounts {
            let has = match &**default_plan {
                "" => "it has no plan".into(),
                plan => format!("it has {plan}, the default plan"),
            };
            say!("  no webhook about {subject} was ever received: {has}");
        }
        Ok(())
    }
}

/// Prints a step that tells what a subject has.
fn print_step(step: &Step) {
    let (subject, reason) = (&step.subject, step.reason().as_str_name());
    let found = step.source.as_ref().and_then(|source| source.r#override.as_ref());
    match (step.kind(), &step.item, found) {
        (Kind::Item, Some(item), _) => {
            let (plan, status) = (&item.plan, &item.status);
            let plan = if plan.is_empty() { "a plan without a name" } else { plan };
            say!("  {subject} has {plan}, {status}: {reason}");
        }
        (Kind::DefaultPlan, ..) if !step.plan.is_empty() => {
            say!("  {subject} has {}, the default plan: {reason}", step.plan);
        }
        (Kind::Override, _, Some(found)) => {
            say!("  {subject} has the override {}: {reason}", render::overriding(found));
        }
        (Kind::Deletion, ..) => say!("  {subject} was deleted: {reason}"),
        _ => {}
    }
}

/// The answer about a plan, in the form of the answer about a feature.
fn of_plan(answer: CheckPlanResponse) -> CheckFeatureResponse {
    let CheckPlanResponse {
        allowed,
        reason,
        subject,
        plan,
        valid_until,
        revision,
        checked_at,
        stale_for,
    } = answer;
    let limit = None;
    CheckFeatureResponse {
        allowed,
        reason,
        subject,
        plan,
        limit,
        valid_until,
        revision,
        checked_at,
        stale_for,
    }
}
