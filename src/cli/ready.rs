//! `entitlements ready`: the health check of containers, because the image has neither a shell nor curl.

use super::output::{Format, complain, say_json};
use crate::{cli::probe, config::address};
use clap::Args;
use reqwest::Response;
use serde_json::json;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

/// Timeout of the request, shorter than the timeout of the container's health check (3 s).
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks whether the service on this machine is ready: a health check for containers.
///
/// Exits with 0 if the service is ready, else with 1, as Docker's HEALTHCHECK requires.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  entitlements ready --operator-listen 127.0.0.1:9090")]
pub(super) struct ReadyCommand {
    /// Operator listener of `serve` on this machine
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_LISTEN", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090")]
    operator_listen: SocketAddr,

    /// Use TLS if this is set, as `serve` does; the file is not read
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_TLS_CERT", value_name = "FILE")]
    operator_tls_cert: Option<PathBuf>,
}

impl ReadyCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let service = probe::url(self.operator_listen, self.operator_tls_cert.is_some());
        let answer = probe::ask(format!("{service}/readyz"), PROBE_TIMEOUT).await;
        let ready = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        let answered = answer.is_ok();
        let text = match answer.map(Response::text) {
            Ok(text) => text.await.unwrap_or_default(),
            Err(_) => format!("nothing answers on {service} (is `entitlements serve` running?)"),
        };
        let text = text.trim_end();
        match format {
            Format::Json => say_json(&json!({ "ready": ready, "detail": text })),
            Format::Text if answered => say!("{text}"),
            Format::Text => complain(text),
        }
        Ok(ExitCode::from(u8::from(!ready)))
    }
}
