//! `entitlements ready`: the health check of containers, whose images have neither a shell nor curl.

use crate::{cli::probe, config::address};
use clap::Args;
use reqwest::Response;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

/// How long an answer may take: less than containers' health checks may.
const PATIENCE: Duration = Duration::from_secs(2);

/// Exits with 0 if the service on this machine is ready, 1 if it is not: what a HEALTHCHECK may exit with.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Ready {
    /// Where `serve` answers probes, as it was told itself
    #[arg(long, env, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090")]
    internal_listen: SocketAddr,

    /// Asks by TLS, as `serve` answers with this setting; the file itself is not read
    #[arg(long, env, value_name = "FILE")]
    internal_tls_cert: Option<PathBuf>,
}

impl Ready {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let service = probe::url(self.internal_listen, self.internal_tls_cert.is_some());
        let answer = probe::ask(format!("{service}/readyz"), PATIENCE).await;
        let ready = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        match answer.map(Response::text) {
            Ok(text) => print!("{}", text.await.unwrap_or_default()),
            Err(_) => eprintln!("nothing answers on {service} (is `entitlements serve` running?)"),
        }
        Ok(ExitCode::from(u8::from(!ready)))
    }
}
