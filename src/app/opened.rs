//! Opens what the settings name: key files, certificates, and clients of Clerk's APIs.

use super::{catalog_file::CatalogFile, listener_security::ListenerSecurity, startup_warnings};
use crate::{
    clerk::{BackendApi, SessionKeys, SessionVerifier},
    config::{BackendAccess, Config, KeySource, ListenerFiles, SessionConfig},
};
use anyhow::Context;
use std::sync::Arc;

/// The objects that a service opens before it starts.
pub(super) struct Opened {
    /// Authentication of callers, and TLS of the listeners.
    pub security: ListenerSecurity,
    /// Client of Clerk's Backend API; `None` without a secret key.
    pub backend_api: Option<BackendApi>,
    /// Verifies session tokens; `None` without a key.
    pub sessions: Option<SessionVerifier>,
    /// The catalog file; `None` without one.
    pub catalog: Option<Arc<CatalogFile>>,
}

impl Opened {
    /// Opens what the settings name.
    ///
    /// # Errors
    /// If a file, key or URL cannot be used; the error names its setting.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let security = ListenerSecurity::read(&config.listeners)?;
        startup_warnings::log(config, &security);
        let backend_api = config.backend_api.as_ref().map(backend_api).transpose()?;
        let sessions = config.sessions.clone().map(sessions).transpose()?;
        let catalog = CatalogFile::open(config)?.map(Arc::new);
        Ok(Self { security, backend_api, sessions, catalog })
    }
}

/// Opens what these settings name and closes it again; returns all faults.
#[must_use]
pub fn faults(listeners: &ListenerFiles, session: Option<SessionConfig>) -> Vec<anyhow::Error> {
    let session = session.and_then(|session| sessions(session).err());
    ListenerSecurity::faults(listeners).chain(session).collect()
}

/// A client of Clerk's Backend API.
///
/// # Errors
/// If the key or the URL is invalid; the error names its setting.
pub fn backend_api(access: &BackendAccess) -> anyhow::Result<BackendApi> {
    Ok(BackendApi::new(&access.url, &access.key)?)
}

fn sessions(config: SessionConfig) -> anyhow::Result<SessionVerifier> {
    let keys = match &config.keys {
        KeySource::Pem(pem) => SessionKeys::given(pem).context("CLERK_JWT_KEY")?,
        KeySource::Url(url) => SessionKeys::published(url).context("CLERK_JWKS_URL")?,
    };
    Ok(SessionVerifier::new(keys, config.rules).of_instance(config.instance))
}
