//! `entitlements keys`: creates, lists and revokes API keys in the callers file, and reports whether a running service
//! has the edited file in force.

use crate::{
    cli::{
        output::{Format, Table, complain, say_json},
        probe::{self, CALLERS_IN_FORCE},
        render::counted,
    },
    config::address,
    server::auth::{KeyEntry, KeyFile, Scope, fingerprint},
};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};
use tokio::time::{Instant, sleep};

/// How long a service may take to reload an edited file; it reads the file every half second.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between two requests for the metrics of the service.
const METRICS_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The subcommands of `keys`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements keys create backend --scope check --callers callers.toml
  entitlements keys create desk --scope support --scope overrides --callers callers.toml
  entitlements keys revoke backend --callers callers.toml")]
pub(super) struct KeysCommand {
    #[command(subcommand)]
    action: KeysAction,
}

#[derive(Debug, Subcommand)]
enum KeysAction {
    /// Create a key and print it once; the callers file stores only its hash
    Create {
        /// Name of the caller: 1 to 40 characters of a-z, 0-9 and `-`
        name: String,
        /// Scope of the key; repeat the flag for several scopes
        #[arg(long, value_name = "SCOPE", required = true)]
        scope: Vec<Scope>,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        service: RunningService,
    },
    /// List the keys: name, scopes, date of creation
    List {
        #[command(flatten)]
        file: File,
    },
    /// Remove a key; services that read this file reject it within a second, also on open connections and streams.
    /// Exits with 1 if the service on this machine has other content in force
    Revoke {
        /// Name of the caller
        name: String,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        service: RunningService,
    },
}

#[derive(Debug, Args)]
struct File {
    /// Callers file; `create` creates it if it does not exist
    #[arg(long, env = "ENTITLEMENTS_CALLERS", value_name = "FILE")]
    callers: PathBuf,
}

/// The service on this machine, which is asked for the fingerprint of the callers file in force.
#[derive(Debug, Args)]
struct RunningService {
    /// Operator listener of `serve` on this machine, which is asked whether the file is in force
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_LISTEN", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090")]
    operator_listen: SocketAddr,

    /// Use TLS if this is set, as `serve` does; the file is not read
    #[arg(long, env = "ENTITLEMENTS_OPERATOR_TLS_CERT", value_name = "FILE")]
    operator_tls_cert: Option<PathBuf>,
}

/// Whether the service on this machine has the edited file in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyStatus {
    InForce,
    /// The service uses another file, or cannot use this one.
    NotInForce,
    /// The service has no callers file.
    NoFile,
    /// No service answers.
    NoService,
}

impl KeysCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        match self.action {
            KeysAction::Create { name, mut scope, file, service } => {
                scope.dedup();
                let key = KeyFile::open(&file.callers)?.create(&name, &scope)?;
                match format {
                    Format::Text => say!("{key}"),
                    Format::Json => {
                        say_json(&json!({ "name": name, "scopes": texts(&scope), "key": key }));
                    }
                }
                complain(&format!("Keep it: {} stores only its hash.", file.callers.display()));
                service.report(&file).await?;
            }
            KeysAction::List { file } => {
                list(KeyFile::open(&file.callers)?.list()?, format);
            }
            KeysAction::Revoke { name, file, service } => {
                KeyFile::open(&file.callers)?.revoke(&name)?;
                complain(&format!("Removed the key `{name}` from {}.", file.callers.display()));
                let answer = service.report(&file).await?;
                if format == Format::Json {
                    say_json(&json!({ "name": name, "inForce": answer == KeyStatus::InForce }));
                }
                return Ok(ExitCode::from(u8::from(answer == KeyStatus::NotInForce)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(entries: Vec<KeyEntry>, format: Format) {
    let (count, mut table) = (entries.len(), Table::new(&["name", "scopes", "created"]));
    for KeyEntry { name, scopes, created } in entries {
        match format {
            Format::Json => {
                let scopes = texts(&scopes);
                say_json(&json!({ "name": name, "scopes": scopes, "created": created }));
            }
            Format::Text => {
                table.push([name, texts(&scopes).join(","), created.unwrap_or_default()]);
            }
        }
    }
    table.print();
    if format == Format::Text {
        say!("{}", counted(count, "key"));
    }
}

fn texts(scopes: &[Scope]) -> Vec<String> {
    scopes.iter().map(ToString::to_string).collect()
}

impl RunningService {
    /// Reports whether the edited file is in force, or how to find out.
    async fn report(&self, file: &File) -> anyhow::Result<KeyStatus> {
        let path = file.callers.display();
        let content = fs::read(&file.callers).with_context(|| format!("cannot read {path}"))?;
        let expected = fingerprint(&content);
        let service = probe::url(self.operator_listen, self.operator_tls_cert.is_some());
        let answer = ask(&service, expected).await;
        match answer {
            KeyStatus::InForce => complain(&format!(
                "In force on {service}. Other replicas have it in force when their metric \
                 {CALLERS_IN_FORCE} is {expected}."
            )),
            KeyStatus::NotInForce => complain(&format!(
                "NOT in force on {service}: that service uses another file, or cannot read or use this one; see its \
                 log. In a container, mount the folder of {path}, not the file. The metric {CALLERS_IN_FORCE} \
                 of the service must become {expected}."
            )),
            KeyStatus::NoFile => complain(&format!(
                "The service on {service} has no callers file: start it with --callers {path}."
            )),
            KeyStatus::NoService => complain(&format!(
                "No service answers on {service}. A service has this file in force when its metric \
                 {CALLERS_IN_FORCE} is {expected}; it reads the file every half second."
            )),
        }
        Ok(answer)
    }
}

/// Polls the service until the content with this fingerprint is in force, or the time to reload it is over.
async fn ask(service: &str, expected: u64) -> KeyStatus {
    let deadline = Instant::now() + RELOAD_TIMEOUT;
    loop {
        match probe::gauge(service, CALLERS_IN_FORCE, RELOAD_TIMEOUT).await {
            None => return KeyStatus::NoService,
            Some(0) => return KeyStatus::NoFile,
            Some(in_force) if in_force == expected => return KeyStatus::InForce,
            Some(_) if Instant::now() >= deadline => return KeyStatus::NotInForce,
            Some(_) => sleep(METRICS_POLL_INTERVAL).await,
        }
    }
}
