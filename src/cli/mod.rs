//! The command line. Errors are one line, `error: …`, and exit code 2.

/// `println!` for a reader that may go away before the end, as `head` does.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say(format_args!($($text)*)) };
}

mod arguments;
mod catalog;
mod check;
mod client;
mod deliveries;
mod dev;
mod doctor;
mod keys;
mod probe;
mod ready;
mod reconcile;
mod send;
mod serve;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    fmt,
    io::{self, Write},
    process::{ExitCode, exit},
};

/// Answers over gRPC whether a Clerk user or organization may use a feature: Clerk Billing's webhooks in,
/// Postgres as the source of truth, answers from memory.
///
/// Every flag is also an environment variable. Give secrets as variables: other users of the machine can see arguments.
/// Start with `entitlements dev`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything for a first try: an embedded Postgres, a signing secret and the example catalog
    Dev(Box<dev::Dev>),
    /// Run the service; needs `DATABASE_URL` and `CLERK_WEBHOOK_SIGNING_SECRET`
    Serve(Box<serve::Serve>),
    /// Apply the missing migrations to `DATABASE_URL`, and exit
    Migrate(serve::Migrate),
    /// Look at all that `serve` needs, with the settings that it would have: what is wrong, and the way out
    Doctor(Box<doctor::Doctor>),
    /// Sign webhook bodies and POST them as Svix would
    Send(send::Send),
    /// Ask a running service over gRPC, and print the answer and why
    Check(check::Check),
    /// Ask the service on this machine whether it is ready: a health check for containers
    Ready(ready::Ready),
    /// Look into the ledger of a running service, and replay deliveries
    Deliveries(deliveries::Deliveries),
    /// Make, list and revoke the API keys of callers
    Keys(keys::Keys),
    /// Look into the catalog in `DATABASE_URL`, plan a change of it, and put it in force
    Catalog(catalog::CatalogCommand),
    /// Compare the accounts in `DATABASE_URL` with what Clerk says, and heal them; needs `CLERK_SECRET_KEY`
    Reconcile(reconcile::Reconcile),
}

/// Prints a line. If nobody reads any more, the process ends as the signal ends others then.
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

/// Keeps secrets in memory out of core dumps.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none); // lowering a limit is always allowed
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    forbid_core_dumps();
    let cli = arguments::parse();
    let runtime = tokio::runtime::Runtime::new();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match cli.command {
                Command::Dev(dev) => dev.run().await,
                Command::Serve(serve) => serve.run().await,
                Command::Migrate(migrate) => migrate.run().await,
                Command::Doctor(doctor) => doctor.run().await,
                Command::Send(send) => send.run().await,
                Command::Check(check) => check.run().await,
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
        eprintln!("error: {}", crate::telemetry::told(error.as_ref()));
        ExitCode::from(exit_code(&error))
    })
}

/// 3 for a schema that does not fit, which a deployment wants to tell apart; 2 for all else.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<crate::app::WrongSchema>() { 3 } else { 2 }
}
