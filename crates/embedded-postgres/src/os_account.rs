//! The user that the server runs as: the current user, or another one if that is root, because Postgres does not run as
//! root.

use anyhow::{Context, ensure};
use nix::unistd::User;
use rustix::process::{getegid, geteuid};
use std::{
    collections::BTreeSet, env, ffi::OsStr, fs, os::unix::fs::MetadataExt, path::Path,
    process::Command,
};

/// A user of this machine.
#[derive(Debug, Clone)]
pub(super) struct OsAccount {
    pub(super) uid: u32,
    pub(super) gid: u32,
    name: String,
}

impl OsAccount {
    /// The current user; if that is root, `postgres`, else `nobody`.
    pub(super) fn of_server() -> anyhow::Result<Self> {
        if !geteuid().is_root() {
            return Self::ours();
        }
        let named = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok()?);
        let user = named.context(
            "Postgres does not run as root, and the users `postgres` and `nobody` do not exist: add one of them, or \
             run as another user",
        )?;
        Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name })
    }

    fn ours() -> anyhow::Result<Self> {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let user = User::from_uid(uid.into()).ok().flatten();
        let user = user.with_context(|| {
            format!("uid {uid} has no user name, which Postgres requires: add it to /etc/passwd")
        })?;
        Ok(Self { uid, gid, name: user.name })
    }

    /// A command that runs as this account. It has no terminal: Ctrl-C then reaches only this process, which stops the
    /// server last, and the account cannot write input to this process's terminal. The environment is cleared except
    /// `PATH`, because it may contain secrets and `PG…` variables.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = if let Some(setsid) = SETSID.iter().find(|path| Path::new(path).exists())
        {
            let mut command = Command::new(setsid); // not a group leader, so it executes the program without a fork
            command.arg(program);
            command
        } else {
            let mut command = Command::new(program);
            command.process_group(0);
            command
        };
        if self.uid != geteuid().as_raw() {
            command.uid(self.uid).gid(self.gid);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        command.current_dir("/").env_clear().env("PATH", path).env("LC_ALL", "C");
        command
    }

    /// The lines of `pg_ident.conf` that let only this account and the current user connect as the superuser.
    pub(super) fn user_map(&self, superuser: &str) -> anyhow::Result<String> {
        let mut map = String::new();
        for name in BTreeSet::from([&Self::ours()?.name, &self.name]) {
            let is_plain = !name.starts_with('/') && !name.contains(['"', '\n', '\r']);
            ensure!(is_plain, "the user name {name:?} cannot be written in pg_ident.conf");
            map.extend([MAP, " \"", name, "\" ", superuser, "\n"]);
        }
        Ok(map)
    }
}

/// The paths of the program that starts a session without a terminal.
const SETSID: [&str; 2] = ["/usr/bin/setsid", "/bin/setsid"];

/// The name of the map in `pg_ident.conf`.
pub(super) const MAP: &str = "entitlements";

/// Whether every user can enter a folder and all folders above it.
pub(super) fn is_open_to_all(folder: &Path) -> bool {
    folder.ancestors().all(|part| fs::metadata(part).is_ok_and(|m| m.mode() & 0o001 != 0))
}
