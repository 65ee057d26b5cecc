//! The command line. An error is printed to standard error as `error: …`, and ends the process with exit code 2 or 3.

#[macro_use]
mod output;
mod arguments;
#[cfg(feature = "dev")]
mod banner;
mod catalog;
mod check;
mod client;
mod completions;
mod deliveries;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod explain;
mod history;
mod init;
mod keys;
mod list;
mod overrides;
mod port;
mod probe;
mod ready;
mod reconcile;
mod render;
mod send;
mod serve;
mod subjects;
mod times;
mod variables;

use crate::{app::WrongSchema, storage::NotMigrated};
use anstream::ColorChoice;
use clap::{Parser, Subcommand, ValueEnum};
use output::{Format, complain};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::process::ExitCode;

/// Entitlements for Clerk Billing: records Clerk's webhooks in Postgres, and answers over gRPC whether a user or
/// organization may use a feature.
///
/// Every setting is a flag and an environment variable. Pass secrets as variables, because other users of the machine can
/// see command lines. To try the service, run `entitlements dev`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(after_help = "Exit codes:
  0  success; for `check` and `explain`: allowed
  1  the command worked, and the answer is no: denied, not ready, refused, a finding of `doctor`
  2  an error: a wrong argument or setting, or a service or database that cannot be reached
  3  the schema of the database does not match this release")]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print JSON for machines, one object in a line, instead of text
    #[arg(long, global = true)]
    json: bool,

    /// When to print colours [default: in a terminal, unless `NO_COLOR` is set]
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true
    )]
    color: Color,
}

/// When to print colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    /// In a terminal, unless `NO_COLOR` is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service for a first try, with an embedded Postgres, a generated secret and an example catalog
    #[cfg(feature = "dev")]
    Dev(Box<dev::DevCommand>),
    /// Run the service; needs `DATABASE_URL` and `CLERK_WEBHOOK_SIGNING_SECRET`
    Serve(Box<serve::ServeCommand>),
    /// Apply missing migrations to the database of `DATABASE_URL`, then exit
    Migrate(serve::MigrateCommand),
    /// Check settings, listeners, database and Clerk's API as `serve` uses them; report each problem with its fix
    Doctor(Box<doctor::DoctorCommand>),
    /// Sign webhook bodies and send them to the service, as Svix does for Clerk
    Send(send::SendCommand),
    /// Ask a running service whether a feature is allowed; print the answer and its reason
    Check(check::CheckCommand),
    /// List what a user and an organization may use now, and their subscription items
    List(list::ListCommand),
    /// Explain an answer of a running service, past, present or future: what was weighed, and where it is from
    Explain(explain::ExplainCommand),
    /// List what changed for a user or an organization: when it became known, and what was gained or lost
    History(history::HistoryCommand),
    /// Grant or deny a feature or a plan to one user or organization, list and end such overrides
    Override(Box<overrides::OverrideCommand>),
    /// List the users and organizations that may use a feature or have a plan, with the reason
    Subjects(subjects::SubjectsCommand),
    /// Check whether the service on this machine is ready: a health check for containers
    Ready(ready::ReadyCommand),
    /// List, show and replay the deliveries that a running service has recorded
    Deliveries(deliveries::DeliveriesCommand),
    /// Create, list and revoke API keys
    Keys(keys::KeysCommand),
    /// Compare catalog files with the catalog in force, apply them, and show earlier versions
    Catalog(catalog::CatalogCommand),
    /// Compare the accounts in `DATABASE_URL` with Clerk's, and repair them; needs `CLERK_SECRET_KEY`
    Reconcile(reconcile::ReconcileCommand),
    /// Create a catalog file, an API key and a signing secret in a folder, for a first installation
    Init(init::InitCommand),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::CompletionsCommand),
}

impl Color {
    /// Makes all output of this process follow the choice.
    fn choose(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

impl Command {
    async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        match self {
            #[cfg(feature = "dev")]
            Self::Dev(dev) => dev.run().await,
            Self::Serve(serve) => serve.run().await,
            Self::Migrate(migrate) => migrate.run(format).await,
            Self::Doctor(doctor) => doctor.run(format).await,
            Self::Send(send) => send.run(format).await,
            Self::Check(check) => check.run(format).await,
            Self::List(list) => list.run(format).await,
            Self::Explain(explain) => explain.run(format).await,
            Self::History(history) => history.run(format).await,
            Self::Override(overriding) => overriding.run(format).await,
            Self::Subjects(subjects) => subjects.run(format).await,
            Self::Ready(ready) => ready.run(format).await,
            Self::Deliveries(deliveries) => deliveries.run(format).await,
            Self::Keys(keys) => keys.run(format).await,
            Self::Catalog(catalog) => catalog.run(format).await,
            Self::Reconcile(reconcile) => reconcile.run(format).await,
            Self::Init(init) => init.run(format),
            Self::Completions(completions) => Ok(completions.run()),
        }
    }

    /// Whether the command reports unknown variables itself.
    fn reports_variables(&self) -> bool {
        match self {
            #[cfg(feature = "dev")]
            Self::Dev(_) => true,
            Self::Serve(_) | Self::Doctor(_) => true,
            Self::Migrate(_)
            | Self::Send(_)
            | Self::Check(_)
            | Self::List(_)
            | Self::Explain(_)
            | Self::History(_)
            | Self::Override(_)
            | Self::Subjects(_)
            | Self::Ready(_)
            | Self::Deliveries(_)
            | Self::Keys(_)
            | Self::Catalog(_)
            | Self::Reconcile(_)
            | Self::Init(_)
            | Self::Completions(_) => false,
        }
    }
}

/// Disables core dumps, which would contain secrets.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none); // lowering a limit is always allowed
}

/// Parses and runs the command line of this process; returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    forbid_core_dumps();
    let cli = arguments::parse();
    cli.color.choose();
    if !cli.command.reports_variables() {
        for found in variables::unknown() {
            complain(&format!("warning: {}", found.warning()));
        }
    }
    let format = if cli.json { Format::Json } else { Format::Text };
    let done = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(cli.command.run(format)),
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|error| {
        complain(&format!("error: {}", crate::telemetry::error_chain(error.as_ref())));
        ExitCode::from(exit_code(&error))
    })
}

/// 3 if the schema of the database does not match this build, so that a deployment can react to it; 2 for any other
/// error.
fn exit_code(error: &anyhow::Error) -> u8 {
    let is_ahead = matches!(error.downcast_ref(), Some(NotMigrated::Ahead));
    if is_ahead || error.is::<WrongSchema>() { 3 } else { 2 }
}
