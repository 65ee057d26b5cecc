//! Every setting, with its default. The doc comments of the flags are the text of `--help`.

mod backend;
mod catalog;
mod checked;
mod database;
mod listeners;
mod parse;
mod sessions;

pub use backend::{Backend, BackendAccess};
pub use catalog::{parse_catalog, read_catalog};
pub use checked::{CatalogUse, Config, Retention};
pub use database::Database;
pub use listeners::{CertificateFiles, ListenerFiles, ListenerSettings};
pub use parse::address;
use parse::{duration, mebibytes, positive_duration, switch};
pub use sessions::{KeySource, SessionConfig, SessionSettings};

use crate::{
    clerk::{InvalidSigningSecret, SigningSecret},
    domain::{AllowedOrigin, PublicUrl},
};
use anyhow::{Context, anyhow, bail, ensure};
use clap::{ArgAction, Args, ValueEnum};
use humantime::Duration as Span;
use secrecy::{ExposeSecret, SecretString};
use std::{net::SocketAddr, path::PathBuf, str::FromStr};

/// The settings of `serve` and `dev`. Every flag is also an environment variable.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    /// Connection to Postgres.
    pub database: Database,

    #[command(flatten)]
    /// Signing secrets of the webhook endpoint.
    pub secrets: SigningSecrets,

    #[command(flatten)]
    /// Access to Clerk's Backend API.
    pub backend: Backend,

    #[command(flatten)]
    /// Verification of session tokens, for the gateway protocols.
    pub sessions: SessionSettings,

    /// Catalog file: the features of each plan, and the grace periods. `serve` puts it in force if there is
    /// no catalog yet; later it compares the file with the catalog in force. `entitlements catalog apply` applies a file
    #[arg(long, env = "ENTITLEMENTS_CATALOG", value_name = "FILE", help_heading = "Catalog")]
    pub catalog: Option<PathBuf>,

    /// Address of the API listener: gRPC, and the protocols of `ENTITLEMENTS_PROTOCOLS`; for your own services only
    #[arg(long, env = "ENTITLEMENTS_API_LISTEN", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:50051", help_heading = "Listeners")]
    pub api_listen: SocketAddr,

    /// Address of the webhook listener: webhooks and probes; the only listener that Clerk must reach
    #[arg(long, env = "ENTITLEMENTS_WEBHOOK_LISTEN", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:8080", help_heading = "Listeners")]
    pub webhook_listen: SocketAddr,

    /// Address of the operator listener: /metrics and probes; for your monitoring only
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_LISTEN", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090", help_heading = "Listeners")]
    pub operator_listen: SocketAddr,

    /// Protocols to serve on the API listener in addition to gRPC, separated by commas [default: in `dev` all that the
    /// other settings allow, in `serve` `connect`]
    #[arg(
        long = "protocols",
        env = "ENTITLEMENTS_PROTOCOLS",
        value_name = "PROTOCOL",
        value_delimiter = ',',
        help_heading = "Protocols"
    )]
    pub chosen_protocols: Option<Vec<Protocol>>,

    /// URL at which callers reach the API listener, such as `https://entitlements.example.com`; the `AuthZEN`
    /// discovery document contains it [default: the listener's own address]
    #[arg(long, env = "ENTITLEMENTS_PUBLIC_URL", value_name = "URL", help_heading = "Listeners")]
    pub public_url: Option<String>, // parsed later: clap would print a wrong value, which may contain a password

    /// Origins (CORS) whose web pages may use OFREP, such as `https://app.example.com`, separated by commas; `*`
    /// allows all
    #[arg(
        long,
        env = "ENTITLEMENTS_OFREP_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Protocols"
    )]
    pub ofrep_cors_origins: Vec<String>,

    /// Apply missing database migrations at start; always on in `dev`
    #[arg(long, env = "ENTITLEMENTS_MIGRATE", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1, help_heading = "Database")]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub migrate: bool,

    /// How long checks are answered from memory while Postgres is unreachable
    #[arg(long, env = "ENTITLEMENTS_MAX_STALENESS", value_name = "DURATION", value_parser = duration, default_value = "1h", help_heading = "Checks")]
    pub max_staleness: Span,

    /// How long a check waits for Postgres if the account is not in the cache
    #[arg(long, env = "ENTITLEMENTS_CHECK_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = "240ms", help_heading = "Checks")]
    pub check_timeout: Span,

    /// How long the bodies of deliveries are kept; their hashes and results stay
    #[arg(long, env = "ENTITLEMENTS_BODY_RETENTION", value_name = "DURATION", value_parser = duration, default_value = "30days", help_heading = "Database")]
    pub body_retention: Span,

    /// How long any account can be derived as it was known at an earlier time; `0s`: for ever
    #[arg(long, env = "ENTITLEMENTS_HISTORY_RETENTION", value_name = "DURATION", value_parser = duration, default_value = "400days", help_heading = "Database")]
    pub history_retention: Span,

    /// How long the history of a deleted subject is kept: ids, plans and dates, without names and addresses
    #[arg(long, env = "ENTITLEMENTS_HISTORY_AFTER_DELETION", value_name = "DURATION", value_parser = duration, default_value = "30days", help_heading = "Database")]
    pub history_after_deletion: Span,

    /// Serve entitlements.v1.Admin, which shows the bodies of deliveries, entitlements.v1.Overrides and
    /// entitlements.v1.Support to every client of the API listener. Always on in `dev`; with `ENTITLEMENTS_CALLERS` or
    /// `ENTITLEMENTS_API_CLIENT_CA`, always served to callers with the scope `admin`, `overrides` or `support`
    #[arg(long, env = "ENTITLEMENTS_ADMIN", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1, help_heading = "Protocols")]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub admin: bool,

    /// Longest time for which an override may be in force unless it is permanent; `0s`: any time
    #[arg(long, env = "ENTITLEMENTS_OVERRIDES_LONGEST", value_name = "DURATION", value_parser = duration, default_value = "0s", help_heading = "Checks")]
    pub overrides_longest: Span,

    /// Maximum memory of cached accounts, in MiB
    #[arg(
        long,
        env = "ENTITLEMENTS_CACHE_MIB",
        value_name = "MIB",
        value_parser = mebibytes, default_value = "256",
        help_heading = "Checks"
    )]
    pub cache_mib: u64,

    /// Approximate maximum age of a gRPC connection. The caller is then asked to reconnect, so that callers spread over
    /// new replicas
    #[arg(long, env = "ENTITLEMENTS_CONNECTION_AGE", value_name = "DURATION", value_parser = positive_duration, default_value = "10m", help_heading = "Listeners")]
    pub connection_age: Span,

    /// How long open calls may take to finish during shutdown
    #[arg(long, env = "ENTITLEMENTS_STOP_WITHIN", value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Shutdown")]
    pub stop_within: Span,

    /// How long the service reports that it is not ready before it stops accepting connections
    #[arg(long, env = "ENTITLEMENTS_STOP_DELAY", value_name = "DURATION", value_parser = duration, default_value = "0s", help_heading = "Shutdown")]
    pub stop_delay: Span,

    /// Log filter: a level, or directives such as `debug,sqlx=debug`. A level without a target applies to this service
    /// (without one, `info`); libraries, which may log headers and payloads, then log only warnings and errors
    #[arg(
        long,
        env = "ENTITLEMENTS_LOG",
        value_name = "FILTER",
        default_value = "info",
        help_heading = "Logs and traces"
    )]
    pub log: String,

    /// Log denied checks with subject and reason: a share such as `1%`, or a maximum rate such as `10/s` [default:
    /// none]
    #[arg(
        long,
        env = "ENTITLEMENTS_LOG_DENIALS",
        value_name = "SHARE",
        help_heading = "Logs and traces"
    )]
    pub log_denials: Option<crate::telemetry::SampleRate>,

    /// URL of the trace collector (OTLP over gRPC), as `http://host:4317` [default: no traces]
    #[arg(long, env, value_name = "URL", help_heading = "Logs and traces")]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// Format of log lines [default: text in `dev`, json in `serve`]
    #[arg(
        long,
        env = "ENTITLEMENTS_LOG_FORMAT",
        value_name = "FORMAT",
        help_heading = "Logs and traces"
    )]
    pub log_format: Option<crate::telemetry::LogFormat>,

    #[command(flatten)]
    /// Authentication of callers, and TLS of the listeners.
    pub listeners: ListenerSettings,
}

