//! Runs commands of the `entitlements` binary.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY},
    support::service::SECRET,
};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};
use tempfile::TempDir;

/// Runs the binary in an empty folder, with only these environment variables.
pub struct Shell {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    pub fn new(variables: &[(&'static str, &str)]) -> Self {
        let variables =
            variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { folder: tempfile::tempdir().unwrap(), variables }
    }

    /// A shell with the settings of a database and a fake Clerk.
    pub fn with_clerk(db: &Db, clerk: &Clerk) -> Self {
        Self::new(&[
            ("DATABASE_URL", &db.url),
            ("CLERK_SECRET_KEY", KEY),
            ("CLERK_API_URL", &clerk.url),
        ])
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entitlements"));
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("RUST_BACKTRACE", "1");
        if arguments.iter().any(|argument| ["-h", "--help"].contains(argument)) {
            command.env("COLUMNS", "100");
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end on a blocking thread.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(arguments);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Checks that `serve` with these variables ends with exit code 2 and these words.
pub async fn check_refused(variables: &[(&'static str, &str)], words: &[&str]) {
    let nowhere = "postgres://127.0.0.1:1/nothing";
    let usual = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("DATABASE_URL", nowhere)];
    let shell = Shell::new(&[&usual[..], variables].concat());
    let (code, _, stderr) = shell.run(&["serve"]).await;
    assert_eq!(code, 2, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{variables:?}: {stderr}");
    }
}
