//! Every knob, with its default. The doc comments are the manual that `--help` prints.

mod backend;
mod database;
mod listeners;
mod parse;
mod sessions;

pub use backend::Backend;
pub use database::Database;
pub use listeners::{Doors, Locks};
pub use parse::address;
use parse::{some_time, span, switch};
pub use sessions::SessionSettings;

use crate::{
    clerk::{Api, InvalidSecret, Secret, Sessions, TrustedClaims, Verifier},
    domain::{Catalog, Grace},
    server::http::{Cors, PublicUrl},
};
use anyhow::{Context, anyhow, bail};
use clap::{ArgAction, Args, ValueEnum};
use humantime::Duration as Span;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// What `serve` and `dev` can be told; every flag is also a variable.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    /// Where the database is.
    pub database: Database,

    #[command(flatten)]
    /// What deliveries are signed with.
    pub secrets: SigningSecrets,

    #[command(flatten)]
    /// How to ask Clerk itself.
    pub backend: Backend,

    #[command(flatten)]
    /// How gateways' requests are known.
    pub sessions: SessionSettings,

    /// Catalog file: which plan has which features. `serve` puts it in force at start if its content is new
    #[arg(long, env, value_name = "FILE")]
    pub catalog: Option<PathBuf>,

    /// Where gRPC is served
    #[arg(long, env, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:50051")]
    pub grpc_listen: SocketAddr,

    /// Where webhooks and probes are served: the only listener that Clerk must reach
    #[arg(long, env, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:8080")]
    pub http_listen: SocketAddr,

    /// Where /metrics, probes and the protocols that speak HTTP are served, for backends only
    #[arg(long, env, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090")]
    pub internal_listen: SocketAddr,

    /// Protocols to answer beside our own gRPC, separated by commas [default: all in `dev`, none in `serve`]
    #[arg(long, env, value_name = "PROTOCOL", value_delimiter = ',')]
    pub protocols: Vec<Protocol>,

    /// Where callers reach `INTERNAL_LISTEN`, as `https://entitlements.example.com`: the discovery document of `AuthZEN` names
    /// it [default: the listener's own address]
    #[arg(long, env, value_name = "URL", value_parser = PublicUrl::from_str)]
    pub public_url: Option<PublicUrl>,

    /// Origins whose web pages may ask over OFREP, such as `https://app.example.com`, separated by commas; `*`: all
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    pub ofrep_cors_origins: Vec<String>,

    /// Apply the missing migrations before serving; `dev` always does
    #[arg(long, env, value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub migrate: bool,

    /// How long access outlives a failed payment, such as `3days` [default: until Clerk ends it]
    #[arg(long, env, value_name = "DURATION", value_parser = span)]
    pub past_due_grace: Option<Span>,

    /// How long access outlives a period whose renewal was not announced [default: until Clerk ends it]
    #[arg(long, env, value_name = "DURATION", value_parser = span)]
    pub renewal_grace: Option<Span>,

    /// How long access outlives a free trial whose conversion was not announced: nobody has paid for it
    #[arg(long, env, value_name = "DURATION", value_parser = span, default_value = "3days")]
    pub trial_grace: Span,

    /// How long answers are given from memory while Postgres cannot be reached
    #[arg(long, env, value_name = "DURATION", value_parser = span, default_value = "1h")]
    pub max_staleness: Span,

    /// How long a check waits for Postgres when the account is not in memory
    #[arg(long, env, value_name = "DURATION", value_parser = some_time, default_value = "240ms")]
    pub check_timeout: Span,

    /// How long the bodies of deliveries are kept; their hash and what became of them stay
    #[arg(long, env, value_name = "DURATION", value_parser = span, default_value = "30days")]
    pub body_retention: Span,

    /// Serve entitlements.v1.Admin to whoever reaches gRPC: it shows the bodies of deliveries. `dev` always does; with
    /// `CALLERS` or `GRPC_CLIENT_CA` it is always served, to those with the scope `admin`
    #[arg(long, env, value_name = "BOOL", value_parser = switch, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub admin: bool,

    /// How much memory cached accounts may take, in MiB
    #[arg(long, env, value_name = "MIB", default_value_t = 256)]
    pub cache_mib: u64,

    /// How long a gRPC connection lasts, about, before its caller is told to open another: that spreads callers over
    /// new replicas
    #[arg(long, env, value_name = "DURATION", value_parser = some_time, default_value = "10m")]
    pub connection_age: Span,

    /// How long open calls may take to finish when the service is asked to stop
    #[arg(long, env, value_name = "DURATION", value_parser = span, default_value = "10s")]
    pub stop_within: Span,

    /// How long the service says that it is not ready before it stops accepting connections
    #[arg(long, env, value_name = "DURATION", value_parser = span, default_value = "0s")]
    pub stop_delay: Span,

    /// What is logged: a level, or directives such as `debug,sqlx=debug`. A level alone is about this service; of
    /// libraries, which may log headers and payloads, it brings warnings only
    #[arg(long, env, value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// Log denials with whom they met and why: a share such as `1%`, or at most so many a second, `10/s` [default: none]
    #[arg(long, env, value_name = "SHARE")]
    pub log_denials: Option<crate::telemetry::Share>,

    /// Collector of traces (OTLP over gRPC), as `http://host:4317` [default: no traces]
    #[arg(long, env, value_name = "URL")]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// How it is logged [default: text in `dev`, json in `serve`]
    #[arg(long, env, value_name = "FORMAT")]
    pub log_format: Option<crate::telemetry::LogFormat>,

    #[command(flatten)]
    /// Who may call, and how listeners are encrypted.
    pub doors: Doors,
}