/// A protocol that is served in addition to the service's own gRPC API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// flagd's evaluation protocol, for `OpenFeature` SDKs
    Flagd,
    /// flagd's sync protocol: the flags of one subject, for in-process evaluation
    FlagdSync,
    /// OFREP, `OpenFeature`'s remote evaluation protocol
    Ofrep,
    /// `AuthZEN`, the `OpenID` Foundation's Authorization API
    Authzen,
    /// Forward authentication for nginx, Caddy and Traefik: `/auth/{feature}`
    ForwardAuth,
    /// Envoy's external authorization (`ext_authz`)
    ExtAuthz,
    /// Connect and gRPC-Web: the gRPC API over HTTP/1.1, with JSON or binary messages
    Connect,
    /// No protocol but gRPC
    None,
}

impl Protocol {
    /// Every protocol.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|protocol| *protocol != Self::None)
    }
}

/// The signing secrets of the webhook endpoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clerk")]
pub struct SigningSecrets {
    /// Signing secret of the webhook endpoint, `whsec_…`; during a rotation several, separated by commas
    #[arg(long, env, value_name = "SECRET", hide_env_values = true, value_delimiter = ',')]
    pub clerk_webhook_signing_secret: Vec<SecretString>,
}

impl SigningSecrets {
    /// Parses the secrets.
    ///
    /// # Errors
    /// If no secret is set, or if one of them is not a signing secret.
    pub fn parse(&self) -> anyhow::Result<Vec<SigningSecret>> {
        let given = self.clerk_webhook_signing_secret.iter();
        let given: Vec<_> = given.filter(|s| !s.expose_secret().trim().is_empty()).collect();
        if given.is_empty() {
            return Err(anyhow!(
                "CLERK_WEBHOOK_SIGNING_SECRET is not set: copy it from the endpoint's page under Webhooks in \
                 Clerk's dashboard (it begins with whsec_)"
            ));
        }
        let parsed: Result<_, InvalidSigningSecret> =
            given.into_iter().map(SigningSecret::parse).collect();
        parsed.context("CLERK_WEBHOOK_SIGNING_SECRET")
    }
}

