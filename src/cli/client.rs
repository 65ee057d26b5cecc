//! Connects commands to a running service.

use super::{
    port::{self, Speaks},
    probe::reachable,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use http::Uri;
use secrecy::{ExposeSecret, SecretString};
use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};
use tonic::{
    Code, Request, Status,
    transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long the service may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the service may take to answer a call.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// The address of a running service, and the credentials for it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Running service")]
pub(super) struct ServiceAddress {
    /// URL of the service; an https certificate must be issued by --ca or by an authority that this machine trusts
    /// [default: `ENTITLEMENTS_API_LISTEN` of this machine, else `http://127.0.0.1:50051`]
    #[arg(long, env = "ENTITLEMENTS_ADDR", value_name = "URL", global = true)]
    addr: Option<String>,

    /// Address of the API listener of `serve` on this machine, if `--addr` is not given
    #[arg(
        long,
        env = "ENTITLEMENTS_API_LISTEN",
        value_name = "ADDRESS",
        value_parser = crate::config::address,
        hide = true,
        global = true
    )]
    api_listen: Option<SocketAddr>,

    /// TLS certificate of that listener; the file is not read
    #[arg(
        long,
        env = "ENTITLEMENTS_API_TLS_CERT",
        value_name = "FILE",
        hide = true,
        global = true
    )]
    api_tls_cert: Option<PathBuf>,

    /// API key, `ent_…`
    #[arg(long, env = "ENTITLEMENTS_KEY", hide_env_values = true, global = true)]
    key: Option<SecretString>,

    /// Certificate authority of the service's certificate (PEM)
    #[arg(long, env = "ENTITLEMENTS_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,

    /// Client certificate (PEM)
    #[arg(
        long,
        env = "ENTITLEMENTS_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key",
        global = true
    )]
    client_cert: Option<PathBuf>,

    /// Private key of the client certificate (PEM)
    #[arg(
        long,
        env = "ENTITLEMENTS_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert",
        global = true
    )]
    client_key: Option<PathBuf>,
}

impl ServiceAddress {
    /// Connects to the service.
    ///
    /// # Errors
    /// If the address or a certificate is invalid, or if no gRPC service answers; the error says what answers instead.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let wants_tls = self.ca.is_some() || self.client_cert.is_some();
        let endpoint = Endpoint::from_shared(self.url(wants_tls))
            .context("--addr (ENTITLEMENTS_ADDR) must be a URL such as http://host:port")?;
        let mut endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT);
        let (uri, shown) = (endpoint.uri().clone(), port::shown(endpoint.uri()));
        if uri.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?).context("cannot set up TLS")?;
            let channel = endpoint.connect().await;
            return match channel {
                Err(error) => Err(with_cause(error, &uri, &shown).await),
                Ok(channel) => Ok(channel),
            };
        }
        if wants_tls {
            bail!("--ca and --client-cert need TLS: give --addr as https://host:port");
        }
        // Without TLS, a channel connects to any port, and only the first call fails.
        match port::speaks(&uri).await {
            Some(Speaks::Tls) => {
                bail!("{shown}: this port speaks TLS: give --addr as https://host:port, and --ca")
            }
            Some(Speaks::Http1) => bail!(
                "{shown}: this port is not gRPC, it speaks HTTP/1.1: give the address of the API listener \
                 (ENTITLEMENTS_API_LISTEN), 50051 by default"
            ),
            Some(Speaks::Other) => bail!(
                "{shown}: this port is not gRPC: give the address of the API listener \
                 (ENTITLEMENTS_API_LISTEN), 50051 by default"
            ),
            Some(Speaks::Http2) | None => {}
        }
        let channel = endpoint.connect().await;
        channel.with_context(|| format!("cannot reach {shown}: is the service running there?"))
    }

    fn url(&self, wants_tls: bool) -> String {
        let is_local = self.addr.is_none() && self.api_listen.is_some();
        let listener_speaks_tls = is_local && self.api_tls_cert.is_some();
        let scheme = if wants_tls || listener_speaks_tls { "https" } else { "http" };
        match (&self.addr, self.api_listen) {
            (Some(addr), _) if addr.contains("://") => addr.clone(),
            (Some(addr), _) => format!("{scheme}://{addr}"),
            (None, Some(listener)) => format!("{scheme}://{}", reachable(listener)),
            (None, None) => format!("{scheme}://127.0.0.1:50051"),
        }
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let read = |path: &PathBuf| {
            let what = "--ca, --client-cert, --client-key or their variables: cannot read";
            fs::read(path).with_context(|| format!("{what} {}", path.display()))
        };
        let tls = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        Ok(match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            _ => tls,
        })
    }

    /// Adds the API key to a request.
    pub(super) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            let bearer = format!("Bearer {}", key.expose_secret().trim()).parse();
            let bearer = bearer.context(
                "--key (ENTITLEMENTS_KEY) has characters that are not allowed in a header: copy the key again",
            )?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}

/// The error of a connection with TLS. If the port does not speak TLS, the error says so.
async fn with_cause(error: transport::Error, uri: &Uri, shown: &str) -> anyhow::Error {
    match port::speaks(uri).await {
        Some(Speaks::Http1 | Speaks::Http2) => {
            anyhow!("{shown}: this port does not speak TLS: give --addr as http://host:port")
        }
        Some(Speaks::Tls | Speaks::Other) | None => {
            let text = format!("cannot reach {shown}: is the service running there?");
            anyhow::Error::new(error).context(text)
        }
    }
}

/// An error from the status of a call, with the fix where it is known.
pub(super) fn status_error(status: &Status) -> anyhow::Error {
    let fix = match status.code() {
        Code::Unauthenticated => " (give the key by --key or ENTITLEMENTS_KEY)",
        Code::PermissionDenied => {
            " (create a key that has it: `entitlements keys create NAME --scope …`)"
        }
        Code::Unimplemented => " (to serve it, start the service with --admin)",
        _ => "",
    };
    anyhow!("{:?}: {}{fix}", status.code(), status.message())
}
