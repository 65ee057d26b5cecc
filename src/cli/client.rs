//! Connects commands to a running service.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::{fs, path::PathBuf, time::Duration};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// The address of a running service, and the credentials for it.
#[derive(Debug, Args)]
pub(super) struct ServiceAddress {
    /// URL of the service; an https certificate must be issued by --ca or by an authority that this machine trusts
    #[arg(long, env = "ENTITLEMENTS_ADDR", default_value = "http://127.0.0.1:50051")]
    addr: String,

    /// API key, `ent_…`
    #[arg(long, env = "ENTITLEMENTS_KEY", hide_env_values = true)]
    key: Option<SecretString>,

    /// Certificate authority of the service's certificate (PEM)
    #[arg(long, env = "ENTITLEMENTS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Client certificate (PEM)
    #[arg(long, env = "ENTITLEMENTS_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// Private key of the client certificate (PEM)
    #[arg(long, env = "ENTITLEMENTS_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl ServiceAddress {
    /// Connects to the service.
    ///
    /// # Errors
    /// If the address or a certificate is invalid, or if the service does not answer.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let wants_tls = self.ca.is_some() || self.client_cert.is_some();
        let scheme = if wants_tls { "https" } else { "http" };
        let with_scheme = self.addr.contains("://");
        let address =
            if with_scheme { self.addr.clone() } else { format!("{scheme}://{}", self.addr) };
        let endpoint = Endpoint::from_shared(address)
            .context("--addr must be a URL such as http://host:port")?;
        let mut endpoint = endpoint.connect_timeout(Duration::from_secs(5));
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?).context("cannot set up TLS")?;
        } else if wants_tls {
            bail!("--ca and --client-cert need TLS: give --addr as https://host:port");
        }
        let channel = endpoint.connect().await;
        channel
            .with_context(|| format!("cannot reach {}: is the service running there?", self.addr))
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

    /// Adds the API key to a request.
    pub(super) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            let bearer = format!("Bearer {}", key.expose_secret().trim()).parse();
            let bearer = bearer.context(
                "--key has characters that are not allowed in a header: copy the key again",
            )?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
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
