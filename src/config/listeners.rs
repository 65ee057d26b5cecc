//! Authentication of callers, and TLS of the listeners. A listener that other machines can reach is rejected or
//! warned of at start.

use super::parse::switch;
use crate::{
    domain::loopback::{is_loopback, is_this_machine},
    server::auth::Callers,
    server::tls::{Alpn, Tls, TlsFiles},
};
use anyhow::bail;
use clap::{ArgAction, Args};
use futures_util::future::{join, join_all};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Authentication of callers, and TLS of the listeners.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Callers and TLS")]
pub struct ListenerSettings {
    /// File of the callers that may use gRPC and `PROTOCOLS`, written by `entitlements keys`; reloaded when it changes
    #[arg(long, env, value_name = "FILE")]
    pub callers: Option<PathBuf>,

    /// Serve gRPC and `PROTOCOLS` without authentication on an address that other machines can reach; only for networks
    /// that are protected by other means
    #[arg(long, env, value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub insecure: bool,

    /// TLS certificate chain of the API listener (PEM); enables TLS; reloaded when it changes
    #[arg(long, env, value_name = "FILE", requires = "api_tls_key")]
    pub api_tls_cert: Option<PathBuf>,

    /// Private key of `API_TLS_CERT` (PEM)
    #[arg(long, env, value_name = "FILE", requires = "api_tls_cert")]
    pub api_tls_key: Option<PathBuf>,

    /// Certificate authorities (PEM) whose client certificates may use the API listener and, if `OPERATOR_TLS_CERT` is
    /// set, the operator listener
    #[arg(long, env, value_name = "FILE", requires = "api_tls_cert")]
    pub api_client_ca: Option<PathBuf>,

    /// TLS certificate chain of the webhook listener (PEM); enables TLS; reloaded when it changes
    #[arg(long, env, value_name = "FILE", requires = "webhook_tls_key")]
    pub webhook_tls_cert: Option<PathBuf>,

    /// Private key of `WEBHOOK_TLS_CERT` (PEM)
    #[arg(long, env, value_name = "FILE", requires = "webhook_tls_cert")]
    pub webhook_tls_key: Option<PathBuf>,

    /// TLS certificate chain of the operator listener (PEM); enables TLS; reloaded when it changes
    #[arg(long, env, value_name = "FILE", requires = "operator_tls_key")]
    pub operator_tls_cert: Option<PathBuf>,

    /// Private key of `OPERATOR_TLS_CERT` (PEM)
    #[arg(long, env, value_name = "FILE", requires = "operator_tls_cert")]
    pub operator_tls_key: Option<PathBuf>,
}

/// Authentication and TLS of the listeners; by default none.
#[derive(Clone, Default)]
pub struct ListenerSecurity {
    /// The callers that may use gRPC and the HTTP protocols; `None` allows everybody.
    pub callers: Option<Arc<Callers>>,
    /// TLS of the API listener.
    pub api: Option<Arc<Tls>>,
    /// TLS of the webhook listener.
    pub webhook: Option<Arc<Tls>>,
    /// TLS of the operator listener.
    pub operator: Option<Arc<Tls>>,
}

impl ListenerSecurity {
    /// The certificates of all listeners that use TLS.
    #[must_use]
    pub fn certificates(&self) -> Vec<Arc<Tls>> {
        [&self.api, &self.webhook, &self.operator].into_iter().flatten().cloned().collect()
    }

    /// Reloads keys and certificates when their files change, until `stop` is cancelled.
    pub async fn watch(self, stop: CancellationToken) {
        let callers = async {
            match &self.callers {
                Some(callers) => callers.watch().await,
                None => std::future::pending().await,
            }
        };
        let tls = self.certificates();
        let tls = join_all(tls.iter().map(|tls| tls.watch()));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = join(callers, tls) => {}
        }
    }
}

