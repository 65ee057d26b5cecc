//! `entitlements keys`: makes, lists and revokes API keys, in the file of callers.

use crate::callers::{KeyFile, Scope};
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Works on API keys.
#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it: the file keeps only its hash, so nobody can print it again
    Create {
        /// Whose key it is: 1 to 40 of a-z, 0-9 and `-`
        name: String,
        /// What it may do; can be given several times
        #[arg(long, value_name = "SCOPE", required = true)]
        scope: Vec<Scope>,
        #[command(flatten)]
        file: File,
    },
    /// List the keys: name, scopes, when they were made
    List {
        #[command(flatten)]
        file: File,
    },
    /// Take a key out: it stops working within a second, also on open connections
    Revoke {
        /// Whose key it is
        name: String,
        #[command(flatten)]
        file: File,
    },
}

#[derive(Debug, Args)]
struct File {
    /// The file of callers; `create` makes it if it is absent
    #[arg(long, env, value_name = "FILE")]
    callers: PathBuf,
}

impl Keys {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Create { name, mut scope, file } => {
                scope.dedup();
                let key = KeyFile::open(&file.callers)?.create(&name, &scope)?;
                say!("{key}");
                eprintln!("Keep it: {} has only its hash.", file.callers.display());
            }
            Action::List { file } => {
                for entry in KeyFile::open(&file.callers)?.list()? {
                    let scopes: Vec<_> = entry.scopes.iter().map(ToString::to_string).collect();
                    let parts = [entry.name, scopes.join(","), entry.created.unwrap_or_default()];
                    say!("{}", parts.join("  ").trim_end());
                }
            }
            Action::Revoke { name, file } => KeyFile::open(&file.callers)?.revoke(&name)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