/// A protocol that other systems ask through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// flagd's evaluation, for the SDKs of `OpenFeature`, on `GRPC_LISTEN`
    Flagd,
    /// flagd's sync: one subject's flags for evaluators elsewhere, on `GRPC_LISTEN`
    FlagdSync,
    /// OFREP, the remote evaluation protocol of `OpenFeature`, on `INTERNAL_LISTEN`
    Ofrep,
    /// `AuthZEN`, the `OpenID` Foundation's Authorization API, on `INTERNAL_LISTEN`
    Authzen,
    /// `/auth/{feature}` for nginx, Caddy and Traefik, on `INTERNAL_LISTEN`
    ForwardAuth,
    /// Envoy's external authorization, on `GRPC_LISTEN`
    ExtAuthz,
}

impl Protocol {
    /// Whether it tells what somebody may use on `INTERNAL_LISTEN`.
    fn is_asked_inside(self) -> bool {
        match self {
            Self::Ofrep | Self::Authzen | Self::ForwardAuth => true,
            Self::Flagd | Self::FlagdSync | Self::ExtAuthz => false,
        }
    }
}

/// What deliveries are signed with.
#[derive(Debug, Clone, Args)]
pub struct SigningSecrets {
    /// Signing secret of the webhook endpoint, `whsec_…`; several, separated by commas, while rotating
    #[arg(long, env, value_name = "SECRET", hide_env_values = true, value_delimiter = ',')]
    pub clerk_webhook_signing_secret: Vec<SecretString>,
}

impl SigningSecrets {
    /// The secrets, each known to be usable.
    pub fn parse(&self) -> anyhow::Result<Vec<Secret>> {
        let given = self.clerk_webhook_signing_secret.iter();
        let given: Vec<_> = given.filter(|s| !s.expose_secret().trim().is_empty()).collect();
        if given.is_empty() {
            return Err(anyhow!(
                "CLERK_WEBHOOK_SIGNING_SECRET is not set: copy it from the endpoint's page under Webhooks in \
                 Clerk's dashboard (it begins with whsec_)"
            ));
        }
        if given.len() > 1 {
            tracing::info!(
                secrets = given.len(),
                "CLERK_WEBHOOK_SIGNING_SECRET has several secrets, and each can change every account: keep only the newest \
                 once Clerk signs with it"
            );
        }
        let parsed: Result<_, InvalidSecret> = given.into_iter().map(Secret::parse).collect();
        parsed.context("CLERK_WEBHOOK_SIGNING_SECRET")
    }
}

/// The settings of a service, checked.
pub struct Config {
    /// How to reach the database.
    pub database: PgConnectOptions,
    /// Whether to apply migrations at start.
    pub migrate: bool,
    /// Verifies deliveries.
    pub verifier: Verifier,
    /// Asks Clerk's Backend API, if there is a key.
    pub api: Option<Api>,
    /// The Clerk instance to serve, if one is named.
    pub instance: Option<String>,
    /// The catalog file's content and name.
    pub catalog: Option<(Catalog, String)>,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where webhooks are served.
    pub http: SocketAddr,
    /// Where metrics are served.
    pub internal: SocketAddr,
    /// What is answered beside our own gRPC.
    pub protocols: Vec<Protocol>,
    /// Where callers reach the protocols that speak HTTP, if that is said.
    pub public_url: Option<PublicUrl>,
    /// Whose web pages may ask over OFREP.
    pub ofrep_cors: Cors,
    /// Verifies session tokens, if there are keys.
    pub sessions: Option<Sessions>,
    /// The claims of `jwt_authn` that are believed.
    pub trusted_claims: Option<TrustedClaims>,
    /// How long access outlives its dates.
    pub grace: Grace,
    /// How long answers are given without the database.
    pub max_staleness: Duration,
    /// How long a check waits for the database.
    pub check_timeout: Duration,
    /// How long bodies are kept.
    pub body_retention: chrono::Duration,
    /// Who may call, and how listeners are encrypted.
    pub locks: Locks,
    /// Whether the Admin service is served.
    pub admin: bool,
    /// The most bytes of cached accounts.
    pub cache_bytes: u64,
    /// Which denials are logged.
    pub log_denials: Option<crate::telemetry::Share>,
    /// Who collects traces.
    pub otlp_endpoint: Option<String>,
    /// How long a gRPC connection may last.
    pub connection_age: Duration,
    /// How long open calls may take to finish at the end.
    pub stop_within: Duration,
    /// How long to be not ready before the end begins.
    pub stop_delay: Duration,
}

