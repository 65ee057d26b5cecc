//! `entitlements ready`: the health check of containers, because the image has neither a shell nor curl.

use crate::{cli::probe, config::address};
use clap::Args;
use reqwest::Response;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

/// Timeout of the request, shorter than the timeout of the container's health check (3 s).
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Exits with 0 if the service on this machine is ready, else with 1, as Docker's HEALTHCHECK requires.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ReadyCommand {
    /// Operator listener of `serve` on this machine
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_LISTEN", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090")]
    operator_listen: SocketAddr,

    /// Use TLS if this is set, as `serve` does; the file is not read
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_TLS_CERT", value_name = "FILE")]
    operator_tls_cert: Option<PathBuf>,
}

impl ReadyCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let service = probe::url(self.operator_listen, self.operator_tls_cert.is_some());
        let answer = probe::ask(format!("{service}/readyz"), PROBE_TIMEOUT).await;
        let ready = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        match answer.map(Response::text) {
            Ok(text) => print!("{}", text.await.unwrap_or_default()),
            Err(_) => eprintln!("nothing answers on {service} (is `entitlements serve` running?)"),
        }
        Ok(ExitCode::from(u8::from(!ready)))
    }
}
