//! The account that the server runs as: ours, unless we are root, as whom Postgres refuses to run.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// Another user's id and group, to give rights up to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `postgres`, else `nobody`, if we are root.
    pub(super) fn to_run_as() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let named = |name: &str| {
            let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
            let line = passwd.lines().map(fields).find(|fields| fields[0] == name)?;
            Some(Self { uid: line.get(2)?.parse().ok()?, gid: line.get(3)?.parse().ok()? })
        };
        let nobody = Self { uid: 65534, gid: 65534 };
        Some(named("postgres").or_else(|| named("nobody")).unwrap_or(nobody))
    }
}

/// A command that runs as this account, deaf to Ctrl-C and to the `PG…` variables of somebody's shell.
pub(super) fn command(program: impl AsRef<OsStr>, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").process_group(0); // Ctrl-C reaches only us, and we stop the server last
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
    command
}

/// Makes a folder that only this account can enter.
pub(super) fn private_folder(folder: &Path, account: Option<Account>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if let Some(Account { uid, gid }) = account {
        chown(folder, Some(uid), Some(gid))?;
    }
    fs::read_dir(folder).map(drop) // ours to use?
}

/// Whether any account can reach what is in a folder.
pub(super) fn is_open_to_all(folder: &Path) -> bool {
    folder.ancestors().all(|part| fs::metadata(part).is_ok_and(|m| m.mode() & 0o001 != 0))
}
