//! The command line. An error is printed as one line, `error: …`, and ends the process with exit code 2 or 3.

/// `println!` for an output that may be closed early, as `head` does.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say(format_args!($($text)*)) };
}

mod arguments;
mod catalog;
mod check;
mod client;
mod deliveries;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod explain;
mod history;
mod keys;
mod overrides;
mod probe;
mod ready;
mod reconcile;
mod render;
mod send;
mod serve;
mod subjects;
mod times;
mod variables;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    fmt,
    io::{self, Write},
    process::{ExitCode, exit},
};

/// Entitlements for Clerk Billing: records Clerk's webhooks in Postgres, and answers over gRPC whether a user or
/// organization may use a feature.
///
/// Every flag is also an environment variable. Pass secrets as variables, because other users of the machine can see
/// command lines. To try the service, run `entitlements dev`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
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
    /// Show the catalogs in `DATABASE_URL`, preview a change, and put a catalog in force
    Catalog(catalog::CatalogCommand),
    /// Compare the accounts in `DATABASE_URL` with Clerk's, and repair them; needs `CLERK_SECRET_KEY`
    Reconcile(reconcile::ReconcileCommand),
}

impl Command {
    /// Whether the command reports unknown variables itself.
    fn reports_variables(&self) -> bool {
        match self {
            #[cfg(feature = "dev")]
            Self::Dev(_) => true,
            Self::Serve(_) | Self::Doctor(_) => true,
            _ => false,
        }
    }
}

/// Prints a line. If the output is closed, ends the process with the exit code that SIGPIPE would cause.
#[expect(clippy::disallowed_methods, reason = "the output is closed")]
fn say(line: fmt::Arguments<'_>) {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit(128 + 13),
        Err(error) => {
            eprintln!("error: cannot print: {error}");
            exit(2);
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
    if !cli.command.reports_variables() {
        for found in variables::unknown() {
            eprintln!("warning: {}", found.warning());
        }
    }
    let runtime = tokio::runtime::Runtime::new();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match cli.command {
                #[cfg(feature = "dev")]
                Command::Dev(dev) => dev.run().await,
                Command::Serve(serve) => serve.run().await,
                Command::Migrate(migrate) => migrate.run().await,
                Command::Doctor(doctor) => doctor.run().await,
                Command::Send(send) => send.run().await,
                Command::Check(check) => check.run().await,
                Command::Explain(explain) => explain.run().await,
                Command::History(history) => history.run().await,
                Command::Override(overriding) => overriding.run().await,
                Command::Subjects(subjects) => subjects.run().await,
                Command::Ready(ready) => ready.run().await,
                Command::Deliveries(deliveries) => deliveries.run().await,
                Command::Keys(keys) => keys.run().await,
                Command::Catalog(catalog) => catalog.run().await,
                Command::Reconcile(reconcile) => reconcile.run().await,
            }
        }),
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {}", crate::telemetry::error_chain(error.as_ref()));
        ExitCode::from(exit_code(&error))
    })
}

/// 3 if the schema of the database does not match this build, so that a deployment can react to it; 2 for any other
/// error.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<crate::app::WrongSchema>() { 3 } else { 2 }
}
