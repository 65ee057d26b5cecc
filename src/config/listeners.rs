//! Who may call, and how listeners are encrypted: what is open to whom is decided, and told, at start.

use super::parse::switch;
use crate::{
    domain::loopback::{is_loopback, is_this_machine},
    server::auth::Callers,
    server::tls::{Files, Protocol, Tls},
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

/// Who may call, and how listeners are encrypted.
#[derive(Debug, Clone, Args)]
pub struct Doors {
    /// Who may call gRPC and ask by `PROTOCOLS`: the file that `entitlements keys` writes, read again when it changes
    #[arg(long, env, value_name = "FILE")]
    pub callers: Option<PathBuf>,

    /// Serve gRPC to whoever reaches it, also on an address that other machines reach: for networks that are protected
    /// otherwise
    #[arg(long, env, value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub insecure: bool,

    /// Certificate of gRPC, with those up to its authority, in PEM: serves TLS; read again when it changes
    #[arg(long, env, value_name = "FILE", requires = "grpc_tls_key")]
    pub grpc_tls_cert: Option<PathBuf>,

    /// Private key of `GRPC_TLS_CERT`, in PEM
    #[arg(long, env, value_name = "FILE", requires = "grpc_tls_cert")]
    pub grpc_tls_key: Option<PathBuf>,

    /// Authorities whose client certificates may call, in PEM: gRPC, and where `INTERNAL_TLS_CERT` is set, that listener
    #[arg(long, env, value_name = "FILE", requires = "grpc_tls_cert")]
    pub grpc_client_ca: Option<PathBuf>,

    /// Certificate of webhooks and probes, as `GRPC_TLS_CERT`
    #[arg(long, env, value_name = "FILE", requires = "http_tls_key")]
    pub http_tls_cert: Option<PathBuf>,

    /// Private key of `HTTP_TLS_CERT`
    #[arg(long, env, value_name = "FILE", requires = "http_tls_cert")]
    pub http_tls_key: Option<PathBuf>,

    /// Certificate of metrics and probes, as `GRPC_TLS_CERT`
    #[arg(long, env, value_name = "FILE", requires = "internal_tls_key")]
    pub internal_tls_cert: Option<PathBuf>,

    /// Private key of `INTERNAL_TLS_CERT`
    #[arg(long, env, value_name = "FILE", requires = "internal_tls_cert")]
    pub internal_tls_key: Option<PathBuf>,
}

/// What keeps the listeners closed; by default nothing.
#[derive(Clone, Default)]
pub struct Locks {
    /// Who may call gRPC; everybody, if this is not known.
    pub callers: Option<Arc<Callers>>,
    /// TLS of gRPC.
    pub grpc: Option<Arc<Tls>>,
    /// TLS of webhooks.
    pub http: Option<Arc<Tls>>,
    /// TLS of metrics.
    pub internal: Option<Arc<Tls>>,
}

impl Locks {
    /// All certificates of listeners.
    #[must_use]
    pub fn certificates(&self) -> Vec<Arc<Tls>> {
        [&self.grpc, &self.http, &self.internal].into_iter().flatten().cloned().collect()
    }

    /// Reads keys and certificates again when they change, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let callers = async {
            match &self.callers {
                Some(callers) => callers.follow().await,
                None => std::future::pending().await,
            }
        };
        let tls = self.certificates();
        let tls = join_all(tls.iter().map(|tls| tls.follow()));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = join(callers, tls) => {}
        }
    }
}

