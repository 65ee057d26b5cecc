//! Reads the keys and certificates that the settings name, and reloads them when their files change.

use crate::{
    config::{CertificateFiles, ListenerFiles},
    server::{
        auth::Callers,
        tls::{Alpn, Tls, TlsFiles},
    },
};
use futures_util::future::{join, join_all};
use std::{path::Path, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Authentication of callers, and TLS of the listeners.
#[derive(Clone)]
pub(super) struct ListenerSecurity {
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
    /// Reads the files.
    ///
    /// # Errors
    /// If a file cannot be used; the error names its setting.
    pub fn read(files: &ListenerFiles) -> anyhow::Result<Self> {
        let (callers, [api, webhook, operator]) = (callers(files), all_tls(files));
        Ok(Self { callers: callers?, api: api?, webhook: webhook?, operator: operator? })
    }

    /// The faults of the files, each with its setting.
    pub fn faults(files: &ListenerFiles) -> impl Iterator<Item = anyhow::Error> {
        let all = all_tls(files).into_iter().filter_map(Result::err);
        callers(files).err().into_iter().chain(all)
    }

    /// The certificates of all listeners that use TLS.
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

fn callers(files: &ListenerFiles) -> anyhow::Result<Option<Arc<Callers>>> {
    let callers = files.require_callers().then(|| Callers::read(files.callers.as_deref()));
    Ok(callers.transpose()?.map(Arc::new))
}

/// TLS of the API listener, the webhook listener and the operator listener.
fn all_tls(files: &ListenerFiles) -> [anyhow::Result<Option<Arc<Tls>>>; 3] {
    let clients = files.client_ca.as_deref();
    let (api, webhook, operator) =
        (files.api.as_ref(), files.webhook.as_ref(), files.operator.as_ref());
    [
        tls(["ENTITLEMENTS_API_TLS_CERT", "ENTITLEMENTS_API_TLS_KEY"], api, clients, Alpn::Both),
        tls(
            ["ENTITLEMENTS_WEBHOOK_TLS_CERT", "ENTITLEMENTS_WEBHOOK_TLS_KEY"],
            webhook,
            None,
            Alpn::Http1,
        ),
        tls(
            ["ENTITLEMENTS_OPERATOR_TLS_CERT", "ENTITLEMENTS_OPERATOR_TLS_KEY"],
            operator,
            None,
            Alpn::Http1,
        ),
    ]
}

fn tls(
    settings: [&'static str; 2],
    files: Option<&CertificateFiles>,
    clients: Option<&Path>,
    protocol: Alpn,
) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(CertificateFiles { certificate, key }) = files.cloned() else { return Ok(None) };
    let files = TlsFiles {
        certificate: (settings[0], certificate),
        key: (settings[1], key),
        clients: clients.map(|clients| ("ENTITLEMENTS_API_CLIENT_CA", clients.to_path_buf())),
    };
    Ok(Some(Arc::new(Tls::read(files, protocol)?)))
}