impl Settings {
    /// Validates all settings, and reads the catalog file.
    ///
    /// # Errors
    /// If a setting is missing or cannot work; the error names the variable and the fix.
    pub fn check(&self) -> anyhow::Result<Config> {
        let public_url = self.public_url()?;
        let database = self.database.options()?;
        let protocols = self.protocols()?;
        self.check_distinct_listeners()?;
        self.check_exposed_listeners()?;
        let listeners = self.listeners.files();
        Ok(Config {
            database,
            migrate: self.migrate,
            signing_secrets: self.secrets.parse()?,
            backend_api: self.backend.access(),
            instance: self.backend.instance()?,
            catalog: self.catalog_file()?,
            catalog_use: self
                .catalog_path()
                .cloned()
                .map_or(CatalogUse::Start, CatalogUse::Compare),
            api: self.api_listen,
            webhook: self.webhook_listen,
            operator: self.operator_listen,
            public_url,
            ofrep_cors: self.ofrep_cors(&protocols)?,
            protocols,
            sessions: self.sessions.sessions()?,
            trusted_claims: self.sessions.trusted_claims(),
            max_staleness: *self.max_staleness,
            check_timeout: *self.check_timeout,
            retention: self.retention()?,
            admin: self.admin || listeners.require_callers(),
            overrides_longest: self.longest_override()?,
            listeners,
            cache_bytes: self.cache_mib.saturating_mul(1024 * 1024),
            log_denials: self.log_denials,
            otlp_endpoint: self.otlp_endpoint()?,
            connection_age: *self.connection_age,
            stop_within: *self.stop_within,
            stop_delay: *self.stop_delay,
        })
    }

