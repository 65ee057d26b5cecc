//! The checked settings of a service.

use super::{BackendAccess, ListenerFiles, Protocol, SessionConfig};
use crate::{
    clerk::{SigningSecret, TrustedClaims},
    domain::{AllowedOrigin, Catalog, PublicUrl},
};
use sqlx::postgres::PgConnectOptions;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// The validated settings of a service. They are plain data: the files, keys and URLs that they name are not open.
pub struct Config {
    /// Connection options for Postgres.
    pub database: PgConnectOptions,
    /// Whether missing migrations are applied at start.
    pub migrate: bool,
    /// The accepted signing secrets of deliveries.
    pub signing_secrets: Vec<SigningSecret>,
    /// Access to Clerk's Backend API; `None` without a secret key.
    pub backend_api: Option<BackendAccess>,
    /// The Clerk instance to serve, if it is configured.
    pub instance: Option<String>,
    /// The parsed catalog file, and its name.
    pub catalog: Option<(Catalog, String)>,
    /// How the catalog file is used after the start.
    pub catalog_use: CatalogUse,
    /// Address of the API listener.
    pub api: SocketAddr,
    /// Address of the webhook listener.
    pub webhook: SocketAddr,
    /// Address of the operator listener.
    pub operator: SocketAddr,
    /// Protocols that are served in addition to the service's own gRPC API.
    pub protocols: Vec<Protocol>,
    /// URL at which callers reach the operator listener, if it is configured.
    pub public_url: Option<PublicUrl>,
    /// Origins whose web pages may use OFREP.
    pub ofrep_cors: Vec<AllowedOrigin>,
    /// How session tokens are verified; `None` without a key.
    pub sessions: Option<SessionConfig>,
    /// The dynamic metadata of Envoy's `jwt_authn` filter that is trusted.
    pub trusted_claims: Option<TrustedClaims>,
    /// How long checks are answered from memory while Postgres is unreachable.
    pub max_staleness: Duration,
    /// How long a check waits for Postgres.
    pub check_timeout: Duration,
    /// How long data is kept.
    pub retention: Retention,
    /// Authentication of callers, and TLS of the listeners.
    pub listeners: ListenerFiles,
    /// Whether the services Admin, Overrides and Support are served.
    pub admin: bool,
    /// The longest time for which an override may be in force unless it is permanent; `None`: any time.
    pub overrides_longest: Option<chrono::Duration>,
    /// Maximum memory of cached accounts, in bytes.
    pub cache_bytes: u64,
    /// Share of the denied checks that are logged.
    pub log_denials: Option<crate::telemetry::SampleRate>,
    /// URL of the trace collector.
    pub otlp_endpoint: Option<String>,
    /// Approximate maximum age of a gRPC connection.
    pub connection_age: Duration,
    /// How long open calls may take to finish during shutdown.
    pub stop_within: Duration,
    /// How long the service reports not ready before it stops accepting connections.
    pub stop_delay: Duration,
}

/// How a catalog file is used after the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogUse {
    /// It is not read again.
    Start,
    /// The file at this path is watched, and compared with the catalog in force.
    Compare(PathBuf),
    /// The file at this path is watched, and each change is put in force: only in `dev`, with its own database.
    Apply(PathBuf),
}

/// How long data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The bodies of deliveries.
    pub bodies: chrono::Duration,
    /// The observations that no later account depends on; `None`: for ever.
    pub history: Option<chrono::Duration>,
    /// The observations of a subject, after its deletion.
    pub history_after_deletion: chrono::Duration,
}

impl Retention {
    fn for_tests() -> Self {
        let days = chrono::Duration::days;
        Self { bodies: days(30), history: Some(days(400)), history_after_deletion: days(30) }
    }
}

impl Config {
    /// The settings that tests start from: free ports of the loopback address, every protocol, no callers.
    #[must_use]
    pub fn for_tests(
        database: PgConnectOptions,
        secret: SigningSecret,
        catalog: (Catalog, String),
    ) -> Self {
        let free_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            database,
            migrate: false,
            signing_secrets: vec![secret],
            backend_api: None,
            instance: None,
            catalog: Some(catalog),
            catalog_use: CatalogUse::Start,
            api: free_port,
            webhook: free_port,
            operator: free_port,
            protocols: Protocol::all().collect(),
            public_url: None,
            ofrep_cors: Vec::new(),
            sessions: None,
            trusted_claims: None,
            max_staleness: Duration::from_hours(1),
            check_timeout: Duration::from_secs(2),
            retention: Retention::for_tests(),
            listeners: ListenerFiles::default(),
            admin: true,
            overrides_longest: None,
            cache_bytes: 1 << 20,
            log_denials: None,
            otlp_endpoint: None,
            connection_age: Duration::from_mins(10),
            stop_within: Duration::from_secs(5),
            stop_delay: Duration::ZERO,
        }
    }
}
