//! `entitlements serve` and `entitlements migrate`.

use super::{
    output::{Format, say_json},
    variables,
};
use crate::{
    app::Service,
    config::{Database, Settings},
    storage::{self, Grantees},
    telemetry::{LogFormat, start_logging},
};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The `serve` command.
#[derive(Debug, Args)]
pub(super) struct ServeCommand {
    #[command(flatten)]
    settings: Settings,
}

impl ServeCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        start_log(&self.settings, LogFormat::Json)?;
        let config = self.settings.check()?;
        let stop = stop_signal()?;
        Service::start(config).await?.run(stop).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts logging, by default in this format, and warns of unknown variables.
pub(super) fn start_log(settings: &Settings, default: LogFormat) -> anyhow::Result<()> {
    start_logging(&settings.log, settings.log_format.unwrap_or(default))?;
    variables::log_unknown();
    Ok(())
}

/// Applies the migrations that the database lacks. A database that has them all is not changed.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  entitlements migrate --grant-to entitlements_service")]
pub(super) struct MigrateCommand {
    #[command(flatten)]
    database: Database,

    /// Give this role of the database the rights that `serve` needs; may be repeated
    #[arg(long, value_name = "ROLE")]
    grant_to: Vec<String>,

    /// Let this role of the database ask in SQL: anon and authenticated about their session, others about anybody; may be
    /// repeated
    #[arg(long, value_name = "ROLE")]
    grant_sql_to: Vec<String>,
}

impl MigrateCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let grantees = Grantees { service: &self.grant_to, sql: &self.grant_sql_to };
        let newest = storage::migrate_and_grant(&self.database.options()?, grantees)
            .await
            .context("cannot migrate the database of DATABASE_URL")?;
        match format {
            Format::Text => say!("the database is at migration {newest}"),
            Format::Json => {
                say_json(&json!({ "migration": newest, "grantedTo": self.grant_to,
                    "grantedSqlTo": self.grant_sql_to }));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Resolves on SIGTERM or SIGINT; a second one ends the process at once.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            #[expect(
                clippy::disallowed_methods,
                reason = "a second signal ends the process at once"
            )]
            std::process::exit(130);
        });
    })
}
