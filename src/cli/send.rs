//! `entitlements send`: signs webhook bodies and sends them, as Svix does for Clerk.

use super::{
    output::{BAD, Format, GOOD, paint, say_json},
    port::{self, Speaks},
    probe::reachable,
    render::counted,
};
use crate::{
    clerk::SigningSecret,
    config::{SigningSecrets, address},
};
use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use clap::{Args, ValueEnum};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// How long the service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The folder in the current directory in which `dev` keeps its files.
pub(super) const DEV_FOLDER: &str = ".entitlements";
/// The file in it with the signing secret that `dev` made.
pub(super) const SECRET_FILE: &str = "webhook-signing-secret";

/// Signs webhook bodies and sends them to the service, as Svix does for Clerk.
///
/// Exits with 0 if the service accepted each body, 1 if it rejected one, 2 if it could not be reached.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements send --example active
  entitlements send webhook.json --url http://127.0.0.1:8080/webhooks/clerk
  entitlements send --all tests/payloads")]
pub(super) struct SendCommand {
    /// Files with the bodies to send, in this order; `-` is standard input
    #[arg(required_unless_present_any = ["all", "example"], value_name = "FILE")]
    files: Vec<String>,

    /// Send each *.json file of this folder, in the order of the names; bodies that delete a user or an organization are
    /// left out
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["files", "example"])]
    all: Option<PathBuf>,

    /// Send an example of Clerk's bodies; may be repeated
    #[arg(long, value_name = "EXAMPLE", conflicts_with = "files")]
    example: Vec<Example>,

    /// svix-id, for a single body [default: a new id for each body]
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// Signed timestamp, in Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,

    /// URL of the webhook endpoint [default: `ENTITLEMENTS_WEBHOOK_LISTEN` of this machine, else
    /// `http://127.0.0.1:8080/webhooks/clerk`]
    #[arg(long, env = "ENTITLEMENTS_WEBHOOK_URL")]
    url: Option<String>,

    /// Address of the webhook listener of `serve` on this machine, if `--url` is not given
    #[arg(long, env = "ENTITLEMENTS_WEBHOOK_LISTEN", value_name = "ADDRESS", value_parser = address, hide = true)]
    webhook_listen: Option<SocketAddr>,

    /// Signing secret [default: the first of `CLERK_WEBHOOK_SIGNING_SECRET`, else the secret of `dev` in this folder]
    #[arg(long, value_name = "SECRET")]
    secret: Option<SecretString>,

    #[command(flatten)]
    secrets: SigningSecrets,
}

/// An example of Clerk's bodies, all of one user, who buys the plan `pro`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Example {
    /// The user has the plan `pro`
    Active,
    /// The user canceled it, and has paid until 2100
    Canceled,
    /// A payment failed
    PastDue,
    /// The paid period is over
    Ended,
}

impl Example {
    fn body(self) -> &'static str {
        match self {
            Self::Active => include_str!("../../tests/payloads/subscriptionItem.active.json"),
            Self::Canceled => include_str!("../../tests/payloads/subscriptionItem.canceled.json"),
            Self::PastDue => include_str!("../../tests/payloads/subscriptionItem.pastDue.json"),
            Self::Ended => include_str!("../../tests/payloads/subscriptionItem.ended.json"),
        }
    }
}

/// Where the signed bodies go.
struct Endpoint {
    client: reqwest::Client,
    secret: SigningSecret,
    url: String,
}