    fn longest_override(&self) -> anyhow::Result<Option<chrono::Duration>> {
        let longest = to_chrono(self.overrides_longest, "ENTITLEMENTS_OVERRIDES_LONGEST")?;
        Ok(Some(longest).filter(|longest| !longest.is_zero()))
    }

    fn retention(&self) -> anyhow::Result<Retention> {
        Ok(Retention {
            bodies: to_chrono(self.body_retention, "ENTITLEMENTS_BODY_RETENTION")?,
            history: Some(to_chrono(self.history_retention, "ENTITLEMENTS_HISTORY_RETENTION")?)
                .filter(|retention| !retention.is_zero()),
            history_after_deletion: to_chrono(
                self.history_after_deletion,
                "ENTITLEMENTS_HISTORY_AFTER_DELETION",
            )?,
        })
    }

    /// Rejects two listeners with one address. The error of `bind` would not name the other setting.
    fn check_distinct_listeners(&self) -> anyhow::Result<()> {
        let listeners = [
            ("ENTITLEMENTS_API_LISTEN", self.api_listen),
            ("ENTITLEMENTS_WEBHOOK_LISTEN", self.webhook_listen),
            ("ENTITLEMENTS_OPERATOR_LISTEN", self.operator_listen),
        ];
        for ((one, address), (other, same)) in
            [(0, 1), (0, 2), (1, 2)].map(|(a, b)| (listeners[a], listeners[b]))
        {
            if address == same && address.port() != 0 {
                bail!("{one} and {other} are both {address}: give each its own port");
            }
        }
        Ok(())
    }

    fn protocols(&self) -> anyhow::Result<Vec<Protocol>> {
        let protocols = match self.chosen_protocols.as_deref() {
            None => &[Protocol::Connect],
            Some([Protocol::None]) => &[][..],
            Some(protocols) => protocols,
        };
        let has_none = protocols.contains(&Protocol::None);
        ensure!(!has_none, "ENTITLEMENTS_PROTOCOLS has `none` beside others: remove it");
        self.sessions.check(protocols)?;
        Ok(protocols.to_vec())
    }

    fn check_exposed_listeners(&self) -> anyhow::Result<()> {
        self.listeners.check_exposed("ENTITLEMENTS_API_LISTEN", self.api_listen)
    }

    fn otlp_endpoint(&self) -> anyhow::Result<Option<String>> {
        let endpoint = self.otel_exporter_otlp_endpoint.as_deref();
        let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
        endpoint.map(crate::telemetry::check_endpoint).transpose()?;
        Ok(endpoint.map(str::to_owned))
    }

    fn public_url(&self) -> anyhow::Result<Option<PublicUrl>> {
        let url = self.public_url.as_deref().filter(|url| !url.is_empty());
        url.map(PublicUrl::from_str).transpose().context("ENTITLEMENTS_PUBLIC_URL")
    }

    fn ofrep_cors(&self, protocols: &[Protocol]) -> anyhow::Result<Vec<AllowedOrigin>> {
        let origins = self.ofrep_cors_origins.iter().filter(|origin| !origin.trim().is_empty());
        let origins = origins.map(|origin| origin.parse()).collect::<Result<Vec<_>, _>>();
        let origins = origins.context("ENTITLEMENTS_OFREP_CORS_ORIGINS")?;
        ensure!(
            origins.is_empty() || protocols.contains(&Protocol::Ofrep),
            "ENTITLEMENTS_OFREP_CORS_ORIGINS is set, but OFREP is not served: add `ofrep` to ENTITLEMENTS_PROTOCOLS"
        );
        Ok(origins)
    }
}

/// The longest time that data may be kept, or an override may last: no date leaves the calendar of Postgres.
const MAX_RETENTION: chrono::Duration = chrono::Duration::days(365_250);

fn to_chrono(span: Span, name: &str) -> anyhow::Result<chrono::Duration> {
    let too_long = || format!("{name} is too long: give a shorter duration");
    let duration = chrono::Duration::from_std(*span).with_context(too_long)?;
    ensure!(duration <= MAX_RETENTION, "{name} is too long: give at most 1000 years");
    Ok(duration)
}