impl Doors {
    /// Reads all files, and refuses to answer in the open by accident.
    pub fn check(
        &self,
        grpc: SocketAddr,
        internal: SocketAddr,
        asked_inside: bool,
    ) -> anyhow::Result<Locks> {
        let clients = self.grpc_client_ca.as_ref();
        let pair = (self.grpc_tls_cert.as_ref(), self.grpc_tls_key.as_ref());
        let grpc_tls = tls("GRPC_TLS_CERT", pair, clients, Protocol::Http2)?;
        let pair = (self.http_tls_cert.as_ref(), self.http_tls_key.as_ref());
        let http = tls("HTTP_TLS_CERT", pair, None, Protocol::Http1)?;
        let pair = (self.internal_tls_cert.as_ref(), self.internal_tls_key.as_ref());
        let internal_tls = tls("INTERNAL_TLS_CERT", pair, clients, Protocol::Http1)?;
        let callers = self.callers(clients.is_some())?.map(Arc::new);
        let locks = Locks { callers, grpc: grpc_tls, http, internal: internal_tls };

        let asked = Face { prefix: "GRPC", address: grpc, tls: &locks.grpc };
        let inside = Face { prefix: "INTERNAL", address: internal, tls: &locks.internal };
        for face in [Some(asked), asked_inside.then_some(inside)].into_iter().flatten() {
            if !is_loopback(face.address.ip()) {
                self.judge_public(&face, locks.callers.as_deref())?;
            }
        }
        if !is_loopback(internal.ip()) {
            tracing::warn!(
                %internal,
                "INTERNAL_LISTEN {internal} can be reached from other machines, and tells its metrics to whoever asks: \
                 let only your monitoring reach it"
            );
        }
        Ok(locks)
    }

    fn callers(&self, has_client_ca: bool) -> anyhow::Result<Option<Callers>> {
        if self.callers.is_none() && !has_client_ca {
            return Ok(None);
        }
        let callers = Callers::read(self.callers.as_deref())?;
        if !callers.has_keys() && !has_client_ca {
            tracing::warn!(
                "CALLERS has no keys yet, so nobody may call: `entitlements keys create` makes one"
            );
        }
        Ok(Some(callers))
    }

    /// Others than this machine can reach a listener that tells who may use what.
    fn judge_public(&self, face: &Face<'_>, callers: Option<&Callers>) -> anyhow::Result<()> {
        let Face { prefix, address, tls } = face;
        match (callers, tls) {
            (Some(callers), None) if callers.has_keys() => tracing::warn!(
                "API keys cross the network in plain text: set {prefix}_TLS_CERT and {prefix}_TLS_KEY, unless \
                 something in front of this service encrypts"
            ),
            (Some(_), _) => {}
            (None, _) if self.insecure => tracing::warn!(
                %address,
                "{prefix}_LISTEN {address} can be reached from other machines, and answers whoever asks"
            ),
            (None, _) => bail!(
                "{prefix}_LISTEN {address} can be reached from other machines, and would tell whoever asks who has \
                 paid for what: name the callers that have API keys (`entitlements keys create NAME --scope check \
                 --callers FILE`, then --callers FILE), or trust client certificates (--grpc-client-ca, \
                 --grpc-tls-cert and --grpc-tls-key); where only your own services reach it, --insecure serves it as \
                 it is"
            ),
        }
        Ok(())
    }
}

/// A listener that tells who may use what.
struct Face<'f> {
    /// What its settings begin with.
    prefix: &'static str,
    address: SocketAddr,
    tls: &'f Option<Arc<Tls>>,
}

fn tls(
    name: &'static str,
    pair: (Option<&PathBuf>, Option<&PathBuf>),
    clients: Option<&PathBuf>,
    protocol: Protocol,
) -> anyhow::Result<Option<Arc<Tls>>> {
    let (Some(certificate), Some(key)) = pair else { return Ok(None) };
    let files =
        Files { certificate: certificate.clone(), key: key.clone(), clients: clients.cloned() };
    Ok(Some(Arc::new(Tls::read(name, files, protocol)?)))
}

/// Warns if the connection to the database could be read or changed by whoever sits between.
pub(super) fn warn_of_unverified(database: &PgConnectOptions) {
    let host = database.get_host();
    let is_socket = database.get_socket().is_some() || Path::new(host).is_absolute();
    let is_here = is_this_machine(host);
    let is_verified =
        matches!(database.get_ssl_mode(), PgSslMode::VerifyFull | PgSslMode::VerifyCa);
    if !is_socket && !is_here && !is_verified {
        tracing::warn!(
            "DATABASE_URL does not ask {host} to prove who it is: whoever is in between can read and change what is \
             said, the password included; add sslmode=verify-full (and sslrootcert=FILE for a private authority)"
        );
    }
}
