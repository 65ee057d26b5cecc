//! `entitlements check`: asks a running service whether a feature is allowed.

use super::{
    client::{ServiceAddress, status_error},
    render,
};
use crate::api::pb::{
    CheckFeatureRequest, CheckFeatureResponse, entitlements_client::EntitlementsClient,
};
use clap::Args;
use std::process::ExitCode;

/// Exits with 0 if the feature is allowed, 1 if it is denied, 2 if the check failed.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CheckCommand {
    /// Feature, optionally with a scope: `sso`, `org:sso`, `user:export`
    feature: String,

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
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.ask().await?;
        say!("{}: {}", self.feature, render::answer(&answer));
        Ok(ExitCode::from(u8::from(!answer.allowed)))
    }

    async fn ask(&self) -> anyhow::Result<CheckFeatureResponse> {
        let mut client = EntitlementsClient::new(self.service.connect().await?);
        let request = self.service.request(CheckFeatureRequest {
            user_id: self.user.clone().unwrap_or_default(),
            organization_id: self.org.clone().unwrap_or_default(),
            feature: self.feature.clone(),
            ..CheckFeatureRequest::default()
        })?;
        let answer = client.check_feature(request).await;
        Ok(answer.map_err(|status| status_error(&status))?.into_inner())
    }
}
