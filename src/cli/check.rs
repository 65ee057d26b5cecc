//! `entitlements check`: asks a running service.

use crate::grpc::pb::{
    CheckFeatureRequest, CheckFeatureResponse, entitlements_client::EntitlementsClient,
};
use anyhow::{Context, anyhow};
use chrono::{DateTime, SecondsFormat};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::{process::ExitCode, time::Duration};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// Exits with 0 if the feature is allowed, 1 if it is denied, 2 if the question could not be asked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Check {
    /// The feature, optionally scoped: `sso`, `org:sso`, `user:export`
    feature: String,

    /// The user, `user_…`
    #[arg(long, value_name = "ID", required_unless_present = "org")]
    user: Option<String>,

    /// The active organization, `org_…`
    #[arg(long, value_name = "ID")]
    org: Option<String>,

    #[command(flatten)]
    service: Service,
}

/// A running service, and how to reach it.
#[derive(Debug, Args)]
pub(super) struct Service {
    /// The service
    #[arg(long, env = "ENTITLEMENTS_ADDR", default_value = "http://127.0.0.1:50051")]
    addr: String,

    /// API key to present, for a service behind something that asks for one
    #[arg(long, env = "ENTITLEMENTS_KEY", hide_env_values = true)]
    key: Option<SecretString>,
}

impl Service {
    /// Connects, or says why not.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let with_scheme = self.addr.contains("://");
        let addr = if with_scheme { self.addr.clone() } else { format!("http://{}", self.addr) };
        let endpoint = Endpoint::from_shared(addr).context("--addr must be as http://host:port")?;
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await;
        channel.with_context(|| format!("cannot reach {} (is it running?)", self.addr))
    }

    /// A request that presents the key.
    pub(super) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            let bearer = format!("Bearer {}", key.expose_secret()).parse();
            let bearer = bearer.context("--key has characters that no header may have")?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}

impl Check {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.ask().await?;
        println!("{}", sentence(&self.feature, &answer));
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
        let answer = answer.map_err(|s| anyhow!("{:?}: {}", s.code(), s.message()))?;
        Ok(answer.into_inner())
    }
}

/// The answer in one line, such as `export: allowed, REASON_PLAN, plan pro, of user_…`.
fn sentence(feature: &str, answer: &CheckFeatureResponse) -> String {
    let verdict = if answer.allowed { "allowed" } else { "denied" };
    let until = answer.valid_until.and_then(|until| {
        let until = DateTime::from_timestamp(until.seconds, until.nanos.unsigned_abs())?;
        Some(format!("valid until {}", until.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
    });
    let parts = [
        Some(format!("{feature}: {verdict}")),
        Some(answer.reason().as_str_name().into()),
        (!answer.plan.is_empty()).then(|| format!("plan {}", answer.plan)),
        (!answer.subject.is_empty()).then(|| format!("of {}", answer.subject)),
        answer.limit.map(|limit| format!("limit {limit}")),
        until,
        answer.stale_for.map(|age| format!("{} s behind the database", age.seconds)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
