//! `entitlements send`: signs webhook bodies and sends them, as Svix does for Clerk.

use crate::{clerk::SigningSecret, config::SigningSecrets};
use anyhow::{Context, bail};
use chrono::Utc;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::{fs, io::Read, path::Path, process::ExitCode};

/// The folder in the current directory in which `dev` keeps its files.
pub(super) const DEV_FOLDER: &str = ".entitlements";
/// The file in it with the signing secret that `dev` made.
pub(super) const SECRET_FILE: &str = "webhook-signing-secret";

/// The `send` command.
#[derive(Debug, Args)]
pub(super) struct SendCommand {
    /// Files with the bodies to send, in this order; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    /// URL of the webhook endpoint
    #[arg(
        long,
        env = "ENTITLEMENTS_WEBHOOK_URL",
        default_value = "http://127.0.0.1:8080/webhooks/clerk"
    )]
    url: String,

    /// Signing secret [default: the first of `CLERK_WEBHOOK_SIGNING_SECRET`, else the secret of `dev` in this folder]
    #[arg(long, value_name = "SECRET")]
    secret: Option<SecretString>,

    #[command(flatten)]
    secrets: SigningSecrets,

    /// svix-id, for a single file [default: a new id for each file]
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// Signed timestamp, in Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
}

impl SendCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        if self.id.is_some() && self.files.len() > 1 {
            bail!("--id names one message: give a single file with it");
        }
        let secret = self.secret()?;
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        let mut all_accepted = true;
        for file in &self.files {
            all_accepted &= self.send(&client, &secret, file).await?;
        }
        Ok(if all_accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Sends one body and prints the answer; returns whether its status is 2xx.
    async fn send(
        &self,
        client: &reqwest::Client,
        secret: &SigningSecret,
        file: &str,
    ) -> anyhow::Result<bool> {
        let body = read(file)?;
        let id =
            self.id.clone().unwrap_or_else(|| format!("msg_{}", uuid::Uuid::now_v7().simple()));
        let timestamp = self.timestamp.unwrap_or_else(|| Utc::now().timestamp());
        let signature = secret.sign(&id, timestamp, &body);
        let request = client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("svix-id", id)
            .header("svix-timestamp", timestamp)
            .header("svix-signature", signature)
            .body(body);
        let answer = request.send().await.with_context(|| format!("cannot reach {}", self.url))?;
        let status = answer.status();
        say!("{file}: {} {}", status.as_u16(), answer.text().await?.trim_end());
        Ok(status.is_success())
    }

    fn secret(&self) -> anyhow::Result<SigningSecret> {
        if let Some(secret) = &self.secret {
            return SigningSecret::parse(secret).context("--secret");
        }
        let given = &self.secrets.clerk_webhook_signing_secret;
        if given.iter().any(|secret| !secret.expose_secret().trim().is_empty()) {
            let first = self.secrets.parse()?.into_iter().next();
            return first.context("CLERK_WEBHOOK_SIGNING_SECRET is empty");
        }
        let path = Path::new(DEV_FOLDER).join(SECRET_FILE);
        let kept = fs::read_to_string(&path).with_context(|| {
            format!(
                "no secret to sign with: give --secret or CLERK_WEBHOOK_SIGNING_SECRET, or run `entitlements \
                 dev` in this folder first (it stores a secret in {})",
                path.display()
            )
        })?;
        Ok(SigningSecret::parse(&kept.into())?)
    }
}

fn read(file: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    if file == "-" {
        std::io::stdin().read_to_string(&mut body).context("cannot read standard input")?;
    } else {
        body = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    }
    Ok(body)
}
