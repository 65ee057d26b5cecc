//! `entitlements send`: signs bodies and POSTs them, as Svix does for Clerk.

use super::dev;
use crate::{clerk::Secret, config::SigningSecrets};
use anyhow::{Context, bail};
use chrono::Utc;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::{fs, io::Read, path::Path, process::ExitCode};

/// Sends deliveries.
#[derive(Debug, Args)]
pub(super) struct Send {
    /// Bodies to send, in this order; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    /// Where to
    #[arg(long, env = "WEBHOOK_URL", default_value = "http://127.0.0.1:8080/webhooks/clerk")]
    url: String,

    /// Secret to sign with [default: the one that `dev` made in this folder]
    #[arg(long, value_name = "SECRET")]
    secret: Option<SecretString>,

    #[command(flatten)]
    secrets: SigningSecrets,

    /// The svix-id, for a single file [default: a new one for each]
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// The time of the attempt, in Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
}

impl Send {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        if self.id.is_some() && self.files.len() > 1 {
            bail!("--id names one message: give it with a single file");
        }
        let secret = self.secret()?;
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        let mut all_taken = true;
        for file in &self.files {
            all_taken &= self.send(&client, &secret, file).await?;
        }
        Ok(if all_taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Sends one body and prints the answer; true if it was a 2xx.
    async fn send(
        &self,
        client: &reqwest::Client,
        secret: &Secret,
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

    fn secret(&self) -> anyhow::Result<Secret> {
        if let Some(secret) = &self.secret {
            return Secret::parse(secret).context("--secret");
        }
        let given = &self.secrets.clerk_webhook_signing_secret;
        if given.iter().any(|secret| !secret.expose_secret().trim().is_empty()) {
            let first = self.secrets.parse()?.into_iter().next();
            return first.context("CLERK_WEBHOOK_SIGNING_SECRET is empty");
        }
        let path = dev::secret_file(Path::new(dev::FOLDER));
        let kept = fs::read_to_string(&path).with_context(|| {
            format!(
                "no secret to sign with: give --secret or CLERK_WEBHOOK_SIGNING_SECRET, or run `entitlements \
                 dev` in this folder first (it keeps one in {})",
                path.display()
            )
        })?;
        Ok(Secret::parse(&kept.into())?)
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
