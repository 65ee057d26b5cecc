//! `entitlements subjects`: lists who may use a feature or has a plan.

use super::{
    client::{ServiceAddress, status_error},
    render::{answer, counted},
};
use crate::api::pb::{
    ListSubjectsRequest, list_subjects_request::Target, support_client::SupportClient,
};
use clap::Args;
use std::process::ExitCode;

/// Prints each subject as it is found, with the answer that a check of it gets.
#[derive(Debug, Args)]
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
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut client = SupportClient::new(self.service.connect().await?);
        let target = self.feature.map(Target::Feature).or(self.plan.map(Target::Plan));
        let mut request =
            ListSubjectsRequest { target, page_size: 1000, page_token: String::new() };
        let mut count = 0;
        loop {
            let page = client.list_subjects(self.service.request(request.clone())?).await;
            let page = page.map_err(|status| status_error(&status))?.into_inner();
            count += page.subjects.len();
            for found in &page.subjects {
                say!("{}  {}", found.subject, answer(found));
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                say!("{}", counted(count, "subject"));
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