impl ListenerSettings {
    /// Reads the files of keys and certificates.
    ///
    /// # Errors
    /// If a file cannot be used, or if other machines could use a listener without authentication and `insecure` is not
    /// set.
    pub fn check(
        &self,
        grpc: SocketAddr,
        operator: SocketAddr,
        has_operator_protocols: bool,
    ) -> anyhow::Result<ListenerSecurity> {
        let clients = self.api_client_ca.as_ref();
        let pair = (self.api_tls_cert.as_ref(), self.api_tls_key.as_ref());
        let grpc_tls = tls("API_TLS_CERT", pair, clients, Alpn::Http2)?;
        let pair = (self.webhook_tls_cert.as_ref(), self.webhook_tls_key.as_ref());
        let http = tls("WEBHOOK_TLS_CERT", pair, None, Alpn::Http1)?;
        let pair = (self.operator_tls_cert.as_ref(), self.operator_tls_key.as_ref());
        let internal_tls = tls("OPERATOR_TLS_CERT", pair, clients, Alpn::Http1)?;
        let callers = self.callers(clients.is_some())?.map(Arc::new);
        let security =
            ListenerSecurity { callers, api: grpc_tls, webhook: http, operator: internal_tls };

        let api_listener = ExposedListener { prefix: "API", address: grpc, tls: &security.api };
        let operator_listener =
            ExposedListener { prefix: "OPERATOR", address: operator, tls: &security.operator };
        for listener in [Some(api_listener), has_operator_protocols.then_some(operator_listener)]
            .into_iter()
            .flatten()
        {
            if !is_loopback(listener.address.ip()) {
                self.check_exposed(&listener, security.callers.as_deref())?;
            }
        }
        if !is_loopback(operator.ip()) {
            tracing::warn!(
                %operator,
                "OPERATOR_LISTEN {operator} can be reached from other machines, and serves metrics without \
                 authentication: let only your monitoring reach it"
            );
        }
        Ok(security)
    }

    fn callers(&self, has_client_ca: bool) -> anyhow::Result<Option<Callers>> {
        if self.callers.is_none() && !has_client_ca {
            return Ok(None);
        }
        let callers = Callers::read(self.callers.as_deref())?;
        if !callers.has_keys() && !has_client_ca {
            tracing::warn!(
                "CALLERS has no keys yet, so every call is rejected: `entitlements keys create` makes a key"
            );
        }
        Ok(Some(callers))
    }

    /// Rejects, or warns of, a listener that answers checks and that other machines can reach.
    fn check_exposed(
        &self,
        listener: &ExposedListener<'_>,
        callers: Option<&Callers>,
    ) -> anyhow::Result<()> {
        let ExposedListener { prefix, address, tls } = listener;
        match (callers, tls) {
            (Some(callers), None) if callers.has_keys() => tracing::warn!(
                "API keys cross the network in plain text: set {prefix}_TLS_CERT and {prefix}_TLS_KEY, unless a \
                 proxy or mesh encrypts the connections"
            ),
            (Some(_), _) => {}
            (None, _) if self.insecure => tracing::warn!(
                %address,
                "{prefix}_LISTEN {address} can be reached from other machines, and answers checks without \
                 authentication: let only your own services reach it"
            ),
            (None, _) => bail!(
                "{prefix}_LISTEN {address} can be reached from other machines, and would answer checks without \
                 authentication: require API keys (`entitlements keys create NAME --scope check --callers FILE`, \
                 then --callers FILE) or client certificates (--api-client-ca, --api-tls-cert and \
                 --api-tls-key); if only your own services can reach it, --insecure serves it without \
                 authentication"
            ),
        }
        Ok(())
    }
}

/// A listener that answers checks.
struct ExposedListener<'f> {
    /// The prefix of the names of its settings.
    prefix: &'static str,
    address: SocketAddr,
    tls: &'f Option<Arc<Tls>>,
}

fn tls(
    name: &'static str,
    pair: (Option<&PathBuf>, Option<&PathBuf>),
    clients: Option<&PathBuf>,
    protocol: Alpn,
) -> anyhow::Result<Option<Arc<Tls>>> {
    let (Some(certificate), Some(key)) = pair else { return Ok(None) };
    let files =
        TlsFiles { certificate: certificate.clone(), key: key.clone(), clients: clients.cloned() };
    Ok(Some(Arc::new(Tls::read(name, files, protocol)?)))
}

/// Warns if an attacker on the network between could read or change the connection to Postgres.
pub(super) fn warn_of_unverified(database: &PgConnectOptions) {
    let host = database.get_host();
    let is_socket = database.get_socket().is_some() || Path::new(host).is_absolute();
    let is_local = is_this_machine(host);
    let is_verified =
        matches!(database.get_ssl_mode(), PgSslMode::VerifyFull | PgSslMode::VerifyCa);
    if !is_socket && !is_local && !is_verified {
        tracing::warn!(
            "DATABASE_URL does not verify the certificate of {host}: an attacker on the network can read and \
             change all data, including the password; add sslmode=verify-full (and sslrootcert=FILE for a private \
             authority)"
        );
    }
}
