//! `entitlements subjects`: lists who may use a feature or has a plan.

use super::{
    client::{ServiceAddress, status_error},
    output::{Format, ProtoJson, Table, say_json},
    render::{counted, instant, reason},
};
use crate::api::pb::{
    CheckFeatureResponse, ListSubjectsRequest, list_subjects_request::Target,
    support_client::SupportClient,
};
use clap::Args;
use std::process::ExitCode;

/// Prints each subject with the answer that a check of it gets.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements subjects --feature sso
  entitlements subjects --plan user:pro --json | jq -r .subject")]
pub(super) struct SubjectsCommand {
    /// Feature, optionally with a scope: `sso`, `org:sso`, `user:export`
    #[arg(long, value_name = "SLUG", required_unless_present = "plan")]
    feature: Option<String>,

    /// Plan, optionally with a scope, instead of a feature
    #[arg(long, value_name = "SLUG", conflicts_with = "feature")]
    plan: Option<String>,

    #[command(flatten)]
    service: ServiceAddress,
}

impl SubjectsCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let mut client = SupportClient::new(self.service.connect().await?);
        let target = self.feature.map(Target::Feature).or(self.plan.map(Target::Plan));
        let mut request =
            ListSubjectsRequest { target, page_size: 1000, page_token: String::new() };
        let (json, mut count) = (ProtoJson::new(), 0);
        loop {
            let page = client.list_subjects(self.service.request(request.clone())?).await;
            let page = page.map_err(|status| status_error(&status))?.into_inner();
            count += page.subjects.len();
            match format {
                Format::Text => print(&page.subjects),
                Format::Json => {
                    let found = page.subjects.iter();
                    found.for_each(|found| say_json(&json.of("CheckFeatureResponse", found)));
                }
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        if format == Format::Text {
            say!("{}", counted(count, "subject"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a page of subjects as a table.
fn print(subjects: &[CheckFeatureResponse]) {
    let mut table = Table::new(&["subject", "plan", "limit", "valid until", "reason"]);
    for found in subjects {
        let limit = found.limit.map(|limit| limit.to_string()).unwrap_or_default();
        let until = found.valid_until.map(|until| instant(Some(until))).unwrap_or_default();
        let reason = reason(found.reason(), found.allowed);
        table.push([found.subject.clone(), found.plan.clone(), limit, until, reason]);
    }
    table.print();
}