impl SendCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let bodies = self.bodies(format)?;
        if self.id.is_some() && bodies.len() > 1 {
            bail!("--id names one message: give a single file with it");
        }
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT);
        let client = client.build()?;
        let endpoint = Endpoint { client, secret: self.secret()?, url: self.url() };
        let mut accepted = 0;
        for (name, body) in &bodies {
            accepted += usize::from(self.send(&endpoint, name, body, format).await?);
        }
        if format == Format::Text && bodies.len() > 1 {
            say!("{} sent, {accepted} accepted", counted(bodies.len(), "body"));
        }
        Ok(if accepted == bodies.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The bodies to send, each with a name for the output.
    fn bodies(&self, format: Format) -> anyhow::Result<Vec<(String, String)>> {
        if let Some(folder) = &self.all {
            return all(folder, format);
        }
        let examples = self.example.iter().map(|example| {
            let value = example.to_possible_value().expect("no example is skipped");
            Ok((value.get_name().to_owned(), example.body().to_owned()))
        });
        let files = self.files.iter().map(|file| Ok((file.clone(), read(file)?)));
        examples.chain(files).collect()
    }

    fn url(&self) -> String {
        match (&self.url, self.webhook_listen) {
            (Some(url), _) => url.clone(),
            (None, Some(listener)) => format!("http://{}/webhooks/clerk", reachable(listener)),
            (None, None) => "http://127.0.0.1:8080/webhooks/clerk".into(),
        }
    }

    /// Sends one body and prints the answer; returns whether its status is 2xx.
    async fn send(
        &self,
        endpoint: &Endpoint,
        name: &str,
        body: &str,
        format: Format,
    ) -> anyhow::Result<bool> {
        let id =
            self.id.clone().unwrap_or_else(|| format!("msg_{}", uuid::Uuid::now_v7().simple()));
        let timestamp = self.timestamp.unwrap_or_else(|| Utc::now().timestamp());
        let signature = endpoint.secret.sign(&id, timestamp, body);
        let request = endpoint
            .client
            .post(&endpoint.url)
            .header("content-type", "application/json")
            .header("svix-id", &id)
            .header("svix-timestamp", timestamp)
            .header("svix-signature", signature)
            .body(body.to_owned());
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(unreachable(error, &endpoint.url).await),
        };
        let status = answer.status();
        let text = answer.text().await.map_err(reqwest::Error::without_url)?;
        report(name, &id, status, text.trim_end(), format);
        if status == StatusCode::NOT_FOUND && format == Format::Text {
            say!("  the webhook endpoint is POST /webhooks/clerk on ENTITLEMENTS_WEBHOOK_LISTEN");
        }
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

fn report(name: &str, id: &str, status: StatusCode, text: &str, format: Format) {
    if format == Format::Json {
        let answer: Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        let status = status.as_u16();
        return say_json(
            &json!({ "file": name, "svixId": id, "status": status, "answer": answer }),
        );
    }
    let style = if status.is_success() { GOOD } else { BAD };
    say!("{name}: {} {text}", paint(style, status.as_str()));
}

/// The bodies of a folder, without those that delete their subject: a deletion outranks everything that is sent later.
fn all(folder: &Path, format: Format) -> anyhow::Result<Vec<(String, String)>> {
    let place = folder.display();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {place}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {place}"))?.path();
        files.extend((path.extension().is_some_and(|end| end == "json")).then_some(path));
    }
    files.sort();
    let mut bodies = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let body = read(&name)?;
        match (deletes(&body), format) {
            (true, Format::Text) => say!("{name}: left out, because it deletes its subject"),
            (true, Format::Json) => say_json(&json!({ "file": name, "leftOut": true })),
            (false, _) => bodies.push((name, body)),
        }
    }
    if bodies.is_empty() {
        bail!("{place} has no *.json file to send, except bodies that delete their subject");
    }
    Ok(bodies)
}

fn deletes(body: &str) -> bool {
    let event = serde_json::from_str::<Value>(body).unwrap_or_default();
    matches!(event["type"].as_str(), Some("user.deleted" | "organization.deleted"))
}

/// The error of a request that got no HTTP answer, with the cause if the port tells.
async fn unreachable(error: reqwest::Error, url: &str) -> anyhow::Error {
    let Ok(uri) = url.parse() else {
        return anyhow!(
            "--url (ENTITLEMENTS_WEBHOOK_URL) must be a URL such as http://host:port/webhooks/clerk"
        );
    };
    let shown = port::shown(&uri);
    let cause = match (port::speaks(&uri).await, url.starts_with("https://")) {
        (Some(Speaks::Tls), false) => "this port speaks TLS: give --url as https://…",
        (Some(Speaks::Http1 | Speaks::Http2), true) => {
            "this port does not speak TLS: give --url as http://…"
        }
        (Some(Speaks::Http2), false) => {
            "this port speaks gRPC: give the URL of the webhook listener (ENTITLEMENTS_WEBHOOK_LISTEN), port 8080 by \
             default"
        }
        (Some(_) | None, _) => {
            let error = error.without_url(); // it may contain a password
            return anyhow::Error::new(error).context(format!("cannot reach {shown}"));
        }
    };
    anyhow!("{shown}: {cause}")
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
