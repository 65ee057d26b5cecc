//! How commands reach a running service.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::{fs, path::PathBuf, time::Duration};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// A running service, and how to reach it.
#[derive(Debug, Args)]
pub(super) struct Service {
    /// The service; with https, its certificate must be of an authority that this machine trusts, or of --ca
    #[arg(long, env = "ENTITLEMENTS_ADDR", default_value = "http://127.0.0.1:50051")]
    addr: String,

    /// API key to present, `ent_…`
    #[arg(long, env = "ENTITLEMENTS_KEY", hide_env_values = true)]
    key: Option<SecretString>,

    /// Authority that has issued the service's certificate, in PEM
    #[arg(long, env = "ENTITLEMENTS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Client certificate to present, in PEM
    #[arg(long, env = "ENTITLEMENTS_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// Private key of the client certificate, in PEM
    #[arg(long, env = "ENTITLEMENTS_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl Service {
    /// Connects, or says why not.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let wants_tls = self.ca.is_some() || self.client_cert.is_some();
        let scheme = if wants_tls { "https" } else { "http" };
        let with_scheme = self.addr.contains("://");
        let address =
            if with_scheme { self.addr.clone() } else { format!("{scheme}://{}", self.addr) };
        let endpoint =
            Endpoint::from_shared(address).context("--addr must be as http://host:port")?;
        let mut endpoint = endpoint.connect_timeout(Duration::from_secs(5));
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?).context("cannot set up TLS")?;
        } else if wants_tls {
            bail!("--ca and --client-cert are for TLS: give --addr as https://host:port");
        }
        let channel = endpoint.connect().await;
        channel.with_context(|| format!("cannot reach {} (is it running?)", self.addr))
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
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

    /// A request that presents the key.
    pub(super) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            let bearer = format!("Bearer {}", key.expose_secret().trim()).parse();
            let bearer = bearer.context("--key has characters that no header may have")?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}

/// What the service said, with the way out where this command knows it.
pub(super) fn said(status: &Status) -> anyhow::Error {
    let out = match status.code() {
        Code::Unauthenticated => " (give the key by --key or ENTITLEMENTS_KEY)",
        Code::PermissionDenied => {
            " (`entitlements keys create NAME --scope …` makes a key that has it)"
        }
        Code::Unimplemented => " (is it served? start the service with --admin)",
        _ => "",
    };
    anyhow!("{:?}: {}{out}", status.code(), status.message())
}
