//! Authentication of callers, and TLS of the listeners. A listener that other machines can reach is rejected, unless
//! callers are authenticated or the setting `ENTITLEMENTS_INSECURE` allows it.

use super::parse::switch;
use crate::domain::loopback::is_loopback;
use anyhow::bail;
use clap::{ArgAction, Args};
use std::{net::SocketAddr, path::PathBuf};

/// Authentication of callers, and TLS of the listeners.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Callers and TLS")]
pub struct ListenerSettings {
    /// File of the callers that may use gRPC and `ENTITLEMENTS_PROTOCOLS`, written by `entitlements keys`; reloaded
    /// when it changes
    #[arg(long, env = "ENTITLEMENTS_CALLERS", value_name = "FILE")]
    pub callers: Option<PathBuf>,

    /// Serve gRPC and `ENTITLEMENTS_PROTOCOLS` without authentication on an address that other machines can reach; only
    /// for networks that are protected by other means
    #[arg(long, env = "ENTITLEMENTS_INSECURE", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub insecure: bool,

    /// TLS certificate chain of the API listener (PEM); enables TLS; reloaded when it changes
    #[arg(long, env = "ENTITLEMENTS_API_TLS_CERT", value_name = "FILE", requires = "api_tls_key")]
    pub api_tls_cert: Option<PathBuf>,

    /// Private key of `ENTITLEMENTS_API_TLS_CERT` (PEM)
    #[arg(long, env = "ENTITLEMENTS_API_TLS_KEY", value_name = "FILE", requires = "api_tls_cert")]
    pub api_tls_key: Option<PathBuf>,

    /// Certificate authorities (PEM) whose client certificates may use the API listener
    #[arg(
        long,
        env = "ENTITLEMENTS_API_CLIENT_CA",
        value_name = "FILE",
        requires = "api_tls_cert"
    )]
    pub api_client_ca: Option<PathBuf>,

    /// TLS certificate chain of the webhook listener (PEM); enables TLS; reloaded when it changes
    #[arg(
        long,
        env = "ENTITLEMENTS_WEBHOOK_TLS_CERT",
        value_name = "FILE",
        requires = "webhook_tls_key"
    )]
    pub webhook_tls_cert: Option<PathBuf>,

    /// Private key of `ENTITLEMENTS_WEBHOOK_TLS_CERT` (PEM)
    #[arg(
        long,
        env = "ENTITLEMENTS_WEBHOOK_TLS_KEY",
        value_name = "FILE",
        requires = "webhook_tls_cert"
    )]
    pub webhook_tls_key: Option<PathBuf>,

    /// TLS certificate chain of the operator listener (PEM); enables TLS; reloaded when it changes
    #[arg(
        long,
        env = "ENTITLEMENTS_OPERATOR_TLS_CERT",
        value_name = "FILE",
        requires = "operator_tls_key"
    )]
    pub operator_tls_cert: Option<PathBuf>,

    /// Private key of `ENTITLEMENTS_OPERATOR_TLS_CERT` (PEM)
    #[arg(
        long,
        env = "ENTITLEMENTS_OPERATOR_TLS_KEY",
        value_name = "FILE",
        requires = "operator_tls_cert"
    )]
    pub operator_tls_key: Option<PathBuf>,
}

/// Authentication of callers, and TLS of the listeners, as the files that they are read from; by default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerFiles {
    /// The callers that may use gRPC and the HTTP protocols.
    pub callers: Option<PathBuf>,
    /// The certificate authorities of client certificates, for the API listener.
    pub client_ca: Option<PathBuf>,
    /// TLS of the API listener.
    pub api: Option<CertificateFiles>,
    /// TLS of the webhook listener.
    pub webhook: Option<CertificateFiles>,
    /// TLS of the operator listener.
    pub operator: Option<CertificateFiles>,
}

/// The files of a listener's certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

impl ListenerFiles {
    /// Whether gRPC and the HTTP protocols are for authenticated callers only.
    #[must_use]
    pub fn require_callers(&self) -> bool {
        self.callers.is_some() || self.client_ca.is_some()
    }
}

impl ListenerSettings {
    /// The files that are set.
    #[must_use]
    pub fn files(&self) -> ListenerFiles {
        ListenerFiles {
            callers: self.callers.clone(),
            client_ca: self.api_client_ca.clone(),
            api: pair(self.api_tls_cert.as_ref(), self.api_tls_key.as_ref()),
            webhook: pair(self.webhook_tls_cert.as_ref(), self.webhook_tls_key.as_ref()),
            operator: pair(self.operator_tls_cert.as_ref(), self.operator_tls_key.as_ref()),
        }
    }

    /// Rejects a listener that answers checks without authentication and that other machines can reach.
    pub(super) fn check_exposed(&self, name: &str, address: SocketAddr) -> anyhow::Result<()> {
        if is_loopback(address.ip()) || self.files().require_callers() {
            return Ok(());
        }
        if !self.insecure {
            bail!(
                "{name} {address} can be reached from other machines, and would answer checks without \
                 authentication: require API keys (`entitlements keys create NAME --scope check --callers FILE`, \
                 then --callers FILE) or client certificates (--api-client-ca, --api-tls-cert and \
                 --api-tls-key); if only your own services can reach it, --insecure serves it without \
                 authentication"
            );
        }
        Ok(())
    }
}

fn pair(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<CertificateFiles> {
    Some(CertificateFiles { certificate: certificate?.clone(), key: key?.clone() })
}