impl Settings {
    /// Checks all settings; an error names the variable and the way out.
    pub fn check(&self) -> anyhow::Result<Config> {
        let database = self.database.options()?;
        listeners::warn_of_unverified(&database);
        self.sessions.check(&self.protocols)?;
        self.keep_apart()?;
        let asked_inside = self.protocols.iter().any(|protocol| protocol.is_asked_inside());
        let locks = self.doors.check(self.grpc_listen, self.internal_listen, asked_inside)?;
        Ok(Config {
            database,
            migrate: self.migrate,
            verifier: Verifier::new(self.secrets.parse()?),
            api: self.backend.api()?,
            instance: self.backend.instance()?,
            catalog: self.catalog_file()?,
            grpc: self.grpc_listen,
            http: self.http_listen,
            internal: self.internal_listen,
            protocols: self.protocols.clone(),
            public_url: self.public_url.clone(),
            ofrep_cors: self.ofrep_cors()?,
            sessions: self.sessions.sessions()?,
            trusted_claims: self.sessions.trusted_claims(),
            grace: Grace {
                past_due: whole(self.past_due_grace, "PAST_DUE_GRACE")?,
                renewal: whole(self.renewal_grace, "RENEWAL_GRACE")?,
                trial: whole(Some(self.trial_grace), "TRIAL_GRACE")?.unwrap_or_default(),
            },
            max_staleness: *self.max_staleness,
            check_timeout: *self.check_timeout,
            body_retention: whole(Some(self.body_retention), "BODY_RETENTION")?.unwrap_or_default(),
            admin: self.admin || locks.callers.is_some(),
            locks,
            cache_bytes: self.cache_mib.saturating_mul(1024 * 1024),
            log_denials: self.log_denials,
            otlp_endpoint: self.otlp_endpoint()?,
            connection_age: *self.connection_age,
            stop_within: *self.stop_within,
            stop_delay: *self.stop_delay,
        })
    }

    /// The kernel would only say that the second address is in use.
    fn keep_apart(&self) -> anyhow::Result<()> {
        let listeners = [
            ("GRPC_LISTEN", self.grpc_listen),
            ("HTTP_LISTEN", self.http_listen),
            ("INTERNAL_LISTEN", self.internal_listen),
        ];
        for ((one, address), (other, same)) in
            [(0, 1), (0, 2), (1, 2)].map(|(a, b)| (listeners[a], listeners[b]))
        {
            if address == same && address.port() != 0 {
                bail!("{one} and {other} are both {address}: give each a port of its own");
            }
        }
        Ok(())
    }

    fn otlp_endpoint(&self) -> anyhow::Result<Option<String>> {
        let endpoint = self.otel_exporter_otlp_endpoint.as_deref();
        let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
        endpoint.map(crate::telemetry::check_endpoint).transpose()?;
        Ok(endpoint.map(str::to_owned))
    }

    fn ofrep_cors(&self) -> anyhow::Result<Cors> {
        let origins = self.ofrep_cors_origins.iter().filter(|origin| !origin.trim().is_empty());
        origins.map(|origin| origin.parse()).collect::<Result<_, _>>().context("OFREP_CORS_ORIGINS")
    }

    /// The catalog file's content and name, if one is named.
    pub fn catalog_file(&self) -> anyhow::Result<Option<(Catalog, String)>> {
        let path = self.catalog.as_ref().filter(|path| !path.as_os_str().is_empty());
        path.map(|path| read_catalog(path).context("CATALOG")).transpose()
    }
}

/// Reads a catalog file; tells its name with it.
pub fn read_catalog(path: &Path) -> anyhow::Result<(Catalog, String)> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let catalog = Catalog::from_toml(&text).with_context(|| name.clone())?;
    Ok((catalog, name))
}

fn whole(span: Option<Span>, name: &str) -> anyhow::Result<Option<chrono::Duration>> {
    let too_long = || format!("{name} is too long");
    span.map(|span| chrono::Duration::from_std(*span).with_context(too_long)).transpose()
}
