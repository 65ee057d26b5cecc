//! `entitlements ready`: the health check of containers, whose images have neither a shell nor curl.

use clap::Args;
use reqwest::{Client, Response};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Exits with 0 if the service on this machine is ready, 1 if it is not: what a HEALTHCHECK may exit with.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Ready {
    /// Where `serve` answers probes, as it was told itself
    #[arg(long, env, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    internal_listen: SocketAddr,
}

impl Ready {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let address = reachable(self.internal_listen);
        // Probes are plain HTTP: no authorities need be there, and none are read.
        let client = Client::builder().tls_certs_only([]).no_proxy().timeout(PATIENCE).build()?;
        let answer = client.get(format!("http://{address}/readyz")).send().await;
        let ready = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        match answer.map(Response::text) {
            Ok(text) => print!("{}", text.await.unwrap_or_default()),
            Err(_) => eprintln!("nothing answers on {address} (is `entitlements serve` running?)"),
        }
        Ok(ExitCode::from(u8::from(!ready)))
    }
}

/// A listener on every address of the machine is asked on the loopback one.
fn reachable(mut listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    listener
}
